//! Operators whose configuration resource is set to the Unmanaged state.
//!
//! They are not supported and block updates. Reads the resources of operators. Reports
//! `OPERATOR_UNMANAGED`.

use std::collections::BTreeSet;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.operator_unmanaged.report",
    detects: "Operators whose configuration resource is set to the Unmanaged state.",
    keys: &[Key::fail("OPERATOR_UNMANAGED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[
        ("jira", &["https://issues.redhat.com/browse/INSIGHTOCP-49"]),
        (
            "Documentation",
            &[
                "https://docs.openshift.com/container-platform/4.4/architecture/architecture-installation.html#unmanaged-operators_architecture-installation",
            ],
        ),
    ],
    requires: Requires {
        all: &[Model::OperatorResources],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let resources = context.archive.operator_resources();
    let unmanaged: BTreeSet<_> = resources
        .into_iter()
        .filter(|resource| resource.spec.management_state == "Unmanaged")
        .map(|resource| {
            let (group, kind) = resource.group_and_kind();
            operator_name(group, kind)
        })
        .collect();
    if unmanaged.is_empty() {
        return Ok(None);
    }
    respond(
        "OPERATOR_UNMANAGED",
        details! { "unmanaged_operators": list(unmanaged) },
    )
}

/// The ClusterOperator to which a resource belongs.
pub(super) fn operator_name<'a>(group: &str, kind: &'a str) -> &'a str {
    match (group, kind) {
        ("samples.operator.openshift.io", "config") => "openshift-samples",
        ("imageregistry.operator.openshift.io", "config") => "image-registry",
        ("operator.openshift.io", "config") => "config-operator",
        (_, "csisnapshotcontroller") => "csi-snapshot-controller",
        (_, "cloudcredential") => "cloud-credential",
        (_, "kubeapiserver") => "kube-apiserver",
        (_, "kubecontrollermanager") => "kube-controller-manager",
        (_, "kubescheduler") => "kube-scheduler",
        (_, "kubestorageversionmigrator") => "kube-storage-version-migrator",
        (_, "openshiftapiserver") => "openshift-apiserver",
        (_, "openshiftcontrollermanager") => "openshift-controller-manager",
        (_, "serviceca") => "service-ca",
        (_, "insightsoperator") => "insights",
        (_, "ingresscontroller") => "ingress",
        (_, kind) => kind,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const UNMANAGED: &str = r#"{"spec": {"managementState": "Unmanaged"}}"#;

    #[test]
    fn names_operators_by_the_paths_of_their_resources() {
        let files = [
            (
                "config/clusteroperator/operator.openshift.io/storage/cluster.json",
                UNMANAGED,
            ),
            (
                "config/clusteroperator/operator.openshift.io/config/cluster.json",
                UNMANAGED,
            ),
            (
                "config/clusteroperator/samples.operator.openshift.io/config/cluster.json",
                UNMANAGED,
            ),
            (
                "config/clusteroperator/imageregistry.operator.openshift.io/config/cluster.json",
                UNMANAGED,
            ),
            (
                "config/clusteroperator/operator.openshift.io/ingresscontroller/ns/a.json",
                UNMANAGED,
            ),
            (
                "config/clusteroperator/operator.openshift.io/ingresscontroller/ns/b.json",
                UNMANAGED,
            ),
            (
                "config/clusteroperator/operator.openshift.io/etcd/cluster.json",
                r#"{"spec": {"managementState": "unmanaged"}}"#,
            ),
            (
                "config/clusteroperator/kubescheduler-cluster.json",
                r#"{"apiVersion": "operator.openshift.io/v1", "kind": "KubeScheduler", "spec": {"managementState": "Unmanaged"}}"#,
            ),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "OPERATOR_UNMANAGED",
                json!({"unmanaged_operators": [
                    "config-operator", "image-registry", "ingress", "kube-scheduler",
                    "openshift-samples", "storage",
                ]})
            )
        );
    }

    #[test]
    fn managed_operators_are_well() {
        let files = [(
            "config/clusteroperator/operator.openshift.io/etcd/cluster.json",
            r#"{"spec": {"managementState": "Managed"}}"#,
        )];
        assert_eq!(run(&RULE, &files), Answer::Nothing);
    }

    #[test]
    fn cluster_operators_are_no_resources() {
        let skipped = skip("All: ['ccx_ocp_core.models.operators.OperatorResources'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        let operator = r#"{"kind": "ClusterOperator", "spec": {"managementState": "Unmanaged"}}"#;
        assert_eq!(
            run(
                &RULE,
                &[("config/clusteroperator/image-registry.json", operator)]
            ),
            skipped
        );
    }
}
