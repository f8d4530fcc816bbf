//! Admission webhooks that can stop the whole cluster when their service is down.
//!
//! Requests that they are asked about are then refused, those that would start their own pods
//! among them. Reads webhook configurations. Reports `WEBHOOK_FAIL_POLICY_WIDE_SCOPE`.

use serde_json::json;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Webhook, WebhookRule};

/// The platform's own namespaces begin so; its webhooks are looked after.
const PLATFORM: &str = "openshift-";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.webhook_fail_policy_wide_scope.report",
    detects: "Admission webhooks that can stop the whole cluster when their service is down.",
    keys: &[Key::fail("WEBHOOK_FAIL_POLICY_WIDE_SCOPE")],
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
    let configurations = context.archive.webhooks();
    let mut risky: Vec<_> = configurations
        .into_iter()
        .flat_map(|configuration| {
            let webhooks = configuration.document().webhooks.iter();
            webhooks.map(move |webhook| (configuration, webhook))
        })
        .filter(|(_, webhook)| is_risky(webhook))
        .collect();
    risky.sort_by_key(|(configuration, webhook)| {
        (configuration.name(), &webhook.name, configuration.kind())
    });
    if risky.is_empty() {
        return Ok(None);
    }
    let risky = list(risky.into_iter().map(|(configuration, webhook)| {
        json!({
            "kind": configuration.kind(),
            "configuration": configuration.name(),
            "webhook": webhook.name,
            "service": place(webhook),
        })
    }));
    respond(
        "WEBHOOK_FAIL_POLICY_WIDE_SCOPE",
        details! { "webhooks": risky },
    )
}

fn is_risky(webhook: &Webhook) -> bool {
    let of_platform = webhook
        .client_config
        .service
        .as_ref()
        .is_some_and(|service| service.namespace.starts_with(PLATFORM));
    ["", "Fail"].contains(&webhook.failure_policy.as_str())
        && webhook.namespace_selector.is_empty()
        && webhook.object_selector.is_empty()
        && !of_platform
        && webhook.rules.iter().any(is_wide)
}

/// Everything, or every new pod.
fn is_wide(rule: &WebhookRule) -> bool {
    let has = |list: &[String], word: &str| list.iter().any(|entry| entry == word);
    let everything = has(&rule.api_groups, "*") && has(&rule.resources, "*");
    let new_pods = has(&rule.resources, "pods")
        && (has(&rule.operations, "CREATE") || has(&rule.operations, "*"));
    everything || new_pods
}

/// The service; a URL is not told, since it may hold what is nobody's business.
fn place(webhook: &Webhook) -> String {
    match &webhook.client_config.service {
        Some(service) => format!("{}/{}", service.namespace, service.name),
        None => "url".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const VALIDATING: &str = "config/validatingwebhookconfigurations/policy-webhook.json";
    const MUTATING: &str = "config/mutatingwebhookconfigurations/policy-webhook.json";

    /// A webhook that hits.
    fn webhook() -> Value {
        json!({
            "name": "validate.policy.example.com",
            "failurePolicy": "Fail",
            "clientConfig": {"service": {"namespace": "policy-system", "name": "policy-webhook"}},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "operations": ["UPDATE"]}],
        })
    }

    fn with(change: &Value) -> Value {
        let mut webhook = webhook();
        for (field, value) in change.as_object().unwrap() {
            webhook[field] = value.clone();
        }
        webhook
    }

    fn configuration(webhooks: &[Value]) -> String {
        json!({"metadata": {"name": "policy-webhook"}, "webhooks": webhooks}).to_string()
    }

    fn hits(change: &Value) -> bool {
        run(&RULE, &[(VALIDATING, &configuration(&[with(change)]))]) != Answer::Nothing
    }

    fn told(kind: &str, webhook: &str, service: &str) -> Value {
        json!({"kind": kind, "configuration": "policy-webhook", "webhook": webhook,
            "service": service})
    }

    #[test]
    fn tells_kind_configuration_webhook_and_service() {
        let url = with(&json!({"name": "a", "clientConfig": {"url": "https://u:p@x/"}}));
        let files = [
            (MUTATING, &*configuration(&[webhook()])),
            (VALIDATING, &*configuration(&[webhook(), url])),
        ];
        let (name, service) = (
            "validate.policy.example.com",
            "policy-system/policy-webhook",
        );
        assert_eq!(
            run(&RULE, &files),
            found(
                "WEBHOOK_FAIL_POLICY_WIDE_SCOPE",
                json!({"webhooks": [
                    told("ValidatingWebhookConfiguration", "a", "url"),
                    told("MutatingWebhookConfiguration", name, service),
                    told("ValidatingWebhookConfiguration", name, service),
                ]})
            )
        );
    }

    #[test]
    fn only_what_fails_without_limit_outside_the_platform_counts() {
        for (change, expected) in [
            (json!({"failurePolicy": null}), true),
            (json!({"failurePolicy": "Ignore"}), false),
            (
                json!({"namespaceSelector": {}, "objectSelector": null}),
                true,
            ),
            (
                json!({"namespaceSelector": {"matchLabels": {"a": "b"}}}),
                false,
            ),
            (json!({"objectSelector": {"matchExpressions": []}}), false),
            (
                json!({"clientConfig": {"service": {"namespace": "openshift-x"}}}),
                false,
            ),
            (
                json!({"clientConfig": {"service": {"namespace": "openshift"}}}),
                true,
            ),
            (json!({"clientConfig": null}), true),
            (json!({"rules": null}), false),
        ] {
            assert_eq!(hits(&change), expected, "{change}");
        }
    }

    #[test]
    fn everything_or_new_pods_are_wide() {
        for (rule, expected) in [
            (
                json!({"apiGroups": ["*"], "resources": ["pods/exec", "*"]}),
                true,
            ),
            (
                json!({"apiGroups": [""], "resources": ["*"], "operations": ["*"]}),
                false,
            ),
            (
                json!({"apiGroups": ["*"], "resources": ["deployments"], "operations": ["*"]}),
                false,
            ),
            (
                json!({"apiGroups": [""], "resources": ["pods"], "operations": ["CREATE"]}),
                true,
            ),
            (json!({"resources": ["pods"], "operations": ["*"]}), true),
            (
                json!({"resources": ["pods"], "operations": ["UPDATE", "DELETE"]}),
                false,
            ),
            (
                json!({"resources": ["pods/eviction"], "operations": ["CREATE"]}),
                false,
            ),
            (json!({}), false),
        ] {
            assert_eq!(hits(&json!({ "rules": [rule] })), expected, "{rule}");
        }
    }

    #[test]
    fn without_configurations_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.webhooks.Webhooks'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(MUTATING, "[]")]), skipped);
        assert_eq!(
            run(&RULE, &[(MUTATING, "[]"), (VALIDATING, "{}")]),
            Answer::Nothing
        );
    }
}
