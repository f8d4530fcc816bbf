//! Cordoned nodes.
//!
//! They take no new pods, so the cluster has less room than it seems to have. While a machine
//! config pool is being updated its nodes are cordoned in turn, so then nothing is said. Reads
//! nodes and machine config pools. Reports `NODES_UNSCHEDULABLE`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::Conditions as _;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.nodes_unschedulable.report",
    detects: "Cordoned nodes.",
    keys: &[Key::fail("NODES_UNSCHEDULABLE")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Nodes],
        optional: &[Model::MachinePool],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut nodes = context.archive.nodes();
    nodes.retain(|node| node.spec.unschedulable);
    let mut pools = context.archive.machine_pools().into_iter();
    if nodes.is_empty() || pools.any(|pool| pool.status.conditions.when_true("Updating").is_some())
    {
        return Ok(None);
    }
    nodes.sort_by_key(|node| node.name());
    let nodes = list(
        nodes
            .into_iter()
            .map(|node| details! { "name": node.name(), "role": node.role() }),
    );
    respond("NODES_UNSCHEDULABLE", details! { "nodes": nodes })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const CORDONED: &str = r#"{"spec": {"unschedulable": true}}"#;

    #[test]
    fn names_cordoned_nodes_unless_a_pool_is_being_updated() {
        let master = r#"{"spec": {"unschedulable": true},
            "metadata": {"labels": {"node-role.kubernetes.io/master": ""}}}"#;
        let nodes = [
            ("config/node/worker-0.json", CORDONED),
            ("config/node/master-0", master),
            ("config/node/worker-1.json", "{}"),
            ("config/node/worker-2.json", "{"),
        ];
        let hit = || {
            found(
                "NODES_UNSCHEDULABLE",
                json!({"nodes": [
                    {"name": "master-0", "role": "master"},
                    {"name": "worker-0", "role": "worker"},
                ]}),
            )
        };
        assert_eq!(run(&RULE, &nodes), hit());
        for (status, expected) in [("True", Answer::Nothing), ("False", hit()), ("", hit())] {
            let pool = json!({"status": {"conditions": [
                {"type": "Updating", "status": status},
            ]}})
            .to_string();
            let pools = [
                ("config/machineconfigpools/master.json", "{}"),
                ("config/machineconfigpools/worker.json", pool.as_str()),
            ];
            assert_eq!(run(&RULE, &[&nodes[..], &pools].concat()), expected);
        }
    }

    #[test]
    fn other_nodes_are_well() {
        for node in [
            "{}",
            r#"{"spec": {"unschedulable": false}}"#,
            r#"{"spec": {"unschedulable": "true"}}"#,
            r#"{"spec": null}"#,
        ] {
            assert_eq!(run(&RULE, &[("config/node/a.json", node)]), Answer::Nothing);
        }
    }

    #[test]
    fn without_nodes_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.nodes.Nodes'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[("config/node/a.json", "null")]), skipped);
    }
}
