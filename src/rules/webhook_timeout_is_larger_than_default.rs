//! Admission webhooks on pod creation that may take longer than 13 seconds.
//!
//! When such a webhook does not answer, pods take that long to be created, and the API server's
//! own clients give up before. Reads webhook configurations. Reports
//! `WEBHOOK_TIMEOUT_IS_LARGER_THAN_DEFAULT`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Webhook, WebhookRule};

/// Longest timeout that is well, in seconds; public.
const LONGEST: i64 = 13;
/// The timeout of a webhook that has none of its own, in seconds: Kubernetes' default.
const DEFAULT: i64 = 10;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.webhook_timeout_is_larger_than_default.report",
    detects: "Admission webhooks on pod creation with a timeout above 13 seconds.",
    keys: &[Key::fail("WEBHOOK_TIMEOUT_IS_LARGER_THAN_DEFAULT")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Webhooks],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut slow: Vec<_> = context
        .archive
        .webhooks()
        .into_iter()
        .flat_map(|configuration| {
            let webhooks = configuration.document().webhooks.iter();
            webhooks
                .filter(|webhook| timeout(webhook) > LONGEST)
                .filter(|webhook| webhook.rules.iter().any(is_for_new_pods))
                .map(move |webhook| {
                    let name = webhook.name.as_str();
                    (
                        configuration.kind(),
                        configuration.name(),
                        name,
                        timeout(webhook),
                    )
                })
        })
        .collect();
    slow.sort_unstable();
    if slow.is_empty() {
        return Ok(None);
    }
    let slow = list(
        slow.into_iter()
            .map(|(kind, configuration, webhook, timeout)| {
                details! {
                    "kind": kind,
                    "configuration": configuration,
                    "webhook": webhook,
                    "timeout_seconds": timeout,
                }
            }),
    );
    respond(
        "WEBHOOK_TIMEOUT_IS_LARGER_THAN_DEFAULT",
        details! { "webhooks": slow },
    )
}

fn timeout(webhook: &Webhook) -> i64 {
    webhook.timeout_seconds.unwrap_or(DEFAULT)
}

fn is_for_new_pods(rule: &WebhookRule) -> bool {
    let has = |list: &[String], any: &[&str]| list.iter().any(|item| any.contains(&item.as_str()));
    has(&rule.operations, &["CREATE", "*"])
        && has(&rule.resources, &["pods", "pods/*", "*/*", "*"])
        && has(&rule.api_groups, &["", "*"])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const VALIDATING: &str = "config/validatingwebhookconfigurations/a.json";
    const MUTATING: &str = "config/mutatingwebhookconfigurations/a.json";

    fn configuration(timeout: Value, rules: Value) -> String {
        json!({
            "metadata": {"name": "insights-test-webhook"},
            "webhooks": [{"name": "insights-test.example.com", "timeoutSeconds": timeout, "rules": rules}],
        })
        .to_string()
    }

    fn new_pods() -> Value {
        json!([{"operations": ["CREATE"], "apiGroups": [""], "resources": ["pods"]}])
    }

    fn answer(timeout: Value, rules: Value) -> Answer {
        run(&RULE, &[(VALIDATING, &configuration(timeout, rules))])
    }

    #[test]
    fn names_slow_webhooks_of_both_kinds() {
        let slow = configuration(json!(30), new_pods());
        let entry = |kind: &str| {
            json!({
                "kind": kind,
                "configuration": "insights-test-webhook",
                "webhook": "insights-test.example.com",
                "timeout_seconds": 30,
            })
        };
        let files = [
            (VALIDATING, slow.as_str()),
            (MUTATING, &slow),
            ("config/validatingwebhookconfigurations/b.json", "{"),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "WEBHOOK_TIMEOUT_IS_LARGER_THAN_DEFAULT",
                json!({"webhooks": [
                    entry("MutatingWebhookConfiguration"),
                    entry("ValidatingWebhookConfiguration"),
                ]})
            )
        );
    }

    #[test]
    fn thirteen_seconds_are_well_and_absent_is_the_default() {
        assert!(matches!(answer(json!(14), new_pods()), Answer::Found(..)));
        for well in [json!(13), json!(null), json!("30"), json!({}), json!(-1)] {
            assert_eq!(answer(well.clone(), new_pods()), Answer::Nothing, "{well}");
        }
    }

    #[test]
    fn only_rules_that_match_the_creation_of_pods_count() {
        let rule = |operation: &str, group: &str, resource: &str| json!([{"operations": [operation], "apiGroups": [group], "resources": [resource]}]);
        for (operation, group, resource) in [
            ("*", "*", "*"),
            ("CREATE", "", "pods/*"),
            ("CREATE", "*", "*/*"),
        ] {
            let answer = answer(json!(30), rule(operation, group, resource));
            assert!(matches!(answer, Answer::Found(..)), "{resource}");
        }
        for (operation, group, resource) in [
            ("UPDATE", "", "pods"),
            ("CREATE", "apps", "pods"),
            ("CREATE", "", "pods/exec"),
            ("CREATE", "", "services"),
        ] {
            let answer = answer(json!(30), rule(operation, group, resource));
            assert_eq!(answer, Answer::Nothing, "{operation} {group} {resource}");
        }
        let apart = json!([
            {"operations": ["CREATE"], "apiGroups": ["apps"], "resources": ["*"]},
            {"operations": ["UPDATE"], "apiGroups": [""], "resources": ["pods"]},
            {"operations": null, "apiGroups": null, "resources": null},
        ]);
        assert_eq!(answer(json!(30), apart), Answer::Nothing);
        assert_eq!(answer(json!(30), json!(null)), Answer::Nothing);
    }

    #[test]
    fn without_webhooks_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.webhooks.Webhooks'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(MUTATING, "null")]), skipped);
    }
}
