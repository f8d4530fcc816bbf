//! The state of every machine config pool.
//!
//! For those who run the service, who read it beside the other answers. Its values are lists,
//! which the aggregator refuses, so it stays in the internal profile. Reads pools. Informs as
//! `MACHINE_POOL_INFO`.

use super::details::{details, list, pool};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.machine_pool_info.report",
    detects: "State of all machine config pools.",
    keys: &[Key::info("MACHINE_POOL_INFO")],
    profile: RuleProfile::Internal,
    enabled_by_default: true,
    total_risk: None,
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::MachinePool],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut pools = context.archive.machine_pools();
    pools.sort_by_key(|pool| pool.name());
    let machines = list(pools.into_iter().map(pool));
    respond("MACHINE_POOL_INFO", details! { "machines": machines })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{found, run, skip};
    use super::*;

    #[test]
    fn tells_every_pool_by_name() {
        let files = [
            (
                "config/machineconfigpools/1.json",
                r#"{"metadata": {"name": "worker"}}"#,
            ),
            (
                "config/machineconfigpools/2",
                r#"{"metadata": {"name": "master"}, "status": {"conditions": [
                    {"type": "Updated", "status": "True", "lastTransitionTime": "t"}]}}"#,
            ),
            ("config/machineconfigpools/broken.json", "{"),
        ];
        let none = json!({"status": null, "last_trans_time": null, "reason": "", "message": ""});
        let updated = json!({"status": true, "last_trans_time": "t", "reason": "", "message": ""});
        let pool = |name, updated| {
            json!({
                "name": name,
                "degraded": none,
                "node_degraded": none,
                "render_degraded": none,
                "updated": updated,
                "updating": none,
            })
        };
        assert_eq!(
            run(&RULE, &files),
            found(
                "MACHINE_POOL_INFO",
                json!({"machines": [pool("master", &updated), pool("worker", &none)]})
            )
        );
    }

    #[test]
    fn without_pools_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.machine_pools.MachinePool'] Any: ")
        );
    }
}
