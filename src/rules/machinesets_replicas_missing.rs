//! Machine sets with fewer available machines than wanted.
//!
//! The cluster has less capacity than was asked for. Reads machine sets. Reports
//! `MACHINESETS_REPLICAS_MISSING`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::MachineSet;

/// Machines of a set that does not say how many: Kubernetes' default.
const DEFAULT: i64 = 1;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.machinesets_replicas_missing.report",
    detects: "Machine sets with fewer available machines than wanted.",
    keys: &[Key::fail("MACHINESETS_REPLICAS_MISSING")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::MachineSets],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut sets = context.archive.machine_sets();
    sets.retain(|set| desired(set) > set.status.available_replicas.unwrap_or(0));
    sets.sort_by_key(|set| (set.name(), set.namespace()));
    if sets.is_empty() {
        return Ok(None);
    }
    let sets = list(sets.into_iter().map(|set| {
        let status = &set.status;
        details! {
            "name": set.name(),
            "desired": desired(set.document()),
            "current": status.replicas.unwrap_or(0),
            "ready": status.ready_replicas.unwrap_or(0),
            "available": status.available_replicas.unwrap_or(0),
        }
    }));
    respond(
        "MACHINESETS_REPLICAS_MISSING",
        details! { "machinesets": sets },
    )
}

fn desired(set: &MachineSet) -> i64 {
    set.spec.replicas.unwrap_or(DEFAULT)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const FILE: &str = "machinesets/openshift-machine-api/c1-worker-a.json";

    fn answer(replicas: Value, status: Value) -> Answer {
        let set = json!({"spec": {"replicas": replicas}, "status": status});
        run(&RULE, &[(FILE, &set.to_string())])
    }

    fn hit(desired: i64, current: i64, ready: i64, available: i64) -> Answer {
        found(
            "MACHINESETS_REPLICAS_MISSING",
            json!({"machinesets": [{
                "name": "c1-worker-a",
                "desired": desired,
                "current": current,
                "ready": ready,
                "available": available,
            }]}),
        )
    }

    #[test]
    fn one_missing_machine_hits() {
        let status = json!({"replicas": 3, "readyReplicas": 2, "availableReplicas": 2});
        assert_eq!(answer(json!(3), status.clone()), hit(3, 3, 2, 2));
        assert_eq!(answer(json!(2), status.clone()), Answer::Nothing);
        assert_eq!(answer(json!(0), status), Answer::Nothing);
    }

    #[test]
    fn absent_counts_are_none_and_absent_replicas_one() {
        for absent in [json!(null), json!("3"), json!(1.5)] {
            assert_eq!(answer(absent.clone(), json!({})), hit(1, 0, 0, 0));
            let status = json!({"replicas": 1, "availableReplicas": absent});
            assert_eq!(answer(json!(1), status), hit(1, 1, 0, 0));
        }
        let one = json!({"availableReplicas": 1});
        assert_eq!(answer(json!(null), one), Answer::Nothing);
        assert_eq!(answer(json!(0), json!(null)), Answer::Nothing);
    }

    #[test]
    fn sets_are_sorted_in_each_layout() {
        let named = |name: &str| json!({"metadata": {"name": name}}).to_string();
        let (a, b) = (named("a"), named("b"));
        let files = [
            ("machinesets/x.json", b.as_str()),
            ("machinesets/ns/y", &a),
            ("machinesets/ns/broken.json", "{"),
        ];
        let entry = |name: &str| json!({"name": name, "desired": 1, "current": 0, "ready": 0, "available": 0});
        assert_eq!(
            run(&RULE, &files),
            found(
                "MACHINESETS_REPLICAS_MISSING",
                json!({"machinesets": [entry("a"), entry("b")]})
            )
        );
    }

    #[test]
    fn without_machine_sets_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.machine_sets.MachineSets'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(FILE, "[]")]), skipped);
    }
}
