//! Containers of gathered OpenShift pods that wait with an error or ended with an error.
//!
//! Their part of OpenShift does not work. Reads pods. Reports `POD_CONTAINER_ISSUE`.

use super::details::{details, list, message};
use super::{Context, Details, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::ContainerStatus;

/// Reasons for waiting that do not pass by themselves.
const ERRORS: [&str; 7] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.pods_check_containers.report",
    detects: "Containers of gathered OpenShift pods that wait with an error or ended with an error.",
    keys: &[Key::fail("POD_CONTAINER_ISSUE")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Pods],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut pods = context.archive.pods();
    pods.retain(|pod| pod.is_of_platform());
    pods.sort_by_key(|pod| (pod.namespace(), pod.name()));
    let pods = list(pods.into_iter().filter_map(|pod| {
        let containers = list(pod.document().status.all_containers().filter_map(issue));
        let details = details! {
            "namespace": pod.namespace(),
            "name": pod.name(),
            "containers": containers,
        };
        (!containers.is_empty()).then_some(details)
    }));
    if pods.is_empty() {
        return Ok(None);
    }
    respond("POD_CONTAINER_ISSUE", details! { "pods": pods })
}

/// What is wrong with a container.
fn issue(container: &ContainerStatus) -> Option<Details> {
    let waiting = container.state.waiting.as_ref();
    let terminated = container.state.terminated.as_ref();
    let (state, reason, text, exit_code) = waiting
        .filter(|waiting| ERRORS.contains(&waiting.reason.as_str()))
        .map(|waiting| ("waiting", &waiting.reason, &waiting.message, None))
        .or_else(|| {
            let ended = terminated.filter(|ended| ended.failed())?;
            Some(("terminated", &ended.reason, &ended.message, ended.exit_code))
        })?;
    Some(details! {
        "name": container.name,
        "state": state,
        "reason": reason,
        "message": message(text),
        "exit_code": exit_code,
        "restart_count": container.restart_count,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(namespace: &str, containers: Value, init: Value) -> Answer {
        let file = json!({
            "metadata": {"name": "prometheus-k8s-0", "namespace": namespace},
            "status": {"containerStatuses": containers, "initContainerStatuses": init},
        });
        run(&RULE, &[("config/pod/x/y.json", &file.to_string())])
    }

    #[test]
    fn tells_containers_that_wait_or_ended_with_an_error() {
        let containers = json!([
            {"name": "well", "state": {"running": {}}, "restartCount": 9},
            {"name": "prometheus", "restartCount": 17, "state": {"waiting": {
                "reason": "CrashLoopBackOff",
                "message": "back-off 5m0s restarting failed container"}}},
            {"name": "done", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}},
        ]);
        let init = json!([{"name": "first", "state": {"terminated": {"exitCode": 3}}}]);
        let expected = found(
            "POD_CONTAINER_ISSUE",
            json!({"pods": [{
                "namespace": "openshift-monitoring",
                "name": "prometheus-k8s-0",
                "containers": [
                    {"name": "prometheus", "state": "waiting", "reason": "CrashLoopBackOff",
                     "message": "back-off 5m0s restarting failed container", "exit_code": null,
                     "restart_count": 17},
                    {"name": "first", "state": "terminated", "reason": "", "message": "",
                     "exit_code": 3, "restart_count": 0},
                ],
            }]}),
        );
        let told = answer("openshift-monitoring", containers.clone(), init.clone());
        assert_eq!(told, expected);
        assert_eq!(answer("customer", containers, init), Answer::Nothing);
    }

    #[test]
    fn each_error_counts_and_what_passes_does_not() {
        let waiting = |reason: &str| {
            let containers = json!([{"state": {"waiting": {"reason": reason}}}]);
            answer("kube-system", containers, json!(null))
        };
        for reason in ERRORS {
            assert!(matches!(waiting(reason), Answer::Found(..)), "{reason}");
        }
        for reason in ["ContainerCreating", "PodInitializing", ""] {
            assert_eq!(waiting(reason), Answer::Nothing, "{reason}");
        }
        let ended = json!([{"state": {"terminated": {"reason": "Error"}}}, {"state": null}, 7]);
        assert_eq!(answer("openshift-x", ended, json!({})), Answer::Nothing);
    }

    #[test]
    fn without_pods_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.pods.Pods'] Any: ")
        );
    }
}
