//! Endless creation of install plans for lib-bucket-provisioner.
//!
//! The plans fill etcd, and the operator life-cycle manager becomes slow. Reads the counts of
//! install plans; where there are few it is skipped, as downstream knows it. Reports
//! `LIB_BUCKET_PROVISIONER_INSTALL_PLANS_ISSUE`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond};
use crate::archive::Model;
use crate::archive::documents::InstallPlanGroup;

/// The condition, as skips name it.
const CONDITION: &str =
    "ccx_rules_ocp.external.rules.lib_bucket_provisioner_check.check_install_plans";
/// How the names of its service versions begin.
const PREFIX: &str = "lib-bucket-provisioner";
/// Install plans of one version in one namespace that are too many. An update makes one.
const MANY: i64 = 20;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.lib_bucket_provisioner_check.report",
    detects: "Endless creation of install plans for lib-bucket-provisioner.",
    keys: &[Key::fail("LIB_BUCKET_PROVISIONER_INSTALL_PLANS_ISSUE")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::InstallPlans],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let groups = context.archive.install_plans().map(|plans| &plans.items);
    let mut many: Vec<&InstallPlanGroup> = groups
        .into_iter()
        .flatten()
        .filter(|group| group.csv.starts_with(PREFIX))
        .filter(|group| group.count.is_some_and(|count| count >= MANY))
        .collect();
    if many.is_empty() {
        return Err(Skip::condition(CONDITION));
    }
    many.sort_by_key(|group| (&group.csv, &group.namespace));
    let many =
        list(many.into_iter().map(
            |group| details! { "ns": group.namespace, "csv": group.csv, "count": group.count },
        ));
    respond(
        "LIB_BUCKET_PROVISIONER_INSTALL_PLANS_ISSUE",
        details! { "install_plans": many },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const FILE: &str = "config/installplans.json";

    fn plans(csv: &str, count: Value) -> String {
        json!({"items": [
            {"ns": "openshift-storage", "csv": "ocs-operator.v4.6.0", "count": 500},
            {"ns": "openshift-storage", "csv": csv, "count": count},
        ]})
        .to_string()
    }

    fn answer(csv: &str, count: Value) -> Answer {
        run(&RULE, &[(FILE, &plans(csv, count))])
    }

    fn not_met() -> Answer {
        skip(&format!("All: ['{CONDITION}'] Any: "))
    }

    #[test]
    fn many_plans_hit_in_each_layout() {
        let plans = plans("lib-bucket-provisioner.v1.0.0", json!(142));
        for file in [FILE, "config/install_plans", "config/install_plans.json"] {
            assert_eq!(
                run(&RULE, &[(file, &plans)]),
                found(
                    "LIB_BUCKET_PROVISIONER_INSTALL_PLANS_ISSUE",
                    json!({"install_plans": [{
                        "ns": "openshift-storage",
                        "csv": "lib-bucket-provisioner.v1.0.0",
                        "count": 142,
                    }]})
                ),
                "{file}"
            );
        }
    }

    #[test]
    fn twenty_are_many() {
        let hit = answer("lib-bucket-provisioner.v2", json!(20));
        assert!(matches!(hit, Answer::Found(..)));
        for few in [json!(19), json!(null), json!("20"), json!({})] {
            assert_eq!(answer("lib-bucket-provisioner.v2", few), not_met());
        }
        assert_eq!(answer("my-lib-bucket-provisioner.v2", json!(20)), not_met());
    }

    #[test]
    fn without_plans_the_condition_is_missing_and_without_a_file_the_model() {
        for content in ["{}", r#"{"items": null}"#, r#"{"items": [null, 1, []]}"#] {
            assert_eq!(run(&RULE, &[(FILE, content)]), not_met());
        }
        let skipped = skip("All: ['ccx_ocp_core.models.install_plans.InstallPlans'] Any: ");
        for files in [&[][..], &[(FILE, "null")], &[(FILE, "{\"items\": [")]] {
            assert_eq!(run(&RULE, files), skipped);
        }
    }
}
