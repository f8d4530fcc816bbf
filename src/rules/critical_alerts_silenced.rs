//! Critical alerts are firing but silenced.
//!
//! Nobody is told about them. Reads silenced alerts. Reports `CRITICAL_ALERTS_SILENCED`.

use serde_json::json;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Alert;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.critical_alerts_silenced.report",
    detects: "Critical alerts are firing but silenced.",
    keys: &[Key::fail("CRITICAL_ALERTS_SILENCED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::SilencedAlerts],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut silenced: Vec<_> = context
        .archive
        .silenced_alerts()
        .into_iter()
        .flat_map(|alerts| &alerts.0)
        .filter(|alert| is_told(alert))
        .collect();
    silenced.sort_by_key(|alert| (alert.name(), alert.label("namespace")));
    if silenced.is_empty() {
        return Ok(None);
    }
    let silenced = list(silenced.into_iter().map(|alert| {
        json!({
            "name": alert.name(),
            "namespace": alert.label("namespace"),
            "since": alert.starts_at,
        })
    }));
    respond("CRITICAL_ALERTS_SILENCED", details! { "alerts": silenced })
}

/// An alert may also be held back by another alert, which is then the one to look at.
fn is_told(alert: &Alert) -> bool {
    !alert.name().is_empty()
        && alert.severity() == "critical"
        && alert.status.state == "suppressed"
        && !alert.status.silenced_by.is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/silenced_alerts.json";
    const SINCE: &str = "2021-11-26T13:08:23.886Z";

    fn alert(name: &str, namespace: &str) -> Value {
        json!({
            "labels": {"alertname": name, "namespace": namespace, "severity": "critical"},
            "startsAt": SINCE,
            "status": {"state": "suppressed", "silencedBy": ["2c5a3bfc"], "inhibitedBy": []},
        })
    }

    fn answer(alerts: &[Value]) -> Answer {
        run(&RULE, &[(PATH, &json!(alerts).to_string())])
    }

    #[test]
    fn lists_alerts_by_name_and_namespace() {
        let mut bare = alert("etcdMembersDown", "");
        bare["labels"].as_object_mut().unwrap().remove("namespace");
        bare["startsAt"] = Value::Null;
        let told = |name: &str, namespace: &str, since: Option<&str>| json!({"name": name, "namespace": namespace, "since": since});
        assert_eq!(
            answer(&[
                bare,
                alert("KubeAPIErrorBudgetBurn", "openshift-kube-apiserver"),
                alert("KubeAPIErrorBudgetBurn", "a"),
            ]),
            found(
                "CRITICAL_ALERTS_SILENCED",
                json!({"alerts": [
                    told("KubeAPIErrorBudgetBurn", "a", Some(SINCE)),
                    told("KubeAPIErrorBudgetBurn", "openshift-kube-apiserver", Some(SINCE)),
                    told("etcdMembersDown", "", None),
                ]})
            )
        );
    }

    #[test]
    fn every_part_of_the_condition_counts() {
        let change = |path: &str, value: Value| {
            let mut alert = alert("a", "b");
            *alert.pointer_mut(path).unwrap() = value;
            alert
        };
        for alert in [
            change("/labels/severity", json!("warning")),
            change("/labels/alertname", json!(null)),
            change("/status/state", json!("active")),
            change("/status/silencedBy", json!([])),
            change("/status/silencedBy", json!(null)),
            change("/status/silencedBy", json!([1])),
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
    fn without_the_list_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.alerts.SilencedAlerts'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "{}")]), skipped);
    }
}
