//! etcd alerts are firing.
//!
//! What keeps the state of the cluster is in trouble, or the API that stands on it. Reads alerts.
//! Reports `ETCD_ALERTS_FIRING`.

use std::collections::BTreeMap;

use serde_json::json;

use super::details::{details, list};
use super::high_severity_alerts::earliest;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Alert;

/// What names of etcd's alerts begin with, in whatever case.
const ETCD: &str = "etcd";
/// An alert of the API servers that slow storage causes, and their namespace.
const API_SERVER: (&str, &str) = ("KubeAPIErrorBudgetBurn", "openshift-kube-apiserver");
/// The severities that ask for somebody to act.
const SEVERITIES: [&str; 2] = ["warning", "critical"];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.etcd_alerts.report",
    detects: "etcd alerts are firing.",
    keys: &[Key::fail("ETCD_ALERTS_FIRING")],
    profile: RuleProfile::External,
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
    let mut groups: BTreeMap<(&str, &str), Vec<&Alert>> = BTreeMap::new();
    for alert in alerts.iter().filter(|alert| is_told(alert)) {
        let group = (alert.name(), alert.severity());
        groups.entry(group).or_default().push(alert);
    }
    if groups.is_empty() {
        return Ok(None);
    }
    let alerts = list(groups.into_iter().map(|((name, severity), alerts)| {
        json!({
            "name": name,
            "severity": severity,
            "count": alerts.len(),
            "since": earliest(&alerts),
        })
    }));
    respond("ETCD_ALERTS_FIRING", details! { "alerts": alerts })
}

fn is_told(alert: &Alert) -> bool {
    let of_etcd = alert
        .name()
        .get(..ETCD.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(ETCD));
    let of_api_server = (alert.name(), alert.label("namespace")) == API_SERVER;
    alert.is_active() && SEVERITIES.contains(&alert.severity()) && (of_etcd || of_api_server)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/alerts.json";

    fn alert(name: &str, severity: &str, since: &str) -> Value {
        json!({"labels": {"alertname": name, "severity": severity},
            "startsAt": since, "status": {"state": "active"}})
    }

    fn told(name: &str, severity: &str, count: usize, since: &Value) -> Value {
        json!({"name": name, "severity": severity, "count": count, "since": since})
    }

    fn answer(alerts: &[Value]) -> Answer {
        run(&RULE, &[(PATH, &json!(alerts).to_string())])
    }

    #[test]
    fn groups_by_name_and_severity() {
        let (early, late) = ("2022-01-04T14:49:16.272Z", "2022-01-05T00:00:00Z");
        let mut burn = alert(API_SERVER.0, "critical", late);
        burn["labels"]["namespace"] = API_SERVER.1.into();
        assert_eq!(
            answer(&[
                alert("etcdMembersDown", "critical", late),
                alert("etcdMembersDown", "warning", "unreadable"),
                alert("etcdMembersDown", "critical", early),
                burn,
                alert("ETCDx", "warning", late),
            ]),
            found(
                "ETCD_ALERTS_FIRING",
                json!({"alerts": [
                    told("ETCDx", "warning", 1, &json!(late)),
                    told("KubeAPIErrorBudgetBurn", "critical", 1, &json!(late)),
                    told("etcdMembersDown", "critical", 2, &json!(early)),
                    told("etcdMembersDown", "warning", 1, &json!(null)),
                ]})
            )
        );
    }

    #[test]
    fn metrics_of_older_archives_are_read_too() {
        let metrics = "ALERTS{alertname=\"etcdNoLeader\",alertstate=\"firing\",severity=\"critical\"} 1 5\n\
            ALERTS{alertname=\"etcdNoLeader\",alertstate=\"pending\",severity=\"critical\"} 1 5\n";
        assert_eq!(
            run(&RULE, &[("config/metrics", metrics)]),
            found(
                "ETCD_ALERTS_FIRING",
                json!({"alerts": [told("etcdNoLeader", "critical", 1, &json!(null))]})
            )
        );
    }

    #[test]
    fn other_alerts_do_not() {
        let mut silenced = alert("etcdMembersDown", "critical", "");
        silenced["status"]["state"] = "suppressed".into();
        let mut elsewhere = alert(API_SERVER.0, "critical", "");
        elsewhere["labels"]["namespace"] = "other".into();
        for alert in [
            silenced,
            elsewhere,
            alert(API_SERVER.0, "critical", ""),
            alert("etcdMembersDown", "info", ""),
            alert("etc", "critical", ""),
            alert("ätcdx", "critical", ""),
            alert("Watchdog", "warning", ""),
            json!({"labels": {"severity": "critical"}, "status": {"state": "active"}}),
            json!(null),
        ] {
            assert_eq!(
                answer(std::slice::from_ref(&alert)),
                Answer::Nothing,
                "{alert}"
            );
        }
        assert_eq!(answer(&[]), Answer::Nothing);
    }

    #[test]
    fn without_alerts_it_is_skipped() {
        let skipped = skip("All: [] Any: ['ccx_ocp_core.models.alerts.Alerts']");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "{}")]), skipped);
        assert_eq!(run(&RULE, &[("config/metrics", "up 1\n")]), skipped);
    }
}
