//! Machine config pools with more unavailable machines than may be unavailable.
//!
//! The machine config operator then starts on no further machine, so the pool's update never
//! ends. Reads machine config pools. Reports `MACHINECONFIGPOOL_MAXUNAVAILABLE`.

use serde_json::{Value, json};

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::MachinePool;

/// Machines that may be unavailable where nothing is configured: the operator's default. Also
/// what a percentage comes to at least.
const DEFAULT: i64 = 1;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.machineconfigpool_maxunavailable.report",
    detects: "A pool has more unavailable machines than it may have, so its update never finishes.",
    keys: &[Key::fail("MACHINECONFIGPOOL_MAXUNAVAILABLE")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
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
    pools.retain(|pool| unavailable(pool) > most_unavailable(pool).0);
    pools.sort_by_key(|pool| pool.name());
    if pools.is_empty() {
        return Ok(None);
    }
    let pools = list(pools.into_iter().map(|pool| {
        details! {
            "name": pool.name(),
            "unavailable_machine_count": unavailable(pool.document()),
            "max_unavailable": most_unavailable(pool.document()).1,
        }
    }));
    respond(
        "MACHINECONFIGPOOL_MAXUNAVAILABLE",
        details! { "pools": pools },
    )
}

fn unavailable(pool: &MachinePool) -> i64 {
    pool.status.unavailable_machine_count.unwrap_or(0)
}

/// How many machines may be unavailable, and how that is configured.
fn most_unavailable(pool: &MachinePool) -> (i64, Value) {
    let configured = pool.spec.max_unavailable.as_ref().and_then(|value| {
        let machines = match value {
            Value::Number(number) => number.as_i64()?,
            Value::String(text) => {
                let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
                let machines = pool.status.machine_count.unwrap_or(0);
                percent
                    .saturating_mul(machines)
                    .div_euclid(100)
                    .max(DEFAULT)
            }
            _ => return None,
        };
        Some((machines, value.clone()))
    });
    configured.unwrap_or_else(|| (DEFAULT, json!(DEFAULT)))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn pool(max: Value, unavailable: Value, machines: Value) -> String {
        json!({
            "metadata": {"name": "worker"},
            "spec": {"maxUnavailable": max},
            "status": {"unavailableMachineCount": unavailable, "machineCount": machines},
        })
        .to_string()
    }

    fn answer(max: Value, unavailable: i64, machines: i64) -> Answer {
        let pool = pool(max, json!(unavailable), json!(machines));
        run(&RULE, &[("config/machineconfigpools/worker.json", &pool)])
    }

    fn hit(unavailable: i64, max: Value) -> Answer {
        found(
            "MACHINECONFIGPOOL_MAXUNAVAILABLE",
            json!({"pools": [
                {"name": "worker", "unavailable_machine_count": unavailable, "max_unavailable": max},
            ]}),
        )
    }

    #[test]
    fn one_machine_may_be_unavailable_where_nothing_is_configured() {
        for absent in [
            json!(null),
            json!(true),
            json!("two"),
            json!(1.5),
            json!([]),
        ] {
            assert_eq!(answer(absent.clone(), 2, 3), hit(2, json!(1)));
            assert_eq!(answer(absent, 1, 3), Answer::Nothing);
        }
    }

    #[test]
    fn a_number_is_the_limit() {
        assert_eq!(answer(json!(2), 2, 9), Answer::Nothing);
        assert_eq!(answer(json!(2), 3, 9), hit(3, json!(2)));
        assert_eq!(answer(json!(0), 1, 9), hit(1, json!(0)));
    }

    #[test]
    fn a_percentage_is_rounded_down_to_one_at_least() {
        assert_eq!(answer(json!("33%"), 2, 9), Answer::Nothing);
        assert_eq!(answer(json!("33%"), 3, 9), hit(3, json!("33%")));
        assert_eq!(answer(json!("10%"), 1, 9), Answer::Nothing);
        assert_eq!(answer(json!("10%"), 2, 9), hit(2, json!("10%")));
        assert_eq!(
            answer(json!("9223372036854775807%"), 5, i64::MAX),
            Answer::Nothing
        );
    }

    #[test]
    fn counts_that_cannot_be_read_are_none() {
        for odd in [json!("2"), json!(null), json!(-2), json!(1e300)] {
            let pool = pool(json!(null), odd, json!({}));
            let files = [("config/machineconfigpools/worker", pool.as_str())];
            assert_eq!(run(&RULE, &files), Answer::Nothing);
        }
    }

    #[test]
    fn without_pools_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.machine_pools.MachinePool'] Any: ");
        for files in [
            &[][..],
            &[("config/machineconfigpools/worker.json", "[{}]")],
        ] {
            assert_eq!(run(&RULE, files), skipped);
        }
    }
}
