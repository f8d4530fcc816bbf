//! Control plane nodes that accept ordinary workloads.
//!
//! Workloads then compete with etcd and the API server. On clusters without dedicated workers
//! that is how it must be, so nothing is said of those. Reads nodes, whose taints decide; the
//! scheduler's configuration only asks for them. Reports `MASTER_NODES_ARE_SCHEDULABLE`;
//! `MASTER_NODES_ARE_SCHEDULABLE_PASS` passes, with the same fields.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Node;

/// Roles of the control plane, and keys of the taints that keep workloads off it.
const CONTROL_PLANE: [(&str, &str); 2] = [
    ("master", "node-role.kubernetes.io/master"),
    ("control-plane", "node-role.kubernetes.io/control-plane"),
];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.master_nodes_are_schedulable.report",
    detects: "Control plane nodes that accept ordinary workloads.",
    keys: &[
        Key::fail("MASTER_NODES_ARE_SCHEDULABLE")
            .when("schedulable_count > 0 and the cluster also has dedicated workers"),
        Key::pass("MASTER_NODES_ARE_SCHEDULABLE_PASS").when("no schedulable master"),
    ],
    profile: RuleProfile::Internal,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &["phased_gates"],
    links: &[("jira", &["https://issues.redhat.com/browse/INSIGHTOCP-408"])],
    requires: Requires {
        all: &[Model::Nodes],
        optional: &[Model::Scheduler],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut masters = context.archive.nodes();
    let all = masters.len();
    masters.retain(|node| node.is_control_plane());
    masters.sort_by_key(|node| node.name());
    let schedulable = masters.iter().filter(|node| is_schedulable(node)).count();
    let key = match schedulable {
        0 => "MASTER_NODES_ARE_SCHEDULABLE_PASS",
        _ if all > masters.len() => "MASTER_NODES_ARE_SCHEDULABLE",
        _ => return Ok(None),
    };
    let any_other_roles = masters.iter().any(|node| !other_roles(node).is_empty());
    let nodes = list(masters.into_iter().map(|node| {
        details! {
            "name": node.name(),
            "schedulable": is_schedulable(&node),
            "other_roles": other_roles(&node),
        }
    }));
    respond(
        key,
        details! {
            "phased_gates_checks": ["1.3.1.5"],
            "nodes": nodes,
            "schedulable_count": schedulable,
            "other_roles": any_other_roles,
        },
    )
}

/// Whether ordinary pods may be put on a control plane node.
fn is_schedulable(node: &Node) -> bool {
    let keeps_off = node.spec.taints.iter().any(|taint| {
        taint.effect == "NoSchedule" && CONTROL_PLANE.iter().any(|(_, key)| *key == taint.key)
    });
    !keeps_off && !node.spec.unschedulable
}

/// Roles besides those of the control plane, sorted.
fn other_roles(node: &Node) -> Vec<&str> {
    let of_control_plane = |name: &&str| CONTROL_PLANE.iter().any(|(role, _)| role == name);
    let roles = node.roles().into_iter();
    roles.filter(|role| !of_control_plane(role)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn node(name: &str, roles: &[&str], spec: Value) -> (String, String) {
        let labels: serde_json::Map<_, _> = roles
            .iter()
            .map(|role| (format!("node-role.kubernetes.io/{role}"), json!("")))
            .collect();
        let file = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
        (format!("config/node/{name}.json"), file.to_string())
    }

    fn answer(nodes: &[(String, String)]) -> Answer {
        let files: Vec<_> = nodes
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        run(&RULE, &files)
    }

    fn tainted(role: &str, effect: &str) -> Value {
        json!({"taints": [{"key": format!("node-role.kubernetes.io/{role}"), "effect": effect}]})
    }

    #[test]
    fn tells_masters_beside_dedicated_workers() {
        let nodes = [
            node("m2", &["control-plane", "worker", "infra"], json!({})),
            node("m1", &["master"], tainted("master", "NoSchedule")),
            node("w", &["worker"], json!({})),
        ];
        assert_eq!(
            answer(&nodes),
            found(
                "MASTER_NODES_ARE_SCHEDULABLE",
                json!({
                    "phased_gates_checks": ["1.3.1.5"],
                    "nodes": [
                        {"name": "m1", "schedulable": false, "other_roles": []},
                        {"name": "m2", "schedulable": true, "other_roles": ["infra", "worker"]},
                    ],
                    "schedulable_count": 1,
                    "other_roles": true,
                })
            )
        );
        assert_eq!(answer(&nodes[..2]), Answer::Nothing);
    }

    #[test]
    fn taint_and_cordon_keep_workloads_off() {
        let worker = || node("w", &[], json!({}));
        for spec in [
            tainted("master", "NoSchedule"),
            tainted("control-plane", "NoSchedule"),
            json!({"unschedulable": true}),
        ] {
            assert_eq!(
                answer(&[node("m", &["master"], spec), worker()]),
                found(
                    "MASTER_NODES_ARE_SCHEDULABLE_PASS",
                    json!({
                        "phased_gates_checks": ["1.3.1.5"],
                        "nodes": [{"name": "m", "schedulable": false, "other_roles": []}],
                        "schedulable_count": 0,
                        "other_roles": false,
                    })
                )
            );
        }
        for spec in [
            tainted("master", "PreferNoSchedule"),
            tainted("infra", "NoSchedule"),
            json!({"unschedulable": false}),
            json!({"taints": null}),
        ] {
            let answer = answer(&[node("m", &["master"], spec), worker()]);
            let hit = matches!(answer, Answer::Found("MASTER_NODES_ARE_SCHEDULABLE", _));
            assert!(hit, "{answer:?}");
        }
    }

    #[test]
    fn without_nodes_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[("config/schedulers/cluster.json", "{}")]),
            skip("All: ['ccx_ocp_core.models.nodes.Nodes'] Any: ")
        );
    }
}
