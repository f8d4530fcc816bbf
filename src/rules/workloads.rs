//! Recommendations for workloads: what the deployment validation operator found fault with.
//!
//! The operator has done the checking; its violations lie in `config/dvo_metrics`. So these rules
//! share one condition and differ in data alone, which reads best as one table: the rule's name
//! and key, the checks of the operator that it stands for, and how much it matters. A cluster
//! whose operator is managed, or whose archive is obfuscated, tells ids and no names.
//!
//! They run only where workload rules are on. What they say is `workload_recommendations` and
//! goes to its own topic.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::details::details;
use super::{Context, Key, Requires, Response, Rule, RuleProfile, RuleResult, Workload};
use crate::archive::Model;
use crate::archive::documents::Violation;

/// Workloads shown in the details; all of them are in the list behind.
const SAMPLES: usize = 3;

/// Links of a recommendation: these two groups, and nothing is known for them.
const LINKS: &[(&str, &[&str])] = &[("jira", &[]), ("product_documentation", &[])];

const REQUIRES: Requires = Requires {
    all: &[Model::DvoMetrics],
    ..Requires::NOTHING
};

/// A rule that recommends to mend what any of the checks complains of.
macro_rules! recommendation {
    (
        component: $component:literal,
        key: $key:literal,
        checks: [$($check:literal),+],
        detects: $detects:literal,
        total_risk: $risk:literal,
        enabled_by_default: $default:literal,
    ) => {
        Rule {
            component: $component,
            detects: $detects,
            keys: &[Key::recommendation($key)],
            profile: RuleProfile::Workloads,
            enabled_by_default: $default,
            total_risk: Some($risk),
            tags: &[],
            links: LINKS,
            requires: REQUIRES,
            check: |context| recommend(context, $key, &[$($check),+]),
        }
    };
}

pub(super) const DNSCONFIG_OPTIONS: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.dnsconfig_options.recommendation",
    key: "DVO_DNSCONFIG_OPTIONS",
    checks: ["dnsconfig_options"],
    detects: "No dnsConfig options.",
    total_risk: 1,
    enabled_by_default: false,
};

pub(super) const HOST_IPC: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.host_ipc.recommendation",
    key: "DVO_HOST_IPC",
    checks: ["host_ipc"],
    detects: "Workload shares the host IPC namespace.",
    total_risk: 3,
    enabled_by_default: true,
};

pub(super) const HOST_NETWORK: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.host_network.recommendation",
    key: "DVO_HOST_NETWORK",
    checks: ["host_network"],
    detects: "Workload shares the host network.",
    total_risk: 3,
    enabled_by_default: true,
};

pub(super) const HOST_PID: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.host_pid.recommendation",
    key: "DVO_HOST_PID",
    checks: ["host_pid"],
    detects: "Workload shares the host process namespace.",
    total_risk: 3,
    enabled_by_default: true,
};

pub(super) const MINIMUM_THREE_REPLICAS: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.minimum_three_replicas.recommendation",
    key: "DVO_MINIMUM_THREE_REPLICAS",
    checks: ["minimum_three_replicas"],
    detects: "Fewer than three replicas.",
    total_risk: 2,
    enabled_by_default: true,
};

pub(super) const NO_ANTI_AFFINITY: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.no_anti_affinity.recommendation",
    key: "DVO_NO_ANTI_AFFINITY",
    checks: ["no_anti_affinity"],
    detects: "Several replicas without anti-affinity.",
    total_risk: 2,
    enabled_by_default: true,
};

pub(super) const NO_NODE_AFFINITY: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.no_node_affinity.recommendation",
    key: "DVO_NO_NODE_AFFINITY",
    checks: ["no_node_affinity"],
    detects: "No node affinity.",
    total_risk: 1,
    enabled_by_default: false,
};

pub(super) const NON_ISOLATED_POD: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.non_isolated_pod.recommendation",
    key: "DVO_NON_ISOLATED_POD",
    checks: ["non_isolated_pod"],
    detects: "Workload selected by no network policy.",
    total_risk: 2,
    enabled_by_default: true,
};

pub(super) const PDB_MAX_UNAVAILABLE: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.pdb_max_unavailable.recommendation",
    key: "DVO_PDB_MAX_UNAVAILABLE",
    checks: ["pdb_max_unavailable"],
    detects: "Disruption budget with maxUnavailable 0.",
    total_risk: 2,
    enabled_by_default: true,
};

pub(super) const PDB_MIN_AVAILABLE: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.pdb_min_available.recommendation",
    key: "DVO_PDB_MIN_AVAILABLE",
    checks: ["pdb_min_available"],
    detects: "Disruption budget whose minAvailable equals the replicas.",
    total_risk: 2,
    enabled_by_default: true,
};

pub(super) const PRIVILEGE_ESCALATION_CONTAINER: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.privilege_escalation_container.recommendation",
    key: "DVO_PRIVILEGE_ESCALATION_CONTAINER",
    checks: ["privilege_escalation_container"],
    detects: "Container may gain privileges.",
    total_risk: 3,
    enabled_by_default: true,
};

