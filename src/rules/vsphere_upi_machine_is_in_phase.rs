//! On user-provisioned vSphere clusters, machines that are not running.
//!
//! There the machine API cannot make nodes of machines, so such objects are left-overs that
//! alerts fire for. Reads the infrastructure, machines, and metrics for how the cluster was
//! installed. Reports `VSPHERE_UPI_MACHINE_WITH_NO_RUNNING_PHASE`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::{Archive, Model};

const PLATFORM: &str = "VSphere";
/// The series that tells the installer, and the type of the one that provisions machines.
const SERIES: &str = "cluster_installer";
const PROVISIONS: &str = "openshift-install";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.vsphere_upi_machine_is_in_phase.report",
    detects: "On user-provisioned vSphere clusters, Machine objects that are not Running.",
    keys: &[Key::fail("VSPHERE_UPI_MACHINE_WITH_NO_RUNNING_PHASE")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Infrastructure, Model::Machines],
        optional: &[Model::Metrics],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let archive = context.archive;
    let platform = archive.infrastructure().map(|found| found.platform());
    if platform != Some(PLATFORM) || has_provisioned_machines(archive) {
        return Ok(None);
    }
    let mut machines = archive.machines();
    machines.retain(|machine| machine.status.phase.as_deref() != Some("Running"));
    machines.sort_by_key(|machine| (machine.name(), machine.namespace()));
    if machines.is_empty() {
        return Ok(None);
    }
    let machines = list(
        machines
            .into_iter()
            .map(|machine| details! { "name": machine.name(), "phase": machine.status.phase }),
    );
    respond(
        "VSPHERE_UPI_MACHINE_WITH_NO_RUNNING_PHASE",
        details! { "machines": machines },
    )
}

/// Whether the installer made the machines. Of series with two types one is enough: machines
/// that are made by the cluster are the safer assumption.
fn has_provisioned_machines(archive: &Archive) -> bool {
    archive.metrics().is_some_and(|metrics| {
        let mut installers = metrics.series(SERIES);
        installers.any(|installer| installer.label("type") == PROVISIONS)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const INFRASTRUCTURE: &str = "config/infrastructure.json";
    const MACHINE: &str = "config/machines/openshift-machine-api/c1-worker-0.json";
    const VSPHERE: &str = r#"{"status": {"platformStatus": {"type": "VSphere"}}}"#;
    const PROVISIONING: &str = r#"{"status": {"phase": "Provisioning"}}"#;

    fn hit(phase: Option<&str>) -> Answer {
        found(
            "VSPHERE_UPI_MACHINE_WITH_NO_RUNNING_PHASE",
            json!({"machines": [{"name": "c1-worker-0", "phase": phase}]}),
        )
    }

    fn answer(infrastructure: &str, machine: &str, metrics: &[(&str, &str)]) -> Answer {
        let files = [(INFRASTRUCTURE, infrastructure), (MACHINE, machine)];
        run(&RULE, &[&files, metrics].concat())
    }

    #[test]
    fn machines_in_another_phase_or_none_hit() {
        assert_eq!(
            answer(VSPHERE, PROVISIONING, &[]),
            hit(Some("Provisioning"))
        );
        assert_eq!(answer(VSPHERE, "{}", &[]), hit(None));
        let running = r#"{"status": {"phase": "Running"}}"#;
        assert_eq!(answer(VSPHERE, running, &[]), Answer::Nothing);
        let files = [
            (INFRASTRUCTURE, VSPHERE),
            ("config/machines/z.json", "{}"),
            ("config/machines/a.json", running),
            ("config/machines/b.json", "{"),
            ("config/machines/c.json", PROVISIONING),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "VSPHERE_UPI_MACHINE_WITH_NO_RUNNING_PHASE",
                json!({"machines": [
                    {"name": "c", "phase": "Provisioning"},
                    {"name": "z", "phase": null},
                ]})
            )
        );
    }

    #[test]
    fn only_vsphere_counts_by_either_field() {
        let old = r#"{"status": {"platform": "VSphere"}}"#;
        assert_eq!(answer(old, PROVISIONING, &[]), hit(Some("Provisioning")));
        for other in [
            "{}",
            r#"{"status": {"platform": "None"}}"#,
            r#"{"status": {"platform": "VSphere", "platformStatus": {"type": "None"}}}"#,
        ] {
            assert_eq!(answer(other, PROVISIONING, &[]), Answer::Nothing, "{other}");
        }
    }

    #[test]
    fn clusters_whose_installer_made_the_machines_are_left_out() {
        let other = "cluster_installer{type=\"other\"} 1 1592829361218\n";
        let provisions = "cluster_installer{type=\"openshift-install\"} 1 1592829361218\n";
        let both = format!("{other}{provisions}");
        for (text, expected) in [
            (other, hit(Some("Provisioning"))),
            ("up 1\n", hit(Some("Provisioning"))),
            (provisions, Answer::Nothing),
            (&both, Answer::Nothing),
        ] {
            let metrics = [("config/metrics", text)];
            assert_eq!(answer(VSPHERE, PROVISIONING, &metrics), expected, "{text}");
        }
    }

    #[test]
    fn both_models_are_needed() {
        let infrastructure = "'ccx_ocp_core.models.infrastructure.Infrastructure'";
        let machines = "'ccx_ocp_core.models.machines.Machines'";
        let both = skip(&format!("All: [{infrastructure}, {machines}] Any: "));
        assert_eq!(run(&RULE, &[]), both);
        assert_eq!(answer("null", "{", &[]), both);
        let one = skip(&format!("All: [{machines}] Any: "));
        assert_eq!(answer(VSPHERE, "[]", &[]), one);
    }
}
