//! Very many unused machine configs.
//!
//! They slow down the machine config operator. Reads their count. Reports
//! `UNUSED_MACHINE_CONFIGS`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// Unused machine configs from which on there are too many. Ours.
const UNUSED: i64 = 200;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.unused_machine_configs.report",
    detects: "Very many unused machine configs.",
    keys: &[Key::fail("UNUSED_MACHINE_CONFIGS")],
    profile: RuleProfile::External,
    enabled_by_default: false,
    total_risk: Some(1),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::UnusedMachineConfigs],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    match context.archive.unused_machine_configs() {
        Some(unused) if unused.count >= UNUSED => respond(
            "UNUSED_MACHINE_CONFIGS",
            details! { "unused_count": unused.count },
        ),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "aggregated/unused_machine_configs_count.json";

    fn answer(count: &Value) -> Answer {
        let file = json!({"unused_machineconfigs_count": count}).to_string();
        run(&RULE, &[(PATH, &file)])
    }

    #[test]
    fn two_hundred_hit() {
        for count in [200, 412] {
            assert_eq!(
                answer(&json!(count)),
                found("UNUSED_MACHINE_CONFIGS", json!({"unused_count": count}))
            );
        }
        for count in [json!(199), json!("412"), json!(null)] {
            assert_eq!(answer(&count), Answer::Nothing, "{count}");
        }
    }

    #[test]
    fn without_the_count_it_is_skipped() {
        let skipped =
            skip("All: ['ccx_ocp_core.models.machine_configs.UnusedMachineConfigs'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "412")]), skipped);
    }
}