pub(super) const PRIVILEGED_CONTAINER: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.privileged_container.recommendation",
    key: "DVO_PRIVILEGED_CONTAINER",
    checks: ["privileged_container"],
    detects: "Privileged container.",
    total_risk: 3,
    enabled_by_default: true,
};

pub(super) const RUN_AS_NON_ROOT: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.run_as_non_root.recommendation",
    key: "DVO_RUN_AS_NON_ROOT",
    checks: ["run_as_non_root"],
    detects: "Workload may run as root.",
    total_risk: 2,
    enabled_by_default: true,
};

pub(super) const UNSAFE_SYSCTLS: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.unsafe_sysctls.recommendation",
    key: "DVO_UNSAFE_SYSCTLS",
    checks: ["unsafe_sysctls"],
    detects: "Unsafe kernel parameters.",
    total_risk: 3,
    enabled_by_default: true,
};

pub(super) const UNSET_REQUIREMENTS: Rule = recommendation! {
    component: "ccx_rules_ocp.external.dvo.unset_requirements.recommendation",
    key: "DVO_UNSET_REQUIREMENTS",
    checks: ["unset_cpu_requirements", "unset_memory_requirements"],
    detects: "Containers without CPU or memory requests and limits.",
    total_risk: 2,
    enabled_by_default: true,
};

// Names that downstream has seen, of which no check is known. They never answer, nor skip.

pub(super) const AN_ISSUE_POD: Rule = Rule {
    component: "ccx_rules_ocp.external.dvo.an_issue_pod.recommendation",
    detects: "Test name only.",
    keys: &[Key::recommendation("DVO_AN_ISSUE")],
    ..RESERVED
};

pub(super) const BAD_REQUIREMENTS: Rule = Rule {
    component: "ccx_rules_ocp.external.dvo.bad_requirements.recommendation",
    detects: "Wrong requests or limits.",
    keys: &[Key::recommendation("BAD_REQUIREMENTS")],
    ..RESERVED
};

pub(super) const EXCLUDED_POD: Rule = Rule {
    component: "ccx_rules_ocp.external.dvo.excluded_pod.recommendation",
    detects: "Test name only.",
    keys: &[Key::recommendation("EXCLUDED_POD")],
    ..RESERVED
};

const RESERVED: Rule = Rule {
    component: "",
    detects: "",
    keys: &[],
    profile: RuleProfile::Reserved,
    enabled_by_default: false,
    total_risk: Some(1),
    tags: &[],
    links: LINKS,
    requires: REQUIRES,
    check: |_| Ok(None),
};

fn recommend(context: &Context<'_>, key: &'static str, checks: &[&str]) -> RuleResult {
    let Some(metrics) = context.archive.dvo_metrics() else {
        return Ok(None);
    };
    // Of a workload that is told twice the first counts.
    let mut found: BTreeMap<(&str, &str), &Violation> = BTreeMap::new();
    for violation in metrics.violations(checks) {
        found
            .entry((&violation.namespace_uid, &violation.uid))
            .or_insert(violation);
    }
    if found.is_empty() {
        return Ok(None);
    }
    let mut workloads: Vec<Workload> = found.into_values().map(workload).collect();
    workloads.sort_by(|a, b| order(a).cmp(&order(b)));
    let samples: Vec<Value> = workloads.iter().take(SAMPLES).map(sample).collect();
    Ok(Some(Response {
        key,
        details: details! {
            "check_name": checks.join(","),
            // The operator's own text may hold one, among other words.
            "check_url": "",
            "samples": samples,
        },
        workloads,
    }))
}

fn workload(violation: &Violation) -> Workload {
    Workload {
        namespace: violation.namespace.clone(),
        namespace_uid: violation.namespace_uid.clone(),
        kind: violation.kind.clone(),
        name: violation.name.clone(),
        uid: violation.uid.clone(),
    }
}

fn order(workload: &Workload) -> [&str; 3] {
    [&workload.namespace_uid, &workload.kind, &workload.uid]
}

