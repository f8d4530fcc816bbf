//! Updates blocked because a default security context constraint was modified.
//!
//! From 4.3.8 to 4.3.12 the API server operator says so and refuses to be updated. Reads
//! operators and the cluster version. Reports `BUGZILLA_BUG_1821905`.

use super::details::details;
use super::{
    AFFECTED_VERSION, Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond,
};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

/// The versions with the bug, exactly.
const AFFECTED: [&str; 5] = ["4.3.8", "4.3.9", "4.3.10", "4.3.11", "4.3.12"];
/// What the operator says.
const MUTATED: &str = "DefaultSecurityContextConstraints_Mutated";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.bug_rules.bug_1821905.report",
    detects: "Updates blocked because a default security context constraint was modified.",
    keys: &[Key::fail("BUGZILLA_BUG_1821905")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[
        ("kcs", &["https://access.redhat.com/solutions/4972291"]),
        (
            "bz",
            &["https://bugzilla.redhat.com/show_bug.cgi?id=1821905"],
        ),
    ],
    requires: Requires {
        all: &[Model::Operators, Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let desired = context
        .archive
        .cluster_version()
        .map(|version| version.status.desired.version.as_str())
        .filter(|desired| AFFECTED.contains(desired))
        .ok_or(Skip::condition(AFFECTED_VERSION))?;
    let blocked = context
        .archive
        .operators()
        .into_iter()
        .filter(|operator| operator.name() == "kube-apiserver")
        .filter_map(|operator| {
            operator
                .document()
                .status
                .conditions
                .when_false("Upgradeable")
        })
        .any(|condition| condition.reason.contains(MUTATED) || condition.message.contains(MUTATED));
    if !blocked {
        return Ok(None);
    }
    respond("BUGZILLA_BUG_1821905", details! { "desired": desired })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(version: &str, status: &str, reason: &str, message: &str) -> Answer {
        let version = json!({"status": {"desired": {"version": version}}}).to_string();
        let operator = json!({
            "kind": "ClusterOperator",
            "metadata": {"name": "kube-apiserver"},
            "status": {"conditions": [
                {"type": "Upgradeable", "status": status, "reason": reason, "message": message}]},
        })
        .to_string();
        let files = [
            ("config/version.json", version.as_str()),
            ("config/clusteroperator/k.json", &operator),
        ];
        run(&RULE, &files)
    }

    #[test]
    fn a_blocked_update_of_an_affected_version_hits() {
        let expected = found("BUGZILLA_BUG_1821905", json!({"desired": "4.3.11"}));
        assert_eq!(
            answer("4.3.11", "False", &format!("X_{MUTATED}"), ""),
            expected
        );
        assert_eq!(
            answer("4.3.11", "False", "X", &format!("because {MUTATED}")),
            expected
        );
    }

    #[test]
    fn an_affected_version_that_is_not_blocked_is_well() {
        assert_eq!(answer("4.3.8", "True", MUTATED, ""), Answer::Nothing);
        assert_eq!(answer("4.3.12", "False", "Other", ""), Answer::Nothing);
    }

    #[test]
    fn other_versions_are_skipped() {
        let skipped = skip(
            "All: ['ccx_ocp_core.utils.affected_version.ensure_is_affected_condition.<locals>.version_condition'] Any: ",
        );
        for version in ["4.3.7", "4.3.13", "4.3.10-rc.1", ""] {
            assert_eq!(answer(version, "False", MUTATED, ""), skipped, "{version}");
        }
        assert_eq!(
            run(&RULE, &[("config/version.json", "{}")]),
            skip("All: ['ccx_ocp_core.models.operators.Operators'] Any: ")
        );
    }
}
