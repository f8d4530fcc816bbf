//! Thousands of operator install plans pile up.
//!
//! They make the operator life-cycle manager and etcd slow. Reads the counts of install plans.
//! Reports `INSTALL_PLANS_BUILDUP`.

use std::cmp::Reverse;

use serde_json::json;

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// Install plans of the whole cluster from which on there are too many. Ours.
const TOTAL: i64 = 1000;
/// Install plans of one service version in one namespace from which on there are too many. Ours.
const OF_ONE_VERSION: i64 = 100;
/// Most groups in details.
const GROUPS: usize = 20;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.install_plans_buildup.report",
    detects: "Thousands of operator install plans pile up.",
    keys: &[Key::fail("INSTALL_PLANS_BUILDUP")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::InstallPlans],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let Some(plans) = context.archive.install_plans() else {
        return Ok(None);
    };
    let mut groups: Vec<_> = plans
        .items
        .iter()
        .filter_map(|group| Some((Reverse(group.count?), group)))
        .filter(|(Reverse(count), _)| *count >= OF_ONE_VERSION)
        .collect();
    if plans.stats.total < TOTAL && groups.is_empty() {
        return Ok(None);
    }
    groups.sort_by_key(|(count, group)| (*count, &group.name, &group.namespace, &group.csv));
    let groups: Vec<_> = groups
        .into_iter()
        .take(GROUPS)
        .map(|(Reverse(count), group)| {
            json!({ "ns": group.namespace, "name": group.name, "csv": group.csv, "count": count })
        })
        .collect();
    respond(
        "INSTALL_PLANS_BUILDUP",
        details! { "total_count": plans.stats.total, "install_plans": groups },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATHS: [&str; 3] = [
        "config/installplans.json",
        "config/install_plans",
        "config/install_plans.json",
    ];

    fn group(ns: &str, csv: &str, count: i64) -> Value {
        json!({"ns": ns, "name": "install-", "csv": csv, "count": count})
    }

    fn answer(total: &Value, items: &Value) -> Answer {
        let file =
            json!({"stats": {"TOTAL_COUNT": total, "TOTAL_NONUNIQ_COUNT": 1}, "items": items});
        run(&RULE, &[(PATHS[0], &file.to_string())])
    }

    #[test]
    fn tells_the_most_frequent_first_in_every_layout() {
        let file = json!({
            "stats": {"TOTAL_COUNT": 1893},
            "items": [
                group("a", "rare.v1", 99),
                group("b", "often.v1", 100),
                group("openshift-storage", "lib-bucket-provisioner.v1.0.0", 1802),
                group("a", "often.v1", 100),
                {"ns": "a", "count": "500"},
            ],
        })
        .to_string();
        for path in PATHS {
            assert_eq!(
                run(&RULE, &[(path, &file)]),
                found(
                    "INSTALL_PLANS_BUILDUP",
                    json!({"total_count": 1893, "install_plans": [
                        group("openshift-storage", "lib-bucket-provisioner.v1.0.0", 1802),
                        group("a", "often.v1", 100),
                        group("b", "often.v1", 100),
                    ]})
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn either_limit_is_enough() {
        let none = json!(null);
        for (total, items, hits) in [
            (json!(1000), &none, true),
            (json!(999), &none, false),
            (json!("1000"), &none, false),
            (json!(0), &json!([group("a", "b", 100)]), true),
            (none.clone(), &json!([group("a", "b", 100)]), true),
            (json!(0), &json!([group("a", "b", 99)]), false),
        ] {
            let answer = answer(&total, items);
            assert_eq!(answer != Answer::Nothing, hits, "{total} {items}");
        }
    }

    #[test]
    fn twenty_groups_are_told() {
        let items: Vec<_> = (0..21).map(|count| group("a", "b", 100 + count)).collect();
        let Answer::Found(_, details) = answer(&json!(5000), &json!(items)) else {
            panic!("many install plans do not hit");
        };
        let details: Value = serde_json::from_str(&details).unwrap();
        assert_eq!(details["install_plans"].as_array().unwrap().len(), GROUPS);
        assert_eq!(details["install_plans"][0]["count"], 120);
    }

    #[test]
    fn without_counts_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.install_plans.InstallPlans'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATHS[0], "[]"), (PATHS[2], "{")]), skipped);
    }
}
