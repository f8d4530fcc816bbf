//! Nodes that are not Ready.
//!
//! Their pods do not run, or run where nobody sees it. Reads nodes. Reports `NODES_NOT_READY`;
//! `ALL_NODES_READY` passes, with the same fields.

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Conditions as _, Node};

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.nodes_not_ready.report",
    detects: "Nodes that are not Ready.",
    keys: &[
        Key::fail("NODES_NOT_READY").when("not_ready_count > 0"),
        Key::pass("ALL_NODES_READY").when("not_ready_count = 0"),
    ],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &["phased_gates"],
    links: &[],
    requires: Requires {
        all: &[Model::Nodes],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut nodes = context.archive.nodes();
    nodes.sort_by_key(|node| (!node.is_control_plane(), node.name()));
    let not_ready = nodes.iter().filter(|node| !is_ready(node)).count();
    let told = list(nodes.into_iter().map(|node| {
        let ready = is_ready(&node);
        let condition = node.document().status.conditions.of_type("Ready");
        let reported = condition.filter(|_| !ready);
        details! {
            "name": node.name(),
            "ready": ready,
            "roles": roles(&node),
            "message": reported.map_or("", |condition| message(&condition.message)),
        }
    }));
    let key = match not_ready {
        0 => "ALL_NODES_READY",
        _ => "NODES_NOT_READY",
    };
    respond(
        key,
        details! {
            "nodes": told,
            "not_ready_count": not_ready,
            "phased_gates_checks": ["1.4.4"],
        },
    )
}

/// Whether a node says that it is ready; a node that says nothing is not.
pub(super) fn is_ready(node: &Node) -> bool {
    node.status.conditions.when_true("Ready").is_some()
}

/// Every role of a node in one text.
pub(super) fn roles(node: &Node) -> String {
    node.roles().into_iter().collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    /// A node for each of `(name, roles, status of Ready)`; an empty status is none.
    fn answer(nodes: &[(&str, &[&str], &str)]) -> Answer {
        let files: Vec<(String, String)> = nodes
            .iter()
            .map(|(name, roles, ready)| {
                let labels: serde_json::Map<_, _> = roles
                    .iter()
                    .map(|role| (format!("node-role.kubernetes.io/{role}"), json!("")))
                    .collect();
                let conditions = match *ready {
                    "" => json!(null),
                    ready => json!([{"type": "Ready", "status": ready, "message": "said"}]),
                };
                let file = json!({
                    "metadata": {"name": name, "labels": labels},
                    "status": {"conditions": conditions},
                });
                (format!("config/node/{name}.json"), file.to_string())
            })
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        run(&RULE, &files)
    }

    #[test]
    fn tells_every_node_the_control_plane_first() {
        let nodes: [(&str, &[&str], &str); 4] = [
            ("a", &["worker"], "Unknown"),
            ("z", &["worker", "master"], "True"),
            ("y", &["control-plane"], "False"),
            ("b", &[], ""),
        ];
        assert_eq!(
            answer(&nodes),
            found(
                "NODES_NOT_READY",
                json!({
                    "nodes": [
                        {"name": "y", "ready": false, "roles": "control-plane", "message": "said"},
                        {"name": "z", "ready": true, "roles": "master,worker", "message": ""},
                        {"name": "a", "ready": false, "roles": "worker", "message": "said"},
                        {"name": "b", "ready": false, "roles": "", "message": ""},
                    ],
                    "not_ready_count": 3,
                    "phased_gates_checks": ["1.4.4"],
                })
            )
        );
    }

    #[test]
    fn nodes_that_are_all_ready_pass() {
        assert_eq!(
            answer(&[("a", &["master"], "True")]),
            found(
                "ALL_NODES_READY",
                json!({
                    "nodes": [{"name": "a", "ready": true, "roles": "master", "message": ""}],
                    "not_ready_count": 0,
                    "phased_gates_checks": ["1.4.4"],
                })
            )
        );
    }

    #[test]
    fn the_number_counts_also_nodes_that_the_list_has_no_room_for() {
        let names: Vec<String> = (100..250).map(|number| format!("n{number}")).collect();
        let nodes: Vec<(&str, &[&str], &str)> = names
            .iter()
            .map(|name| (name.as_str(), &[][..], "False"))
            .collect();
        let Answer::Found("NODES_NOT_READY", details) = answer(&nodes) else {
            panic!("a hit");
        };
        let details: serde_json::Value = serde_json::from_str(&details).unwrap();
        assert_eq!(details["not_ready_count"], 150);
        assert_eq!(details["nodes"].as_array().unwrap().len(), 100);
    }

    #[test]
    fn without_nodes_it_is_skipped() {
        assert_eq!(
            answer(&[]),
            skip("All: ['ccx_ocp_core.models.nodes.Nodes'] Any: ")
        );
    }
}
