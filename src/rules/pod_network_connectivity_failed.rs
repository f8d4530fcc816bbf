//! Connectivity checks between control plane components fail.
//!
//! Reads the failed checks of the last day. Reports `POD_NETWORK_CONNECTIVITY_FAILED`.

use std::cmp::Reverse;

use serde_json::json;
use time::Duration;

use super::details::{details, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::timestamp;

/// Age up to which one failure is enough. Ours: the operator gathers every two hours.
const RECENT: Duration = Duration::hours(1);
/// Different messages from which on their age does not matter. Ours.
const MESSAGES: usize = 10;
/// Most failures in details.
const FAILURES: usize = 20;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.pod_network_connectivity_failed.report",
    detects: "Connectivity checks between control plane components fail.",
    keys: &[Key::fail("POD_NETWORK_CONNECTIVITY_FAILED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ConnectivityChecks],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let checks = context.archive.connectivity_checks();
    let mut failures: Vec<_> = checks
        .into_iter()
        .flat_map(|checks| &checks.0)
        .flat_map(|(reason, messages)| {
            messages
                .iter()
                .map(move |(text, last)| (timestamp::parse(last), reason, text, last))
        })
        .collect();
    let is_recent = failures
        .iter()
        .filter_map(|(time, ..)| *time)
        .any(|time| context.reference_time - time <= RECENT);
    if !is_recent && failures.len() < MESSAGES {
        return Ok(None);
    }
    // Newest first; those of an unreadable time come last.
    failures.sort_by_key(|(time, reason, text, _)| (Reverse(*time), *reason, *text));
    let newest: Vec<_> = failures
        .iter()
        .take(FAILURES)
        .map(|(_, reason, text, last)| {
            json!({ "reason": reason, "message": message(text), "last_failure": last })
        })
        .collect();
    respond(
        "POD_NETWORK_CONNECTIVITY_FAILED",
        details! { "failures": newest, "count": failures.len() },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/podnetworkconnectivitychecks.json";

    fn answer(checks: &Value) -> Answer {
        run(&RULE, &[(PATH, &checks.to_string())])
    }

    fn failure(reason: &str, message: &str, last: &str) -> Value {
        json!({"reason": reason, "message": message, "last_failure": last})
    }

    #[test]
    fn a_recent_failure_hits_and_the_newest_come_first() {
        let checks = json!({
            "DNSError": {"old": "2021-07-12T23:19:25+02:00", "odd": "yesterday"},
            "TCPConnectError": {"old": "2021-07-12T21:19:25Z", "new": "2021-07-13T07:00:00Z"},
        });
        assert_eq!(
            answer(&checks),
            found(
                "POD_NETWORK_CONNECTIVITY_FAILED",
                json!({"failures": [
                    failure("TCPConnectError", "new", "2021-07-13T07:00:00Z"),
                    failure("DNSError", "old", "2021-07-12T23:19:25+02:00"),
                    failure("TCPConnectError", "old", "2021-07-12T21:19:25Z"),
                    failure("DNSError", "odd", "yesterday"),
                ], "count": 4})
            )
        );
    }

    #[test]
    fn one_hour_is_recent_and_so_is_the_future() {
        for (time, hits) in [
            ("2021-07-13T06:16:44Z", true),
            ("2021-07-13T06:16:43.999Z", false),
            ("2030-01-01T00:00:00Z", true),
            ("unreadable", false),
            ("", false),
        ] {
            let answer = answer(&json!({"DNSError": {"m": time}}));
            assert_eq!(answer != Answer::Nothing, hits, "{time}");
        }
    }

    /// As many old failures as said, the same messages under two reasons.
    fn old(count: usize) -> Value {
        let half = |from: usize, to: usize| -> serde_json::Map<String, Value> {
            (from..to)
                .map(|number| (format!("m{number:02}"), "2021-07-12T00:00:00Z".into()))
                .collect()
        };
        json!({"A": half(0, count / 2), "B": half(0, count - count / 2)})
    }

    #[test]
    fn ten_messages_hit_at_any_age_and_twenty_are_told() {
        assert_eq!(answer(&old(MESSAGES - 1)), Answer::Nothing);
        for (count, told) in [(10, 10), (20, 20), (21, 20)] {
            let Answer::Found(_, details) = answer(&old(count)) else {
                panic!("{count} messages do not hit");
            };
            let details: Value = serde_json::from_str(&details).unwrap();
            assert_eq!(details["count"], count);
            assert_eq!(details["failures"].as_array().unwrap().len(), told);
            assert_eq!(
                details["failures"][0],
                failure("A", "m00", "2021-07-12T00:00:00Z")
            );
        }
    }

    #[test]
    fn no_failure_is_well() {
        for checks in [
            json!({}),
            json!({"DNSError": null, "TCPConnectError": {}}),
            json!({"DNSError": {"m": 1}}),
        ] {
            assert_eq!(answer(&checks), Answer::Nothing, "{checks}");
        }
    }

    #[test]
    fn without_checks_it_is_skipped() {
        let skipped =
            skip("All: ['ccx_ocp_core.models.network_checks.PodNetworkConnectivityChecks'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "[]")]), skipped);
    }
}
