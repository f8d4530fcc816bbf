//! Nodes running a kubelet build different from the control plane's.
//!
//! Such nodes were left behind by an update. While one is in progress that is how it looks, so
//! then nothing is said. Reads nodes and the cluster version. Reports `NODE_KUBELET_VERSION`.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::version::Version;
use crate::archive::documents::{Conditions as _, Found, Node};

const SOLUTION: &str = "https://access.redhat.com/solutions/4602641";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.nodes_kubelet_version_check.report",
    detects: "Nodes running a kubelet build different from the control plane.",
    keys: &[Key::fail("NODE_KUBELET_VERSION")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[("kcs", &[SOLUTION])],
    requires: Requires {
        all: &[Model::Nodes],
        optional: &[Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let different = list(different(context, version_of).into_iter().map(|node| {
        details! { "Node": node.name(), "Kubelet Version": version_of(node.document()), "role": node.role() }
    }));
    if different.is_empty() {
        return Ok(None);
    }
    respond(
        "NODE_KUBELET_VERSION",
        details! { "nodes_with_different_version": different, "kcs_link": SOLUTION },
    )
}

fn version_of(node: &Node) -> &str {
    &node.status.node_info.kubelet_version
}

/// Nodes whose version of some software is not the one of the control plane, by name. None
/// while the cluster is being updated. Nodes without the version do not count.
pub(super) fn different<'a>(
    context: &Context<'a>,
    version_of: fn(&Node) -> &str,
) -> Vec<Found<'a, Node>> {
    let updating = context
        .archive
        .cluster_version()
        .is_some_and(|version| version.status.conditions.when_true("Progressing").is_some());
    if updating {
        return Vec::new();
    }
    let mut nodes = context.archive.nodes();
    nodes.retain(|node| !version_of(node).is_empty());
    nodes.sort_by_key(|node| node.name());
    let baseline = baseline(&nodes, version_of);
    nodes.retain(|node| Some(version_of(node)) != baseline);
    nodes
}

/// The version that most control plane nodes have, or most nodes where no control plane is
/// among them; of equally frequent ones the highest.
fn baseline<'a>(nodes: &[Found<'a, Node>], version_of: fn(&Node) -> &str) -> Option<&'a str> {
    let control_plane = nodes.iter().any(|node| node.is_control_plane());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes
        .iter()
        .filter(|node| !control_plane || node.is_control_plane())
    {
        *counts.entry(version_of(node.document())).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|&(version, count)| (count, number(version), Reverse(version)))
        .map(|(version, _)| version)
}

/// The version to compare; a container runtime says its name before it, as in `cri-o://1.20.3`.
fn number(version: &str) -> Option<Version> {
    let (_, number) = version.split_once("://").unwrap_or(("", version));
    Version::parse(number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    /// A node for each of `(name, role, kubelet version)`.
    fn answer(nodes: &[(&str, &str, &str)], progressing: &str) -> Answer {
        let mut files: Vec<(String, String)> = nodes
            .iter()
            .map(|(name, role, version)| {
                let labels = json!({format!("node-role.kubernetes.io/{role}"): ""});
                let node = json!({
                    "metadata": {"name": name, "labels": labels},
                    "status": {"nodeInfo": {"kubeletVersion": version}},
                });
                (format!("config/node/{name}.json"), node.to_string())
            })
            .collect();
        let version =
            json!({"status": {"conditions": [{"type": "Progressing", "status": progressing}]}});
        files.push(("config/version.json".into(), version.to_string()));
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        run(&RULE, &files)
    }

    #[test]
    fn names_nodes_that_differ_from_the_control_plane() {
        let nodes = [
            ("m1", "master", "v1.14.6+7e13ab9a7"),
            ("oc2", "worker", "v1.14.6+0a21dd3b3"),
            ("oc1", "worker", "v1.14.6+0a21dd3b3"),
            ("oc3", "worker", ""),
        ];
        let expected = found(
            "NODE_KUBELET_VERSION",
            json!({
                "nodes_with_different_version": [
                    {"Node": "oc1", "Kubelet Version": "v1.14.6+0a21dd3b3", "role": "worker"},
                    {"Node": "oc2", "Kubelet Version": "v1.14.6+0a21dd3b3", "role": "worker"},
                ],
                "kcs_link": SOLUTION,
            }),
        );
        assert_eq!(answer(&nodes, "False"), expected);
        assert_eq!(answer(&nodes, "True"), Answer::Nothing);
    }

    #[test]
    fn a_tie_goes_to_the_higher_version() {
        let nodes = [("a", "master", "v1.9.0"), ("b", "master", "v1.10.0")];
        let answer = answer(&nodes, "False");
        assert!(
            format!("{answer:?}").contains(r#"\"Node\":\"a\""#),
            "{answer:?}"
        );
    }

    #[test]
    fn without_a_control_plane_most_nodes_decide() {
        let nodes = [
            ("a", "worker", "v1"),
            ("b", "worker", "v1"),
            ("c", "worker", "v2"),
        ];
        assert!(format!("{:?}", answer(&nodes, "")).contains(r#"\"Node\":\"c\""#));
        assert_eq!(answer(&nodes[..2], ""), Answer::Nothing);
        assert_eq!(answer(&[("a", "master", "")], ""), Answer::Nothing);
    }

    #[test]
    fn without_nodes_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.nodes.Nodes'] Any: ")
        );
    }
}
