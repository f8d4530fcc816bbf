//! The vSphere problem detector cannot log in to or reach vCenter.
//!
//! Storage and nodes depend on the same credentials. Reads the detector's logs. Reports
//! `VSPHERE_PROBLEM_DETECTOR_CONTROLLER_SYNCERROR`.

use super::details::{details, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond};
use crate::archive::Model;

const NAMESPACE: &str = "openshift-cluster-storage-operator";
const POD_PREFIX: &str = "vsphere-problem-detector-operator-";
/// What the lines say; they are kept of logs for this rule.
const WORDS: &[&str] = &["VSphereProblemDetectorController", "failed to sync"];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.vsphere_problem_detector_controller_syncerror.report",
    detects: "The vSphere problem detector cannot log in to or reach vCenter.",
    keys: &[Key::fail("VSPHERE_PROBLEM_DETECTOR_CONTROLLER_SYNCERROR")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[
        (
            "kcs",
            &[
                "https://access.redhat.com/solutions/5926951",
                "https://access.redhat.com/solutions/4618011",
            ],
        ),
        ("jira", &["https://issues.redhat.com/browse/INSIGHTOCP-419"]),
        (
            "docs",
            &[
                "https://docs.openshift.com/container-platform/4.7/installing/installing_vsphere/installing-vsphere-installer-provisioned.html#installation-vsphere-installer-infra-requirements_installing-vsphere-installer-provisioned",
                "https://docs.openshift.com/container-platform/4.7/installing/installing_vsphere/using-vsphere-problem-detector-operator.html",
            ],
        ),
    ],
    requires: Requires {
        all: &[Model::PodLogs],
        optional: &[Model::Infrastructure],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut logs = context.archive.pod_logs();
    logs.retain(|log| {
        let (namespace, pod) = log.namespace_and_pod();
        namespace == NAMESPACE && pod.starts_with(POD_PREFIX)
    });
    if logs.is_empty() {
        return Err(Skip::model(Model::PodLogs));
    }
    // The run before the present one only where the present one is silent.
    logs.sort_by_key(|log| log.is_previous());
    match logs
        .iter()
        .find_map(|log| log.document().lines(WORDS).next_back())
    {
        None => Ok(None),
        Some(line) => respond(
            "VSPHERE_PROBLEM_DETECTOR_CONTROLLER_SYNCERROR",
            details! { "message": message(line) },
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const LINE: &str = "2021-05-18T12:56:26.897256569-05:00 E0518 17:56:26.897202       1 base_controller.go:250] \"VSphereProblemDetectorController\" controller failed to sync \"key\", err: failed to connect";
    const POD: &str = "vsphere-problem-detector-operator-6f7d-x";

    #[test]
    fn the_last_line_hits_on_any_path() {
        let text = format!(
            "{}\nnoise\n{LINE}\nVSphereProblemDetectorController is well\n",
            LINE.replace("18T12", "17T12")
        );
        for path in [
            format!("config/pod/{NAMESPACE}/logs/{POD}/errors.log"),
            format!("config/pod/{NAMESPACE}/logs/{POD}/operator_current.log"),
            format!("namespaces/{NAMESPACE}/pods/{POD}/operator/current.log"),
            format!(
                "conditional/namespaces/{NAMESPACE}/pods/{POD}/containers/operator/logs/last-100-lines.log"
            ),
        ] {
            assert_eq!(
                run(&RULE, &[(&path, &text)]),
                found(
                    "VSPHERE_PROBLEM_DETECTOR_CONTROLLER_SYNCERROR",
                    json!({"message": LINE})
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn the_present_run_is_told_before_the_previous_one() {
        let [current, previous] = ["current", "previous"]
            .map(|run| format!("namespaces/{NAMESPACE}/pods/{POD}/operator/{run}.log"));
        let other = LINE.replace("key", "other");
        assert_eq!(
            run(&RULE, &[(&previous, LINE), (&current, &other)]),
            found(
                "VSPHERE_PROBLEM_DETECTOR_CONTROLLER_SYNCERROR",
                json!({"message": other})
            )
        );
        assert!(matches!(
            run(&RULE, &[(&previous, LINE), (&current, "well\n")]),
            Answer::Found(..)
        ));
    }

    #[test]
    fn a_log_without_the_line_is_well() {
        let path = format!("config/pod/{NAMESPACE}/logs/{POD}/errors.log");
        assert_eq!(
            run(&RULE, &[(&path, "failed to sync something else\n")]),
            Answer::Nothing
        );
    }

    #[test]
    fn without_a_log_of_the_detector_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.logs.PodLogs'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        let other = "config/pod/openshift-etcd/logs/etcd-0/errors.log";
        assert_eq!(run(&RULE, &[(other, LINE)]), skipped);
    }
}
