//! OpenShift Data Foundation storage is not ready or not healthy.
//!
//! Volumes may be slow, read-only or gone. Reads the status of Ceph clusters. Reports
//! `CEPH_CLUSTER_NOT_READY`.

use serde_json::json;
use time::{Duration, OffsetDateTime};

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{CephStatus, timestamp};

/// Time in which a cluster on its way says something new. Ours.
const PATIENCE: Duration = Duration::hours(1);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.ceph_cluster_not_ready.report",
    detects: "OpenShift Data Foundation storage is not ready or not healthy.",
    keys: &[Key::fail("CEPH_CLUSTER_NOT_READY")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::CephClusters],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut clusters = context.archive.ceph_clusters();
    clusters.retain(|cluster| is_not_well(&cluster.status, context.reference_time));
    clusters.sort_by_key(|cluster| {
        let (namespace, name) = cluster.namespace_and_name();
        (name, namespace)
    });
    if clusters.is_empty() {
        return Ok(None);
    }
    let clusters = list(clusters.into_iter().map(|cluster| {
        let (namespace, name) = cluster.namespace_and_name();
        let status = &cluster.document().status;
        json!({
            "namespace": namespace,
            "name": name,
            "state": status.state.as_deref().unwrap_or_default(),
            "phase": status.phase.as_deref().unwrap_or_default(),
            "health": status.ceph.health,
            "message": message(&status.message),
        })
    }));
    respond("CEPH_CLUSTER_NOT_READY", details! { "clusters": clusters })
}

fn is_not_well(status: &CephStatus, reference_time: OffsetDateTime) -> bool {
    let is_stuck = || {
        status
            .conditions
            .iter()
            .filter_map(|condition| timestamp::parse(condition.last_heartbeat_time.as_ref()?))
            .max()
            .is_some_and(|newest| reference_time - newest > PATIENCE)
    };
    status.state.as_deref() == Some("Error")
        || (status.phase.as_deref() != Some("Ready") && is_stuck())
        || status.ceph.health == "HEALTH_ERR"
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str =
        "config/storage/openshift-storage/cephclusters/ocs-storagecluster-cephcluster.json";
    const OLD: &str = "config/storage/openshift-storage/ocs-storagecluster-cephcluster.json";

    fn hits(status: &Value) -> bool {
        run(&RULE, &[(PATH, &status.to_string())]) != Answer::Nothing
    }

    #[test]
    fn a_cluster_in_error_hits_in_both_layouts() {
        let file = r#"{"state": "Error", "phase": "Failure", "message": "...",
            "ceph": {"health": "HEALTH_ERR"}}"#;
        let hit = found(
            "CEPH_CLUSTER_NOT_READY",
            json!({"clusters": [{"namespace": "openshift-storage",
                "name": "ocs-storagecluster-cephcluster", "state": "Error", "phase": "Failure",
                "health": "HEALTH_ERR", "message": "..."}]}),
        );
        assert_eq!(run(&RULE, &[(PATH, file)]), hit);
        assert_eq!(run(&RULE, &[(OLD, file)]), hit);
    }

    #[test]
    fn each_sign_is_enough() {
        assert!(hits(&json!({"state": "Error", "phase": "Ready"})));
        assert!(hits(
            &json!({"state": "Created", "phase": "Ready", "ceph": {"health": "HEALTH_ERR"}})
        ));
        for health in ["HEALTH_OK", "HEALTH_WARN", ""] {
            let status = json!({"state": "Created", "phase": "Ready", "ceph": {"health": health}});
            assert!(!hits(&status), "{health}");
        }
    }

    #[test]
    fn on_its_way_it_has_an_hour_since_the_newest_condition() {
        let at = |time: &str| json!({"type": "Progressing", "lastHeartbeatTime": time});
        let long_ago = at("2020-01-01T00:00:00Z");
        for (newest, stuck) in [
            (at("2021-07-13T06:16:43Z"), true),
            (at("2021-07-13T06:16:44Z"), false),
            (at("2022-11-01T10:26:40Z"), false),
            (at("unreadable"), true),
            (json!({"lastTransitionTime": "2021-07-13T07:00:00Z"}), true),
        ] {
            let conditions = json!([newest, long_ago]);
            for phase in [json!("Progressing"), json!(null)] {
                let status = json!({"phase": phase, "conditions": conditions});
                assert_eq!(hits(&status), stuck, "{status}");
            }
            assert!(!hits(&json!({"phase": "Ready", "conditions": conditions})));
        }
        assert!(!hits(&json!({"phase": "Progressing", "conditions": []})));
        assert!(!hits(&json!({})));
    }

    #[test]
    fn storage_clusters_in_the_old_place_are_no_ceph_clusters() {
        let skipped = skip("All: ['ccx_ocp_core.models.storage.CephClusters'] Any: ");
        let file = r#"{"phase": "Error", "ceph": {"health": "HEALTH_ERR"}}"#;
        assert_eq!(run(&RULE, &[(OLD, file)]), skipped);
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "null")]), skipped);
        let class = [(
            "config/storage/storageclasses/a.json",
            r#"{"state": "Error", "phase": "x"}"#,
        )];
        assert_eq!(run(&RULE, &class), skipped);
    }
}