/// A workload as details show it: names only where they are known.
fn sample(workload: &Workload) -> Value {
    let mut sample = json!({
        "namespace_uid": workload.namespace_uid,
        "kind": workload.kind,
        "uid": workload.uid,
    });
    for (field, name) in [("namespace", &workload.namespace), ("name", &workload.name)] {
        if !name.is_empty() {
            sample[field] = json!(name);
        }
    }
    sample
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::RULES;
    use super::super::testing::{Answer, found, reference_time, run, skip};
    use super::*;
    use crate::archive::Archive;
    use crate::rules::{Profile, Settings};

    fn line(check: &str, labels: &str) -> String {
        format!("deployment_validation_operator_{check}{{{labels}}} 1\n")
    }

    fn answer(rule: &Rule, text: &str) -> Answer {
        run(rule, &[("config/dvo_metrics", text)])
    }

    fn workloads(rule: &Rule, text: &str) -> Vec<Workload> {
        let archive = Archive::from_files([("config/dvo_metrics", text)]);
        let context = Context {
            archive: &archive,
            reference_time: reference_time(),
            profile: Profile::External,
            settings: &Settings::default(),
        };
        (rule.check)(&context)
            .unwrap()
            .map_or(Vec::new(), |response| response.workloads)
    }

    const ID: &str = r#"kind="Deployment",namespace_uid="278af49f-cf01-4e4a-b8ab-1167827b3485",uid="e5643d2b-eda5-49d7-8380-72fa92fb0359""#;

    #[test]
    fn a_workload_without_requirements_is_told_once() {
        let text = line("unset_memory_requirements", ID) + &line("unset_cpu_requirements", ID);
        assert_eq!(
            answer(&UNSET_REQUIREMENTS, &text),
            found(
                "DVO_UNSET_REQUIREMENTS",
                json!({
                    "check_name": "unset_cpu_requirements,unset_memory_requirements",
                    "check_url": "",
                    "samples": [{
                        "namespace_uid": "278af49f-cf01-4e4a-b8ab-1167827b3485",
                        "kind": "Deployment",
                        "uid": "e5643d2b-eda5-49d7-8380-72fa92fb0359",
                    }],
                })
            )
        );
        let listed = workloads(&UNSET_REQUIREMENTS, &text);
        assert_eq!(listed.len(), 1);
        assert_eq!((&*listed[0].namespace, &*listed[0].name), ("", ""));
    }

    #[test]
    fn names_are_told_where_they_are_known_and_the_first_counts() {
        let text = line(
            "host_pid",
            r#"kind="DaemonSet",name="a",namespace="n",namespace_uid="1",uid="2""#,
        ) + &line(
            "host_pid",
            r#"kind="Pod",name="b",namespace="m",namespace_uid="1",uid="2""#,
        );
        assert_eq!(
            answer(&HOST_PID, &text),
            found(
                "DVO_HOST_PID",
                json!({
                    "check_name": "host_pid",
                    "check_url": "",
                    "samples": [{
                        "namespace_uid": "1", "kind": "DaemonSet", "uid": "2",
                        "namespace": "n", "name": "a",
                    }],
                })
            )
        );
    }

    #[test]
    fn all_are_listed_in_order_and_three_shown() {
        let text: String = [
            ("2", "B", "1"),
            ("1", "B", "2"),
            ("1", "A", "3"),
            ("1", "B", "1"),
        ]
        .iter()
        .map(|(namespace, kind, uid)| {
            let labels = format!(r#"kind="{kind}",namespace_uid="{namespace}",uid="{uid}""#);
            line("no_anti_affinity", &labels)
        })
        .collect();
        let listed = workloads(&NO_ANTI_AFFINITY, &text);
        let listed: Vec<_> = listed.iter().map(order).collect();
        assert_eq!(
            listed,
            [
                ["1", "A", "3"],
                ["1", "B", "1"],
                ["1", "B", "2"],
                ["2", "B", "1"]
            ]
        );
        let Answer::Found(_, details) = answer(&NO_ANTI_AFFINITY, &text) else {
            panic!("nothing found");
        };
        assert_eq!(details.matches("namespace_uid").count(), SAMPLES);
    }

    #[test]
    fn each_rule_answers_to_its_own_checks_only() {
        let known: BTreeSet<&str> = RULES
            .iter()
            .filter(|rule| rule.profile == RuleProfile::Workloads)
            .map(Rule::name)
            .collect();
        assert_eq!(known.len(), 15);
        for name in &known {
            let checks = match *name {
                "unset_requirements" => {
                    &["unset_cpu_requirements", "unset_memory_requirements"][..]
                }
                other => &[other][..],
            };
            for check in checks {
                let text = line(check, ID);
                let hits: Vec<_> = RULES
                    .iter()
                    .filter(|rule| rule.is_for_workloads())
                    .filter(|rule| answer(rule, &text) != Answer::Nothing)
                    .map(Rule::name)
                    .collect();
                assert_eq!(hits, [*name], "{check}");
            }
        }
    }

    #[test]
    fn damage_and_other_values_say_nothing() {
        for text in [
            "\n",
            "# http://deployment-validation-operator-metrics.svc:8383\n",
            "deployment_validation_operator_host_ipc{namespace_uid=\"1\",uid=\"2\"} 0\n",
            "deployment_validation_operator_host_ipc{namespace_uid=\"1\",uid=\"2\"} NaN\n",
            "deployment_validation_operator_host_ipc{namespace_uid=\"1\",uid=\"\"} 1\n",
            "deployment_validation_operator_host_ipc{namespace_uid=\"1\",uid=\"2",
            "deployment_validation_operator_host_ipc 1\n",
        ] {
            assert_eq!(answer(&HOST_IPC, text), Answer::Nothing, "{text}");
        }
    }

    #[test]
    fn without_the_operator_it_is_skipped() {
        let details = "All: ['ccx_ocp_core.models.dvo.DVOMetrics'] Any: ";
        assert_eq!(run(&HOST_IPC, &[]), skip(details));
        assert_eq!(answer(&HOST_IPC, ""), skip(details));
    }
}
