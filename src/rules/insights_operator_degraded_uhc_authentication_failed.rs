//! The Insights Operator cannot authenticate to the hosted service.
//!
//! Then no archives are uploaded, and what is known of the cluster grows old. Reads operators;
//! the operator's own log says the same, but it is hardly ever gathered. Reports
//! `INSIGHTS_OPERATOR_UHC_AUTHENTICATION_FAILED`.

use super::details::{details, operator};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Conditions as _, Operator};

const OPERATOR: &str = "insights";
/// Conditions that tell of failed uploads.
const CONDITIONS: [&str; 2] = ["Degraded", "UploadDegraded"];
/// Words of which one is in the message, in lower case.
const WORDS: [&str; 3] = ["authentication", " 401", " 403"];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.insights_operator_degraded_UHC_authentication_failed.report",
    detects: "The Insights Operator cannot authenticate to the hosted service.",
    keys: &[Key::fail("INSIGHTS_OPERATOR_UHC_AUTHENTICATION_FAILED")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Operators],
        optional: &[Model::PodLogs],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let operators = context.archive.operators();
    let failed = operators
        .into_iter()
        .find(|operator| operator.name() == OPERATOR && cannot_authenticate(operator));
    match failed {
        None => Ok(None),
        Some(found) => respond(
            "INSIGHTS_OPERATOR_UHC_AUTHENTICATION_FAILED",
            details! { "op": operator(found) },
        ),
    }
}

fn cannot_authenticate(operator: &Operator) -> bool {
    let conditions = &operator.status.conditions;
    let mut told = CONDITIONS
        .iter()
        .filter_map(|kind| conditions.when_true(kind));
    told.any(|condition| {
        let message = condition.message.to_lowercase();
        WORDS.iter().any(|word| message.contains(word))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(name: &str, kind: &str, status: &str, message: &str) -> Answer {
        let file = json!({
            "kind": "ClusterOperator",
            "metadata": {"name": name},
            "status": {
                "conditions": [{"type": kind, "status": status, "reason": "UploadFailed",
                    "message": message, "lastTransitionTime": "2021-07-12T21:20:38Z"}],
                "versions": [{"name": "operator", "version": "4.7.16"}],
            },
        });
        let path = "config/clusteroperator/x.json";
        run(&RULE, &[(path, &file.to_string())])
    }

    #[test]
    fn tells_the_operator_that_cannot_authenticate() {
        let message = "your token has expired: UHC services authentication failed";
        let none = json!({"status": null, "last_trans_time": null, "reason": "", "message": ""});
        let degraded = json!({"status": true, "last_trans_time": "2021-07-12T21:20:38Z",
            "reason": "UploadFailed", "message": message});
        assert_eq!(
            answer("insights", "Degraded", "True", message),
            found(
                "INSIGHTS_OPERATOR_UHC_AUTHENTICATION_FAILED",
                json!({"op": {
                    "name": "insights",
                    "available": none,
                    "degraded": degraded,
                    "progressing": none,
                    "upgradeable": none,
                    "version": "4.7.16",
                }})
            )
        );
    }

    #[test]
    fn either_condition_and_each_word_counts() {
        for message in ["AUTHENTICATION", "status 401", "got 403: forbidden"] {
            for kind in CONDITIONS {
                let answer = answer("insights", kind, "True", message);
                assert!(matches!(answer, Answer::Found(..)), "{kind} {message}");
            }
        }
        for (name, kind, status, message) in [
            ("insights", "Degraded", "False", "authentication"),
            ("insights", "Available", "True", "authentication"),
            ("insights", "Degraded", "True", "status 500, port 14031"),
            ("insights", "Degraded", "True", ""),
            ("authentication", "Degraded", "True", "authentication"),
        ] {
            assert_eq!(answer(name, kind, status, message), Answer::Nothing);
        }
    }

    #[test]
    fn without_operators_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.operators.Operators'] Any: ")
        );
    }
}
