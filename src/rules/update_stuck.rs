//! An update has been running for more than a day.
//!
//! Updates take hours; one that takes longer waits for something that does not come, and the
//! cluster runs parts of two versions. Reads the cluster version. Reports `CLUSTER_UPDATE_STUCK`.

use time::Duration;

use super::details::{details, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Conditions as _, timestamp};

/// How long an update may take.
const PATIENCE: Duration = Duration::hours(24);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.update_stuck.report",
    detects: "An update has been running for more than 24 hours.",
    keys: &[Key::fail("CLUSTER_UPDATE_STUCK")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let Some(cluster) = context.archive.cluster_version() else {
        return Ok(None);
    };
    let (Some(progressing), Some(update)) = (
        cluster.status.conditions.when_true("Progressing"),
        cluster.status.history.first(),
    ) else {
        return Ok(None);
    };
    let running = timestamp::parse(&update.started_time)
        .map(|start| context.reference_time - start)
        .filter(|running| update.state == "Partial" && *running > PATIENCE);
    let Some(running) = running else {
        return Ok(None);
    };
    respond(
        "CLUSTER_UPDATE_STUCK",
        details! {
            "current": cluster.current(),
            "desired": cluster.status.desired.version,
            "started": update.started_time,
            "hours": running.whole_hours(),
            "message": message(&progressing.message),
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Profile;
    use super::super::testing::{Answer, found, run, run_at, skip};
    use super::*;

    const START: &str = "2021-10-08T08:52:20Z";

    fn answer(progressing: &str, state: &str, started: &str, now: &str) -> Answer {
        let version = json!({"status": {
            "desired": {"version": "4.8.13"},
            "history": [
                {"state": state, "version": "4.8.13", "startedTime": started},
                {"state": "Completed", "version": "4.8.12", "startedTime": "2021-09-01T00:00:00Z"},
            ],
            "conditions": [{
                "type": "Progressing",
                "status": progressing,
                "message": "Working towards 4.8.13: 70% complete",
            }],
        }})
        .to_string();
        let files = [("config/version.json", version.as_str())];
        run_at(
            &RULE,
            &files,
            timestamp::parse(now).unwrap(),
            Profile::External,
        )
    }

    #[test]
    fn tells_the_full_hours_of_a_long_update() {
        assert_eq!(
            answer("True", "Partial", START, "2021-10-09T15:52:19Z"),
            found(
                "CLUSTER_UPDATE_STUCK",
                json!({
                    "current": "4.8.12",
                    "desired": "4.8.13",
                    "started": START,
                    "hours": 30,
                    "message": "Working towards 4.8.13: 70% complete",
                })
            )
        );
    }

    #[test]
    fn a_day_is_not_too_long() {
        let after = |now| answer("True", "Partial", START, now);
        assert_eq!(after("2021-10-09T08:52:20Z"), Answer::Nothing);
        assert!(matches!(after("2021-10-09T08:52:20.1Z"), Answer::Found(..)));
        assert_eq!(after("2020-01-01T00:00:00Z"), Answer::Nothing);
        let unreadable = answer("True", "Partial", "", "2021-12-01T00:00:00Z");
        assert_eq!(unreadable, Answer::Nothing);
    }

    #[test]
    fn what_is_done_or_not_running_is_not_stuck() {
        let later = "2021-12-01T00:00:00Z";
        assert_eq!(answer("True", "Completed", START, later), Answer::Nothing);
        assert_eq!(answer("False", "Partial", START, later), Answer::Nothing);
        assert_eq!(answer("", "Partial", START, later), Answer::Nothing);
        let progressing = r#"{"status": {"history": null, "conditions": [
            {"type": "Progressing", "status": "True"}]}}"#;
        for content in ["{}", progressing] {
            assert_eq!(run(&RULE, &[("config/version", content)]), Answer::Nothing);
        }
    }

    #[test]
    fn without_a_version_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[("config/version.json", "\"x\"")]), skipped);
    }
}
