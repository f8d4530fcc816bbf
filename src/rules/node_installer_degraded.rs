//! Static-pod operators that are degraded because installer pods were removed too early.
//!
//! Their operands stay on an old revision. Reads operators. Reports `NODE_INSTALLER_DEGRADED`.

use super::details::{self, details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

/// The operators that install static pods.
const OPERATORS: [&str; 3] = [
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.node_installer_degraded.report",
    detects: "Static-pod operators degraded because installer pods were removed too early.",
    keys: &[Key::fail("NODE_INSTALLER_DEGRADED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[
        ("kcs", &["https://access.redhat.com/solutions/4849711"]),
        (
            "bz",
            &["https://bugzilla.redhat.com/show_bug.cgi?id=1723966"],
        ),
    ],
    requires: Requires {
        all: &[Model::Operators],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut degraded = context.archive.operators();
    degraded.retain(|operator| {
        let condition = operator.status.conditions.when_true("Degraded");
        OPERATORS.contains(&operator.name())
            && condition.is_some_and(|condition| condition.reason.contains("NodeInstallerDegraded"))
    });
    degraded.sort_by_key(|operator| operator.name());
    if degraded.is_empty() {
        return Ok(None);
    }
    let degraded = list(degraded.into_iter().map(details::operator));
    respond(
        "NODE_INSTALLER_DEGRADED",
        details! { "degraded_operators": degraded },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn operator(name: &str, status: &str, reason: &str) -> String {
        json!({
            "metadata": {"name": name},
            "status": {
                "conditions": [{"type": "Degraded", "status": status, "reason": reason}],
                "versions": [{"name": "operator", "version": "4.3.13"}],
            },
        })
        .to_string()
    }

    fn answer(operators: &[String]) -> Answer {
        let names: Vec<_> = (0..operators.len())
            .map(|number| format!("config/clusteroperator/{number}.json"))
            .collect();
        let files: Vec<_> = names
            .iter()
            .map(String::as_str)
            .zip(operators.iter().map(String::as_str))
            .collect();
        run(&RULE, &files)
    }

    #[test]
    fn names_the_degraded_operators() {
        let none = json!({"status": null, "last_trans_time": null, "reason": "", "message": ""});
        let entry = |name: &str, reason: &str| {
            json!({
                "name": name,
                "available": none,
                "degraded": {"status": true, "last_trans_time": null, "reason": reason, "message": ""},
                "progressing": none,
                "upgradeable": none,
                "version": "4.3.13",
            })
        };
        assert_eq!(
            answer(&[
                operator("kube-scheduler", "True", "NodeInstallerDegraded"),
                operator(
                    "kube-apiserver",
                    "True",
                    "NodeInstallerDegradedInstallerPodFailed"
                ),
                operator("etcd", "True", "NodeInstallerDegraded"),
            ]),
            found(
                "NODE_INSTALLER_DEGRADED",
                json!({"degraded_operators": [
                    entry("kube-apiserver", "NodeInstallerDegradedInstallerPodFailed"),
                    entry("kube-scheduler", "NodeInstallerDegraded"),
                ]})
            )
        );
    }

    #[test]
    fn other_reasons_are_other_faults() {
        assert_eq!(
            answer(&[operator("kube-apiserver", "True", "NodeKubeconfig")]),
            Answer::Nothing
        );
        assert_eq!(
            answer(&[operator("kube-apiserver", "False", "NodeInstallerDegraded")]),
            Answer::Nothing
        );
    }

    #[test]
    fn without_operators_it_is_skipped() {
        assert_eq!(
            answer(&[]),
            skip("All: ['ccx_ocp_core.models.operators.Operators'] Any: ")
        );
    }
}
