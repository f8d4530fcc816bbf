//! The image registry is degraded because it has no storage.
//!
//! Images can be neither pushed nor pulled. Reads operators, the registry's configuration and
//! pods. Where the condition does not hold it is skipped, as downstream knows it: with each
//! component of the registry's family of rules that is missing. Reports
//! `IMAGE_REGISTRY_NO_VOLUME_SET`.

use serde_json::Value;

use super::details::{details, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond};
use crate::archive::documents::{Condition, Conditions as _, Found, Operator, Pod};
use crate::archive::{Archive, Model};

const OPERATOR: &str = "image-registry";
const NAMESPACE: &str = "openshift-image-registry";
const POD_PREFIX: &str = "image-registry-";
/// The field of the configured storage that is no back end.
const NO_BACK_END: &str = "managementState";

// The components, as skips name them.
const DEGRADED: &str =
    "ccx_rules_ocp.common.conditions.image_registry.DegradedImageRegistryOperator";
const POD: &str = "ccx_rules_ocp.common.conditions.image_registry.ImageRegistryPod";
const EMPTY_DIR: &str =
    "ccx_rules_ocp.common.conditions.image_registry.isImageRegistryPodEmptyDirVolume";
const PERSISTENT: &str =
    "ccx_rules_ocp.common.conditions.image_registry.isImageRegistryPodPersistentVolume";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.image_registry_no_volume_set_check.report",
    detects: "The image registry is degraded and its pod has neither a volume claim nor an emptyDir.",
    keys: &[Key::fail("IMAGE_REGISTRY_NO_VOLUME_SET")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        optional: &[Model::Operators, Model::ImageRegistryConfig, Model::Pods],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let degraded = degraded(context.archive);
    let lacks_storage = context
        .archive
        .image_registry_config()
        .is_some_and(lacks_storage);
    let Some(condition) = degraded.filter(|_| lacks_storage) else {
        let missing = missing(context.archive, degraded.is_some());
        return if missing.is_empty() {
            Ok(None)
        } else {
            Err(Skip {
                all: missing,
                ..Skip::default()
            })
        };
    };
    let info = details! {
        "name": OPERATOR,
        "condition": condition.kind,
        "reason": condition.reason,
        "message": message(&condition.message),
        "lastTransitionTime": condition.last_transition_time.as_deref().unwrap_or_default(),
    };
    respond("IMAGE_REGISTRY_NO_VOLUME_SET", details! { "info": info })
}

fn degraded(archive: &Archive) -> Option<&Condition> {
    archive
        .operators()
        .into_iter()
        .filter(|operator| operator.name() == OPERATOR)
        .find_map(|operator| operator.document().status.conditions.when_true("Degraded"))
}

/// Whether the registry is to run and no back end is configured.
fn lacks_storage(config: &Operator) -> bool {
    let back_end = |(name, value): (&String, &Value)| name != NO_BACK_END && !value.is_null();
    let storage = config.spec.storage.as_ref().and_then(Value::as_object);
    config.spec.management_state == "Managed"
        && !storage.is_some_and(|storage| storage.iter().any(back_end))
}

