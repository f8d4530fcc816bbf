//! Cluster operators that are unavailable, degraded or progressing.
//!
//! What such an operator runs does not work, or changes at the moment. An update makes every
//! operator progress for a while, so users are not told of those that do only that. Reads
//! operators. Reports `OPERATOR_ISSUE`.

use serde_json::{Value, json};

use super::details::{condition, details, list, operator};
use super::{Context, Key, Profile, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Conditions as _, Operator};

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.operators_check.report",
    detects: "Cluster operators that are unavailable, degraded or progressing.",
    keys: &[Key::fail("OPERATOR_ISSUE")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Operators],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut operators = context.archive.operators();
    operators.sort_by_key(|operator| operator.name());
    let listed = operators.into_iter().filter_map(|found| {
        let issues = issues(&found);
        let is_told = match context.profile {
            Profile::External => issues.iter().any(|kind| *kind != "Progressing"),
            Profile::Internal => !issues.is_empty(),
        };
        is_told.then(|| {
            let issues: Vec<Value> = issues
                .into_iter()
                .map(|kind| json!([kind, condition(&found, kind)]))
                .collect();
            details! { "operator": operator(found), "issues": issues }
        })
    });
    let operators = list(listed);
    if operators.is_empty() {
        return Ok(None);
    }
    respond("OPERATOR_ISSUE", details! { "operators": operators })
}

/// Conditions that are not as they should be. One that is missing says nothing.
fn issues(operator: &Operator) -> Vec<&'static str> {
    let conditions = &operator.status.conditions;
    let available = conditions.of_type("Available");
    let is_issue = [
        (
            "Available",
            available.is_some_and(|condition| condition.holds() != Some(true)),
        ),
        ("Degraded", conditions.when_true("Degraded").is_some()),
        ("Progressing", conditions.when_true("Progressing").is_some()),
    ];
    is_issue
        .into_iter()
        .filter_map(|(kind, is_issue)| is_issue.then_some(kind))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Answer, found, reference_time, run_at, skip};
    use super::*;

    /// Operators, each with the statuses of the three conditions; empty leaves one out.
    fn answer(operators: &[(&str, [&str; 3])], profile: Profile) -> Answer {
        let files: Vec<(String, String)> = operators
            .iter()
            .map(|(name, statuses)| {
                let conditions: Vec<_> = ["Available", "Degraded", "Progressing"]
                    .iter()
                    .zip(statuses)
                    .filter(|(_, status)| !status.is_empty())
                    .map(|(kind, status)| json!({"type": kind, "status": status}))
                    .collect();
                let file = json!({
                    "kind": "ClusterOperator",
                    "metadata": {"name": name},
                    "status": {"conditions": conditions},
                });
                let path = format!("config/clusteroperator/{name}.json");
                (path, file.to_string())
            })
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        run_at(&RULE, &files, reference_time(), profile)
    }

    fn condition(status: Option<bool>) -> Value {
        json!({"status": status, "last_trans_time": null, "reason": "", "message": ""})
    }

    #[test]
    fn lists_issues_in_order_and_operators_by_name() {
        let operator = |name: &str, issues: Value| {
            let names: Vec<_> = issues.as_array().unwrap().iter().map(|i| &i[0]).collect();
            let is = |kind: &str| names.contains(&&Value::from(kind));
            json!({
                "operator": {
                    "name": name,
                    "available": condition(if is("Available") { None } else { Some(true) }),
                    "degraded": condition(Some(is("Degraded"))),
                    "progressing": condition(Some(is("Progressing"))),
                    "upgradeable": condition(None),
                    "version": null,
                },
                "issues": issues,
            })
        };
        let operators = [
            ("z", ["True", "False", "True"]),
            ("b", ["Unknown", "True", "True"]),
            ("a", ["True", "False", "False"]),
        ];
        let b = operator(
            "b",
            json!([
                ["Available", condition(None)],
                ["Degraded", condition(Some(true))],
                ["Progressing", condition(Some(true))],
            ]),
        );
        let z = operator("z", json!([["Progressing", condition(Some(true))]]));
        assert_eq!(
            answer(&operators, Profile::Internal),
            found("OPERATOR_ISSUE", json!({"operators": [b, z]}))
        );
        assert_eq!(
            answer(&operators, Profile::External),
            found("OPERATOR_ISSUE", json!({"operators": [b]}))
        );
    }

    #[test]
    fn what_is_well_or_says_nothing_is_no_issue() {
        for statuses in [
            ["True", "False", "False"],
            ["", "", ""],
            ["True", "Unknown", "Unknown"],
        ] {
            let answer = answer(&[("dns", statuses)], Profile::Internal);
            assert_eq!(answer, Answer::Nothing, "{statuses:?}");
        }
        let progressing = [("dns", ["True", "False", "True"])];
        assert_eq!(answer(&progressing, Profile::External), Answer::Nothing);
    }

    #[test]
    fn without_operators_it_is_skipped() {
        assert_eq!(
            answer(&[], Profile::Internal),
            skip("All: ['ccx_ocp_core.models.operators.Operators'] Any: ")
        );
    }
}
