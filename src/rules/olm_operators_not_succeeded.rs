//! Installed optional operators whose last state is not Succeeded.
//!
//! They do not work, or not in the version that was asked for. Reads the operators of the
//! operator life-cycle manager. Reports `OLM_OPERATORS_NOT_SUCCEEDED`.

use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{CsvCondition, timestamp};

/// Phases on the way to an installed operator.
const UNDER_WAY: [&str; 4] = ["Pending", "InstallReady", "Installing", "Replacing"];
/// Time that an installation may take. Ours: most take minutes.
const PATIENCE: Duration = Duration::hours(1);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.olm_operators_not_succeeded.report",
    detects: "Installed optional operators whose last state is not Succeeded.",
    keys: &[Key::fail("OLM_OPERATORS_NOT_SUCCEEDED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::OlmOperators],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let operators = context.archive.olm_operators();
    let mut failed: Vec<_> = operators
        .into_iter()
        .flat_map(|operators| &operators.0)
        .filter_map(|operator| Some((operator, operator.conditions.last()?)))
        .filter(|(_, condition)| is_not_well(condition, context.reference_time))
        .collect();
    failed.sort_by_key(|(operator, _)| &operator.name);
    if failed.is_empty() {
        return Ok(None);
    }
    let failed = list(failed.into_iter().map(|(operator, condition)| {
        json!({
            "name": operator.name,
            "display_name": operator.display_name,
            "version": operator.version,
            "phase": condition.phase,
            "reason": condition.reason,
            "message": message(&condition.message),
        })
    }));
    respond(
        "OLM_OPERATORS_NOT_SUCCEEDED",
        details! { "operators": failed },
    )
}

fn is_not_well(condition: &CsvCondition, reference_time: OffsetDateTime) -> bool {
    let is_late = || {
        timestamp::parse(&condition.last_transition_time)
            .is_some_and(|since| reference_time - since > PATIENCE)
    };
    condition.phase == "Failed" || (UNDER_WAY.contains(&condition.phase.as_str()) && is_late())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/olm_operators.json";

    fn operator(name: &str, conditions: &Value) -> Value {
        json!({"name": name, "displayName": "JBoss EAP", "version": "v2.1.1",
            "csv_conditions": conditions})
    }

    fn answer(conditions: &Value) -> Answer {
        let file = json!([operator("eap.openshift-operators", conditions)]).to_string();
        run(&RULE, &[(PATH, &file)])
    }

    fn phase(phase: &str, time: &str) -> Value {
        json!({"phase": phase, "lastTransitionTime": time})
    }

    #[test]
    fn the_last_state_of_each_counts() {
        let failed = json!({"phase": "Failed", "reason": "InstallCheckFailed",
            "message": "install timeout", "lastTransitionTime": "2021-07-13T07:16:44Z"});
        let file = json!([
            operator("z", &json!([failed])),
            operator("well", &json!([failed, phase("Succeeded", "")])),
            operator(
                "eap.openshift-operators",
                &json!([phase("Succeeded", ""), failed])
            ),
        ])
        .to_string();
        let told = |name: &str| {
            json!({"name": name, "display_name": "JBoss EAP", "version": "v2.1.1",
                "phase": "Failed", "reason": "InstallCheckFailed", "message": "install timeout"})
        };
        assert_eq!(
            run(&RULE, &[(PATH, &file)]),
            found(
                "OLM_OPERATORS_NOT_SUCCEEDED",
                json!({"operators": [told("eap.openshift-operators"), told("z")]})
            )
        );
    }

    #[test]
    fn an_installation_may_take_an_hour() {
        for under_way in UNDER_WAY {
            for (time, hits) in [
                ("2021-07-13T06:16:43Z", true),
                ("2021-07-13T06:16:44Z", false),
                ("2022-01-01T00:00:00Z", false),
                ("long ago", false),
                ("", false),
            ] {
                let answer = answer(&json!([phase(under_way, time)]));
                assert_eq!(answer != Answer::Nothing, hits, "{under_way} {time}");
            }
        }
    }

    #[test]
    fn other_or_unknown_states_are_well() {
        for conditions in [
            json!([phase("Succeeded", "2020-01-01T00:00:00Z")]),
            json!([phase("Deleting", "2020-01-01T00:00:00Z")]),
            json!([{}]),
            json!([]),
            json!(null),
            json!("Failed"),
        ] {
            assert_eq!(answer(&conditions), Answer::Nothing, "{conditions}");
        }
    }

    #[test]
    fn without_the_list_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.olm_operators.OLMOperators'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "{}")]), skipped);
    }
}
