//! Pod disruption budgets that allow no disruption.
//!
//! Nodes with their pods cannot be drained, so updates stand still. Reads pod disruption budgets
//! and the topology: on a single node nothing can be drained anyway. Reports `PDB_BLOCKS_DRAIN`.

use serde_json::{Value, json};

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::PodDisruptionBudget;

/// The topology of a control plane of one node.
const SINGLE_NODE: &str = "SingleReplica";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.pdb_blocks_drain.report",
    detects: "Pod disruption budgets that allow no disruption and so block node drains and updates.",
    keys: &[Key::fail("PDB_BLOCKS_DRAIN")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Pdbs],
        optional: &[Model::Infrastructure],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let archive = context.archive;
    if archive
        .infrastructure()
        .is_some_and(|infrastructure| infrastructure.status.control_plane_topology == SINGLE_NODE)
    {
        return Ok(None);
    }
    let mut blocking = archive.pdbs();
    blocking.retain(|budget| blocks(budget));
    blocking.sort_by_key(|budget| (budget.name(), budget.namespace()));
    if blocking.is_empty() {
        return Ok(None);
    }
    let budgets = list(blocking.into_iter().map(|budget| {
        let status = &budget.status;
        json!({
            "namespace": budget.namespace(),
            "name": budget.name(),
            "disruptions_allowed": status.disruptions_allowed,
            "current_healthy": status.current_healthy,
            "desired_healthy": status.desired_healthy,
            "expected_pods": status.expected_pods,
        })
    }));
    respond("PDB_BLOCKS_DRAIN", details! { "pdbs": budgets })
}

/// Whether it allows nothing now, and by its settings never will.
fn blocks(budget: &PodDisruptionBudget) -> bool {
    let (spec, status) = (&budget.spec, &budget.status);
    let none_may_go = spec
        .max_unavailable
        .as_ref()
        .is_some_and(|limit| limit.as_i64() == Some(0) || limit == "0%");
    let all_must_stay = spec.min_available.as_ref().and_then(Value::as_str) == Some("100%");
    status.expected_pods > 0
        && status.disruptions_allowed == 0
        && (none_may_go || all_must_stay || status.desired_healthy >= status.expected_pods)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/pdbs/openshift-storage/rook-ceph-mon-pdb.json";
    const OLD: &str = "config/pdbs/rook-ceph-mon-pdb.json";

    fn budget(spec: &Value, [allowed, healthy, desired, expected]: [i64; 4]) -> String {
        json!({
            "metadata": {"name": "rook-ceph-mon-pdb", "namespace": "openshift-storage"},
            "spec": spec,
            "status": {"disruptionsAllowed": allowed, "currentHealthy": healthy,
                "desiredHealthy": desired, "expectedPods": expected},
        })
        .to_string()
    }

    fn told(name: &str, namespace: &str, [allowed, healthy, desired, expected]: [i64; 4]) -> Value {
        json!({"namespace": namespace, "name": name, "disruptions_allowed": allowed,
            "current_healthy": healthy, "desired_healthy": desired, "expected_pods": expected})
    }

    fn hits(spec: &Value, numbers: [i64; 4]) -> bool {
        let file = budget(spec, numbers);
        run(&RULE, &[(PATH, &file)]) != Answer::Nothing
    }

    #[test]
    fn a_budget_without_room_hits_in_both_layouts() {
        let file = budget(&json!({"maxUnavailable": 1}), [0, 2, 2, 2]);
        let hit = found(
            "PDB_BLOCKS_DRAIN",
            json!({"pdbs": [told("rook-ceph-mon-pdb", "openshift-storage", [0, 2, 2, 2])]}),
        );
        assert_eq!(run(&RULE, &[(PATH, &file)]), hit);
        assert_eq!(run(&RULE, &[(OLD, &file)]), hit);
    }

    #[test]
    fn lists_by_name_and_then_namespace_and_takes_both_from_the_path() {
        let blocking = r#"{"status": {"expectedPods": 1, "desiredHealthy": 1}}"#;
        let paths = ["b/x", "a/y", "a/x"].map(|path| format!("config/pdbs/{path}.json"));
        let files = paths.each_ref().map(|path| (path.as_str(), blocking));
        let numbers = [0, 0, 1, 1];
        assert_eq!(
            run(&RULE, &files),
            found(
                "PDB_BLOCKS_DRAIN",
                json!({"pdbs": [
                    told("x", "a", numbers), told("x", "b", numbers), told("y", "a", numbers)
                ]})
            )
        );
    }

    #[test]
    fn settings_that_never_allow_any_hit() {
        for spec in [
            json!({"maxUnavailable": 0}),
            json!({"maxUnavailable": "0%"}),
            json!({"minAvailable": "100%"}),
        ] {
            assert!(hits(&spec, [0, 3, 2, 3]), "{spec}");
        }
        for spec in [
            json!({"maxUnavailable": 1}),
            json!({"maxUnavailable": "10%"}),
            json!({"minAvailable": "99%"}),
            json!({"minAvailable": 100}),
            json!({"maxUnavailable": null}),
            json!({}),
        ] {
            assert!(!hits(&spec, [0, 2, 2, 3]), "{spec}");
        }
    }

    #[test]
    fn numbers_count_at_their_edges() {
        let none = json!({});
        assert!(hits(&none, [0, 1, 1, 1]));
        assert!(hits(&none, [0, 1, 2, 1]));
        assert!(!hits(&none, [0, 1, 1, 2]));
        assert!(!hits(&none, [0, 0, 0, 0]));
        assert!(!hits(&none, [1, 2, 2, 2]));
        assert!(!hits(&json!({"maxUnavailable": 0}), [0, 0, 0, 0]));
    }

    #[test]
    fn a_single_node_is_left_alone() {
        let file = budget(&json!({"maxUnavailable": 0}), [0, 1, 1, 1]);
        let answer = |topology: &str| {
            let infrastructure = json!({"status": {"controlPlaneTopology": topology}}).to_string();
            run(
                &RULE,
                &[
                    (PATH, &file),
                    ("config/infrastructure.json", &infrastructure),
                ],
            )
        };
        assert_eq!(answer("SingleReplica"), Answer::Nothing);
        assert_ne!(answer("HighlyAvailable"), Answer::Nothing);
    }

    #[test]
    fn without_budgets_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.pdbs.PDBs'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "[]")]), skipped);
    }
}
