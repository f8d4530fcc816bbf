//! An update was applied whose release signature was not verified.
//!
//! Somebody forced it past the check that the release is genuine. The installation, the oldest
//! entry of the history, is never verified. Reads the cluster version. Reports
//! `CLUSTER_VERSION_FORCED`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.version_forced.report",
    detects: "An update was applied whose release signature was not verified.",
    keys: &[Key::fail("CLUSTER_VERSION_FORCED")],
    profile: RuleProfile::Both,
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
    let history = context
        .archive
        .cluster_version()
        .map_or(&[][..], |version| &version.status.history);
    let updates = history.split_last().map_or(&[][..], |(_, updates)| updates);
    let forced = list(
        updates
            .iter()
            .filter(|update| update.verified == Some(false))
            .map(|update| {
                details! {
                    "version": update.version,
                    "state": update.state,
                    "started": update.started_time,
                }
            }),
    );
    if forced.is_empty() {
        return Ok(None);
    }
    respond(
        "CLUSTER_VERSION_FORCED",
        details! { "forced_versions": forced },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(history: Value) -> Answer {
        let file = json!({"status": {"history": history}});
        run(&RULE, &[("config/version.json", &file.to_string())])
    }

    #[test]
    fn names_updates_without_a_verified_signature() {
        let history = json!([
            {"state": "Partial", "version": "4.8.14", "startedTime": "t2", "verified": true},
            {"state": "Completed", "version": "4.8.13", "startedTime": "2021-10-08T08:52:20Z",
             "verified": false},
            {"state": "Completed", "version": "4.8.12", "verified": null},
            {"verified": false},
            {"state": "Completed", "version": "4.8.10", "verified": false},
        ]);
        assert_eq!(
            answer(history),
            found(
                "CLUSTER_VERSION_FORCED",
                json!({"forced_versions": [
                    {"version": "4.8.13", "state": "Completed", "started": "2021-10-08T08:52:20Z"},
                    {"version": "", "state": "", "started": ""},
                ]})
            )
        );
    }

    #[test]
    fn the_installation_is_no_forced_update() {
        assert_eq!(
            answer(json!([{"version": "4.8.10", "verified": false}])),
            Answer::Nothing
        );
        assert_eq!(
            answer(json!([{"version": "4.8.11", "verified": true}, {"verified": false}])),
            Answer::Nothing
        );
        assert_eq!(answer(json!([])), Answer::Nothing);
        assert_eq!(answer(json!("x")), Answer::Nothing);
    }

    #[test]
    fn without_a_version_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ")
        );
    }
}
