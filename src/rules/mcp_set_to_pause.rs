//! Paused machine config pools.
//!
//! Their nodes get no updates, and when a certificate is to be rotated they lose it. Reads
//! machine config pools. Reports `MCP_SET_TO_PAUSE`.

use serde_json::json;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.mcp_set_to_pause.report",
    detects: "Paused machine config pools: no updates and no certificate rotation for their nodes.",
    keys: &[Key::fail("MCP_SET_TO_PAUSE")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[
        ("kcs", &["https://access.redhat.com/solutions/5317441"]),
        (
            "jira",
            &[
                "https://issues.redhat.com/browse/INSIGHTOCP-109",
                "https://issues.redhat.com/browse/INSIGHTOCP-396",
            ],
        ),
    ],
    requires: Requires {
        all: &[Model::MachinePool],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let pools = context.archive.machine_pools();
    let mut paused: Vec<_> = pools
        .into_iter()
        .filter(|pool| pool.spec.paused)
        .map(|pool| pool.name())
        .collect();
    paused.sort_unstable();
    if paused.is_empty() {
        return Ok(None);
    }
    let paused = list(paused.into_iter().map(|name| json!({ "name": name })));
    respond("MCP_SET_TO_PAUSE", details! { "pause": paused })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PAUSED: &str = r#"{"metadata": {"name": "worker"}, "spec": {"paused": true}}"#;
    const RUNNING: &str = r#"{"metadata": {"name": "master"}, "spec": {"paused": false}}"#;

    #[test]
    fn names_paused_pools() {
        let files = [
            ("config/machineconfigpools/a.json", PAUSED),
            ("config/machineconfigpools/b.json", RUNNING),
            (
                "config/machineconfigpools/c.json",
                r#"{"spec": {"paused": true}}"#,
            ),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "MCP_SET_TO_PAUSE",
                json!({"pause": [{"name": "c"}, {"name": "worker"}]})
            )
        );
    }

    #[test]
    fn running_pools_are_well() {
        let odd = r#"{"spec": {"paused": "true"}}"#;
        for file in [RUNNING, odd, "{}"] {
            let files = [("config/machineconfigpools/a.json", file)];
            assert_eq!(run(&RULE, &files), Answer::Nothing, "{file}");
        }
    }

    #[test]
    fn without_pools_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.machine_pools.MachinePool'] Any: ")
        );
    }
}
