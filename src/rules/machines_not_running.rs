//! Machines that failed, or hang in provisioning or deletion.
//!
//! They cost money and are no nodes. Reads machines. Reports `MACHINES_NOT_RUNNING`.

use time::{Duration, OffsetDateTime};

use super::details::{details, list, message};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Machine, timestamp};

/// How long it may take to create or delete a machine.
const PATIENCE: Duration = Duration::hours(1);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.machines_not_running.report",
    detects: "Machines that failed or hang in provisioning or deletion.",
    keys: &[Key::fail("MACHINES_NOT_RUNNING")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Machines],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut machines = context.archive.machines();
    machines.retain(|machine| is_broken(machine, context.reference_time));
    machines.sort_by_key(|machine| (machine.name(), machine.namespace()));
    if machines.is_empty() {
        return Ok(None);
    }
    let machines = list(machines.into_iter().map(|machine| {
        details! {
            "name": machine.name(),
            "namespace": machine.namespace(),
            "phase": machine.status.phase,
            "error_reason": error_reason(machine.document()),
            "error_message": message(error_message(machine.document())),
        }
    }));
    respond("MACHINES_NOT_RUNNING", details! { "machines": machines })
}

fn is_broken(machine: &Machine, now: OffsetDateTime) -> bool {
    let since = match machine.status.phase.as_deref() {
        Some("Failed") => return true,
        Some("Running") => "",
        Some("Deleting") => &machine.metadata.deletion_timestamp,
        _ => &machine.metadata.creation_timestamp,
    };
    let hangs = timestamp::parse(since).is_some_and(|since| now - since > PATIENCE);
    hangs || !error_reason(machine).is_empty()
}

/// Older and newer versions of the API have two names for it.
fn error_reason(machine: &Machine) -> &str {
    either(&machine.status.error_reason, &machine.status.failure_reason)
}

fn error_message(machine: &Machine) -> &str {
    either(
        &machine.status.error_message,
        &machine.status.failure_message,
    )
}

fn either<'a>(first: &'a str, second: &'a str) -> &'a str {
    if first.is_empty() { second } else { first }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const FILE: &str = "config/machines/openshift-machine-api/c1-worker-a-x.json";
    /// The reference time of the tests is 2021-07-13T07:16:44Z.
    const HOUR_AGO: &str = "2021-07-13T06:16:44Z";
    const LONGER_AGO: &str = "2021-07-13T06:16:43Z";

    fn answer(metadata: Value, status: Value) -> Answer {
        let machine = json!({"metadata": metadata, "status": status});
        run(&RULE, &[(FILE, &machine.to_string())])
    }

    fn hit(phase: Value, reason: &str, message: &str) -> Answer {
        found(
            "MACHINES_NOT_RUNNING",
            json!({"machines": [{
                "name": "c1-worker-a-x",
                "namespace": "openshift-machine-api",
                "phase": phase,
                "error_reason": reason,
                "error_message": message,
            }]}),
        )
    }

    #[test]
    fn a_failed_machine_hits_at_once() {
        let failed = json!({
            "phase": "Failed",
            "errorReason": "InvalidConfiguration",
            "errorMessage": "no such flavour",
        });
        let expected = hit(json!("Failed"), "InvalidConfiguration", "no such flavour");
        assert_eq!(answer(json!({}), failed), expected);
        let bare = answer(json!({}), json!({"phase": "Failed", "errorReason": null}));
        assert_eq!(bare, hit(json!("Failed"), "", ""));
    }

    #[test]
    fn an_error_hits_in_any_phase_under_both_names() {
        for (reason, message) in [
            ("errorReason", "errorMessage"),
            ("failureReason", "failureMessage"),
        ] {
            let status = json!({"phase": "Running", reason: "CreateError", message: "quota"});
            let expected = hit(json!("Running"), "CreateError", "quota");
            assert_eq!(answer(json!({}), status), expected);
        }
    }

    #[test]
    fn an_hour_is_time_enough() {
        for phase in [
            json!("Provisioning"),
            json!("Provisioned"),
            json!(""),
            json!(null),
        ] {
            let after = |created: &str| {
                answer(
                    json!({"creationTimestamp": created}),
                    json!({"phase": phase}),
                )
            };
            assert_eq!(after(LONGER_AGO), hit(phase.clone(), "", ""));
            assert_eq!(after(HOUR_AGO), Answer::Nothing);
            assert_eq!(after("2022-01-01T00:00:00Z"), Answer::Nothing);
            assert_eq!(after("long ago"), Answer::Nothing);
        }
    }

    #[test]
    fn deletion_counts_from_its_own_start() {
        let deleting = |deleted: Value| {
            let created = "2020-01-01T00:00:00Z";
            let metadata = json!({"creationTimestamp": created, "deletionTimestamp": deleted});
            answer(metadata, json!({"phase": "Deleting"}))
        };
        assert_eq!(deleting(json!(LONGER_AGO)), hit(json!("Deleting"), "", ""));
        assert_eq!(deleting(json!(HOUR_AGO)), Answer::Nothing);
        assert_eq!(deleting(json!(null)), Answer::Nothing);
    }

    #[test]
    fn running_machines_are_well() {
        let metadata = json!({"creationTimestamp": "2020-01-01T00:00:00Z"});
        assert_eq!(
            answer(metadata, json!({"phase": "Running"})),
            Answer::Nothing
        );
        assert_eq!(run(&RULE, &[(FILE, "{}")]), Answer::Nothing);
    }

    #[test]
    fn without_machines_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.machines.Machines'] Any: ");
        for files in [&[][..], &[(FILE, "null")], &[(FILE, "{\"status\": ")]] {
            assert_eq!(run(&RULE, files), skipped);
        }
    }
}
