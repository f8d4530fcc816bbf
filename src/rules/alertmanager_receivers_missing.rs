//! Alerts reach nobody: no receiver is configured.
//!
//! The cluster has an alert for that itself. Reads alerts and silenced alerts. Reports
//! `ALERTMANAGER_RECEIVERS_MISSING`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Alert;

/// The alert that says so.
const ALERT: &str = "AlertmanagerReceiversNotConfigured";
/// The state of an alert that is held back.
const SUPPRESSED: &str = "suppressed";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.alertmanager_receivers_missing.report",
    detects: "Alerts reach nobody: no receiver is configured.",
    keys: &[Key::fail("ALERTMANAGER_RECEIVERS_MISSING")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        any: &[&[Model::Alerts, Model::SilencedAlerts]],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let monitoring = context.archive.alerts();
    let firing = monitoring.map_or(&[][..], |monitoring| &monitoring.alerts);
    let silenced = context.archive.silenced_alerts();
    let silenced = silenced.map_or(&[][..], |alerts| &alerts.0);

    let fires = firing
        .iter()
        .any(|alert| alert.name() == ALERT && alert.is_active());
    let is_held_back = |alert: &Alert| alert.name() == ALERT && alert.status.state == SUPPRESSED;
    if !fires && !silenced.iter().any(is_held_back) {
        return Ok(None);
    }
    respond(
        "ALERTMANAGER_RECEIVERS_MISSING",
        details! { "silenced": !fires },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const ALERTS: &str = "config/alerts.json";
    const SILENCED: &str = "config/silenced_alerts.json";

    fn alerts(name: &str, state: &str) -> String {
        json!([{"labels": {"alertname": name}, "status": {"state": state}}]).to_string()
    }

    fn hit(silenced: bool) -> Answer {
        found(
            "ALERTMANAGER_RECEIVERS_MISSING",
            json!({ "silenced": silenced }),
        )
    }

    #[test]
    fn the_alert_hits_wherever_it_is() {
        let (active, suppressed) = (alerts(ALERT, "active"), alerts(ALERT, SUPPRESSED));
        assert_eq!(run(&RULE, &[(ALERTS, &active)]), hit(false));
        assert_eq!(run(&RULE, &[(SILENCED, &suppressed)]), hit(true));
        assert_eq!(
            run(&RULE, &[(ALERTS, &active), (SILENCED, &suppressed)]),
            hit(false)
        );
        assert_eq!(
            run(&RULE, &[(ALERTS, "[]"), (SILENCED, &suppressed)]),
            hit(true)
        );
        let metrics = format!("ALERTS{{alertname=\"{ALERT}\",alertstate=\"firing\"}} 1\n");
        assert_eq!(run(&RULE, &[("config/metrics", &metrics)]), hit(false));
    }

    #[test]
    fn another_alert_or_state_does_not() {
        for (path, name, state) in [
            (ALERTS, ALERT, SUPPRESSED),
            (ALERTS, "Watchdog", "active"),
            (SILENCED, ALERT, "active"),
            (SILENCED, "Watchdog", SUPPRESSED),
        ] {
            assert_eq!(
                run(&RULE, &[(path, &alerts(name, state))]),
                Answer::Nothing,
                "{path} {name} {state}"
            );
        }
    }

    #[test]
    fn one_of_both_is_needed() {
        let skipped = skip(
            "All: [] Any: ['ccx_ocp_core.models.alerts.Alerts', 'ccx_ocp_core.models.alerts.SilencedAlerts']",
        );
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(ALERTS, "{}"), (SILENCED, "null")]), skipped);
        assert_eq!(
            run(&RULE, &[(ALERTS, "{}"), (SILENCED, "[]")]),
            Answer::Nothing
        );
    }
}
