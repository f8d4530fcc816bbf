//! Cluster monitoring without persistent storage.
//!
//! Metrics are lost whenever a Prometheus pod starts anew. Reads the monitoring configuration,
//! else what older archives or the pods themselves say, else that the configuration was looked
//! for and is not there. Reports `PROMETHEUS_DB_VOLUME_IS_EMPTY`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond};
use crate::archive::{Archive, Model};

/// Where the answer may come from, best first.
const SOURCES: &[Model] = &[
    Model::MonitoringConfig,
    Model::PrometheusStatefulSet,
    Model::Pods,
    Model::GathersReport,
];
const NAMESPACE: &str = "openshift-monitoring";
const POD_PREFIX: &str = "prometheus-k8s-";
const VOLUME: &str = "prometheus-k8s-db";
const GATHERER: &str = "clusterconfig/config_maps";
const NOT_FOUND: &str = "configmaps \"cluster-monitoring-config\" not found";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.empty_prometheus_db_volume.report",
    detects: "Cluster monitoring has no persistent storage, so metrics are lost when a Prometheus pod restarts.",
    keys: &[Key::fail("PROMETHEUS_DB_VOLUME_IS_EMPTY")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[(
        "jira",
        &[
            "https://issues.redhat.com/browse/INSIGHTOCP-51",
            "https://issues.redhat.com/browse/INSIGHTOCP-258",
            "https://issues.redhat.com/browse/INSIGHTOCP-439",
        ],
    )],
    requires: Requires {
        all: &[Model::ClusterVersion],
        any: &[SOURCES],
        optional: &[],
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let lacks_volume = lacks_volume(context.archive).ok_or_else(|| Skip::any_of(SOURCES))?;
    match context.archive.cluster_version().filter(|_| lacks_volume) {
        None => Ok(None),
        Some(version) => respond(
            "PROMETHEUS_DB_VOLUME_IS_EMPTY",
            details! { "ocp_branch": version.branch() },
        ),
    }
}

/// What the first source that knows says.
fn lacks_volume(archive: &Archive) -> Option<bool> {
    if let Some(config) = archive.monitoring_config() {
        return Some(!config.prometheus_has_volume);
    }
    if let Some(set) = archive.prometheus_stateful_set() {
        return Some(set.spec.volume_claim_templates.is_empty());
    }
    let mut pods = archive.pods();
    pods.retain(|pod| pod.namespace() == NAMESPACE && pod.name().starts_with(POD_PREFIX));
    if !pods.is_empty() {
        let mut volumes = pods.iter().flat_map(|pod| &pod.spec.volumes);
        return Some(volumes.any(|volume| volume.name == VOLUME && volume.empty_dir.is_some()));
    }
    // The gatherer ran and the configuration was not there: the default has no storage.
    let mut statuses = archive.gathers_report()?.status_reports.iter();
    statuses
        .any(|status| {
            status.name == GATHERER && status.errors.iter().any(|error| error.contains(NOT_FOUND))
        })
        .then_some(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const VERSION: (&str, &str) = (
        "config/version.json",
        r#"{"status": {"desired": {"version": "4.8.3"}}}"#,
    );
    const CONFIG: &str =
        "config/configmaps/openshift-monitoring/cluster-monitoring-config/config.json";
    const OLD_CONFIG: &str =
        "config/configmaps/openshift-monitoring/cluster-monitoring-config/config.yaml";
    const STATEFUL_SET: &str = "config/statefulsets/openshift-monitoring/prometheus-k8s.json";
    const POD: &str = "config/pod/openshift-monitoring/prometheus-k8s-0.json";
    const GATHERS: &str = "insights-operator/gathers.json";
    const GATHERED_NONE: &str = r#"{"status_reports": [{"name": "clusterconfig/config_maps",
        "errors": ["configmaps \"cluster-monitoring-config\" not found"]}]}"#;

    fn answer(files: &[(&'static str, &'static str)]) -> Answer {
        run(&RULE, &[&[VERSION], files].concat())
    }

    #[test]
    fn each_source_can_say_that_there_is_no_volume() {
        let hit = found(
            "PROMETHEUS_DB_VOLUME_IS_EMPTY",
            json!({"ocp_branch": "4.8"}),
        );
        for files in [
            &[(CONFIG, "{}")][..],
            &[(
                CONFIG,
                r#"{"prometheusK8s": {"volumeClaimTemplate": null}}"#,
            )],
            &[(OLD_CONFIG, "prometheusK8s:\n  retention: 7d\n")],
            &[(STATEFUL_SET, r#"{"spec": {"volumeClaimTemplates": null}}"#)],
            &[(
                POD,
                r#"{"spec": {"volumes": [{"name": "prometheus-k8s-db", "emptyDir": {}}]}}"#,
            )],
            &[(GATHERS, GATHERED_NONE)],
        ] {
            assert_eq!(answer(files), hit, "{files:?}");
        }
    }

    #[test]
    fn the_first_source_that_knows_decides() {
        for files in [
            &[
                (
                    CONFIG,
                    r#"{"prometheusK8s": {"volumeClaimTemplate": {"spec": {}}}}"#,
                ),
                (GATHERS, GATHERED_NONE),
            ][..],
            &[(
                OLD_CONFIG,
                "prometheusK8s:\n  volumeClaimTemplate:\n    spec: {}\n",
            )],
            &[
                (STATEFUL_SET, r#"{"spec": {"volumeClaimTemplates": [{}]}}"#),
                (GATHERS, GATHERED_NONE),
            ],
            &[(
                POD,
                r#"{"spec": {"volumes": [{"name": "prometheus-k8s-db", "emptyDir": null}]}}"#,
            )],
            &[(POD, "{}"), (GATHERS, GATHERED_NONE)],
        ] {
            assert_eq!(answer(files), Answer::Nothing, "{files:?}");
        }
    }

    #[test]
    fn where_nothing_decides_it_is_skipped() {
        let sources = "['ccx_ocp_core.models.monitoring.MonitoringConfig', \
             'ccx_ocp_core.models.monitoring.PrometheusStatefulSet', \
             'ccx_ocp_core.models.pods.Pods', 'ccx_ocp_core.models.insights.GathersReport']";
        let undecided = skip(&format!("All: [] Any: {sources}"));
        let other = ("config/pod/openshift-monitoring/alertmanager-0.json", "{}");
        assert_eq!(answer(&[other, (GATHERS, "{}")]), undecided);
        assert_eq!(answer(&[]), undecided);
        let version = "['ccx_ocp_core.models.version.ClusterVersion']";
        assert_eq!(
            run(&RULE, &[]),
            skip(&format!("All: {version} Any: {sources}"))
        );
        assert_eq!(run(&RULE, &[other]), skip(&format!("All: {version} Any: ")));
    }
}
