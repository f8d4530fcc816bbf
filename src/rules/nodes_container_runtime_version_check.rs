//! Nodes running a container runtime build different from the control plane's.
//!
//! Such nodes were left behind by an update, and containers may behave differently on them.
//! While an update is in progress that is how it looks, so then nothing is said. Reads nodes and
//! the cluster version. Reports `NODES_CONTAINER_RUNTIME_VERSION`.

use super::details::{details, list};
use super::nodes_kubelet_version_check::different;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Node;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.nodes_container_runtime_version_check.report",
    detects: "Nodes running a container runtime build different from the control plane.",
    keys: &[Key::fail("NODES_CONTAINER_RUNTIME_VERSION")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Nodes],
        optional: &[Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let different = list(different(context, version_of).into_iter().map(|node| {
        details! {
            "Node": node.name(),
            "Container Runtime Version": version_of(node.document()),
            "role": node.role(),
        }
    }));
    if different.is_empty() {
        return Ok(None);
    }
    respond(
        "NODES_CONTAINER_RUNTIME_VERSION",
        details! { "nodes_with_different_version": different },
    )
}

fn version_of(node: &Node) -> &str {
    &node.status.node_info.container_runtime_version
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const OLD: &str = "cri-o://1.20.3-2.rhaos4.7.gitb53fa9d.el8";
    const NEW: &str = "cri-o://1.20.3-6.rhaos4.7.git0d0f863.el8";

    fn node(role: &str, version: &str) -> String {
        json!({
            "metadata": {"labels": {format!("node-role.kubernetes.io/{role}"): ""}},
            "status": {"nodeInfo": {"containerRuntimeVersion": version}},
        })
        .to_string()
    }

    #[test]
    fn names_nodes_that_differ_from_the_control_plane() {
        let (master, worker) = (node("master", NEW), node("worker", OLD));
        let unknown = node("worker", "");
        let files = [
            ("config/node/master-0.json", master.as_str()),
            ("config/node/worker-0", &worker),
            ("config/node/worker-1.json", &master),
            ("config/node/worker-2.json", &unknown),
            ("config/node/worker-3.json", "{broken"),
        ];
        let hit = found(
            "NODES_CONTAINER_RUNTIME_VERSION",
            json!({"nodes_with_different_version": [
                {"Node": "worker-0", "Container Runtime Version": OLD, "role": "worker"},
            ]}),
        );
        assert_eq!(run(&RULE, &files), hit);

        for (progressing, expected) in [("False", hit), ("True", Answer::Nothing)] {
            let version = json!({"status": {"conditions": [
                {"type": "Progressing", "status": progressing},
            ]}})
            .to_string();
            let version = [("config/version.json", version.as_str())];
            assert_eq!(run(&RULE, &[&files[..], &version].concat()), expected);
        }
    }

    #[test]
    fn a_tie_goes_to_the_higher_version() {
        let [a, b] = ["cri-o://1.9.0", "cri-o://1.10.0"].map(|version| node("master", version));
        let files = [
            ("config/node/a.json", a.as_str()),
            ("config/node/b.json", &b),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "NODES_CONTAINER_RUNTIME_VERSION",
                json!({"nodes_with_different_version": [
                    {"Node": "a", "Container Runtime Version": "cri-o://1.9.0", "role": "master"},
                ]})
            )
        );
    }

    #[test]
    fn equal_nodes_are_well() {
        let node = node("master", OLD);
        let files = [
            ("config/node/a.json", node.as_str()),
            ("config/node/b.json", &node),
        ];
        assert_eq!(run(&RULE, &files), Answer::Nothing);
        assert_eq!(run(&RULE, &[("config/node/a.json", "{}")]), Answer::Nothing);
    }

    #[test]
    fn without_nodes_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.nodes.Nodes'] Any: ");
        for files in [&[][..], &[("config/node/a.json", "[]")]] {
            assert_eq!(run(&RULE, files), skipped);
        }
    }
}
