//! The openshift-samples operator is degraded because image stream imports failed.
//!
//! Applications built from those image streams cannot be built. Reads operators. Reports
//! `SAMPLES_FAILED_IMAGE_IMPORT_ERR`.

use super::details::{details, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Condition, Conditions as _};

const SOLUTION: &str = "https://access.redhat.com/solutions/4563171";
const OPERATOR: &str = "openshift-samples";
/// How the reason begins; one public case has another reason and only the sentence below.
const REASON: &str = "FailedImageImport";
const SENTENCE: &str = "image import failures for these imagestreams";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.samples_op_failed_image_import_check.report",
    detects: "The openshift-samples operator is degraded because image stream imports failed.",
    keys: &[Key::fail("SAMPLES_FAILED_IMAGE_IMPORT_ERR")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[("kcs", &[SOLUTION])],
    requires: Requires {
        all: &[Model::Operators],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let failed = |condition: &&Condition| {
        condition.reason.starts_with(REASON) || condition.message.contains(SENTENCE)
    };
    let condition = context
        .archive
        .operators()
        .into_iter()
        .filter(|operator| operator.name() == OPERATOR)
        .filter_map(|operator| operator.document().status.conditions.when_true("Degraded"))
        .find(failed);
    let Some(condition) = condition else {
        return Ok(None);
    };
    let info = details! {
        "name": OPERATOR,
        "condition": condition.kind,
        "reason": condition.reason,
        "message": message(&condition.message),
        "lastTransitionTime": condition.last_transition_time.as_deref().unwrap_or_default(),
    };
    respond(
        "SAMPLES_FAILED_IMAGE_IMPORT_ERR",
        details! { "info": info, "kcs": SOLUTION },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(name: &str, status: &str, reason: &str, message: &str) -> Answer {
        let file = json!({
            "kind": "ClusterOperator",
            "metadata": {"name": name},
            "status": {"conditions": [{
                "type": "Degraded", "status": status, "reason": reason, "message": message,
                "lastTransitionTime": "2020-03-19T08:32:53Z",
            }]},
        });
        run(
            &RULE,
            &[("config/clusteroperator/x.json", &file.to_string())],
        )
    }

    #[test]
    fn failed_imports_hit_by_reason_or_message() {
        let text =
            "Samples installed at 4.2.0, with image import failures for these imagestreams: php ";
        assert_eq!(
            answer(OPERATOR, "True", "FailedImageImports", text),
            found(
                "SAMPLES_FAILED_IMAGE_IMPORT_ERR",
                json!({
                    "info": {
                        "name": "openshift-samples",
                        "condition": "Degraded",
                        "reason": "FailedImageImports",
                        "message": text,
                        "lastTransitionTime": "2020-03-19T08:32:53Z",
                    },
                    "kcs": SOLUTION,
                })
            )
        );
        assert!(matches!(
            answer(OPERATOR, "True", "Error", text),
            Answer::Found(..)
        ));
        assert!(matches!(
            answer(OPERATOR, "True", "FailedImageImportX", ""),
            Answer::Found(..)
        ));
    }

    #[test]
    fn other_states_reasons_and_operators_do_not() {
        assert_eq!(
            answer(OPERATOR, "False", "FailedImageImports", ""),
            Answer::Nothing
        );
        assert_eq!(answer(OPERATOR, "True", "Error", "other"), Answer::Nothing);
        assert_eq!(
            answer("dns", "True", "FailedImageImports", ""),
            Answer::Nothing
        );
    }

    #[test]
    fn without_operators_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.operators.Operators'] Any: ")
        );
    }
}
