//! Nodes that do not get their machine configuration.
//!
//! The machine config daemon reports a failure, or says that it is done although the node does
//! not have the configuration that is wanted. Such nodes miss changes and updates. Reads nodes,
//! whose annotations tell it. Reports `NODE_MACHINE_CONFIG_DEGRADED`.

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Node;

const STATE: &str = "machineconfiguration.openshift.io/state";
const REASON: &str = "machineconfiguration.openshift.io/reason";
const CURRENT: &str = "machineconfiguration.openshift.io/currentConfig";
const DESIRED: &str = "machineconfiguration.openshift.io/desiredConfig";
/// The states that are failures.
const FAILED: [&str; 2] = ["Degraded", "Unreconcilable"];
/// The state in which both configurations are the same.
const DONE: &str = "Done";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.node_machine_config_degraded.report",
    detects: "Nodes whose machine config daemon reports a failure, or that are not at the desired configuration.",
    keys: &[Key::fail("NODE_MACHINE_CONFIG_DEGRADED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Nodes],
        optional: &[Model::MachinePool],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut nodes = context.archive.nodes();
    nodes.retain(|node| is_degraded(node));
    nodes.sort_by_key(|node| node.name());
    if nodes.is_empty() {
        return Ok(None);
    }
    let nodes = list(nodes.into_iter().map(|node| {
        let text = |name| annotation(node.document(), name).unwrap_or("");
        details! {
            "name": node.name(),
            "state": text(STATE),
            "reason": message(text(REASON)),
            "current_config": text(CURRENT),
            "desired_config": text(DESIRED),
        }
    }));
    respond("NODE_MACHINE_CONFIG_DEGRADED", details! { "nodes": nodes })
}

fn is_degraded(node: &Node) -> bool {
    let Some(state) = annotation(node, STATE) else {
        return false;
    };
    let differs = annotation(node, CURRENT)
        .zip(annotation(node, DESIRED))
        .is_some_and(|(current, desired)| current != desired);
    FAILED.contains(&state) || (state == DONE && differs)
}

fn annotation<'a>(node: &'a Node, name: &str) -> Option<&'a str> {
    node.metadata.annotations.get(name).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(state: Value, reason: Value, current: Value, desired: Value) -> Answer {
        let node = json!({"metadata": {"annotations": {
            STATE: state, REASON: reason, CURRENT: current, DESIRED: desired,
        }}});
        let files = [
            ("config/node/worker-0.json", &*node.to_string()),
            ("config/node/worker-1", "{}"),
            ("config/node/worker-2.json", "{"),
        ];
        run(&RULE, &files)
    }

    fn hit(state: &str, reason: &str, current: &str, desired: &str) -> Answer {
        found(
            "NODE_MACHINE_CONFIG_DEGRADED",
            json!({"nodes": [{
                "name": "worker-0",
                "state": state,
                "reason": reason,
                "current_config": current,
                "desired_config": desired,
            }]}),
        )
    }

    #[test]
    fn a_reported_failure_hits() {
        for state in FAILED {
            let (current, desired) = ("rendered-worker-1", "rendered-worker-2");
            let reason = "unexpected on-disk state";
            assert_eq!(
                answer(json!(state), json!(reason), json!(current), json!(desired)),
                hit(state, reason, current, desired)
            );
            let alone = answer(json!(state), json!(null), json!(null), json!(1));
            assert_eq!(alone, hit(state, "", "", ""));
        }
    }

    #[test]
    fn done_with_another_configuration_hits() {
        let none = json!(null);
        assert_eq!(
            answer(json!("Done"), json!(""), json!("a"), json!("b")),
            hit("Done", "", "a", "b")
        );
        for (current, desired) in [
            (json!("a"), json!("a")),
            (json!("a"), none.clone()),
            (none.clone(), json!("b")),
            (none.clone(), none),
        ] {
            let answer = answer(json!("Done"), json!(""), current, desired);
            assert_eq!(answer, Answer::Nothing);
        }
    }

    #[test]
    fn a_node_at_work_is_well() {
        for state in [
            json!("Working"),
            json!("Rebooting"),
            json!(""),
            json!(null),
            json!([]),
        ] {
            let answer = answer(state, json!(""), json!("a"), json!("b"));
            assert_eq!(answer, Answer::Nothing);
        }
    }

    #[test]
    fn without_nodes_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.nodes.Nodes'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[("config/node/a.json", "[]")]), skipped);
    }
}
