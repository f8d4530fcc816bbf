//! OpenShift SDN must be migrated before 4.17.
//!
//! That version comes without it, so updates stop at 4.16. Reads the network and the version.
//! Reports `OPENSHIFT_SDN_DEPRECATED`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::version::Version;

/// The plug-in that goes.
const PLUGIN: &str = "OpenShiftSDN";
/// The version from which on it is deprecated.
const SINCE: [u64; 3] = [4, 14, 0];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.openshift_sdn_deprecated.report",
    detects: "OpenShift SDN must be migrated before 4.17.",
    keys: &[Key::fail("OPENSHIFT_SDN_DEPRECATED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Network, Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let archive = context.archive;
    let (Some(network), Some(version)) = (archive.network(), archive.cluster_version()) else {
        return Ok(None);
    };
    let plugin = network.network_type();
    let affected = version
        .current_version()
        .is_some_and(|current| current >= Version::release(&SINCE));
    if !plugin.eq_ignore_ascii_case(PLUGIN) || !affected {
        return Ok(None);
    }
    respond(
        "OPENSHIFT_SDN_DEPRECATED",
        details! { "network_type": plugin, "current_version": version.branch() },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(network: &str, version: &str) -> Answer {
        let version = json!({"status": {"desired": {"version": version}}}).to_string();
        let files = [
            ("config/network.json", network),
            ("config/version.json", version.as_str()),
        ];
        run(&RULE, &files)
    }

    const SDN: &str = r#"{"status": {"networkType": "OpenShiftSDN"}}"#;

    #[test]
    fn the_plugin_hits_by_status_or_spec() {
        for (network, name) in [
            (SDN, "OpenShiftSDN"),
            (
                r#"{"spec": {"networkType": "OpenShiftSDN"}}"#,
                "OpenShiftSDN",
            ),
            (
                r#"{"status": {"networkType": "openshiftsdn"}}"#,
                "openshiftsdn",
            ),
        ] {
            assert_eq!(
                answer(network, "4.15.3"),
                found(
                    "OPENSHIFT_SDN_DEPRECATED",
                    json!({"network_type": name, "current_version": "4.15"})
                )
            );
        }
    }

    #[test]
    fn it_is_for_versions_from_4_14() {
        for (version, hits) in [
            ("4.14.0", true),
            ("4.16.40", true),
            ("4.14.0-rc.1", false),
            ("4.13.99", false),
            ("unknown", false),
            ("", false),
        ] {
            assert_eq!(answer(SDN, version) != Answer::Nothing, hits, "{version}");
        }
    }

    #[test]
    fn other_plugins_do_not() {
        for network in [
            r#"{"spec": {"networkType": "OpenShiftSDN"}, "status": {"networkType": "OVNKubernetes"}}"#,
            "{}",
        ] {
            assert_eq!(answer(network, "4.15.3"), Answer::Nothing, "{network}");
        }
    }

    #[test]
    fn both_documents_are_needed() {
        let (network, version) = (
            "ccx_ocp_core.models.network.Network",
            "ccx_ocp_core.models.version.ClusterVersion",
        );
        assert_eq!(
            run(&RULE, &[]),
            skip(&format!("All: ['{network}', '{version}'] Any: "))
        );
        assert_eq!(
            answer("null", "4.15.3"),
            skip(&format!("All: ['{network}'] Any: "))
        );
    }
}
