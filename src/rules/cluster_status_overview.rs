//! A table-like overview of nodes, operators, pools, machine sets, network.
//!
//! For those who run the service, who print it as tables: besides the rows there are the widths
//! of the columns. Its values are lists, which the aggregator refuses, so it stays in the
//! internal profile. Reads nodes, operators and the cluster version, and shows pools, machine
//! sets, infrastructure, network and proxy where they are known. Informs as
//! `CLUSTER_STATUS_OVERVIEW`.

use serde_json::Value;

use super::details::{details, list};
use super::nodes_not_ready::{is_ready, roles};
use super::{Context, Details, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::documents::{ClusterVersion, Condition, Conditions as _, Network};
use crate::archive::{Archive, Model};

/// Characters of a column besides its longest value.
const PADDING: usize = 2;
/// Bits of an address of a pod, IPv4.
const ADDRESS_BITS: i64 = 32;
/// Addresses of a node's range that no pod gets: that of the network and that for all.
const RESERVED_ADDRESSES: i64 = 2;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.cluster_status_overview.report",
    detects: "A table-like overview of nodes, operators, pools, machine sets, network.",
    keys: &[Key::info("CLUSTER_STATUS_OVERVIEW")],
    profile: RuleProfile::Internal,
    enabled_by_default: true,
    total_risk: None,
    tags: &["phased_gates"],
    links: &[(
        "jira",
        &[
            "https://issues.redhat.com/browse/INSIGHTOCP-347",
            "https://issues.redhat.com/browse/INSIGHTOCP-406",
            "https://issues.redhat.com/browse/INSIGHTOCP-407",
        ],
    )],
    requires: Requires {
        all: &[Model::Nodes, Model::Operators, Model::ClusterVersion],
        optional: &[
            Model::MachinePool,
            Model::MachineSets,
            Model::Infrastructure,
            Model::Network,
            Model::Proxy,
        ],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let archive = context.archive;
    let (nodes, operators) = (nodes(archive), operators(archive));
    let (pools, machine_sets) = (pools(archive), machine_sets(archive));
    respond(
        "CLUSTER_STATUS_OVERVIEW",
        details! {
            "phased_gates_checks": ["2.3.1", "2.3.2"],
            "node_status": nodes,
            "node_command_show": 0,
            "nd_column_length": widths::<6>(&nodes),
            "cluster_version": archive.cluster_version().map(version),
            "clusteroperators": operators,
            "op_column_length": widths::<5>(&operators),
            "machineconfigpools": pools,
            "mcp_column_length": widths::<10>(&pools),
            "machinesets": machine_sets,
            "ms_column_length": widths::<5>(&machine_sets),
            "infrastructure": infrastructure(archive),
            "network_info": network(archive),
        },
    )
}

/// For each column its longest value with padding; headings do not count.
fn widths<const COLUMNS: usize>(rows: &[Details]) -> Vec<usize> {
    let mut widths = [PADDING; COLUMNS];
    for row in rows {
        for (width, value) in widths.iter_mut().zip(row.values()) {
            *width = (*width).max(PADDING + text(value).chars().count());
        }
    }
    widths.to_vec()
}

/// A value as readers print it.
fn text(value: &Value) -> String {
    match value {
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Null => "None".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn nodes(archive: &Archive) -> Vec<Details> {
    let mut nodes = archive.nodes();
    nodes.sort_by_key(|node| node.name());
    list(nodes.into_iter().map(|node| {
        let info = &node.status.node_info;
        details! {
            "name": node.name(),
            "ready": is_ready(&node),
            "roles": roles(&node),
            "created_on": node.metadata.creation_timestamp,
            "version": info.kubelet_version,
            "os": info.os_image,
        }
    }))
}

fn operators(archive: &Archive) -> Vec<Details> {
    let mut operators = archive.operators();
    operators.sort_by_key(|operator| operator.name());
    list(operators.into_iter().map(|operator| {
        let status = |kind| status_of(&operator.document().status.conditions, kind);
        details! {
            "name": operator.name(),
            "version": operator.version(),
            "available": status("Available"),
            "progressing": status("Progressing"),
            "degraded": status("Degraded"),
        }
    }))
}

fn pools(archive: &Archive) -> Vec<Details> {
    let mut pools = archive.machine_pools();
    pools.sort_by_key(|pool| pool.name());
    list(pools.into_iter().map(|pool| {
        let pool_status = &pool.document().status;
        let status = |kind| status_of(&pool_status.conditions, kind);
        details! {
            "name": pool.name(),
            "config": pool.spec.configuration.name,
            "paused": pool.spec.paused,
            "updated": status("Updated"),
            "updating": status("Updating"),
            "degraded": status("Degraded"),
            "machine_count": pool_status.machine_count.unwrap_or(0),
            "ready_machine_count": pool_status.ready_machine_count.unwrap_or(0),
            "updated_machine_count": pool_status.updated_machine_count.unwrap_or(0),
            "degraded_machine_count": pool_status.degraded_machine_count.unwrap_or(0),
        }
    }))
}

fn machine_sets(archive: &Archive) -> Vec<Details> {
    let mut sets = archive.machine_sets();
    sets.sort_by_key(|set| (set.name(), set.namespace()));
    list(sets.into_iter().map(|set| {
        details! {
            "name": set.name(),
            "desired": set.spec.replicas.unwrap_or(1),
            "current": set.status.replicas.unwrap_or(0),
            "ready": set.status.ready_replicas.unwrap_or(0),
            "available": set.status.available_replicas.unwrap_or(0),
        }
    }))
}

/// The status of a condition in its own word, empty without one.
fn status_of<'a>(conditions: &'a Vec<Condition>, kind: &str) -> &'a str {
    conditions.of_type(kind).map_or("", |found| &found.status)
}

fn version(version: &ClusterVersion) -> Details {
    let before = version.status.history.iter().skip(1);
    let before = list(before.map(|update| update.version.as_str()));
    details! {
        "Cluster ID": version.spec.cluster_id,
        "Cluster Version": version.current(),
        "Desired Version": version.status.desired.version,
        "Channel": version.spec.channel,
        "Previous Version(s)": before.join(", "),
    }
}

fn infrastructure(archive: &Archive) -> Details {
    let infrastructure = archive.infrastructure();
    // Only the installer that also makes the machines leaves machine sets behind.
    let makes_machines = archive
        .machine_sets()
        .iter()
        .any(|set| set.spec.replicas.unwrap_or(1) > 0);
    details! {
        "Platform": infrastructure.map_or("", |found| found.platform()),
        "Install Type": if makes_machines { "IPI" } else { "UPI" },
        "region": infrastructure.and_then(|found| found.region()),
    }
}

fn network(archive: &Archive) -> Details {
    let network = archive.network();
    let range = network.and_then(|network| network.status.cluster_network.first());
    let host_prefix = range.and_then(|range| range.host_prefix);
    let prefix = range.and_then(|range| range.cidr.rsplit_once('/')?.1.parse::<i64>().ok());
    let nodes = host_prefix
        .zip(prefix)
        .and_then(|(host, all)| power(host.checked_sub(all)?));
    let addresses = host_prefix.and_then(|host| power(ADDRESS_BITS.checked_sub(host)?));
    let proxy = archive.proxy().map(|proxy| &proxy.spec);
    details! {
        "Network Type": network.map(Network::network_type),
        "httpProxy": proxy.and_then(|proxy| non_empty(&proxy.http_proxy)),
        "httpsProxy": proxy.and_then(|proxy| non_empty(&proxy.https_proxy)),
        "Cluster network": range.map(|range| &range.cidr),
        "Host prefix": host_prefix,
        "Max nodes": nodes,
        "Max pods per node": addresses.map(|all| (all - RESERVED_ADDRESSES).max(0)),
    }
}

fn non_empty(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// A power of two, where it is a number.
fn power(exponent: i64) -> Option<i64> {
    2_i64.checked_pow(u32::try_from(exponent).ok()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const NODE: &str = r#"{
        "metadata": {"name": "master-0", "creationTimestamp": "2021-07-07T11:08:37Z", "labels": {
            "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/master": ""}},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "nodeInfo": {"kubeletVersion": "v1.20.0+2817867",
                "osImage": "Red Hat Enterprise Linux CoreOS 47.83.202106200838-0 (Ootpa)"}}}"#;
    const OPERATOR: &str = r#"{
        "kind": "ClusterOperator", "metadata": {"name": "etcd"},
        "status": {
            "versions": [{"name": "operator", "version": "4.7.16"}],
            "conditions": [{"type": "Available", "status": "True"},
                {"type": "Progressing", "status": "False"},
                {"type": "Degraded", "status": "False"}]}}"#;
    const VERSION: &str = r#"{
        "spec": {"clusterID": "84ef291d-8f1b-4d28-ab34-cfddff941b84", "channel": "stable-4.7"},
        "status": {"desired": {"version": "4.7.16"},
            "history": [{"state": "Completed", "version": "4.7.16"},
                {"state": "Completed", "version": "4.7.15"}, {"version": "4.6.9"}]}}"#;
    const POOL: &str = r#"{
        "metadata": {"name": "master"},
        "spec": {"configuration": {"name": "rendered-master-025110333ea44423ccb1052723956671"},
            "paused": false},
        "status": {"machineCount": 1, "readyMachineCount": 1, "updatedMachineCount": 1,
            "degradedMachineCount": 0,
            "conditions": [{"type": "Updated", "status": "True"},
                {"type": "Updating", "status": "False"}, {"type": "Degraded", "status": "False"}]}}"#;
    const MACHINE_SET: &str = r#"{
        "metadata": {"name": "c1-worker-0"}, "spec": {"replicas": 2},
        "status": {"replicas": 2, "readyReplicas": 1}}"#;
    const INFRASTRUCTURE: &str = r#"{"status": {"platform": "None",
        "platformStatus": {"type": "AWS", "aws": {"region": "us-east-2"}}}}"#;
    const NETWORK: &str = r#"{"status": {"networkType": "OpenShiftSDN",
        "clusterNetwork": [{"cidr": "10.128.0.0/14", "hostPrefix": 23}]}}"#;

    fn details(files: &[(&str, &str)]) -> Value {
        let needed = [
            ("config/node/master-0.json", NODE),
            ("config/clusteroperator/etcd.json", OPERATOR),
            ("config/version.json", VERSION),
        ];
        match run(&RULE, &[&needed, files].concat()) {
            Answer::Found(_, details) => serde_json::from_str(&details).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tells_everything_that_is_known() {
        let files = [
            ("config/node/master-0.json", NODE),
            ("config/clusteroperator/etcd.json", OPERATOR),
            ("config/version.json", VERSION),
            ("config/machineconfigpools/master.json", POOL),
            ("machinesets/openshift-machine-api/c1.json", MACHINE_SET),
            ("config/infrastructure.json", INFRASTRUCTURE),
            ("config/network.json", NETWORK),
            (
                "config/proxy.json",
                r#"{"spec": {"httpProxy": "xxx"}, "status": {"httpsProxy": "y"}}"#,
            ),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "CLUSTER_STATUS_OVERVIEW",
                json!({
                    "phased_gates_checks": ["2.3.1", "2.3.2"],
                    "node_status": [{
                        "name": "master-0",
                        "ready": true,
                        "roles": "master,worker",
                        "created_on": "2021-07-07T11:08:37Z",
                        "version": "v1.20.0+2817867",
                        "os": "Red Hat Enterprise Linux CoreOS 47.83.202106200838-0 (Ootpa)",
                    }],
                    "node_command_show": 0,
                    "nd_column_length": [10, 6, 15, 22, 17, 62],
                    "cluster_version": {
                        "Cluster ID": "84ef291d-8f1b-4d28-ab34-cfddff941b84",
                        "Cluster Version": "4.7.16",
                        "Desired Version": "4.7.16",
                        "Channel": "stable-4.7",
                        "Previous Version(s)": "4.7.15, 4.6.9",
                    },
                    "clusteroperators": [{
                        "name": "etcd",
                        "version": "4.7.16",
                        "available": "True",
                        "progressing": "False",
                        "degraded": "False",
                    }],
                    "op_column_length": [6, 8, 6, 7, 7],
                    "machineconfigpools": [{
                        "name": "master",
                        "config": "rendered-master-025110333ea44423ccb1052723956671",
                        "paused": false,
                        "updated": "True",
                        "updating": "False",
                        "degraded": "False",
                        "machine_count": 1,
                        "ready_machine_count": 1,
                        "updated_machine_count": 1,
                        "degraded_machine_count": 0,
                    }],
                    "mcp_column_length": [8, 50, 7, 6, 7, 7, 3, 3, 3, 3],
                    "machinesets": [{
                        "name": "c1-worker-0",
                        "desired": 2,
                        "current": 2,
                        "ready": 1,
                        "available": 0,
                    }],
                    "ms_column_length": [13, 3, 3, 3, 3],
                    "infrastructure": {
                        "Platform": "AWS",
                        "Install Type": "IPI",
                        "region": "us-east-2",
                    },
                    "network_info": {
                        "Network Type": "OpenShiftSDN",
                        "httpProxy": "xxx",
                        "httpsProxy": null,
                        "Cluster network": "10.128.0.0/14",
                        "Host prefix": 23,
                        "Max nodes": 512,
                        "Max pods per node": 510,
                    },
                })
            )
        );
    }

    #[test]
    fn what_is_not_known_is_empty() {
        let details = details(&[("config/network.json", "{"), ("config/proxy.json", "[]")]);
        assert_eq!(details["machineconfigpools"], json!([]));
        assert_eq!(details["ms_column_length"], json!([2, 2, 2, 2, 2]));
        assert_eq!(
            details["infrastructure"],
            json!({"Platform": "", "Install Type": "UPI", "region": null})
        );
        assert!(
            details["network_info"]
                .as_object()
                .unwrap()
                .values()
                .all(Value::is_null)
        );
    }

    #[test]
    fn numbers_that_make_no_network_are_left_out() {
        for (cidr, prefix, nodes, pods) in [
            ("10.128.0.0/14", json!(32), json!(1 << 18), json!(0)),
            (
                "10.128.0.0/14",
                json!(13),
                json!(null),
                json!((1 << 19) - 2),
            ),
            ("10.128.0.0", json!(23), json!(null), json!(510)),
            ("fd01::/48", json!(64), json!(65536), json!(null)),
            (
                "10.0.0.0/-9223372036854775808",
                json!(i64::MAX),
                json!(null),
                json!(null),
            ),
            ("10.0.0.0/0", json!(i64::MIN), json!(null), json!(null)),
            ("10.0.0.0/8", json!("23"), json!(null), json!(null)),
        ] {
            let file =
                json!({"status": {"clusterNetwork": [{"cidr": cidr, "hostPrefix": prefix}]}});
            let details = details(&[("config/network.json", &file.to_string())]);
            assert_eq!(
                details["network_info"]["Max nodes"], nodes,
                "{cidr} {prefix}"
            );
            assert_eq!(
                details["network_info"]["Max pods per node"], pods,
                "{cidr} {prefix}"
            );
        }
    }

    #[test]
    fn machine_sets_that_want_no_machines_are_no_installer() {
        for (replicas, kind) in [("0", "UPI"), ("null", "IPI"), ("1", "IPI")] {
            let file = format!("{{\"spec\": {{\"replicas\": {replicas}}}}}");
            let details = details(&[("machinesets/ns/a.json", &file)]);
            assert_eq!(
                details["infrastructure"]["Install Type"], kind,
                "{replicas}"
            );
        }
    }

    #[test]
    fn without_its_three_documents_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[("config/clusteroperator/etcd.json", OPERATOR)]),
            skip(
                "All: ['ccx_ocp_core.models.nodes.Nodes', \
                 'ccx_ocp_core.models.version.ClusterVersion'] Any: "
            )
        );
    }
}
