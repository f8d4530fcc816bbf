//! Old versions in which taints of one's own evict the machine config daemon.
//!
//! Nodes with such taints are not updated any more. Reads nodes and the cluster version. Reports
//! `NODE_HAS_TAINTS_APPLIED`.

use super::details::details;
use super::{
    AFFECTED_VERSION, Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond,
};
use crate::archive::Model;
use crate::archive::documents::Taint;
use crate::archive::documents::version::Version;

/// The first version whose daemon tolerates every taint; the bound is ours.
const FIXED_IN: [u64; 3] = [4, 6, 0];
/// Prefixes of the platform's own taints.
const OWN_PREFIXES: [&str; 2] = ["node-role.kubernetes.io/", "node.kubernetes.io/"];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.machineconfig_stuck_by_node_taints.report",
    detects: "Old versions where custom node taints evict the machine config daemon.",
    keys: &[Key::fail("NODE_HAS_TAINTS_APPLIED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Nodes, Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let cluster = context.archive.cluster_version();
    let affected = cluster
        .and_then(|cluster| Some((cluster.current(), cluster.current_version()?)))
        .filter(|(_, version)| *version < Version::release(&FIXED_IN));
    let (current, version) = affected.ok_or(Skip::condition(AFFECTED_VERSION))?;
    if !context
        .archive
        .nodes()
        .iter()
        .any(|node| node.spec.taints.iter().any(evicts))
    {
        return Ok(None);
    }
    respond(
        "NODE_HAS_TAINTS_APPLIED",
        details! { "current_version": current, "ocp_branch": version.branch().to_string() },
    )
}

fn evicts(taint: &Taint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
        && !OWN_PREFIXES
            .iter()
            .any(|prefix| taint.key.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(version: &str, key: &str, effect: &str) -> Answer {
        let version = json!({"status": {"desired": {"version": version}}}).to_string();
        let node = json!({"spec": {"taints": [{"key": key, "effect": effect}]}}).to_string();
        run(
            &RULE,
            &[
                ("config/version.json", &version),
                ("config/node/a.json", &node),
            ],
        )
    }

    #[test]
    fn a_taint_of_ones_own_on_an_old_version_hits() {
        let hit = found(
            "NODE_HAS_TAINTS_APPLIED",
            json!({"current_version": "4.3.11", "ocp_branch": "4.3"}),
        );
        assert_eq!(answer("4.3.11", "dedicated", "NoSchedule"), hit);
        assert_eq!(answer("4.3.11", "dedicated", "NoExecute"), hit);
    }

    #[test]
    fn other_taints_do_not() {
        for (key, effect) in [
            ("dedicated", "PreferNoSchedule"),
            ("node-role.kubernetes.io/master", "NoSchedule"),
            ("node.kubernetes.io/unreachable", "NoExecute"),
        ] {
            assert_eq!(
                answer("4.3.11", key, effect),
                Answer::Nothing,
                "{key} {effect}"
            );
        }
    }

    #[test]
    fn newer_versions_are_skipped() {
        let skipped = skip(
            "All: ['ccx_ocp_core.utils.affected_version.ensure_is_affected_condition.<locals>.version_condition'] Any: ",
        );
        for version in ["4.6.0", "4.10.2", ""] {
            assert_eq!(answer(version, "dedicated", "NoSchedule"), skipped);
        }
        assert_eq!(
            run(&RULE, &[]),
            skip(
                "All: ['ccx_ocp_core.models.nodes.Nodes', 'ccx_ocp_core.models.version.ClusterVersion'] Any: "
            )
        );
    }
}
