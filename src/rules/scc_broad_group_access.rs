//! The privileged or anyuid security context constraint is open to broad groups.
//!
//! Any of their members may then run as root. Reads both constraints and the bindings of their
//! roles, which only archives of clusters with SAP workloads hold. Reports
//! `SCC_BROAD_GROUP_ACCESS`.

use serde_json::json;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// Groups that nearly everybody belongs to.
const BROAD: [&str; 3] = [
    "system:authenticated",
    "system:unauthenticated",
    "system:serviceaccounts",
];
/// Before the namespace in the group of all its service accounts.
const OF_NAMESPACE: &str = "system:serviceaccounts:";
/// Before the constraint in the role that allows its use.
const ROLE: &str = "system:openshift:scc:";
/// The constraint that allows everything.
const PRIVILEGED: &str = "privileged";
/// The constraint that allows any user, root included.
const ANY_UID: &str = "anyuid";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.scc_broad_group_access.report",
    detects: "The privileged or anyuid security context constraint is open to broad groups (only archives of SAP clusters hold this data).",
    keys: &[Key::fail("SCC_BROAD_GROUP_ACCESS")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        any: &[&[
            Model::SecurityContextConstraints,
            Model::ClusterRoleBindings,
        ]],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let constraints = context.archive.security_context_constraints();
    let bindings = context.archive.cluster_role_bindings();
    let by_constraints = constraints.iter().flat_map(|constraint| {
        let grants = broad(constraint.name(), &constraint.document().groups);
        grants.map(|group| (constraint.name(), "scc", group))
    });
    let by_bindings = bindings.iter().flat_map(|binding| {
        let constraint = binding.document().role_ref.name.strip_prefix(ROLE);
        let grants = broad(constraint.unwrap_or(""), &binding.document().group_names);
        grants.map(|group| (binding.name(), "clusterrolebinding", group))
    });
    let mut grants: Vec<_> = by_constraints.chain(by_bindings).collect();
    grants.sort_unstable();
    if grants.is_empty() {
        return Ok(None);
    }
    let grants = list(
        grants
            .into_iter()
            .map(|(name, kind, group)| json!({ "kind": kind, "name": name, "group": group })),
    );
    respond("SCC_BROAD_GROUP_ACCESS", details! { "grants": grants })
}

/// Those of the groups that should not be allowed a constraint.
fn broad<'a>(constraint: &str, groups: &'a [String]) -> impl Iterator<Item = &'a str> + use<'a> {
    let of_interest = [PRIVILEGED, ANY_UID].contains(&constraint);
    let privileged = constraint == PRIVILEGED;
    groups.iter().map(String::as_str).filter(move |group| {
        let of_namespace = group
            .strip_prefix(OF_NAMESPACE)
            .is_some_and(|namespace| !namespace.is_empty());
        of_interest && (BROAD.contains(group) || (privileged && of_namespace))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn constraint(name: &str, groups: &Value) -> String {
        json!({"metadata": {"name": name}, "groups": groups}).to_string()
    }

    fn binding(name: &str, role: &str, groups: &Value) -> String {
        json!({"metadata": {"name": name}, "roleRef": {"name": role}, "groupNames": groups})
            .to_string()
    }

    fn of_constraint(name: &str, groups: &Value) -> Answer {
        let file = constraint(name, groups);
        run(&RULE, &[("config/securitycontextconstraint/a.json", &file)])
    }

    fn of_binding(name: &str, role: &str, groups: &Value) -> Answer {
        let file = binding(name, role, groups);
        run(&RULE, &[("config/clusterrolebinding/a.json", &file)])
    }

    #[test]
    fn lists_broad_groups_of_both() {
        let broad = json!([
            "system:authenticated",
            "system:nodes",
            "system:serviceaccounts"
        ]);
        let role = "system:openshift:scc:anyuid";
        let files = [
            (
                "config/clusterrolebinding/system_openshift_scc_anyuid.json",
                &*binding(role, role, &json!(["system:authenticated"])),
            ),
            (
                "config/securitycontextconstraint/privileged.json",
                &*constraint("privileged", &broad),
            ),
        ];
        let grant = |kind: &str, name: &str, group: &str| json!({"kind": kind, "name": name, "group": group});
        assert_eq!(
            run(&RULE, &files),
            found(
                "SCC_BROAD_GROUP_ACCESS",
                json!({"grants": [
                    grant("scc", "privileged", "system:authenticated"),
                    grant("scc", "privileged", "system:serviceaccounts"),
                    grant("clusterrolebinding", role, "system:authenticated"),
                ]})
            )
        );
    }

    #[test]
    fn a_whole_namespace_is_broad_for_privileged_alone() {
        let group = json!(["system:serviceaccounts:sdi"]);
        assert_ne!(of_constraint("privileged", &group), Answer::Nothing);
        assert_eq!(of_constraint("anyuid", &group), Answer::Nothing);
        let of_role = |constraint: &str| of_binding("x", &format!("{ROLE}{constraint}"), &group);
        assert_ne!(of_role("privileged"), Answer::Nothing);
        assert_eq!(of_role("anyuid"), Answer::Nothing);
    }

    #[test]
    fn the_role_counts_and_not_the_name_of_the_binding() {
        let all = json!(["system:unauthenticated"]);
        assert_ne!(
            of_binding("mine", "system:openshift:scc:privileged", &all),
            Answer::Nothing
        );
        for role in ["view", "privileged", "", "system:openshift:scc:nonroot"] {
            let answer = of_binding("system:openshift:scc:privileged", role, &all);
            assert_eq!(answer, Answer::Nothing, "{role}");
        }
    }

    #[test]
    fn narrow_groups_and_other_constraints_are_well() {
        for groups in [
            json!([
                "system:cluster-admins",
                "system:serviceaccounts:",
                "system:authenticated:x"
            ]),
            json!([]),
            json!(null),
            json!("system:authenticated"),
        ] {
            assert_eq!(
                of_constraint("privileged", &groups),
                Answer::Nothing,
                "{groups}"
            );
        }
        let all = json!(["system:authenticated"]);
        assert_eq!(of_constraint("restricted", &all), Answer::Nothing);
    }

    #[test]
    fn one_of_both_is_needed() {
        let skipped = skip(
            "All: [] Any: ['ccx_ocp_core.models.scc.SecurityContextConstraints', 'ccx_ocp_core.models.rbac.ClusterRoleBindings']",
        );
        assert_eq!(run(&RULE, &[]), skipped);
        let damaged = [("config/clusterrolebinding/a.json", "[]")];
        assert_eq!(run(&RULE, &damaged), skipped);
    }
}
