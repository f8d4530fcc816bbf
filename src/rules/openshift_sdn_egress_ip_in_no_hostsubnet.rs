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
            // Merged and sorted: an address lies in the last range that begins before it, or in
            // none. Both sides come from outside, so each look-up must stay short.
            ranges: {
                let mut ranges = IpNet::aggregate(&ranges);
                ranges.sort_unstable_by_key(IpNet::network);
                ranges
            },
        }
    }

    fn contains(&self, ip: &str) -> bool {
        let in_range = |ip: IpAddr| {
            let after = self.ranges.partition_point(|range| range.network() <= ip);
            self.ranges[..after]
                .last()
                .is_some_and(|range| range.contains(&ip))
        };
        self.ips.contains(ip) || ip.parse().is_ok_and(in_range)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;
    use serde_json::json;

    use super::super::testing::{Answer, found, reference_time, run, skip};
    use super::*;
    use crate::archive::Archive;
    use crate::rules::{Profile, Settings};

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

    /// Held against each other one by one they would be at it for many minutes, and nobody could
    /// interrupt them.
    #[test]
    fn p07_many_addresses_and_many_ranges_are_no_long_work() {
        let address = |number: u32| Ipv4Addr::from(0x0A00_0000 + number).to_string();
        let ips: Vec<_> = (0..100_000).map(|n| address(2 * n + 1)).collect();
        let ranges: Vec<_> = (0..100_000).map(|n| address(2 * n) + "/32").collect();
        let projects = json!([{"name": "project1", "egressIPs": ips}]).to_string();
        let host = json!({ "egressCIDRs": ranges }).to_string();
        let files = [
            (PROJECTS, projects.as_str()),
            ("config/hostsubnet/a.json", &host),
        ];
        let archive = Archive::from_files(files);
        let context = Context {
            archive: &archive,
            reference_time: reference_time(),
            profile: Profile::External,
            settings: &Settings::default(),
        };
        let response = check(&context).unwrap().unwrap();
        assert_eq!(
            response.details["egress_ips"].as_array().unwrap().len(),
            100
        );
    }

    proptest! {
        #[test]
        fn an_address_is_held_as_if_every_range_was_looked_at(
            ranges in proptest::collection::vec((0_u8..16, 24_u8..=32, any::<bool>()), 0..12),
            address in (0_u8..16, any::<bool>()),
        ) {
            let text = |last: u8, v6: bool| match v6 {
                true => format!("::ffff:10.0.0.{last}"),
                false => format!("10.0.0.{last}"),
            };
            let ranges: Vec<String> = ranges
                .into_iter()
                .map(|(last, length, v6)| {
                    format!("{}/{}", text(last, v6), length + if v6 { 96 } else { 0 })
                })
                .collect();
            let ip = text(address.0, address.1);
            let parsed: IpAddr = ip.parse().unwrap();
            let expected = ranges
                .iter()
                .any(|range| range.parse::<IpNet>().unwrap().contains(&parsed));
            let host = HostSubnet { egress_cidrs: ranges, ..HostSubnet::default() };
            prop_assert_eq!(Held::by([&host].into_iter()).contains(&ip), expected);
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
