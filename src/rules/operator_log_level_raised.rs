//! Operators left at a debug or trace log level.
//!
//! They fill disks and log stores with what nobody reads. Reads the resources of operators.
//! Reports `OPERATOR_LOG_LEVEL_RAISED`.

use super::details::{details, list};
use super::operator_unmanaged::operator_name;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// The levels above `Normal`.
const RAISED: [&str; 3] = ["Debug", "Trace", "TraceAll"];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.operator_log_level_raised.report",
    detects: "Operators left at debug or trace log level.",
    keys: &[Key::fail("OPERATOR_LOG_LEVEL_RAISED")],
    profile: RuleProfile::External,
    enabled_by_default: false,
    total_risk: Some(1),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::OperatorResources],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut operators: Vec<(&str, &str, &str)> = context
        .archive
        .operator_resources()
        .into_iter()
        .filter_map(|resource| {
            let spec = &resource.document().spec;
            let levels = [spec.log_level.as_str(), spec.operator_log_level.as_str()];
            let (group, kind) = resource.group_and_kind();
            let raised = levels.iter().any(|level| RAISED.contains(level));
            raised.then(|| (operator_name(group, kind), levels[0], levels[1]))
        })
        .collect();
    if operators.is_empty() {
        return Ok(None);
    }
    operators.sort_unstable();
    let operators = list(
        operators
            .into_iter()
            .map(|(name, log_level, operator_log_level)| {
                details! {
                    "name": name,
                    "log_level": log_level,
                    "operator_log_level": operator_log_level,
                }
            }),
    );
    respond(
        "OPERATOR_LOG_LEVEL_RAISED",
        details! { "operators": operators },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const ETCD: &str = "config/clusteroperator/operator.openshift.io/etcd/cluster.json";

    fn resource(level: Value, operator_level: Value) -> String {
        json!({"spec": {"logLevel": level, "operatorLogLevel": operator_level}}).to_string()
    }

    #[test]
    fn either_level_counts() {
        let etcd = resource(json!("TraceAll"), json!("Normal"));
        let scheduler = resource(json!(null), json!("Debug"));
        let registry = resource(json!("Trace"), json!("Trace"));
        let files = [
            (
                "config/clusteroperator/imageregistry.operator.openshift.io/config/cluster.json",
                registry.as_str(),
            ),
            (ETCD, &etcd),
            (
                "config/clusteroperator/kubescheduler-cluster.json",
                &scheduler,
            ),
            (
                "config/clusteroperator/operator.openshift.io/dns/default.json",
                "{",
            ),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "OPERATOR_LOG_LEVEL_RAISED",
                json!({"operators": [
                    {"name": "etcd", "log_level": "TraceAll", "operator_log_level": "Normal"},
                    {"name": "image-registry", "log_level": "Trace", "operator_log_level": "Trace"},
                    {"name": "kube-scheduler", "log_level": "", "operator_log_level": "Debug"},
                ]})
            )
        );
    }

    #[test]
    fn normal_and_unknown_levels_are_well() {
        for level in [
            json!("Normal"),
            json!("debug"),
            json!(""),
            json!(null),
            json!(8),
        ] {
            let files = [(ETCD, &*resource(level.clone(), level))];
            assert_eq!(run(&RULE, &files), Answer::Nothing);
        }
    }

    #[test]
    fn without_resources_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.operators.OperatorResources'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(ETCD, "null")]), skipped);
    }
}
