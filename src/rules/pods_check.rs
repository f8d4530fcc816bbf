//! Gathered OpenShift pods that are Pending, Failed or Unknown.
//!
//! A part of OpenShift does not run. Every pod is pending for a moment, and a job may fail and
//! be repeated with success, which is no fault. Reads pods. Reports `POD_ISSUE`; `POD_HEALTHY`
//! passes.

use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Condition, Found, Pod, timestamp};

/// For how long a pod may be pending: ours.
const PENDING: Duration = Duration::minutes(15);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.pods_check.report",
    detects: "Gathered OpenShift pods that are Pending, Failed or Unknown.",
    keys: &[
        Key::fail("POD_ISSUE").when("at least one pod listed"),
        Key::pass("POD_HEALTHY").when("none listed"),
    ],
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

/// Namespace and name of a job.
type Job<'a> = (&'a str, &'a str);

fn check(context: &Context<'_>) -> RuleResult {
    let mut pods = context.archive.pods();
    pods.retain(|pod| pod.is_of_platform());
    let done = newest_good_pods(&pods);
    pods.retain(|pod| match pod.status.phase.as_str() {
        "Unknown" => true,
        "Failed" => !is_repeated(*pod, &done),
        "Pending" => created(pod).is_some_and(|created| context.reference_time - created > PENDING),
        _ => false,
    });
    if pods.is_empty() {
        return respond("POD_HEALTHY", details! {});
    }
    pods.sort_by_key(|pod| (pod.namespace(), pod.name()));
    let pods = list(pods.into_iter().map(|pod| {
        let (reason, text) = why(pod.document());
        details! {
            "namespace": pod.namespace(),
            "name": pod.name(),
            "phase": pod.status.phase,
            "reason": reason,
            "message": message(text),
        }
    }));
    respond("POD_ISSUE", details! { "pods": pods })
}

/// Of each job the time of its newest pod that runs or succeeded.
fn newest_good_pods<'a>(pods: &[Found<'a, Pod>]) -> BTreeMap<Job<'a>, OffsetDateTime> {
    let mut newest = BTreeMap::new();
    for &pod in pods {
        if !["Running", "Succeeded"].contains(&pod.status.phase.as_str()) {
            continue;
        }
        if let (Some(job), Some(created)) = (job(pod), created(&pod)) {
            let entry = newest.entry(job).or_insert(created);
            *entry = created.max(*entry);
        }
    }
    newest
}

/// Whether a later pod of the same job did better.
fn is_repeated(pod: Found<'_, Pod>, newest: &BTreeMap<Job<'_>, OffsetDateTime>) -> bool {
    let good = job(pod).and_then(|job| newest.get(&job));
    match (good, created(&pod)) {
        (Some(good), Some(created)) => *good > created,
        _ => false,
    }
}

