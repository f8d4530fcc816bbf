//! The managed image registry stores images in an emptyDir.
//!
//! Every restart of its pod loses them. Reads the image registry's configuration. Reports
//! `IMAGE_REGISTRY_EPHEMERAL_STORAGE`.

use serde_json::Value;

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.image_registry_ephemeral_storage.report",
    detects: "The managed image registry stores images in an emptyDir.",
    keys: &[Key::fail("IMAGE_REGISTRY_EPHEMERAL_STORAGE")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ImageRegistryConfig],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let Some(registry) = context.archive.image_registry_config() else {
        return Ok(None);
    };
    let spec = &registry.spec;
    // `emptyDir: null` is how an unset storage may be written.
    let ephemeral = spec
        .storage
        .as_ref()
        .and_then(|storage| storage.get("emptyDir"))
        .is_some_and(Value::is_object);
    if spec.management_state != "Managed" || !ephemeral {
        return Ok(None);
    }
    respond(
        "IMAGE_REGISTRY_EPHEMERAL_STORAGE",
        details! {
            "replicas": spec.replicas.unwrap_or_default(),
            "management_state": spec.management_state,
        },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const NEW: &str =
        "config/clusteroperator/imageregistry.operator.openshift.io/config/cluster.json";
    const OLD: &str = "config/imageregistry.json";
    const EPHEMERAL: &str = r#"{"spec": {"managementState": "Managed", "replicas": 1,
        "storage": {"emptyDir": {}, "managementState": "Managed"}}}"#;

    #[test]
    fn an_empty_dir_hits_in_both_layouts() {
        let hit = found(
            "IMAGE_REGISTRY_EPHEMERAL_STORAGE",
            json!({"replicas": 1, "management_state": "Managed"}),
        );
        assert_eq!(run(&RULE, &[(NEW, EPHEMERAL)]), hit);
        assert_eq!(run(&RULE, &[(OLD, EPHEMERAL)]), hit);
    }

    #[test]
    fn lasting_storage_or_a_registry_that_is_not_managed_is_well() {
        for spec in [
            r#"{"managementState": "Removed", "storage": {"emptyDir": {}}}"#,
            r#"{"managementState": "Managed", "storage": {"emptyDir": null}}"#,
            r#"{"managementState": "Managed", "storage": {"s3": {}}}"#,
            r#"{"managementState": "Managed", "storage": []}"#,
            r#"{"managementState": "Managed"}"#,
            "null",
        ] {
            let file = format!(r#"{{"spec": {spec}}}"#);
            assert_eq!(run(&RULE, &[(NEW, &file)]), Answer::Nothing, "{spec}");
        }
    }

    #[test]
    fn without_the_configuration_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.image_registry.ImageRegistryConfig'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(NEW, "{")]), skipped);
    }
}
