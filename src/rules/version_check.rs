//! The cluster is not yet at its desired version.
//!
//! An update is in progress, or was asked for and does not begin. Reads the cluster version.
//! Reports `CLUSTER_VERSION_WORKING_TOWARDS` in the first case, with the state of the update,
//! and `CLUSTER_VERSION_DESIRED` in the other.

use super::details::{condition_of, details};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.version_check.report",
    detects: "The cluster is not yet at its desired version.",
    keys: &[
        Key::fail("CLUSTER_VERSION_WORKING_TOWARDS")
            .when("current differs from desired and Progressing is True"),
        Key::fail("CLUSTER_VERSION_DESIRED")
            .when("current differs from desired and Progressing is not True")
            .bare(),
    ],
    profile: RuleProfile::Internal,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &["phased_gates"],
    links: &[
        ("kcs", &["https://access.redhat.com/solutions/3799561"]),
        ("jira", &["https://issues.redhat.com/browse/INSIGHTOCP-455"]),
    ],
    requires: Requires {
        all: &[Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let version = context.archive.cluster_version();
    // Where nothing is completed yet, current is desired.
    let Some(version) = version.filter(|found| found.current() != found.status.desired.version)
    else {
        return Ok(None);
    };
    let (status, current) = (&version.status, version.current());
    let desired = &status.desired.version;
    let condition = |kind| condition_of(&status.conditions, kind);
    match status.conditions.when_true("Progressing") {
        Some(_) => respond(
            "CLUSTER_VERSION_WORKING_TOWARDS",
            details! {
                "current": current,
                "desired": desired,
                "available": condition("Available"),
                "progressing": condition("Progressing"),
                "failing": condition("Failing"),
                "history_count": status.history.len(),
                "phased_gates_checks": ["3.1"],
            },
        ),
        None => respond(
            "CLUSTER_VERSION_DESIRED",
            details! { "current": current, "desired": desired },
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(history: Value, conditions: Value) -> Answer {
        let file = json!({"status": {
            "desired": {"version": "4.8.13"},
            "history": history,
            "conditions": conditions,
        }});
        run(&RULE, &[("config/version.json", &file.to_string())])
    }

    fn history() -> Value {
        json!([
            {"state": "Partial", "version": "4.8.13"},
            {"state": "Completed", "version": "4.8.12"},
        ])
    }

    #[test]
    fn an_update_in_progress_is_told_with_its_state() {
        let conditions = json!([
            {"type": "Available", "status": "True", "lastTransitionTime": "2021-10-08T08:35:15Z",
             "message": "Done applying 4.8.12"},
            {"type": "Progressing", "status": "True", "lastTransitionTime": "2021-10-08T08:52:20Z",
             "reason": "ClusterOperatorUpdating", "message": "Working towards 4.8.13"},
            {"type": "Failing", "status": "False", "lastTransitionTime": "2021-10-08T09:31:14Z"},
        ]);
        assert_eq!(
            answer(history(), conditions),
            found(
                "CLUSTER_VERSION_WORKING_TOWARDS",
                json!({
                    "current": "4.8.12",
                    "desired": "4.8.13",
                    "available": {"status": true, "last_trans_time": "2021-10-08T08:35:15Z",
                        "reason": "", "message": "Done applying 4.8.12"},
                    "progressing": {"status": true, "last_trans_time": "2021-10-08T08:52:20Z",
                        "reason": "ClusterOperatorUpdating", "message": "Working towards 4.8.13"},
                    "failing": {"status": false, "last_trans_time": "2021-10-08T09:31:14Z",
                        "reason": "", "message": ""},
                    "history_count": 2,
                    "phased_gates_checks": ["3.1"],
                })
            )
        );
    }

    #[test]
    fn an_update_that_does_not_progress_is_told_in_short() {
        for conditions in [
            json!([]),
            json!(null),
            json!([{"type": "Progressing", "status": "False"}]),
            json!([{"type": "Progressing", "status": "Unknown"}]),
        ] {
            assert_eq!(
                answer(history(), conditions),
                found(
                    "CLUSTER_VERSION_DESIRED",
                    json!({"current": "4.8.12", "desired": "4.8.13"})
                )
            );
        }
        assert!(RULE.key("CLUSTER_VERSION_DESIRED").unwrap().is_bare);
    }

    #[test]
    fn at_its_version_or_without_a_completed_update_nothing_is_said() {
        for history in [
            json!([{"state": "Completed", "version": "4.8.13"}]),
            json!([{"state": "Partial", "version": "4.8.12"}]),
            json!([{"state": "Completed"}, {"state": "Completed", "version": "4.8.13"}]),
            json!([]),
        ] {
            assert_eq!(answer(history, json!([])), Answer::Nothing);
        }
    }

    #[test]
    fn without_a_version_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[("config/version.json", "{")]),
            skip("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ")
        );
    }
}
