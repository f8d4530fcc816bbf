//! Nodes under memory, disk or process-id pressure, or with an unavailable network.
//!
//! Such nodes evict pods or get no new ones. Reads nodes. Reports `NODES_PRESSURE`.

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

/// Conditions that are `True` when something runs short, in the order of the details.
const PRESSURES: [&str; 4] = [
    "MemoryPressure",
    "DiskPressure",
    "PIDPressure",
    "NetworkUnavailable",
];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.nodes_pressure_check.report",
    detects: "Nodes under memory, disk or process-id pressure, or with an unavailable network.",
    keys: &[Key::fail("NODES_PRESSURE")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Nodes],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut nodes = context.archive.nodes();
    nodes.sort_by_key(|node| node.name());
    let nodes = list(nodes.into_iter().filter_map(|node| {
        let conditions = &node.document().status.conditions;
        let pressures: Vec<_> = PRESSURES
            .iter()
            .filter_map(|kind| conditions.when_true(kind))
            .map(|condition| {
                details! {
                    "type": condition.kind,
                    "reason": condition.reason,
                    "message": message(&condition.message),
                    "last_trans_time": condition.last_transition_time,
                }
            })
            .collect();
        let details = details! {
            "name": node.name(),
            "role": node.role(),
            "pressures": pressures,
        };
        (!pressures.is_empty()).then_some(details)
    }));
    if nodes.is_empty() {
        return Ok(None);
    }
    respond("NODES_PRESSURE", details! { "nodes": nodes })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    /// A node with a condition of each `(type, status)`.
    fn answer(conditions: &[(&str, &str)]) -> Answer {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status)| {
                json!({"type": kind, "status": status, "reason": "KubeletHasDiskPressure",
                    "message": "kubelet has disk pressure",
                    "lastTransitionTime": "2021-07-12T21:20:44Z"})
            })
            .collect();
        let file = json!({"metadata": {"name": "worker-0"}, "status": {"conditions": conditions}});
        run(&RULE, &[("config/node/worker-0.json", &file.to_string())])
    }

    #[test]
    fn tells_what_runs_short_on_which_node() {
        let pressure = |kind| {
            json!({"type": kind, "reason": "KubeletHasDiskPressure",
                "message": "kubelet has disk pressure", "last_trans_time": "2021-07-12T21:20:44Z"})
        };
        for (conditions, expected) in [
            (&[("DiskPressure", "True")][..], vec!["DiskPressure"]),
            (
                &[
                    ("Ready", "True"),
                    ("NetworkUnavailable", "True"),
                    ("PIDPressure", "True"),
                    ("MemoryPressure", "True"),
                    ("DiskPressure", "False"),
                ],
                vec!["MemoryPressure", "PIDPressure", "NetworkUnavailable"],
            ),
        ] {
            let pressures: Vec<_> = expected.into_iter().map(pressure).collect();
            assert_eq!(
                answer(conditions),
                found(
                    "NODES_PRESSURE",
                    json!({"nodes": [
                        {"name": "worker-0", "role": "worker", "pressures": pressures},
                    ]})
                )
            );
        }
    }

    #[test]
    fn what_is_false_or_unknown_is_no_pressure() {
        for status in ["False", "Unknown", ""] {
            assert_eq!(answer(&[("DiskPressure", status)]), Answer::Nothing);
        }
        assert_eq!(answer(&[]), Answer::Nothing);
    }

    #[test]
    fn without_nodes_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[("config/node/a.json", "null")]),
            skip("All: ['ccx_ocp_core.models.nodes.Nodes'] Any: ")
        );
    }
}
