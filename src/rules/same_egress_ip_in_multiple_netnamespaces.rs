//! The same egress IP is assigned to several projects (OpenShift SDN).
//!
//! An address belongs to one project; with two, pods of both lose their way out. Reads net
//! namespaces. Reports `SAME_EGRESS_IP_IN_MULTIPLE_NETNAMESPACES`.

use std::collections::{BTreeMap, BTreeSet};

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.same_egress_ip_in_multiple_netnamespaces.report",
    detects: "The same egress IP is assigned to several projects (OpenShift SDN).",
    keys: &[Key::fail("SAME_EGRESS_IP_IN_MULTIPLE_NETNAMESPACES")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::NetNamespaces],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let net_namespaces = context.archive.net_namespaces();
    let mut owners: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for net_namespace in net_namespaces.into_iter().flat_map(|all| &all.0) {
        // A set: an address that is named twice in one project is not in two.
        for ip in BTreeSet::from_iter(&net_namespace.egress_ips) {
            owners.entry(ip).or_default().push(&net_namespace.name);
        }
    }
    owners.retain(|_, names| names.len() > 1);
    if owners.is_empty() {
        return Ok(None);
    }
    let shared = list(owners.into_iter().map(|(ip, mut names)| {
        names.sort_unstable();
        details! { "ip": ip, "netnamespaces": list(names) }
    }));
    respond(
        "SAME_EGRESS_IP_IN_MULTIPLE_NETNAMESPACES",
        details! { "egress_ips": shared },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const FILE: &str = "config/netnamespaces.json";

    #[test]
    fn names_the_projects_that_share_an_address() {
        let content = json!([
            {"name": "project2", "egressIPs": ["192.168.1.99", "192.168.1.98"], "netID": 2},
            {"name": "project1", "egressIPs": ["192.168.1.99"], "netID": 1},
            {"name": "project3", "egressIPs": null, "netID": 3},
            {"name": "project4", "egressIPs": ["192.168.1.97", "192.168.1.97"], "netID": 4},
        ])
        .to_string();
        for file in [FILE, "config/netnamespaces"] {
            assert_eq!(
                run(&RULE, &[(file, &content)]),
                found(
                    "SAME_EGRESS_IP_IN_MULTIPLE_NETNAMESPACES",
                    json!({"egress_ips": [
                        {"ip": "192.168.1.99", "netnamespaces": ["project1", "project2"]},
                    ]})
                )
            );
        }
    }

    #[test]
    fn addresses_of_one_project_each_are_well() {
        for content in [
            "[]",
            r#"[{"name": "a", "egressIPs": ["10.0.0.1", "10.0.0.1"]}]"#,
            r#"[{"name": "a", "egressIPs": ["10.0.0.1"]}, {"name": "b", "egressIPs": ["10.0.0.2"]}]"#,
            r#"[{"name": "a", "egressIPs": "10.0.0.1"}, {"name": "b", "egressIPs": [1, null]}, 3]"#,
        ] {
            assert_eq!(run(&RULE, &[(FILE, content)]), Answer::Nothing, "{content}");
        }
    }

    #[test]
    fn without_net_namespaces_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.sdn.NetNamespaces'] Any: ");
        for files in [&[][..], &[(FILE, "{}")], &[(FILE, "null")]] {
            assert_eq!(run(&RULE, files), skipped);
        }
    }
}
