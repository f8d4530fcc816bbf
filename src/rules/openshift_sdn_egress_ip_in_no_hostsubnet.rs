//! An egress IP of a project is on no node (OpenShift SDN).
//!
//! Traffic of the project's pods to the outside is then dropped. An address counts as held
//! where a node has it or may get it out of a range. Reads net namespaces and host subnets.
//! Reports `OPENSHIFT_SDN_EGRESS_IP_IN_NO_HOSTSUBNET`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::HostSubnet;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.openshift_sdn_egress_ip_in_no_hostsubnet.report",
    detects: "An egress IP of a project is on no node (OpenShift SDN).",
    keys: &[Key::fail("OPENSHIFT_SDN_EGRESS_IP_IN_NO_HOSTSUBNET")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::NetNamespaces, Model::HostSubnets],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let hosts = context.archive.host_subnets();
    let held = Held::by(hosts.iter().map(|host| host.document()));
    let net_namespaces = context.archive.net_namespaces();
    // A set: an address that is named twice in one project is one entry.
    let lost: BTreeSet<(&str, &str)> = net_namespaces
        .into_iter()
        .flat_map(|all| &all.0)
        .flat_map(|net_namespace| {
            let ips = net_namespace.egress_ips.iter();
            ips.map(|ip| (ip.as_str(), net_namespace.name.as_str()))
        })
        .filter(|(ip, _)| !held.contains(ip))
        .collect();
    if lost.is_empty() {
        return Ok(None);
    }
    let lost = list(
        lost.into_iter()
            .map(|(ip, name)| details! { "ip": ip, "netnamespace": name }),
    );
    respond(
        "OPENSHIFT_SDN_EGRESS_IP_IN_NO_HOSTSUBNET",
        details! { "egress_ips": lost },
    )
}

/// Addresses that nodes have or may get.
struct Held<'a> {
    ips: BTreeSet<&'a str>,
    ranges: Vec<IpNet>,
}

impl<'a> Held<'a> {
    fn by(hosts: impl Iterator<Item = &'a HostSubnet> + Clone) -> Held<'a> {
        let ips = hosts.clone().flat_map(|host| &host.egress_ips);
        let ranges: BTreeSet<&String> = hosts.flat_map(|host| &host.egress_cidrs).collect();
        let ranges: Vec<IpNet> = ranges
            .into_iter()
            .filter_map(|range| range.parse().ok())
            .collect();
        Held {
            ips: ips.map(String::as_str).collect(),
            // Ranges within others say nothing more; merged, a look-up stays short.
            ranges: IpNet::aggregate(&ranges),
        }
    }

    fn contains(&self, ip: &str) -> bool {
        let in_range = |ip: IpAddr| self.ranges.iter().any(|range| range.contains(&ip));
        self.ips.contains(ip) || ip.parse().is_ok_and(in_range)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PROJECTS: &str = "config/netnamespaces.json";

    fn answer(ips: &[&str], hosts: &[&str]) -> Answer {
        let projects = json!([
            {"name": "project1", "egressIPs": ips},
            {"name": "project2", "egressIPs": null},
        ])
        .to_string();
        let names: Vec<_> = (0..hosts.len())
            .map(|number| format!("config/hostsubnet/node-{number}.json"))
            .collect();
        let mut files = vec![(PROJECTS, projects.as_str())];
        files.extend(names.iter().map(String::as_str).zip(hosts.iter().copied()));
        run(&RULE, &files)
    }

    #[test]
    fn names_addresses_that_no_node_holds() {
        let hosts = [
            r#"{"host": "a", "egressIPs": ["192.168.1.98"], "egressCIDRs": null}"#,
            r#"{"host": "b", "egressCIDRs": ["192.168.2.0/24", "nonsense", "192.168.2.128/25"]}"#,
            "{",
        ];
        let ips = [
            "192.168.1.99",
            "192.168.1.98",
            "192.168.2.1",
            "192.168.1.99",
        ];
        assert_eq!(
            answer(&ips, &hosts),
            found(
                "OPENSHIFT_SDN_EGRESS_IP_IN_NO_HOSTSUBNET",
                json!({"egress_ips": [{"ip": "192.168.1.99", "netnamespace": "project1"}]})
            )
        );
        assert_eq!(answer(&ips[1..3], &hosts), Answer::Nothing);
        assert_eq!(answer(&[], &hosts), Answer::Nothing);
    }

    #[test]
    fn a_range_ends_where_it_ends() {
        let host = [r#"{"egressCIDRs": ["10.0.0.0/30", "2001:db8::/126"]}"#];
        for held in ["10.0.0.0", "10.0.0.3", "2001:db8::3"] {
            assert_eq!(answer(&[held], &host), Answer::Nothing, "{held}");
        }
        for lost in ["10.0.0.4", "9.255.255.255", "2001:db8::4", "", "xxxx"] {
            assert!(
                matches!(answer(&[lost], &host), Answer::Found(..)),
                "{lost}"
            );
        }
    }

    #[test]
    fn both_models_are_needed() {
        let hosts = "'ccx_ocp_core.models.sdn.HostSubnets'";
        let skipped = skip(&format!("All: [{hosts}] Any: "));
        assert_eq!(answer(&["10.0.0.1"], &[]), skipped);
        assert_eq!(answer(&["10.0.0.1"], &["null"]), skipped);
        assert_eq!(
            run(&RULE, &[]),
            skip(&format!(
                "All: ['ccx_ocp_core.models.sdn.NetNamespaces', {hosts}] Any: "
            ))
        );
    }
}
