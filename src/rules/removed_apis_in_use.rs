//! Workloads call APIs that a coming release removes.
//!
//! After the update these calls fail. Reads the counts of requests to removed APIs, which are
//! gathered while the alert about them fires. Reports `REMOVED_APIS_IN_USE`.

use serde_json::json;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.removed_apis_in_use.report",
    detects: "Workloads call APIs that a coming release removes.",
    keys: &[Key::fail("REMOVED_APIS_IN_USE")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ApiRequestCounts],
        // Part of the contract, though the condition does without it.
        optional: &[Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let counts = context.archive.api_request_counts();
    // A resource in the files of two alerts is listed twice, as it was gathered.
    let mut apis: Vec<_> = counts
        .iter()
        .flat_map(|counts| &counts.0)
        .filter(|api| !api.removed_in_release.is_empty() && api.total > 0)
        .collect();
    apis.sort_by_key(|api| (&api.removed_in_release, &api.resource));
    if apis.is_empty() {
        return Ok(None);
    }
    let apis = list(apis.into_iter().map(|api| {
        json!({
            "resource": api.resource,
            "removed_in_release": api.removed_in_release,
            "total_request_count": api.total,
            "current_hour_request_count": api.current_hour,
        })
    }));
    respond("REMOVED_APIS_IN_USE", details! { "apis": apis })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const ONE: &str = "conditional/alerts/APIRemovedInNextEUSReleaseInUse/api_request_counts.json";
    const OTHER: &str = "conditional/alerts/APIRemovedInNextReleaseInUse/api_request_counts.json";

    #[test]
    fn lists_what_is_called_by_release_and_resource() {
        let first = r#"[
            {"resource": "b.v1beta1.x", "removed_in_release": "1.25", "total_request_count": 1, "last_day_request_count": 1},
            {"resource": "customresourcedefinitions.v1beta1.apiextensions.k8s.io",
             "removed_in_release": "1.22", "total_request_count": 46, "last_day_request_count": 0}]"#;
        let second = r#"[
            {"resource": "a.v1beta1.x", "removed_in_release": "1.25", "total_request_count": 2},
            {"resource": "b.v1beta1.x", "removed_in_release": "1.25", "total_request_count": 1, "last_day_request_count": 1}]"#;
        let api = |resource: &str, release: &str, total: i64, hour: i64| {
            json!({"resource": resource, "removed_in_release": release,
                "total_request_count": total, "current_hour_request_count": hour})
        };
        assert_eq!(
            run(&RULE, &[(ONE, first), (OTHER, second)]),
            found(
                "REMOVED_APIS_IN_USE",
                json!({"apis": [
                    api("customresourcedefinitions.v1beta1.apiextensions.k8s.io", "1.22", 46, 0),
                    api("a.v1beta1.x", "1.25", 2, 0),
                    api("b.v1beta1.x", "1.25", 1, 1),
                    api("b.v1beta1.x", "1.25", 1, 1),
                ]})
            )
        );
    }

    #[test]
    fn what_stays_or_is_not_called_is_well() {
        for entry in [
            r#"{"resource": "a", "removed_in_release": "", "total_request_count": 5}"#,
            r#"{"resource": "a", "removed_in_release": "1.22", "total_request_count": 0}"#,
            r#"{"resource": "a", "removed_in_release": "1.22", "total_request_count": "5"}"#,
            r#"{"resource": "a", "removed_in_release": 1.22, "total_request_count": 5}"#,
            "null",
        ] {
            let file = format!("[{entry}]");
            assert_eq!(run(&RULE, &[(ONE, &file)]), Answer::Nothing, "{entry}");
        }
    }

    #[test]
    fn without_counts_it_is_skipped_and_one_damaged_file_is_left_out() {
        let skipped = skip("All: ['ccx_ocp_core.models.api_requests.ApiRequestCounts'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        for damaged in ["{}", "null", "[{"] {
            assert_eq!(run(&RULE, &[(ONE, damaged)]), skipped, "{damaged}");
            let files = [(ONE, damaged), (OTHER, "[]")];
            assert_eq!(run(&RULE, &files), Answer::Nothing, "{damaged}");
        }
    }
}
