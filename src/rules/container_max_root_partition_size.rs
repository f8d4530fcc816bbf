//! Machine config pools without a limit on the size of a container's root file system.
//!
//! One container can then fill the disk of its node. Off, since nearly every cluster is so.
//! Reads machine config pools and container runtime configurations. Reports
//! `CONTAINER_ROOT_PARTITION_SIZE`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond};
use crate::archive::Model;

/// The condition that some pool lacks a limit; public reports show its absence as a skip.
const UNLIMITED: &str =
    "ccx_rules_ocp.external.rules.container_max_root_partition_size.check_container_runtime_config";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.container_max_root_partition_size.report",
    detects: "Machine config pools without a ContainerRuntimeConfig that limits the container root size.",
    keys: &[Key::fail("CONTAINER_ROOT_PARTITION_SIZE")],
    profile: RuleProfile::External,
    enabled_by_default: false,
    total_risk: Some(2),
    tags: &[],
    links: &[("kcs", &["https://access.redhat.com/solutions/5216861"])],
    requires: Requires {
        all: &[Model::MachinePool],
        optional: &[Model::ContainerRuntimeConfigs],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut limits = context.archive.container_runtime_configs();
    limits.retain(|config| is_limit(config.spec.settings.overlay_size.as_ref()));
    let pools = context.archive.machine_pools();
    // A set: of two pools with one name, each name is told once.
    let unlimited: BTreeSet<_> = pools
        .into_iter()
        // Every pool is held against every limit.
        .take_while(|_| !context.archive.is_over())
        .filter(|pool| {
            !limits
                .iter()
                .any(|limit| limit.spec.pools.matches(&pool.metadata.labels))
        })
        .map(|pool| pool.name())
        .collect();
    if unlimited.is_empty() {
        return Err(Skip::condition(UNLIMITED));
    }
    respond(
        "CONTAINER_ROOT_PARTITION_SIZE",
        details! { "mcps": list(unlimited) },
    )
}

/// Whether a size limits anything: neither empty nor zero.
fn is_limit(size: Option<&Value>) -> bool {
    match size {
        Some(Value::String(text)) => !text.is_empty() && text != "0",
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::super::testing::{Answer, found, reference_time, run, skip};
    use super::*;
    use crate::archive::Archive;
    use crate::rules::{Profile, Settings};

    const MASTER: &str = r#"{"metadata": {"name": "master", "labels": {"pool": "master"}}}"#;
    const WORKER: &str = r#"{"metadata": {"name": "worker", "labels": {"pool": "worker"}}}"#;

    fn answer(size: Value, selector: Value) -> Answer {
        let config = json!({"spec": {
            "containerRuntimeConfig": {"overlaySize": size}, "machineConfigPoolSelector": selector}});
        run(
            &RULE,
            &[
                ("config/machineconfigpools/worker.json", WORKER),
                ("config/machineconfigpools/other.json", WORKER),
                ("config/machineconfigpools/master.json", MASTER),
                ("config/containerruntimeconfigs/a.json", &config.to_string()),
            ],
        )
    }

    #[test]
    fn names_pools_without_a_limit() {
        let all = found(
            "CONTAINER_ROOT_PARTITION_SIZE",
            json!({"mcps": ["master", "worker"]}),
        );
        for size in [json!(null), json!(""), json!("0"), json!(0), json!([])] {
            assert_eq!(answer(size.clone(), json!({})), all, "{size}");
        }
        assert_eq!(
            answer(json!("8G"), json!({"matchLabels": {"pool": "master"}})),
            found("CONTAINER_ROOT_PARTITION_SIZE", json!({"mcps": ["worker"]}))
        );
    }

    /// As many pools as an archive may have, each held against as many limits, take hours.
    #[test]
    fn p07_pools_are_held_against_limits_until_the_deadline() {
        let config = json!({"spec": {"containerRuntimeConfig": {"overlaySize": "8G"}}}).to_string();
        let archive = Archive::from_files([
            ("config/machineconfigpools/master.json", MASTER),
            ("config/containerruntimeconfigs/a.json", config.as_str()),
        ]);
        let answered = |archive: &Archive| {
            let _ = check(&Context {
                archive,
                reference_time: reference_time(),
                profile: Profile::External,
                settings: &Settings::default(),
            });
            archive.is_late()
        };
        assert!(!answered(&archive));
        // Everything is read, so that nothing else looks at the clock.
        assert!(answered(&archive.until(Some(Instant::now()))));
    }

    #[test]
    fn with_a_limit_for_every_pool_it_is_skipped() {
        let skipped = skip(
            "All: ['ccx_rules_ocp.external.rules.container_max_root_partition_size.check_container_runtime_config'] Any: ",
        );
        assert_eq!(answer(json!("8G"), json!({})), skipped);
        assert_eq!(answer(json!(8_000_000), json!(null)), skipped);
    }

    #[test]
    fn without_pools_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.machine_pools.MachinePool'] Any: ")
        );
    }
}
