//! The current version of the cluster, which the aggregator stores.
//!
//! The aggregator refuses a whole message for one info value that is no string, so the numbers
//! of the internal profile stay there. Reads the cluster version. Informs as
//! `CLUSTER_VERSION_INFO`.

use time::Duration;

use super::details::details;
use super::{Context, Key, Profile, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::timestamp;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_processing.version_info.report",
    detects: "Current version of the cluster for the downstream aggregator.",
    keys: &[Key::info("CLUSTER_VERSION_INFO")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: None,
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let Some(version) = context.archive.cluster_version() else {
        return Ok(None);
    };
    let details = match context.profile {
        Profile::External => details! { "version": version.current() },
        Profile::Internal => {
            let history = &version.status.history;
            let partial = history
                .iter()
                .skip(1)
                .filter(|update| update.state == "Partial");
            let start = history.first().map_or("", |update| &update.started_time);
            let since = timestamp::parse(start).map(|start| context.reference_time - start);
            details! {
                "desired": version.status.desired.version,
                "current": version.current(),
                "aborted_updates": partial.count(),
                "last_update_start": start,
                "last_update_start_delta": since.map(in_words).unwrap_or_default(),
            }
        }
    };
    respond("CLUSTER_VERSION_INFO", details)
}

/// Rounded to the second. A start in the future is no time ago.
fn in_words(duration: Duration) -> String {
    let rounded = (duration + Duration::milliseconds(500)).max(Duration::ZERO);
    format!(
        "{} days {} hours {} minutes {} seconds",
        rounded.whole_days(),
        rounded.whole_hours() % 24,
        rounded.whole_minutes() % 60,
        rounded.whole_seconds() % 60,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{found, reference_time, run, run_at, skip};
    use super::*;

    const FILE: &str = r#"{"status": {"desired": {"version": "4.8.13"}, "history": [
        {"state": "Partial", "version": "4.8.13", "startedTime": "2021-10-08T08:52:20Z"},
        {"state": "Partial", "version": "4.8.12"},
        {"state": "Completed", "startedTime": "2021-09-01T00:00:00Z"},
        {"state": "Completed", "version": "4.8.11"}]}}"#;

    #[test]
    fn tells_the_newest_completed_version_as_text_only() {
        let expected = found("CLUSTER_VERSION_INFO", json!({"version": "4.8.11"}));
        assert_eq!(run(&RULE, &[("config/version.json", FILE)]), expected);
        assert_eq!(run(&RULE, &[("config/version", FILE)]), expected);
        let desired = r#"{"status": {"desired": {"version": "4.2.0"}, "history": null}}"#;
        assert_eq!(
            run(&RULE, &[("config/version.json", desired)]),
            found("CLUSTER_VERSION_INFO", json!({"version": "4.2.0"}))
        );
    }

    #[test]
    fn the_internal_profile_tells_more() {
        let time = timestamp::parse("2021-12-13T15:51:02.9Z").unwrap();
        assert_eq!(
            run_at(
                &RULE,
                &[("config/version.json", FILE)],
                time,
                Profile::Internal
            ),
            found(
                "CLUSTER_VERSION_INFO",
                json!({
                    "desired": "4.8.13",
                    "current": "4.8.11",
                    "aborted_updates": 1,
                    "last_update_start": "2021-10-08T08:52:20Z",
                    "last_update_start_delta": "66 days 6 hours 58 minutes 43 seconds",
                })
            )
        );
        let future = run_at(
            &RULE,
            &[("config/version.json", FILE)],
            reference_time(),
            Profile::Internal,
        );
        assert!(format!("{future:?}").contains("0 days 0 hours 0 minutes 0 seconds"));
    }

    #[test]
    fn without_a_version_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ");
        for files in [
            &[][..],
            &[("config/version.json", "null")],
            &[("config/version.json", "[]")],
        ] {
            assert_eq!(run(&RULE, files), skipped);
        }
    }
}
