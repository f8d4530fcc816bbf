//! Repeated warning events of the machine API.
//!
//! Machines that cannot be created, updated or deleted tell it there. Reads the events of the
//! namespace of the machine API. Reports `MACHINE_API_WARNING_EVENTS`.

use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond};
use crate::archive::Model;
use crate::archive::documents::{Event, timestamp};

const NAMESPACE: &str = "openshift-machine-api";
/// Warnings that are too many within the period.
const MANY: usize = 5;
/// How far back warnings count, both ends included.
const PERIOD: Duration = Duration::hours(24);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.machine_api_warning_events.report",
    detects: "Repeated warning events of the machine API.",
    keys: &[Key::fail("MACHINE_API_WARNING_EVENTS")],
    profile: RuleProfile::External,
    enabled_by_default: false,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Events],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let events = context
        .archive
        .events()
        .into_iter()
        .find(|events| events.stem() == NAMESPACE)
        .ok_or_else(|| Skip::model(Model::Events))?;
    let period = context.reference_time - PERIOD..=context.reference_time;
    let warnings: Vec<(OffsetDateTime, &Event)> = events
        .document()
        .items
        .iter()
        .filter(|event| event.kind == "Warning")
        .filter_map(|event| Some((timestamp::parse(&event.last_timestamp)?, event)))
        .filter(|(time, _)| period.contains(time))
        .collect();
    if warnings.len() < MANY {
        return Ok(None);
    }

    let mut reasons: BTreeMap<&str, Vec<(OffsetDateTime, &Event)>> = BTreeMap::new();
    for warning in warnings {
        reasons.entry(&warning.1.reason).or_default().push(warning);
    }
    let reasons = list(reasons.into_iter().map(|(reason, warnings)| {
        let newest = warnings.iter().max_by_key(|(time, _)| *time);
        details! {
            "reason": reason,
            "count": warnings.len(),
            "last_message": newest.map_or("", |(_, event)| message(&event.message)),
            "last_timestamp": newest.map_or("", |(_, event)| &event.last_timestamp),
        }
    }));
    respond(
        "MACHINE_API_WARNING_EVENTS",
        details! { "reasons": reasons },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const FILE: &str = "events/openshift-machine-api.json";
    /// The reference time of the tests is 2021-07-13T07:16:44Z.
    const NOW: &str = "2021-07-13T09:16:44+02:00";
    const DAY_AGO: &str = "2021-07-12T07:16:44Z";

    fn event(kind: &str, reason: &str, time: &str, message: &str) -> Value {
        json!({"type": kind, "reason": reason, "lastTimestamp": time, "message": message})
    }

    fn answer(items: &[Value]) -> Answer {
        run(&RULE, &[(FILE, &json!({"items": items}).to_string())])
    }

    #[test]
    fn tells_the_newest_warning_of_each_reason() {
        let warning = |reason, time, message| event("Warning", reason, time, message);
        let items = [
            warning("FailedUpdate", "2021-07-13T07:00:00Z", "newest"),
            warning("FailedUpdate", "2021-07-13T08:30:00+02:00", "older"),
            warning("FailedCreate", NOW, "now"),
            warning("FailedUpdate", DAY_AGO, "oldest"),
            warning("", DAY_AGO, ""),
        ];
        assert_eq!(
            answer(&items),
            found(
                "MACHINE_API_WARNING_EVENTS",
                json!({"reasons": [
                    {"reason": "", "count": 1, "last_message": "", "last_timestamp": DAY_AGO},
                    {"reason": "FailedCreate", "count": 1, "last_message": "now", "last_timestamp": NOW},
                    {"reason": "FailedUpdate", "count": 3, "last_message": "newest",
                     "last_timestamp": "2021-07-13T07:00:00Z"},
                ]})
            )
        );
    }

    #[test]
    fn five_warnings_of_the_last_day_are_many() {
        let warning = event("Warning", "x", NOW, "");
        let four = vec![warning.clone(); 4];
        assert_eq!(answer(&four), Answer::Nothing);
        let fifth = |event: Value| answer(&[&four[..], &[event]].concat());
        assert!(matches!(fifth(warning), Answer::Found(..)));
        for other in [
            event("Normal", "x", NOW, ""),
            event("Warning", "x", "2021-07-12T07:16:43Z", ""),
            event("Warning", "x", "2021-07-13T07:16:45Z", ""),
            event("Warning", "x", "now", ""),
            json!({"type": "Warning", "reason": "x", "lastTimestamp": null}),
            json!(null),
        ] {
            assert_eq!(fifth(other.clone()), Answer::Nothing, "{other}");
        }
    }

    #[test]
    fn without_events_of_the_machine_api_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.events.Events'] Any: ");
        for files in [
            &[][..],
            &[("events/openshift-etcd.json", "{}")],
            &[("events/openshift-etcd.json", "{}"), (FILE, "null")],
        ] {
            assert_eq!(run(&RULE, files), skipped);
        }
        for content in ["{}", r#"{"items": null}"#, r#"{"items": {}}"#] {
            assert_eq!(run(&RULE, &[(FILE, content)]), Answer::Nothing);
        }
    }
}