fn job(pod: Found<'_, Pod>) -> Option<Job<'_>> {
    let mut owners = pod.document().metadata.owner_references.iter();
    let owner = owners.find(|owner| owner.kind == "Job")?;
    Some((pod.namespace(), &owner.name))
}

fn created(pod: &Pod) -> Option<OffsetDateTime> {
    timestamp::parse(&pod.metadata.creation_timestamp)
}

/// Reason and message of the pod itself, else of its first condition that is not true.
fn why(pod: &Pod) -> (&str, &str) {
    let status = &pod.status;
    let not_true = |condition: &&Condition| condition.holds() != Some(true);
    match status.conditions.iter().find(not_true) {
        Some(condition) if status.reason.is_empty() => (&condition.reason, &condition.message),
        _ => (&status.reason, &status.message),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    /// A pod in `openshift-x` with this phase, creation time and owning job.
    fn pod(name: &str, phase: &str, created: &str, job: &str) -> Value {
        json!({
            "metadata": {
                "name": name,
                "creationTimestamp": created,
                "ownerReferences": [{"kind": "ReplicaSet", "name": job}, {"kind": "Job", "name": job}],
            },
            "status": {"phase": phase},
        })
    }

    fn answer(namespace: &str, pods: &[Value]) -> Answer {
        let files: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(number, pod)| {
                let path = format!("config/pod/{namespace}/{number}.json");
                (path, pod.to_string())
            })
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        run(&RULE, &files)
    }

    fn names(answer: &Answer) -> Vec<String> {
        match answer {
            Answer::Found("POD_ISSUE", details) => {
                let details: Value = serde_json::from_str(details).unwrap();
                let pods = details["pods"].as_array().unwrap();
                pods.iter()
                    .map(|pod| pod["name"].as_str().unwrap().to_owned())
                    .collect()
            }
            _ => Vec::new(),
        }
    }

    fn healthy() -> Answer {
        found("POD_HEALTHY", json!({}))
    }

    #[test]
    fn tells_why_a_pod_is_pending() {
        let mut pod = pod("router", "Pending", "2021-07-13T07:00:00Z", "");
        pod["status"]["conditions"] = json!([
            {"type": "Initialized", "status": "True", "reason": "x"},
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
             "message": "0/2 nodes are available: ..."},
            {"type": "Ready", "status": "False", "reason": "y"},
        ]);
        let expected = |reason: &str, message: &str| {
            found(
                "POD_ISSUE",
                json!({"pods": [{
                    "namespace": "openshift-ingress",
                    "name": "router",
                    "phase": "Pending",
                    "reason": reason,
                    "message": message,
                }]}),
            )
        };
        assert_eq!(
            answer("openshift-ingress", &[pod.clone()]),
            expected("Unschedulable", "0/2 nodes are available: ...")
        );
        pod["status"]["reason"] = json!("Evicted");
        assert_eq!(
            answer("openshift-ingress", &[pod.clone()]),
            expected("Evicted", "")
        );
        pod["status"] = json!({"phase": "Pending"});
        assert_eq!(answer("openshift-ingress", &[pod]), expected("", ""));
    }

    #[test]
    fn pending_counts_after_fifteen_minutes() {
        for (created, is_told) in [
            ("2021-07-13T07:01:43.9Z", true),
            ("2021-07-13T07:01:44Z", false),
            ("2021-07-13T08:00:00Z", false),
            ("yesterday", false),
            ("", false),
        ] {
            let answer = answer("kube-system", &[pod("a", "Pending", created, "")]);
            assert_eq!(!names(&answer).is_empty(), is_told, "{created}");
        }
    }

    #[test]
    fn other_phases_and_other_namespaces_are_well() {
        for (namespace, phase) in [
            ("openshift-x", "Running"),
            ("openshift-x", "Succeeded"),
            ("openshift-x", ""),
            ("customer", "Failed"),
            ("openshift", "Failed"),
        ] {
            let answer = answer(namespace, &[pod("a", phase, "", "")]);
            assert_eq!(answer, healthy(), "{namespace} {phase}");
        }
        for phase in ["Failed", "Unknown"] {
            let answer = answer("openshift-x", &[pod("a", phase, "", "")]);
            assert_eq!(names(&answer), ["a"], "{phase}");
        }
    }

    #[test]
    fn a_job_that_was_repeated_with_success_is_well() {
        let pods = |failed: &str, good: &str, phase: &str, job: &str| {
            let pods = [
                pod("failed", "Failed", failed, "j"),
                pod("good", phase, good, job),
            ];
            names(&answer("openshift-x", &pods))
        };
        let (first, second) = ("2021-07-13T01:00:00Z", "2021-07-13T02:00:00Z");
        assert!(pods(first, second, "Succeeded", "j").is_empty());
        assert!(pods(first, second, "Running", "j").is_empty());
        for told in [
            pods(second, first, "Succeeded", "j"),
            pods(first, first, "Succeeded", "j"),
            pods(first, second, "Succeeded", "other"),
            pods(first, "?", "Succeeded", "j"),
            pods("", second, "Succeeded", "j"),
        ] {
            assert_eq!(told, ["failed"]);
        }
        let both = pods(first, second, "Failed", "j");
        assert_eq!(both, ["failed", "good"]);
    }

    #[test]
    fn without_pods_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[("config/pod/openshift-x/a.json", "{")]),
            skip("All: ['ccx_ocp_core.models.pods.Pods'] Any: ")
        );
    }
}
