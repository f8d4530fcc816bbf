//! The Insights Operator could not gather part of the data, so other rules may be blind.
//!
//! Reads what its gatherers say. Reports `INSIGHTS_GATHERERS_FAILED`.

use serde_json::{Value, json};

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// Gatherers that may have errors. Ours: objects that come and go cost single ones.
const WITH_ERRORS: usize = 5;
/// Most errors of a gatherer in details.
const ERRORS: usize = 3;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.insights_gatherers_failed.report",
    detects: "The Insights Operator could not gather part of the data, so other rules may be blind.",
    keys: &[Key::fail("INSIGHTS_GATHERERS_FAILED")],
    profile: RuleProfile::External,
    enabled_by_default: false,
    total_risk: Some(1),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::GathersReport],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let Some(report) = context.archive.gathers_report() else {
        return Ok(None);
    };
    let mut failed: Vec<_> = report
        .status_reports
        .iter()
        .filter(|gatherer| gatherer.panic.is_some() || !gatherer.errors.is_empty())
        .collect();
    let with_errors = failed
        .iter()
        .filter(|gatherer| !gatherer.errors.is_empty())
        .count();
    let panicked = failed.iter().any(|gatherer| gatherer.panic.is_some());
    if !panicked && with_errors <= WITH_ERRORS {
        return Ok(None);
    }
    failed.sort_by_key(|gatherer| &gatherer.name);
    let failed = list(failed.into_iter().map(|gatherer| {
        let errors: Vec<_> = gatherer
            .errors
            .iter()
            .take(ERRORS)
            .map(|error| message(error))
            .collect();
        json!({
            "name": gatherer.name,
            "errors": errors,
            "panic": gatherer.panic.as_ref().map(in_words),
        })
    }));
    respond(
        "INSIGHTS_GATHERERS_FAILED",
        details! { "gatherers": failed },
    )
}

/// Go panics with any value: most are texts, an index out of bounds is `{}`.
fn in_words(panic: &Value) -> String {
    match panic.as_str() {
        Some(text) => message(text).to_owned(),
        None => message(&panic.to_string()).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "insights-operator/gathers.json";

    fn gatherer(name: &str, errors: &Value, panic: &Value) -> Value {
        json!({"name": name, "errors": errors, "panic": panic, "warnings": null})
    }

    fn told(name: &str, errors: &Value, panic: &Value) -> Value {
        json!({"name": name, "errors": errors, "panic": panic})
    }

    fn answer(reports: &[Value]) -> Answer {
        run(
            &RULE,
            &[(PATH, &json!({ "status_reports": reports }).to_string())],
        )
    }

    #[test]
    fn a_panic_hits_and_every_gatherer_that_failed_is_told() {
        let refused = json!(["connection refused", "b", "c", "d"]);
        assert_eq!(
            answer(&[
                gatherer("clusterconfig/pods", &json!(null), &json!("nil pointer")),
                gatherer("clusterconfig/image", &json!([]), &json!(null)),
                gatherer("clusterconfig/metrics", &refused, &json!(null)),
            ]),
            found(
                "INSIGHTS_GATHERERS_FAILED",
                json!({"gatherers": [
                    told("clusterconfig/metrics", &json!(["connection refused", "b", "c"]), &json!(null)),
                    told("clusterconfig/pods", &json!([]), &json!("nil pointer")),
                ]})
            )
        );
    }

    #[test]
    fn a_panic_is_whatever_is_not_null() {
        for (panic, words) in [(json!(""), ""), (json!({}), "{}"), (json!(false), "false")] {
            assert_eq!(
                answer(&[gatherer("a", &json!(null), &panic)]),
                found(
                    "INSIGHTS_GATHERERS_FAILED",
                    json!({"gatherers": [told("a", &json!([]), &json!(words))]})
                )
            );
        }
    }

    #[test]
    fn more_than_five_with_errors_hit() {
        let failed: Vec<_> = (0..6)
            .map(|number| gatherer(&number.to_string(), &json!(["x"]), &json!(null)))
            .collect();
        assert_eq!(answer(&failed[..5]), Answer::Nothing);
        assert_ne!(answer(&failed), Answer::Nothing);
        assert_eq!(answer(&[]), Answer::Nothing);
    }

    #[test]
    fn without_the_report_it_is_skipped_and_the_old_name_is_read() {
        let skipped = skip("All: ['ccx_ocp_core.models.insights.GathersReport'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "[]")]), skipped);
        let old = [("insights-operator/gathers", "{}")];
        assert_eq!(run(&RULE, &old), Answer::Nothing);
    }
}
