//! Machine config pools that are degraded or not updated.
//!
//! Nodes of such a pool do not have the configuration that they should have. While an update
//! is in progress that is how it looks, so users are told only of degraded pools. Reads pools.
//! Reports `MACHINE_POOL_NOT_OK`.

use super::details::{details, list, pool};
use super::{Context, Key, Profile, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Conditions as _, MachinePool};

/// Conditions of which each says that something went wrong.
const DEGRADED: [&str; 3] = ["Degraded", "NodeDegraded", "RenderDegraded"];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.machine_pool_check.report",
    detects: "Machine config pools that are degraded or not updated.",
    keys: &[Key::fail("MACHINE_POOL_NOT_OK")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::MachinePool],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut pools = context.archive.machine_pools();
    pools.sort_by_key(|pool| pool.name());
    pools.retain(|pool| match context.profile {
        Profile::External => is_degraded(pool),
        Profile::Internal => is_degraded(pool) || is_behind(pool),
    });
    if pools.is_empty() {
        return Ok(None);
    }
    let machines = list(pools.into_iter().map(pool));
    respond("MACHINE_POOL_NOT_OK", details! { "machines": machines })
}

fn is_degraded(pool: &MachinePool) -> bool {
    let conditions = &pool.status.conditions;
    DEGRADED
        .iter()
        .any(|kind| conditions.when_true(kind).is_some())
}

fn is_behind(pool: &MachinePool) -> bool {
    let conditions = &pool.status.conditions;
    conditions.when_true("Updated").is_none() || conditions.when_true("Updating").is_some()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, reference_time, run_at, skip};
    use super::*;

    /// One pool with a condition of each `(type, status)`.
    fn answer(conditions: &[(&str, &str)], profile: Profile) -> Answer {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status)| json!({"type": kind, "status": status, "reason": "r"}))
            .collect();
        let file = json!({"metadata": {"name": "worker"}, "status": {"conditions": conditions}});
        let path = "config/machineconfigpools/worker.json";
        let files = [(path, file.to_string())];
        let files = files.each_ref().map(|(path, text)| (*path, text.as_str()));
        run_at(&RULE, &files, reference_time(), profile)
    }

    #[test]
    fn tells_every_condition_of_a_degraded_pool() {
        let condition = |status: Option<bool>, reason: &str| -> Value {
            json!({"status": status, "last_trans_time": null, "reason": reason, "message": ""})
        };
        let expected = found(
            "MACHINE_POOL_NOT_OK",
            json!({"machines": [{
                "name": "worker",
                "degraded": condition(Some(true), "r"),
                "node_degraded": condition(None, ""),
                "render_degraded": condition(None, ""),
                "updated": condition(Some(true), "r"),
                "updating": condition(Some(false), "r"),
            }]}),
        );
        let conditions = [
            ("Degraded", "True"),
            ("Updated", "True"),
            ("Updating", "False"),
        ];
        for profile in [Profile::External, Profile::Internal] {
            assert_eq!(answer(&conditions, profile), expected);
        }
        for kind in ["NodeDegraded", "RenderDegraded"] {
            let answer = answer(&[(kind, "True"), ("Updated", "True")], Profile::External);
            assert!(matches!(answer, Answer::Found(..)), "{kind}");
        }
    }

    #[test]
    fn only_the_internal_profile_tells_of_pools_that_are_behind() {
        for conditions in [
            &[("Updated", "False")][..],
            &[("Updated", "Unknown")],
            &[("Updating", "False")],
            &[("Updated", "True"), ("Updating", "True")],
        ] {
            let told = answer(conditions, Profile::Internal);
            assert!(matches!(told, Answer::Found(..)), "{conditions:?}");
            assert_eq!(answer(conditions, Profile::External), Answer::Nothing);
        }
        let well = [
            ("Updated", "True"),
            ("Updating", "False"),
            ("Degraded", "Unknown"),
        ];
        assert_eq!(answer(&well, Profile::Internal), Answer::Nothing);
    }

    #[test]
    fn without_pools_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.machine_pools.MachinePool'] Any: ");
        for files in [&[][..], &[("config/machineconfigpools/worker", "[]")]] {
            let answer = run_at(&RULE, files, reference_time(), Profile::Internal);
            assert_eq!(answer, skipped);
        }
    }
}
