//! The aggregated roles admin or edit grant every verb on every resource.
//!
//! Somebody added a role that all administrators of projects now have. Reads both roles. Reports
//! `CLUSTERROLES_WILDCARD_ACCESS`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::PolicyRule;

/// The roles that are meant for users of a project.
const ROLES: [&str; 2] = ["admin", "edit"];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.clusterroles_admin_edit_modified.report",
    detects: "The aggregated roles admin or edit grant every verb on every resource.",
    keys: &[Key::fail("CLUSTERROLES_WILDCARD_ACCESS")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ClusterRoles],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let roles = context.archive.cluster_roles();
    let mut modified: Vec<_> = roles
        .into_iter()
        .filter(|role| ROLES.contains(&role.name()) && role.rules.iter().any(allows_everything))
        .map(|role| role.name())
        .collect();
    modified.sort_unstable();
    if modified.is_empty() {
        return Ok(None);
    }
    respond(
        "CLUSTERROLES_WILDCARD_ACCESS",
        details! { "clusterroles": list(modified) },
    )
}

fn allows_everything(rule: &PolicyRule) -> bool {
    [&rule.api_groups, &rule.resources, &rule.verbs]
        .into_iter()
        .all(|names| names.iter().any(|name| name == "*"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const FOLDER: &str = "cluster-scoped-resources/rbac.authorization.k8s.io/clusterroles";

    fn role(name: &str, rules: &Value) -> String {
        json!({"metadata": {"name": name}, "rules": rules}).to_string()
    }

    fn everything() -> Value {
        json!({"apiGroups": ["apps", "*"], "resources": ["*"], "verbs": ["*", "get"]})
    }

    fn answer(name: &str, rules: &Value) -> Answer {
        let file = role(name, rules);
        run(&RULE, &[(&format!("{FOLDER}/{name}.json"), &file)])
    }

    #[test]
    fn names_roles_that_allow_everything() {
        let hit = |names: &[&str]| {
            found(
                "CLUSTERROLES_WILDCARD_ACCESS",
                json!({ "clusterroles": names }),
            )
        };
        assert_eq!(answer("edit", &json!([{}, everything()])), hit(&["edit"]));
        let rules = format!(r#"{{"rules": [{}]}}"#, everything());
        let paths = ["edit", "admin"].map(|name| format!("{FOLDER}/{name}.json"));
        let files = paths.each_ref().map(|path| (path.as_str(), rules.as_str()));
        assert_eq!(run(&RULE, &files), hit(&["admin", "edit"]));
    }

    #[test]
    fn one_part_that_is_not_a_wildcard_is_well() {
        for part in ["apiGroups", "resources", "verbs"] {
            for limited in [
                json!(["get"]),
                json!(["*/*"]),
                json!([]),
                json!(null),
                json!("*"),
            ] {
                let mut rule = everything();
                rule[part] = limited;
                assert_eq!(answer("admin", &json!([rule])), Answer::Nothing, "{rule}");
            }
        }
        assert_eq!(answer("admin", &json!(null)), Answer::Nothing);
    }

    #[test]
    fn other_roles_may_allow_it() {
        assert_eq!(
            answer("cluster-admin", &json!([everything()])),
            Answer::Nothing
        );
    }

    #[test]
    fn without_roles_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.rbac.ClusterRoles'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(
            run(&RULE, &[(&format!("{FOLDER}/edit.json"), "null")]),
            skipped
        );
    }
}
