//! The image registry is set to Removed but its operator stays degraded.
//!
//! A registry that nobody wants then keeps the cluster from being updated; often it is the
//! image pruner that fails for want of a registry. Reads operators and the registry's
//! configuration. Reports `IMAGE_REGISTRY_REMOVED_STATE_REPORTS_DEGRADED`.

use super::details::{details, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

const OPERATOR: &str = "image-registry";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.bug_rules.image_registry_removed_state_reports_degraded.report",
    detects: "The image registry is set to Removed but its operator stays degraded.",
    keys: &[Key::fail("IMAGE_REGISTRY_REMOVED_STATE_REPORTS_DEGRADED")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Operators, Model::ImageRegistryConfig],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let registry = context.archive.image_registry_config();
    let removed = registry.is_some_and(|registry| registry.spec.management_state == "Removed");
    let operators = context.archive.operators();
    let degraded = operators
        .into_iter()
        .filter(|operator| operator.name() == OPERATOR)
        .find_map(|operator| operator.document().status.conditions.when_true("Degraded"));
    let Some(condition) = degraded.filter(|_| removed) else {
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
        "IMAGE_REGISTRY_REMOVED_STATE_REPORTS_DEGRADED",
        details! { "info": info },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const CONFIG: &str =
        "config/clusteroperator/imageregistry.operator.openshift.io/config/cluster.json";
    const OLD_CONFIG: &str = "config/imageregistry.json";

    fn answer(config: &str, state: &str, operator: &str, status: &str) -> Answer {
        let operator = json!({
            "kind": "ClusterOperator",
            "metadata": {"name": operator},
            "status": {"conditions": [{"type": "Degraded", "status": status,
                "reason": "ImagePrunerJobFailed", "message": "Image pruner job failed",
                "lastTransitionTime": "2021-07-12T21:20:38Z"}]},
        });
        let registry = json!({"spec": {"managementState": state}});
        let files = [
            ("config/clusteroperator/a.json", operator.to_string()),
            (config, registry.to_string()),
        ];
        run(
            &RULE,
            &files.each_ref().map(|(path, text)| (*path, text.as_str())),
        )
    }

    #[test]
    fn tells_why_a_removed_registry_is_degraded() {
        for config in [CONFIG, OLD_CONFIG] {
            assert_eq!(
                answer(config, "Removed", "image-registry", "True"),
                found(
                    "IMAGE_REGISTRY_REMOVED_STATE_REPORTS_DEGRADED",
                    json!({"info": {
                        "name": "image-registry",
                        "condition": "Degraded",
                        "reason": "ImagePrunerJobFailed",
                        "message": "Image pruner job failed",
                        "lastTransitionTime": "2021-07-12T21:20:38Z",
                    }})
                )
            );
        }
    }

    #[test]
    fn both_must_hold() {
        for (state, operator, status) in [
            ("Managed", "image-registry", "True"),
            ("", "image-registry", "True"),
            ("Removed", "image-registry", "False"),
            ("Removed", "image-registry", "Unknown"),
            ("Removed", "dns", "True"),
        ] {
            assert_eq!(answer(CONFIG, state, operator, status), Answer::Nothing);
        }
    }

    #[test]
    fn without_either_document_it_is_skipped() {
        let [operators, config] = [
            "ccx_ocp_core.models.operators.Operators",
            "ccx_ocp_core.models.image_registry.ImageRegistryConfig",
        ];
        assert_eq!(
            run(&RULE, &[]),
            skip(&format!("All: ['{operators}', '{config}'] Any: "))
        );
        assert_eq!(
            run(&RULE, &[("config/clusteroperator/dns.json", "{}")]),
            skip(&format!("All: ['{config}'] Any: "))
        );
        assert_eq!(
            run(&RULE, &[(CONFIG, "{}")]),
            skip(&format!("All: ['{operators}'] Any: "))
        );
    }
}
