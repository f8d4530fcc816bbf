//! Operators with settings outside support.
//!
//! They block minor updates, and the cluster loses support. Reads the resources of operators.
//! Reports `UNSUPPORTED_CONFIG_OVERRIDES_SET`.

use super::details::{details, list};
use super::operator_unmanaged::operator_name;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.unsupported_config_overrides.report",
    detects: "Operators with unsupportedConfigOverrides, which block updates and lose support.",
    keys: &[Key::fail("UNSUPPORTED_CONFIG_OVERRIDES_SET")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::OperatorResources],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut operators: Vec<(&str, Vec<&str>)> = context
        .archive
        .operator_resources()
        .into_iter()
        .filter_map(|resource| {
            let spec = &resource.document().spec;
            let overrides = spec.unsupported_config_overrides.as_ref()?.as_object()?;
            let mut settings: Vec<_> = overrides.keys().map(String::as_str).collect();
            settings.sort_unstable();
            let (group, kind) = resource.group_and_kind();
            (!settings.is_empty()).then(|| (operator_name(group, kind), settings))
        })
        .collect();
    if operators.is_empty() {
        return Ok(None);
    }
    operators.sort();
    let operators = list(
        operators
            .into_iter()
            .map(|(name, settings)| details! { "name": name, "settings": list(settings) }),
    );
    respond(
        "UNSUPPORTED_CONFIG_OVERRIDES_SET",
        details! { "operators": operators },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const ETCD: &str = "config/clusteroperator/operator.openshift.io/etcd/cluster.json";

    fn resource(overrides: Value) -> String {
        json!({"spec": {"unsupportedConfigOverrides": overrides}}).to_string()
    }

    #[test]
    fn names_operators_and_the_names_of_their_settings() {
        let two = resource(json!({"z": 1, "a": {"b": 2}}));
        let one = resource(json!({"x": null}));
        let files = [
            (ETCD, two.as_str()),
            (
                "config/clusteroperator/operator.openshift.io/ingresscontroller/openshift-ingress-operator/b.json",
                &one,
            ),
            (
                "config/clusteroperator/operator.openshift.io/ingresscontroller/openshift-ingress-operator/a.json",
                &two,
            ),
            ("config/clusteroperator/kubescheduler-cluster.json", &one),
            (
                "config/clusteroperator/operator.openshift.io/dns/default.json",
                "{",
            ),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "UNSUPPORTED_CONFIG_OVERRIDES_SET",
                json!({"operators": [
                    {"name": "etcd", "settings": ["a", "z"]},
                    {"name": "ingress", "settings": ["a", "z"]},
                    {"name": "ingress", "settings": ["x"]},
                    {"name": "kube-scheduler", "settings": ["x"]},
                ]})
            )
        );
    }

    #[test]
    fn nothing_set_is_well() {
        for nothing in [json!(null), json!({}), json!([]), json!("x"), json!(["x"])] {
            let files = [(ETCD, &*resource(nothing))];
            assert_eq!(run(&RULE, &files), Answer::Nothing);
        }
        assert_eq!(run(&RULE, &[(ETCD, "{}")]), Answer::Nothing);
    }

    #[test]
    fn without_resources_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.operators.OperatorResources'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(ETCD, "[]")]), skipped);
    }
}
