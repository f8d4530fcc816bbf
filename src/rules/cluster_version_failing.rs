//! The cluster version operator reports Failing.
//!
//! It cannot apply the release: an update stands still, or the cluster drifts from its version.
//! Reads the cluster version. Reports `CLUSTER_VERSION_FAILING`.

use super::details::{condition_of, details};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

const CONDITION: &str = "Failing";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.cluster_version_failing.report",
    detects: "The cluster version operator reports Failing.",
    keys: &[Key::fail("CLUSTER_VERSION_FAILING")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[("kcs", &["https://access.redhat.com/solutions/3799561"])],
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
    if cluster.status.conditions.when_true(CONDITION).is_none() {
        return Ok(None);
    }
    respond(
        "CLUSTER_VERSION_FAILING",
        details! {
            "current": cluster.current(),
            "desired": cluster.status.desired.version,
            "failing": condition_of(&cluster.status.conditions, CONDITION),
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn version(status: &str) -> String {
        json!({"status": {
            "desired": {"version": "4.7.18"},
            "history": [
                {"state": "Partial", "version": "4.7.18"},
                {"state": "Completed", "version": "4.7.16"},
            ],
            "conditions": [{
                "type": "Failing",
                "status": status,
                "lastTransitionTime": "2021-07-07T16:20:32Z",
                "reason": "ClusterOperatorDegraded",
                "message": "Cluster operator ingress is degraded",
            }],
        }})
        .to_string()
    }

    #[test]
    fn failing_hits_in_each_layout() {
        for file in ["config/version.json", "config/version"] {
            assert_eq!(
                run(&RULE, &[(file, &version("True"))]),
                found(
                    "CLUSTER_VERSION_FAILING",
                    json!({
                        "current": "4.7.16",
                        "desired": "4.7.18",
                        "failing": {
                            "status": true,
                            "last_trans_time": "2021-07-07T16:20:32Z",
                            "reason": "ClusterOperatorDegraded",
                            "message": "Cluster operator ingress is degraded",
                        },
                    })
                )
            );
        }
    }

    #[test]
    fn other_states_do_not() {
        for status in ["False", "Unknown", "true", ""] {
            let files = [("config/version.json", &*version(status))];
            assert_eq!(run(&RULE, &files), Answer::Nothing, "{status}");
        }
        for content in ["{}", r#"{"status": {"conditions": null}}"#] {
            assert_eq!(
                run(&RULE, &[("config/version.json", content)]),
                Answer::Nothing
            );
        }
    }

    #[test]
    fn without_a_version_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ");
        for files in [&[][..], &[("config/version.json", "{\"status\"")]] {
            assert_eq!(run(&RULE, files), skipped);
        }
    }
}
