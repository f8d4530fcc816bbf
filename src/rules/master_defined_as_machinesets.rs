//! Control plane machines that a MachineSet manages.
//!
//! A MachineSet may replace them without regard to etcd's quorum. Reads machine sets. Reports
//! `MASTER_DEFINED_AS_MACHINESETS`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// Labels that say what the machines are.
const LABELS: [&str; 2] = [
    "machine.openshift.io/cluster-api-machine-role",
    "machine.openshift.io/cluster-api-machine-type",
];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.master_defined_as_machinesets.report",
    detects: "Control plane machines are managed by a MachineSet.",
    keys: &[Key::fail("MASTER_DEFINED_AS_MACHINESETS")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[
        ("jira", &["https://issues.redhat.com/browse/INSIGHTOCP-89"]),
        ("kcs", &["https://access.redhat.com/solutions/5238591"]),
    ],
    requires: Requires {
        all: &[Model::MachineSets],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let sets = context.archive.machine_sets();
    let mut names: Vec<_> = sets
        .into_iter()
        .filter(|set| {
            let labels = &set.spec.template.metadata.labels;
            LABELS
                .iter()
                .any(|label| labels.get(*label).is_some_and(|value| value == "master"))
        })
        .map(|set| set.name())
        .collect();
    names.sort_unstable();
    if names.is_empty() {
        return Ok(None);
    }
    respond(
        "MASTER_DEFINED_AS_MACHINESETS",
        details! { "result": list(names) },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn set(name: &str, label: &str, value: &str) -> String {
        json!({
            "metadata": {"name": name},
            "spec": {"template": {"metadata": {"labels": {label: value}}}},
        })
        .to_string()
    }

    #[test]
    fn names_machine_sets_of_masters() {
        let [b, a, c] = [
            set("b", LABELS[0], "master"),
            set("a", LABELS[1], "master"),
            set("c", LABELS[0], "worker"),
        ];
        let files = [
            ("machinesets/openshift-machine-api/1.json", b.as_str()),
            ("machinesets/2.json", &a),
            ("machinesets/3", &c),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "MASTER_DEFINED_AS_MACHINESETS",
                json!({"result": ["a", "b"]})
            )
        );
        assert_eq!(run(&RULE, &files[2..]), Answer::Nothing);
    }

    #[test]
    fn without_machine_sets_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.machine_sets.MachineSets'] Any: ")
        );
    }
}
