//! An unsupported number of control plane nodes.
//!
//! etcd needs an odd quorum, and other sizes are not tested. Reads nodes, or what the installer
//! was told; the version and the topology. Reports `CONTROL_PLANE_NODE_REPLICAS`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::version::Version;

/// The first version whose single-node clusters say so in their topology.
const TOPOLOGY_SINCE: [u64; 2] = [4, 8];
/// The first version that supports four and five control plane nodes.
const FOUR_AND_FIVE_SINCE: [u64; 2] = [4, 17];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.control_plane_replicas.report",
    detects: "An unsupported number of control plane nodes.",
    keys: &[Key::fail("CONTROL_PLANE_NODE_REPLICAS")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[
        ("jira", &["https://issues.redhat.com/browse/INSIGHTOCP-120"]),
        ("kcs", &["https://access.redhat.com/solutions/4833531"]),
    ],
    requires: Requires {
        all: &[Model::ClusterVersion],
        any: &[&[Model::Nodes, Model::InstallConfig]],
        optional: &[Model::Infrastructure],
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let archive = context.archive;
    let Some(version) = archive
        .cluster_version()
        .and_then(|version| version.current_version())
    else {
        return Ok(None);
    };
    let nodes = archive.nodes();
    let (replicas, total) = if nodes.is_empty() {
        let installed = archive
            .install_config()
            .and_then(|config| config.control_plane_replicas);
        let Some(replicas) = installed else {
            return Ok(None);
        };
        // How many nodes there are in all is then not known.
        (replicas, None)
    } else {
        let control_plane = nodes.iter().filter(|node| node.is_control_plane()).count();
        (
            i64::try_from(control_plane).unwrap_or(i64::MAX),
            Some(nodes.len()),
        )
    };
    let topology = archive.infrastructure().map_or("", |infrastructure| {
        &infrastructure.status.control_plane_topology
    });

    let supported = match replicas {
        _ if topology == "External" => true,
        1 => {
            topology == "SingleReplica"
                || (version < Version::release(&TOPOLOGY_SINCE) && total == Some(1))
        }
        2 => topology == "DualReplica" || topology == "HighlyAvailableArbiter",
        3 => true,
        4 | 5 => version >= Version::release(&FOUR_AND_FIVE_SINCE),
        _ => false,
    };
    if supported {
        return Ok(None);
    }
    respond(
        "CONTROL_PLANE_NODE_REPLICAS",
        details! { "version": version.branch().to_string(), "replica_count": replicas },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(version: &str, masters: usize, workers: usize, topology: &str) -> Answer {
        let mut files = vec![
            (
                "config/version.json".to_owned(),
                json!({"status": {"desired": {"version": version}}}),
            ),
            (
                "config/infrastructure.json".to_owned(),
                json!({"status": {"controlPlaneTopology": topology}}),
            ),
        ];
        for number in 0..masters + workers {
            let role = if number < masters { "master" } else { "worker" };
            let labels = json!({format!("node-role.kubernetes.io/{role}"): ""});
            files.push((
                format!("config/node/{number}.json"),
                json!({"metadata": {"labels": labels}}),
            ));
        }
        let files: Vec<_> = files
            .into_iter()
            .map(|(name, value)| (name, value.to_string()))
            .collect();
        let files: Vec<_> = files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        run(&RULE, &files)
    }

    fn hit(version: &str, count: i64) -> Answer {
        found(
            "CONTROL_PLANE_NODE_REPLICAS",
            json!({"version": version, "replica_count": count}),
        )
    }

    #[test]
    fn unsupported_numbers_hit() {
        assert_eq!(answer("4.9.1", 4, 2, ""), hit("4.9", 4));
        assert_eq!(answer("4.17.0-rc.1", 5, 0, ""), hit("4.17", 5));
        assert_eq!(answer("4.7.16", 1, 1, ""), hit("4.7", 1));
        assert_eq!(answer("4.8.0", 1, 0, ""), hit("4.8", 1));
        assert_eq!(answer("4.18.0", 2, 0, "HighlyAvailable"), hit("4.18", 2));
        assert_eq!(answer("4.18.0", 6, 0, ""), hit("4.18", 6));
        assert_eq!(answer("4.18.0", 0, 3, ""), hit("4.18", 0));
    }

    #[test]
    fn supported_numbers_do_not() {
        for (version, masters, workers, topology) in [
            ("4.2.0", 3, 2, ""),
            ("4.7.0", 1, 0, ""),
            ("4.9.0", 1, 2, "SingleReplica"),
            ("4.17.0", 4, 0, ""),
            ("4.18.3", 5, 0, ""),
            ("4.18.3", 2, 0, "DualReplica"),
            ("4.18.3", 2, 1, "HighlyAvailableArbiter"),
            ("4.12.0", 0, 2, "External"),
            ("", 4, 0, ""),
        ] {
            assert_eq!(
                answer(version, masters, workers, topology),
                Answer::Nothing,
                "{version} {masters}"
            );
        }
    }

    const INSTALL_CONFIG: &str = "config/configmaps/kube-system/cluster-config-v1/install-config";

    #[test]
    fn without_nodes_the_installer_knows() {
        let version = (
            "config/version.json",
            r#"{"status": {"desired": {"version": "4.7.1"}}}"#,
        );
        let installed = |text| run(&RULE, &[version, (INSTALL_CONFIG, text)]);
        assert_eq!(installed("controlPlane:\n  replicas: 4\n"), hit("4.7", 4));
        assert_eq!(installed("controlPlane:\n  replicas: 1\n"), hit("4.7", 1));
        assert_eq!(installed("controlPlane:\n  replicas: 3\n"), Answer::Nothing);
        assert_eq!(
            installed("controlPlane:\n  name: master\n"),
            Answer::Nothing
        );
    }

    #[test]
    fn without_documents_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip(
                "All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ['ccx_ocp_core.models.nodes.Nodes', 'ccx_ocp_core.models.install_config.InstallConfig']"
            )
        );
    }
}
