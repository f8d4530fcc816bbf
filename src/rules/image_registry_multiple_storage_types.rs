//! The image registry has more than one storage type configured.
//!
//! The operator then applies none. Reads operators. Reports
//! `IMAGE_REGISTRY_MULTIPLE_STORAGE_TYPES`.

use super::details::{details, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

/// What the operator says.
const SENTENCE: &str = "exactly one storage type should be configured at the same time";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.image_registry_multiple_storage_types.report",
    detects: "The image registry has more than one storage type configured.",
    keys: &[Key::fail("IMAGE_REGISTRY_MULTIPLE_STORAGE_TYPES")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[("kcs", &["https://access.redhat.com/solutions/4516391"])],
    requires: Requires {
        all: &[Model::Operators],
        optional: &[Model::ImageRegistryConfig],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let operators = context.archive.operators();
    let found = operators
        .into_iter()
        .filter(|operator| operator.name() == "image-registry")
        .find_map(|operator| {
            let condition = operator
                .document()
                .status
                .conditions
                .when_true("Degraded")?;
            condition
                .message
                .contains(SENTENCE)
                .then_some((operator, condition))
        });
    let Some((operator, condition)) = found else {
        return Ok(None);
    };
    let meta = details! { "name": operator.name(), "selfLink": operator.metadata.self_link };
    let condition = details! {
        "type": condition.kind,
        "reason": condition.reason,
        "message": message(&condition.message),
        "lastTransitionTime": condition.last_transition_time.as_deref().unwrap_or_default(),
    };
    respond(
        "IMAGE_REGISTRY_MULTIPLE_STORAGE_TYPES",
        details! { "info": details! { "meta": meta, "condition": condition } },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(status: &str, message: &str) -> Answer {
        let file = json!({
            "metadata": {"name": "image-registry"},
            "status": {"conditions": [{
                "type": "Degraded", "status": status, "reason": "Error", "message": message,
                "lastTransitionTime": "2019-09-09T06:41:24Z",
            }]},
        });
        run(
            &RULE,
            &[(
                "config/clusteroperator/image-registry.json",
                &file.to_string(),
            )],
        )
    }

    #[test]
    fn two_storage_types_hit() {
        let text = format!("Unable to apply resources: {SENTENCE}");
        assert_eq!(
            answer("True", &text),
            found(
                "IMAGE_REGISTRY_MULTIPLE_STORAGE_TYPES",
                json!({"info": {
                    "meta": {"name": "image-registry", "selfLink": null},
                    "condition": {
                        "type": "Degraded",
                        "reason": "Error",
                        "message": text,
                        "lastTransitionTime": "2019-09-09T06:41:24Z",
                    },
                }})
            )
        );
    }

    #[test]
    fn other_faults_do_not() {
        assert_eq!(answer("True", "disk full"), Answer::Nothing);
        assert_eq!(answer("False", SENTENCE), Answer::Nothing);
    }

    #[test]
    fn without_operators_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.operators.Operators'] Any: ")
        );
    }
}
