//! A feature set that cannot be undone and blocks minor updates.
//!
//! Such a cluster is not supported and can only be reinstalled. Reads the feature gate. Reports
//! `FEATURE_SET_BLOCKS_UPDATES`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// The feature sets that block updates, by their names in the API.
const BLOCKING: [&str; 3] = [
    "TechPreviewNoUpgrade",
    "CustomNoUpgrade",
    "DevPreviewNoUpgrade",
];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.feature_set_blocks_updates.report",
    detects: "A feature set that cannot be undone and blocks minor updates.",
    keys: &[Key::fail("FEATURE_SET_BLOCKS_UPDATES")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::FeatureGate],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    match context.archive.feature_gate() {
        Some(gate) if BLOCKING.contains(&gate.spec.feature_set.as_str()) => respond(
            "FEATURE_SET_BLOCKS_UPDATES",
            details! { "feature_set": gate.spec.feature_set },
        ),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/featuregate.json";

    fn answer(set: &str) -> Answer {
        let file = json!({"spec": {"featureSet": set}}).to_string();
        run(&RULE, &[(PATH, &file)])
    }

    #[test]
    fn blocking_sets_hit() {
        for set in BLOCKING {
            assert_eq!(
                answer(set),
                found("FEATURE_SET_BLOCKS_UPDATES", json!({"feature_set": set}))
            );
        }
        let file = r#"{"spec": {"featureSet": "CustomNoUpgrade"}}"#;
        assert_eq!(
            run(&RULE, &[("config/featuregate", file)]),
            answer("CustomNoUpgrade")
        );
    }

    #[test]
    fn other_sets_do_not() {
        for set in ["", "LatencySensitive", "techpreviewnoupgrade"] {
            assert_eq!(answer(set), Answer::Nothing, "{set}");
        }
        assert_eq!(
            run(&RULE, &[(PATH, r#"{"spec": {"featureSet": 1}}"#)]),
            Answer::Nothing
        );
    }

    #[test]
    fn without_the_feature_gate_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.feature_gate.FeatureGate'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "[]")]), skipped);
    }
}
