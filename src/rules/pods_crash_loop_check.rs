//! OpenShift pods in a crash loop.
//!
//! Every pod that ever crashed is gathered, so restarts alone say nothing: a container must
//! wait for its next start, or have crashed often and lately. Reads pods. Reports
//! `PODS_CRASH_LOOP`.

use time::{Duration, OffsetDateTime};

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{ContainerStatus, Terminated, timestamp};

/// Restarts that are often: ours.
const RESTARTS: i64 = 20;
/// How long ago the last crash may be to be lately: ours.
const RECENT: Duration = Duration::hours(1);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.pods_crash_loop_check.report",
    detects: "OpenShift pods in a crash loop.",
    keys: &[Key::fail("PODS_CRASH_LOOP")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
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
    pods.retain(|pod| pod.is_of_openshift());
    pods.sort_by_key(|pod| (pod.namespace(), pod.name()));
    let pods = list(pods.into_iter().filter_map(|pod| {
        let mut containers = pod.document().status.all_containers();
        let container = containers.find(|found| is_looping(found, context.reference_time))?;
        let last = container.last_state.terminated.as_ref();
        Some(details! {
            "namespace": pod.namespace(),
            "name": pod.name(),
            "container": container.name,
            "restart_count": container.restart_count,
            "exit_code": last.and_then(|ended| ended.exit_code),
            "reason": last.map_or("", |ended| &ended.reason),
        })
    }));
    if pods.is_empty() {
        return Ok(None);
    }
    respond("PODS_CRASH_LOOP", details! { "pods": pods })
}

fn is_looping(container: &ContainerStatus, now: OffsetDateTime) -> bool {
    let waiting = container.state.waiting.as_ref();
    if waiting.is_some_and(|waiting| waiting.reason == "CrashLoopBackOff") {
        return true;
    }
    let crashed_lately = |ended: &Terminated| {
        let ago = timestamp::parse(&ended.finished_at).map(|finished| now - finished);
        ended.failed() && ago.is_some_and(|ago| Duration::ZERO <= ago && ago < RECENT)
    };
    let last = container.last_state.terminated.as_ref();
    container.restart_count >= RESTARTS && last.is_some_and(crashed_lately)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(namespace: &str, containers: Value, init: Value) -> Answer {
        let file = json!({
            "metadata": {"name": "etcd-master-0"},
            "status": {"containerStatuses": containers, "initContainerStatuses": init},
        });
        let path = format!("config/pod/{namespace}/etcd-master-0.json");
        run(&RULE, &[(&path, &file.to_string())])
    }

    /// A container that crashed this often, with this code, at this time.
    fn crashed(restarts: i64, exit_code: i64, finished: &str) -> Value {
        json!([{"name": "etcd", "restartCount": restarts, "lastState": {"terminated": {
            "exitCode": exit_code, "reason": "OOMKilled", "finishedAt": finished}}}])
    }

    fn expected(restarts: i64, exit_code: Value, reason: &str) -> Answer {
        found(
            "PODS_CRASH_LOOP",
            json!({"pods": [{
                "namespace": "openshift-etcd",
                "name": "etcd-master-0",
                "container": "etcd",
                "restart_count": restarts,
                "exit_code": exit_code,
                "reason": reason,
            }]}),
        )
    }

    #[test]
    fn a_container_that_waits_for_its_next_start_loops() {
        let waiting = json!([
            {"name": "other", "restartCount": 3},
            {"name": "etcd", "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
        ]);
        let told = answer("openshift-etcd", waiting.clone(), json!(null));
        assert_eq!(told, expected(0, json!(null), ""));
        let told = answer("openshift-etcd", json!([]), waiting.clone());
        assert_eq!(told, expected(0, json!(null), ""));
        for namespace in ["kube-system", "customer"] {
            let told = answer(namespace, waiting.clone(), json!(null));
            assert_eq!(told, Answer::Nothing);
        }
    }

    #[test]
    fn a_container_that_crashed_often_and_lately_loops() {
        let now = "2021-07-13T07:16:44Z";
        let answer = |containers| answer("openshift-etcd", containers, json!(null));
        assert_eq!(
            answer(crashed(21, 137, "2021-07-13T07:00:00Z")),
            expected(21, json!(137), "OOMKilled")
        );
        for (containers, loops) in [
            (crashed(20, 1, now), true),
            (crashed(19, 1, now), false),
            (crashed(20, 0, now), false),
            (crashed(20, 1, "2021-07-13T06:16:44.1Z"), true),
            (crashed(20, 1, "2021-07-13T06:16:44Z"), false),
            (crashed(20, 1, "2021-07-13T07:16:45Z"), false),
            (crashed(20, 1, "never"), false),
            (json!([{"restartCount": 99}]), false),
        ] {
            let told = matches!(answer(containers.clone()), Answer::Found(..));
            assert_eq!(told, loops, "{containers}");
        }
    }

    #[test]
    fn without_pods_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.pods.Pods'] Any: ")
        );
    }
}