/// The components that are missing, in the order in which skips name them.
fn missing(archive: &Archive, degraded: bool) -> Vec<&'static str> {
    let pods: Vec<&Pod> = archive
        .pods()
        .into_iter()
        .filter(|pod| pod.namespace() == NAMESPACE && pod.name().starts_with(POD_PREFIX))
        .map(Found::document)
        .collect();
    let mut volumes = pods.iter().flat_map(|pod| &pod.spec.volumes);
    let empty_dir = volumes.clone().any(|volume| volume.empty_dir.is_some());
    let persistent = volumes.any(|volume| volume.persistent_volume_claim.is_some());
    [
        (degraded, DEGRADED),
        (!pods.is_empty(), POD),
        (empty_dir, EMPTY_DIR),
        (persistent, PERSISTENT),
    ]
    .into_iter()
    .filter(|(holds, _)| !holds)
    .map(|(_, component)| component)
    .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const CONFIG: &str =
        "config/clusteroperator/imageregistry.operator.openshift.io/config/cluster.json";
    const OLD_CONFIG: &str = "config/imageregistry.json";
    const NO_STORAGE: &str = r#"{"spec": {"managementState": "Managed", "storage": {}}}"#;

    fn operator(status: &str) -> String {
        json!({
            "metadata": {"name": "image-registry"},
            "status": {"conditions": [{
                "type": "Degraded", "status": status, "reason": "StorageNotConfigured",
                "message": "storage backend not configured",
                "lastTransitionTime": "2021-07-12T21:20:38Z",
            }]},
        })
        .to_string()
    }

    fn answer(status: &str, files: &[(&str, &str)]) -> Answer {
        let operator = operator(status);
        let operator = [(
            "config/clusteroperator/image-registry.json",
            operator.as_str(),
        )];
        run(&RULE, &[&operator, files].concat())
    }

    fn missing(components: &[&str]) -> Answer {
        let quoted: Vec<_> = components.iter().map(|name| format!("'{name}'")).collect();
        skip(&format!("All: [{}] Any: ", quoted.join(", ")))
    }

    #[test]
    fn degraded_without_a_back_end_hits() {
        let hit = found(
            "IMAGE_REGISTRY_NO_VOLUME_SET",
            json!({"info": {
                "name": "image-registry",
                "condition": "Degraded",
                "reason": "StorageNotConfigured",
                "message": "storage backend not configured",
                "lastTransitionTime": "2021-07-12T21:20:38Z",
            }}),
        );
        for file in [CONFIG, OLD_CONFIG, "config/imageregistry"] {
            assert_eq!(answer("True", &[(file, NO_STORAGE)]), hit, "{file}");
        }
        for storage in [
            json!(null),
            json!("s3"),
            json!({"emptyDir": null}),
            json!({"managementState": "Unmanaged"}),
        ] {
            let config = json!({"spec": {"managementState": "Managed", "storage": storage}});
            assert_eq!(answer("True", &[(CONFIG, &config.to_string())]), hit);
        }
    }

    #[test]
    fn otherwise_the_missing_components_are_told() {
        let all = missing(&[DEGRADED, POD, EMPTY_DIR, PERSISTENT]);
        assert_eq!(run(&RULE, &[]), all);
        for status in ["False", "Unknown", ""] {
            assert_eq!(answer(status, &[(CONFIG, NO_STORAGE)]), all);
        }
        let degraded_only = missing(&[POD, EMPTY_DIR, PERSISTENT]);
        for config in [
            r#"{"spec": {"managementState": "Removed", "storage": {}}}"#,
            r#"{"spec": {"managementState": "Managed", "storage": {"s3": {}}}}"#,
            r#"{"spec": {"managementState": "Managed", "storage": {"emptyDir": {}}}}"#,
            r#"{"spec": {}}"#,
            "{",
        ] {
            assert_eq!(answer("True", &[(CONFIG, config)]), degraded_only);
        }
    }

    #[test]
    fn the_volumes_of_the_registry_s_pods_decide_what_is_missing() {
        let stored = (
            CONFIG,
            r#"{"spec": {"managementState": "Managed", "storage": {"pvc": {"claim": "x"}}}}"#,
        );
        let pod = "config/pod/openshift-image-registry/image-registry-5b8c-x.json";
        let claim = r#"{"spec": {"volumes": [
            {"name": "registry-storage", "persistentVolumeClaim": {"claimName": "x"}}]}}"#;
        let empty = r#"{"spec": {"volumes": [{"name": "registry-storage", "emptyDir": {}}]}}"#;
        for (content, components) in [
            (claim, &[EMPTY_DIR][..]),
            (empty, &[PERSISTENT]),
            ("{}", &[EMPTY_DIR, PERSISTENT]),
            ("{", &[POD, EMPTY_DIR, PERSISTENT]),
        ] {
            let answer = answer("True", &[stored, (pod, content)]);
            assert_eq!(answer, missing(components), "{content}");
        }
        for other in [
            "config/pod/openshift-image-registry/cluster-image-registry-operator-x.json",
            "config/pod/default/image-registry-x.json",
        ] {
            let answer = answer("True", &[stored, (other, claim)]);
            assert_eq!(answer, missing(&[POD, EMPTY_DIR, PERSISTENT]), "{other}");
        }
        let second = "config/pod/openshift-image-registry/image-registry-5b8c-y.json";
        let both = [stored, (pod, claim), (second, empty)];
        assert_eq!(answer("True", &both), Answer::Nothing);
    }
}
