//! Image pruning is switched off or fails.
//!
//! Old images then fill the registry's storage and etcd. Reads the image pruner. Reports
//! `IMAGE_PRUNER_SUSPENDED`, else `IMAGE_PRUNER_FAILED`.

use super::details::{details, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.image_pruner_suspended.report",
    detects: "Image pruning is switched off or fails.",
    keys: &[
        Key::fail("IMAGE_PRUNER_SUSPENDED").when("spec.suspend is true"),
        Key::fail("IMAGE_PRUNER_FAILED").when("condition Failed is \"True\""),
    ],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ImagePruner],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let Some(pruner) = context.archive.image_pruner() else {
        return Ok(None);
    };
    let conditions = &pruner.status.conditions;
    let key = if pruner.spec.suspend {
        "IMAGE_PRUNER_SUSPENDED"
    } else if conditions.when_true("Failed").is_some() {
        "IMAGE_PRUNER_FAILED"
    } else {
        return Ok(None);
    };
    // Also for a suspended pruner: how its last run ended.
    let failed = conditions.of_type("Failed");
    respond(
        key,
        details! {
            "suspend": pruner.spec.suspend,
            "reason": failed.map_or("", |condition| &condition.reason),
            "message": failed.map_or("", |condition| message(&condition.message)),
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const NEW: &str =
        "config/clusteroperator/imageregistry.operator.openshift.io/imagepruner/cluster.json";
    const OLD: &str = "config/imagepruner.json";
    const SUSPENDED: &str = r#"{"spec": {"suspend": true}}"#;

    fn failed(suspend: bool, status: &str) -> String {
        json!({"spec": {"suspend": suspend}, "status": {"conditions": [
            {"type": "Failed", "status": status, "reason": "Error", "message": "Job failed"}]}})
        .to_string()
    }

    #[test]
    fn a_suspended_pruner_hits_in_both_layouts() {
        let hit = found(
            "IMAGE_PRUNER_SUSPENDED",
            json!({"suspend": true, "reason": "", "message": ""}),
        );
        assert_eq!(run(&RULE, &[(NEW, SUSPENDED)]), hit);
        assert_eq!(run(&RULE, &[(OLD, SUSPENDED)]), hit);
        assert_eq!(
            run(&RULE, &[(OLD, SUSPENDED), (NEW, "{}")]),
            Answer::Nothing
        );
    }

    #[test]
    fn a_failing_pruner_hits_and_being_suspended_goes_first() {
        let details =
            |suspend| json!({"suspend": suspend, "reason": "Error", "message": "Job failed"});
        assert_eq!(
            run(&RULE, &[(NEW, &failed(false, "True"))]),
            found("IMAGE_PRUNER_FAILED", details(false))
        );
        assert_eq!(
            run(&RULE, &[(NEW, &failed(true, "True"))]),
            found("IMAGE_PRUNER_SUSPENDED", details(true))
        );
    }

    #[test]
    fn a_working_or_unknown_pruner_is_well() {
        for file in [
            failed(false, "False"),
            failed(false, "Unknown"),
            r#"{"spec": {"suspend": "true"}, "status": []}"#.into(),
        ] {
            assert_eq!(run(&RULE, &[(NEW, &file)]), Answer::Nothing, "{file}");
        }
    }

    #[test]
    fn without_the_pruner_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.image_registry.ImagePruner'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(NEW, "[]"), (OLD, "{")]), skipped);
    }
}
