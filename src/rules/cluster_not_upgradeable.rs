//! Minor updates are blocked.
//!
//! The cluster says that it is not upgradeable, for another reason than an acknowledgement that
//! an administrator gives at the time of the update. Reads the cluster version, and operators
//! for which of them block. Reports `CLUSTER_NOT_UPGRADEABLE`.

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

const CONDITION: &str = "Upgradeable";
/// The reason that is no fault.
const ACKNOWLEDGEMENT: &str = "AdminAckRequired";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.cluster_not_upgradeable.report",
    detects: "Minor updates are blocked (Upgradeable=False).",
    keys: &[Key::fail("CLUSTER_NOT_UPGRADEABLE")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ClusterVersion],
        optional: &[Model::Operators],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let condition = context
        .archive
        .cluster_version()
        .and_then(|cluster| cluster.status.conditions.when_false(CONDITION))
        .filter(|condition| condition.reason != ACKNOWLEDGEMENT);
    let Some(condition) = condition else {
        return Ok(None);
    };
    let mut operators = context.archive.operators();
    operators.sort_by_key(|operator| operator.name());
    let blocking = list(operators.into_iter().filter_map(|operator| {
        let condition = operator.status.conditions.when_false(CONDITION)?;
        Some(details! {
            "name": operator.name(),
            "reason": condition.reason,
            "message": message(&condition.message),
        })
    }));
    respond(
        "CLUSTER_NOT_UPGRADEABLE",
        details! {
            "reason": condition.reason,
            "message": message(&condition.message),
            "operators": blocking,
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::details::CHARACTERS;
    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn object(status: &str, reason: &str, message: &str) -> String {
        json!({"status": {"conditions": [{
            "type": "Upgradeable", "status": status, "reason": reason, "message": message,
        }]}})
        .to_string()
    }

    fn answer(status: &str, reason: &str, operators: &[(&str, &str)]) -> Answer {
        let version = object(
            status,
            reason,
            "Multiple cluster operators cannot be upgraded",
        );
        let version = [("config/version.json", version.as_str())];
        run(&RULE, &[&version, operators].concat())
    }

    #[test]
    fn names_the_operators_that_block() {
        let blocking = object("False", "UnsupportedConfigOverrides", "setting: [x]");
        let (ready, long) = (
            object("True", "", ""),
            object("False", "", &"x".repeat(2000)),
        );
        let operators = [
            ("config/clusteroperator/etcd.json", blocking.as_str()),
            ("config/clusteroperator/dns.json", &ready),
            ("config/clusteroperator/authentication", &long),
            ("config/clusteroperator/broken.json", "{"),
        ];
        assert_eq!(
            answer("False", "ClusterOperatorsNotUpgradeable", &operators),
            found(
                "CLUSTER_NOT_UPGRADEABLE",
                json!({
                    "reason": "ClusterOperatorsNotUpgradeable",
                    "message": "Multiple cluster operators cannot be upgraded",
                    "operators": [
                        {"name": "authentication", "reason": "", "message": "x".repeat(CHARACTERS)},
                        {"name": "etcd", "reason": "UnsupportedConfigOverrides", "message": "setting: [x]"},
                    ],
                })
            )
        );
    }

    #[test]
    fn operators_are_not_needed() {
        let answer = answer("False", "", &[]);
        assert!(
            format!("{answer:?}").contains(r#"\"operators\":[]"#),
            "{answer:?}"
        );
    }

    #[test]
    fn a_pending_acknowledgement_and_other_states_are_well() {
        let blocking = object("False", "x", "");
        let operators = [("config/clusteroperator/etcd.json", blocking.as_str())];
        assert_eq!(
            answer("False", "AdminAckRequired", &operators),
            Answer::Nothing
        );
        for status in ["True", "Unknown", ""] {
            assert_eq!(answer(status, "x", &operators), Answer::Nothing);
        }
        assert_eq!(
            run(&RULE, &[("config/version.json", "{}")]),
            Answer::Nothing
        );
    }

    #[test]
    fn without_a_version_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[("config/version.json", "[]")]), skipped);
    }
}
