//! The running minor version is out of, or about to leave, maintenance support.
//!
//! There are no more fixes for it then. Reads the cluster version and the life-cycle table below.
//! Reports `OCP4X_BEYOND_EOL` or `OCP4X_EOL_APPROACHING`.

use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::timestamp;
use crate::archive::documents::version::Branch;

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

/// A minor version's dates, each midnight UTC.
struct Minor {
    minor: u64,
    available: &'static str,
    end: &'static str,
    /// With extended update support, where there is some.
    extended_end: Option<&'static str>,
}

const fn minor(
    minor: u64,
    available: &'static str,
    end: &'static str,
    extended_end: Option<&'static str>,
) -> Minor {
    Minor {
        minor,
        available,
        end,
        extended_end,
    }
}

/// Minor versions of OpenShift 4 in order, from the vendor's life-cycle pages.
const LIFE_CYCLE: &[Minor] = &[
    minor(1, "2019-06-04", "2020-05-05", None),
    minor(2, "2019-10-16", "2020-07-13", None),
    minor(3, "2020-01-23", "2020-10-27", None),
    minor(4, "2020-05-05", "2021-02-24", None),
    minor(5, "2020-07-13", "2021-07-27", None),
    minor(6, "2020-10-27", "2022-10-27", None),
    minor(7, "2021-02-24", "2022-08-24", None),
    minor(8, "2021-07-27", "2023-01-27", Some("2023-04-27")),
    minor(9, "2021-10-18", "2023-04-18", None),
    minor(10, "2022-03-10", "2023-09-10", None),
    minor(11, "2022-08-10", "2024-02-10", None),
    minor(12, "2023-01-17", "2024-07-17", Some("2025-01-17")),
    minor(13, "2023-05-17", "2024-11-17", None),
    minor(14, "2023-10-31", "2025-05-01", Some("2025-10-31")),
    minor(15, "2024-02-27", "2025-08-27", None),
    minor(16, "2024-06-27", "2025-12-27", Some("2026-06-27")),
    minor(17, "2024-10-01", "2026-04-01", None),
    minor(18, "2025-02-25", "2026-08-25", Some("2027-02-25")),
    minor(19, "2025-06-17", "2026-12-17", None),
    minor(20, "2025-10-21", "2027-04-21", None),
];

/// A date of the table as the report writes it.
fn midnight(date: &str) -> String {
    format!("{date}T00:00:00Z")
}

fn check(context: &Context<'_>) -> RuleResult {
    let Some(cluster) = context.archive.cluster_version() else {
        return Ok(None);
    };
    let released = cluster
        .current_version()
        .filter(|version| !version.is_pre_release());
    let Some(minors) = released.and_then(|version| from_branch(version.branch())) else {
        return Ok(None);
    };
    let Some(end) = minors
        .first()
        .and_then(|minor| end_of(minor, &cluster.spec.channel))
    else {
        return Ok(None);
    };

    let beyond = context.reference_time >= end;
    if !beyond && context.reference_time < end - NOTICE {
        return Ok(None);
    }
    let shown: Vec<_> = minors
        .iter()
        .take(SHOWN)
        .map(|minor| json!({ "version": format!("4.{}", minor.minor), "ga": midnight(minor.available) }))
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

/// The known minor versions from this one on.
fn from_branch(branch: Branch) -> Option<&'static [Minor]> {
    let position = LIFE_CYCLE
        .iter()
        .position(|minor| minor.minor == branch.minor)?;
    LIFE_CYCLE.get(position..).filter(|_| branch.major == 4)
}

fn end_of(minor: &Minor, channel: &str) -> Option<OffsetDateTime> {
    let extended = minor
        .extended_end
        .filter(|_| channel.starts_with(EXTENDED_CHANNEL));
    timestamp::parse(&midnight(extended.unwrap_or(minor.end)))
}

#[cfg(test)]
mod tests {
    use super::super::Profile;
    use super::super::testing::{Answer, found, run, run_at, skip};
    use super::*;

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
    fn the_table_is_in_order_and_its_dates_are_dates() {
        for (row, number) in LIFE_CYCLE.iter().zip(1..) {
            assert_eq!(row.minor, number);
            let dates: Vec<_> = [Some(row.available), Some(row.end), row.extended_end]
                .into_iter()
                .flatten()
                .map(|date| timestamp::parse(&midnight(date)).unwrap())
                .collect();
            assert!(dates.is_sorted());
        }
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
