//! Kubelets too old for the control plane, or newer than it.
//!
//! Two minor versions behind, the next minor update is blocked; a newer kubelet than API server
//! is outside what Kubernetes supports, but for a moment during an update. Reads nodes and the
//! cluster version. Reports `KUBELET_VERSION_SKEW`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::version::{Branch, Version};
use crate::archive::documents::{Conditions as _, Found, Node};

/// Minor versions that a kubelet may be behind before it is one too many.
const BEHIND: i64 = 2;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.kubelet_version_skew.report",
    detects: "Kubelets too old for the control plane (blocks the next minor update).",
    keys: &[Key::fail("KUBELET_VERSION_SKEW")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Nodes, Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let Some(cluster) = context.archive.cluster_version() else {
        return Ok(None);
    };
    let version = cluster.current_version();
    let Some(api_minor) = version.and_then(|version| kubernetes_minor(version.branch())) else {
        return Ok(None);
    };
    let updating = cluster.status.conditions.when_true("Progressing").is_some();

    let mut skewed: Vec<(Found<'_, Node>, i64)> = context
        .archive
        .nodes()
        .into_iter()
        .filter_map(|node| Some((node, api_minor - kubelet_minor(node.document())?)))
        .filter(|(_, skew)| *skew >= BEHIND || (*skew < 0 && !updating))
        .collect();
    skewed.sort_by_key(|(node, _)| node.name());
    if skewed.is_empty() {
        return Ok(None);
    }
    let skewed = list(skewed.into_iter().map(|(node, skew)| {
        details! {
            "name": node.name(),
            "role": node.role(),
            "kubelet_version": node.status.node_info.kubelet_version,
            "skew": skew,
        }
    }));
    respond(
        "KUBELET_VERSION_SKEW",
        details! { "nodes": skewed, "api_version": format!("1.{api_minor}") },
    )
}

/// The minor version of Kubernetes 1 in a branch of OpenShift 4.
fn kubernetes_minor(branch: Branch) -> Option<i64> {
    let minor = i64::try_from(branch.minor).ok()?;
    match (branch.major, minor) {
        (4, 1 | 2) => Some(minor + 12),
        (4, 3..) => minor.checked_add(13),
        _ => None,
    }
}

/// The minor version of a kubelet `v1.M`. None is so old that it has no number there.
fn kubelet_minor(node: &Node) -> Option<i64> {
    let branch = Version::parse(&node.status.node_info.kubelet_version)?.branch();
    (branch.major == 1 && branch.minor > 0)
        .then(|| i64::try_from(branch.minor).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const WORKER: &str = "config/node/worker-0.json";

    fn node(kubelet: &str) -> String {
        json!({
            "metadata": {"labels": {"node-role.kubernetes.io/worker": ""}},
            "status": {"nodeInfo": {"kubeletVersion": kubelet}},
        })
        .to_string()
    }

    fn answer(version: &str, kubelet: &str, progressing: &str) -> Answer {
        let version = json!({"status": {
            "history": [{"state": "Completed", "version": version}],
            "conditions": [{"type": "Progressing", "status": progressing}],
        }});
        let files = [
            ("config/version.json", &*version.to_string()),
            (WORKER, &*node(kubelet)),
            ("config/node/unknown", "{}"),
            ("config/node/broken.json", "{"),
        ];
        run(&RULE, &files)
    }

    fn hit(kubelet: &str, skew: i64, api: &str) -> Answer {
        found(
            "KUBELET_VERSION_SKEW",
            json!({
                "nodes": [{
                    "name": "worker-0",
                    "role": "worker",
                    "kubelet_version": kubelet,
                    "skew": skew,
                }],
                "api_version": api,
            }),
        )
    }

    #[test]
    fn two_minor_versions_behind_are_one_too_many() {
        let old = "v1.18.3+2cf11e2";
        assert_eq!(answer("4.7.16", old, "False"), hit(old, 2, "1.20"));
        assert_eq!(answer("4.7.16", old, "True"), hit(old, 2, "1.20"));
        assert_eq!(answer("4.7.16", "v1.19.0", "False"), Answer::Nothing);
        assert_eq!(
            answer("4.7.16", "v1.20.0+2817867", "False"),
            Answer::Nothing
        );
    }

    #[test]
    fn newer_ones_are_well_during_an_update_only() {
        let new = "v1.21.0-rc.0+1";
        assert_eq!(answer("4.7.16", new, "False"), hit(new, -1, "1.20"));
        assert_eq!(answer("4.7.16", new, ""), hit(new, -1, "1.20"));
        assert_eq!(answer("4.7.16", new, "True"), Answer::Nothing);
    }

    #[test]
    fn early_branches_have_their_own_numbers() {
        for (version, minor) in [("4.1.0", 13), ("4.2.0", 14), ("4.3.0", 16), ("4.14.1", 27)] {
            let equal = answer(version, &format!("v1.{minor}.0"), "False");
            assert_eq!(equal, Answer::Nothing, "{version}");
            let behind = answer(version, &format!("v1.{}.0", minor - 2), "False");
            assert!(matches!(behind, Answer::Found(..)), "{version}");
        }
    }

    #[test]
    fn what_cannot_be_compared_is_not() {
        for kubelet in ["", "1", "unknown", "v2.1.0", "v1.99999999999999999999.0"] {
            assert_eq!(
                answer("4.7.16", kubelet, "False"),
                Answer::Nothing,
                "{kubelet}"
            );
        }
        for version in ["", "5.1.0", "4.0.1", "3.11.0", "4.18446744073709551615.0"] {
            assert_eq!(
                answer(version, "v1.1.0", "False"),
                Answer::Nothing,
                "{version}"
            );
        }
    }

    #[test]
    fn both_models_are_needed() {
        let version = "'ccx_ocp_core.models.version.ClusterVersion'";
        let nodes = "'ccx_ocp_core.models.nodes.Nodes'";
        assert_eq!(
            run(&RULE, &[]),
            skip(&format!("All: [{nodes}, {version}] Any: "))
        );
        let node = node("v1.1.0");
        assert_eq!(
            run(&RULE, &[(WORKER, &node)]),
            skip(&format!("All: [{version}] Any: "))
        );
    }
}
