//! The running minor version is out of, or about to leave, maintenance support.
//!
//! There are no more fixes for it then. Reads the cluster version and the life-cycle table.
//! Reports `OCP4X_BEYOND_EOL` or `OCP4X_EOL_APPROACHING`.

use serde_json::json;
use time::Duration;

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// How long before its end a minor version is warned of.
const NOTICE: Duration = Duration::days(90);
/// Minor versions told: the current one and those to update to.
const SHOWN: usize = 4;
/// The prefix of channels for extended update support.
const EXTENDED_CHANNEL: &str = "eus-";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.ocp_version_end_of_life.report",
    detects: "The running minor version is out of, or about to leave, maintenance support.",
    keys: &[
        Key::fail("OCP4X_BEYOND_EOL").when("end of life passed"),
        Key::fail("OCP4X_EOL_APPROACHING").when("end of life within 90 days"),
    ],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[(
        "docs",
        &["https://access.redhat.com/support/policy/updates/openshift"],
    )],
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
    let released = cluster
        .current_version()
        .filter(|version| !version.is_pre_release());
    let Some(branch) = released.map(|version| version.branch()) else {
        return Ok(None);
    };
    let minors: Vec<_> = context
        .settings
        .life_cycle
        .from(branch)
        .take(SHOWN)
        .collect();
    let Some((_, dates)) = minors.first() else {
        return Ok(None);
    };
    let extended = dates
        .extended_end
        .filter(|_| cluster.spec.channel.starts_with(EXTENDED_CHANNEL));
    let end = extended.unwrap_or(dates.end).midnight().assume_utc();

    let beyond = context.reference_time >= end;
    if !beyond && context.reference_time < end - NOTICE {
        return Ok(None);
    }
    let shown: Vec<_> = minors
        .iter()
        .map(|(branch, dates)| {
            json!({
                "version": branch.to_string(),
                "ga": format!("{}T00:00:00Z", dates.available),
            })
        })
        .collect();
    respond(
        if beyond {
            "OCP4X_BEYOND_EOL"
        } else {
            "OCP4X_EOL_APPROACHING"
        },
        details! {
            "beyond_eol": beyond,
            "current_version": cluster.current(),
            "minor_plus": shown,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::super::Profile;
    use super::super::testing::{Answer, found, run, run_at, skip};
    use super::*;
    use crate::archive::documents::timestamp;

    fn answer(version: &str, channel: &str, time: &str) -> Answer {
        let file = json!({
            "spec": {"channel": channel},
            "status": {"history": [{"state": "Completed", "version": version}]},
        });
        let time = timestamp::parse(time).unwrap();
        run_at(
            &RULE,
            &[("config/version.json", &file.to_string())],
            time,
            Profile::External,
        )
    }

    #[test]
    fn past_its_end_a_version_is_beyond() {
        assert_eq!(
            answer("4.3.11", "stable-4.3", "2020-10-27T00:00:00Z"),
            found(
                "OCP4X_BEYOND_EOL",
                json!({
                    "beyond_eol": true,
                    "current_version": "4.3.11",
                    "minor_plus": [
                        {"version": "4.3", "ga": "2020-01-23T00:00:00Z"},
                        {"version": "4.4", "ga": "2020-05-05T00:00:00Z"},
                        {"version": "4.5", "ga": "2020-07-13T00:00:00Z"},
                        {"version": "4.6", "ga": "2020-10-27T00:00:00Z"},
                    ],
                })
            )
        );
    }

    #[test]
    fn the_last_ninety_days_are_told_in_time() {
        assert_eq!(
            answer("4.19.1", "", "2026-09-17T23:59:59Z"),
            Answer::Nothing
        );
        assert_eq!(
            answer("4.19.1", "", "2026-09-18T00:00:00Z"),
            found(
                "OCP4X_EOL_APPROACHING",
                json!({
                    "beyond_eol": false,
                    "current_version": "4.19.1",
                    "minor_plus": [
                        {"version": "4.19", "ga": "2025-06-17T00:00:00Z"},
                        {"version": "4.20", "ga": "2025-10-21T00:00:00Z"},
                    ],
                })
            )
        );
    }

    #[test]
    fn an_extended_channel_lives_longer() {
        let day = "2024-08-01T00:00:00Z";
        assert!(matches!(
            answer("4.12.3", "stable-4.12", day),
            Answer::Found("OCP4X_BEYOND_EOL", _)
        ));
        assert_eq!(answer("4.12.3", "eus-4.12", day), Answer::Nothing);
        assert!(matches!(
            answer("4.13.3", "eus-4.14", "2024-12-01T00:00:00Z"),
            Answer::Found(..)
        ));
    }

    #[test]
    fn unknown_and_unreleased_versions_say_nothing() {
        for version in [
            "4.99.0",
            "5.3.0",
            "4.3.0-0.nightly-2020-01-01-000000",
            "4.3.0-rc.1",
            "",
        ] {
            assert_eq!(
                answer(version, "", "2030-01-01T00:00:00Z"),
                Answer::Nothing,
                "{version}"
            );
        }
    }

    #[test]
    fn without_a_version_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ")
        );
    }
}
