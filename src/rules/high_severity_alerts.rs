//! Critical alerts are firing.
//!
//! The cluster itself says that something is broken. Reads alerts, from Alertmanager's list or,
//! in older archives, from metrics, which do not say since when. Reports
//! `HIGH_SEVERITY_ALERTS`.

use std::collections::BTreeMap;

use super::details::{details, list, message};
use super::{Context, Details, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Alert, timestamp};

/// The alert that always fires, to show that alerts work.
const WATCHDOG: &str = "Watchdog";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.high_severity_alerts.report",
    detects: "Critical alerts are firing.",
    keys: &[Key::fail("HIGH_SEVERITY_ALERTS")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        any: &[&[Model::Alerts]],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let monitoring = context.archive.alerts();
    let alerts = monitoring.map_or(&[][..], |monitoring| &monitoring.alerts);
    let mut by_name: BTreeMap<&str, Vec<&Alert>> = BTreeMap::new();
    for alert in alerts {
        let is_told = alert.is_active() && alert.severity() == "critical";
        if is_told && !["", WATCHDOG].contains(&alert.name()) {
            by_name.entry(alert.name()).or_default().push(alert);
        }
    }
    if by_name.is_empty() {
        return Ok(None);
    }
    let alerts = list(
        by_name
            .into_iter()
            .map(|(name, alerts)| told(name, &alerts)),
    );
    respond("HIGH_SEVERITY_ALERTS", details! { "alerts": alerts })
}

/// Alerts of one name.
fn told(name: &str, alerts: &[&Alert]) -> Details {
    let first = |field: fn(&Alert) -> &str| {
        let mut texts = alerts.iter().map(|alert| field(alert));
        texts.find(|text| !text.is_empty()).unwrap_or("")
    };
    details! {
        "name": name,
        "namespace": first(|alert| alert.label("namespace")),
        "count": alerts.len(),
        "since": earliest(alerts),
        "summary": message(first(Alert::summary)),
    }
}

/// The earliest start, as it was written.
pub(super) fn earliest<'a>(alerts: &[&'a Alert]) -> Option<&'a str> {
    alerts
        .iter()
        .filter_map(|alert| alert.starts_at.as_deref())
        .filter_map(|text| Some((timestamp::parse(text)?, text)))
        .min()
        .map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const SUMMARY: &str =
        "Cluster version operator has disappeared from Prometheus target discovery.";

    fn alert(name: &str, severity: &str, state: &str, since: &str) -> Value {
        json!({
            "labels": {"alertname": name, "severity": severity},
            "annotations": {"summary": SUMMARY},
            "startsAt": since,
            "status": {"state": state},
        })
    }

    fn answer(alerts: &[Value]) -> Answer {
        run(&RULE, &[("config/alerts.json", &json!(alerts).to_string())])
    }

    #[test]
    fn tells_alerts_by_name() {
        let mut second = alert("B", "critical", "active", "2021-07-12T10:00:00+02:00");
        second["labels"]["namespace"] = json!("openshift-x");
        let alerts = [
            alert("B", "critical", "active", "2021-07-12T09:00:00Z"),
            second,
            alert("B", "critical", "active", "?"),
            alert(
                "ClusterVersionOperatorDown",
                "critical",
                "active",
                "2022-01-04T14:49:16.272Z",
            ),
            alert("Watchdog", "critical", "active", "2021-07-12T09:00:00Z"),
        ];
        assert_eq!(
            answer(&alerts),
            found(
                "HIGH_SEVERITY_ALERTS",
                json!({"alerts": [
                    {"name": "B", "namespace": "openshift-x", "count": 3,
                     "since": "2021-07-12T10:00:00+02:00", "summary": SUMMARY},
                    {"name": "ClusterVersionOperatorDown", "namespace": "", "count": 1,
                     "since": "2022-01-04T14:49:16.272Z", "summary": SUMMARY},
                ]})
            )
        );
    }

    #[test]
    fn other_severities_and_states_are_not_told() {
        for other in [
            alert("A", "warning", "active", ""),
            alert("A", "critical", "suppressed", ""),
            alert("A", "critical", "", ""),
            alert("", "critical", "active", ""),
            json!({"labels": {"severity": "critical"}, "status": {"state": "active"}}),
            json!(7),
        ] {
            assert_eq!(
                answer(std::slice::from_ref(&other)),
                Answer::Nothing,
                "{other}"
            );
        }
        assert_eq!(answer(&[]), Answer::Nothing);
    }

    #[test]
    fn older_archives_have_alerts_among_metrics() {
        let metrics = "# ALERTS 2/1000\n\
            ALERTS{alertname=\"A\",alertstate=\"firing\",severity=\"critical\",namespace=\"n\"} 1\n\
            ALERTS{alertname=\"B\",alertstate=\"pending\",severity=\"critical\"} 1\n";
        assert_eq!(
            run(&RULE, &[("config/metrics", metrics)]),
            found(
                "HIGH_SEVERITY_ALERTS",
                json!({"alerts": [
                    {"name": "A", "namespace": "n", "count": 1, "since": null, "summary": ""},
                ]})
            )
        );
        let both = [("config/metrics", metrics), ("config/alerts.json", "[]")];
        assert_eq!(run(&RULE, &both), Answer::Nothing);
    }

    #[test]
    fn without_alerts_it_is_skipped() {
        let skipped = skip("All: [] Any: ['ccx_ocp_core.models.alerts.Alerts']");
        for files in [
            &[][..],
            &[("config/metrics", "")],
            &[("config/metrics", "up 1\n")],
            &[("config/alerts.json", "{}")],
        ] {
            assert_eq!(run(&RULE, files), skipped);
        }
    }
}
