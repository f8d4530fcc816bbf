//! The authentication operator is degraded on a cluster that uses a cluster-wide proxy.
//!
//! The operator asks its own endpoint through the proxy, which refuses, so nobody can log in.
//! Reads operators and the proxy. Reports `AUTH_OPERATOR_PROXY_ERROR`.

use super::details::{self, details};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

const SOLUTION: &str = "https://access.redhat.com/solutions/4569191";
/// The condition that a proxy is set.
const PROXIED: &str =
    "ccx_rules_ocp.external.rules.cluster_wide_proxy_auth_check.cluster_wide_proxy";
/// What every public case says; the reasons differ.
const SENTENCE: &str = "WellKnownEndpointDegraded: failed to GET well-known";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.cluster_wide_proxy_auth_check.report",
    detects: "The authentication operator is degraded on a cluster that uses a cluster-wide proxy.",
    keys: &[Key::fail("AUTH_OPERATOR_PROXY_ERROR")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[
        ("kcs", &[SOLUTION]),
        (
            "docs",
            &[
                "https://docs.openshift.com/container-platform/4.3/networking/enable-cluster-wide-proxy.html#nw-proxy-configure-object_config-cluster-wide-proxy",
            ],
        ),
    ],
    requires: Requires {
        all: &[Model::Operators],
        optional: &[Model::Proxy],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    if !context.archive.proxy().is_some_and(|proxy| proxy.is_set()) {
        return Err(Skip::condition(PROXIED));
    }
    let degraded = context.archive.operators().into_iter().find(|operator| {
        let condition = operator.status.conditions.when_true("Degraded");
        operator.name() == "authentication"
            && condition.is_some_and(|condition| condition.message.contains(SENTENCE))
    });
    match degraded {
        None => Ok(None),
        Some(operator) => respond(
            "AUTH_OPERATOR_PROXY_ERROR",
            details! { "op": details::operator(operator), "kcs": SOLUTION },
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PROXY: &str = r#"{"spec": {"httpProxy": "xxxx"}}"#;

    fn operator(message: &str) -> String {
        json!({
            "kind": "ClusterOperator",
            "metadata": {"name": "authentication"},
            "status": {"conditions": [{
                "type": "Degraded", "status": "True", "reason": "AsExpected", "message": message,
                "lastTransitionTime": "2020-03-31T08:42:33Z",
            }]},
        })
        .to_string()
    }

    #[test]
    fn a_proxy_that_refuses_hits() {
        let text =
            "WellKnownEndpointDegraded: failed to GET well-known https://10.0.0.1: Forbidden";
        let none = json!({"status": null, "last_trans_time": null, "reason": "", "message": ""});
        assert_eq!(
            run(
                &RULE,
                &[
                    ("config/proxy", PROXY),
                    ("config/clusteroperator/a", &operator(text))
                ]
            ),
            found(
                "AUTH_OPERATOR_PROXY_ERROR",
                json!({
                    "op": {
                        "name": "authentication",
                        "available": none,
                        "degraded": {"status": true, "last_trans_time": "2020-03-31T08:42:33Z",
                            "reason": "AsExpected", "message": text},
                        "progressing": none,
                        "upgradeable": none,
                        "version": null,
                    },
                    "kcs": SOLUTION,
                })
            )
        );
    }

    #[test]
    fn another_message_is_another_fault() {
        let files = [
            ("config/proxy.json", PROXY),
            ("config/clusteroperator/a.json", &*operator("x")),
        ];
        assert_eq!(run(&RULE, &files), Answer::Nothing);
    }

    #[test]
    fn without_proxy_it_is_skipped_on_its_condition() {
        let operator = operator("x");
        let files = [
            ("config/proxy.json", "{}"),
            ("config/clusteroperator/a.json", &operator),
        ];
        let skipped = skip(
            "All: ['ccx_rules_ocp.external.rules.cluster_wide_proxy_auth_check.cluster_wide_proxy'] Any: ",
        );
        assert_eq!(run(&RULE, &files), skipped);
        assert_eq!(run(&RULE, &files[1..]), skipped);
        // The model alone, though the condition does not hold either.
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.operators.Operators'] Any: ")
        );
    }
}
