//! The cluster cannot retrieve its available updates, for a day or longer.
//!
//! It then shows none, fixes for security included. Reads the cluster version. Reports
//! `UPDATES_NOT_RETRIEVED`.

use time::Duration;

use super::details::{details, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Conditions as _, timestamp};

/// How long it may take until it works again.
const PATIENCE: Duration = Duration::hours(24);
/// The reason that is a choice and no fault: no channel is set.
const NO_CHANNEL: &str = "NoChannel";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.updates_not_retrieved.report",
    detects: "The cluster cannot retrieve its available updates.",
    keys: &[Key::fail("UPDATES_NOT_RETRIEVED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
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
    let condition = cluster
        .status
        .conditions
        .when_false("RetrievedUpdates")
        .filter(|condition| condition.reason != NO_CHANNEL);
    let Some(condition) = condition else {
        return Ok(None);
    };
    let since = condition.last_transition_time.as_deref().unwrap_or("");
    let long =
        timestamp::parse(since).is_some_and(|since| context.reference_time - since >= PATIENCE);
    if !long {
        return Ok(None);
    }
    respond(
        "UPDATES_NOT_RETRIEVED",
        details! {
            "channel": cluster.spec.channel,
            "reason": condition.reason,
            "message": message(&condition.message),
            "since": since,
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    /// The reference time of the tests is 2021-07-13T07:16:44Z.
    fn answer(status: &str, reason: &str, since: Value) -> Answer {
        let version = json!({
            "spec": {"channel": "stable-4.7"},
            "status": {"conditions": [{
                "type": "RetrievedUpdates",
                "status": status,
                "reason": reason,
                "message": "Unable to retrieve available updates",
                "lastTransitionTime": since,
            }]},
        });
        run(&RULE, &[("config/version.json", &version.to_string())])
    }

    #[test]
    fn a_day_without_updates_hits() {
        assert_eq!(
            answer("False", "RemoteFailed", json!("2021-07-12T07:16:44Z")),
            found(
                "UPDATES_NOT_RETRIEVED",
                json!({
                    "channel": "stable-4.7",
                    "reason": "RemoteFailed",
                    "message": "Unable to retrieve available updates",
                    "since": "2021-07-12T07:16:44Z",
                })
            )
        );
    }

    #[test]
    fn less_than_a_day_or_an_unknown_time_is_well() {
        for since in [
            json!("2021-07-12T07:16:45Z"),
            json!("2022-01-01T00:00:00Z"),
            json!("yesterday"),
            json!(null),
            json!(0),
        ] {
            assert_eq!(answer("False", "RemoteFailed", since), Answer::Nothing);
        }
    }

    #[test]
    fn without_a_channel_none_are_expected() {
        let long_ago = json!("2020-01-01T00:00:00Z");
        assert_eq!(
            answer("False", "NoChannel", long_ago.clone()),
            Answer::Nothing
        );
        for status in ["True", "Unknown", ""] {
            assert_eq!(
                answer(status, "RemoteFailed", long_ago.clone()),
                Answer::Nothing
            );
        }
        assert_eq!(run(&RULE, &[("config/version", "{}")]), Answer::Nothing);
    }

    #[test]
    fn without_a_version_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[("config/version.json", "null")]), skipped);
    }
}
