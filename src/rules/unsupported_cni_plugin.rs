//! The cluster runs a third-party network plug-in with limited support.
//!
//! Reads the network and the cluster version. Reports `UNSUPPORTED_CNI_PLUGIN`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// The plug-ins that the vendor supports in full.
const SUPPORTED: [&str; 3] = ["OpenShiftSDN", "OVNKubernetes", "Kuryr"];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.unsupported_cni_plugin.report",
    detects: "The cluster runs a third-party network plug-in with limited support.",
    keys: &[Key::fail("UNSUPPORTED_CNI_PLUGIN")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[("docs", &[])],
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
    if plugin.is_empty()
        || SUPPORTED
            .iter()
            .any(|name| name.eq_ignore_ascii_case(plugin))
    {
        return Ok(None);
    }
    respond(
        "UNSUPPORTED_CNI_PLUGIN",
        details! { "network_type": plugin, "current_version": version.branch() },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(network: &str) -> Answer {
        let version = r#"{"status": {"desired": {"version": "4.12.3"}}}"#;
        run(
            &RULE,
            &[
                ("config/network.json", network),
                ("config/version.json", version),
            ],
        )
    }

    #[test]
    fn other_plugins_hit() {
        let hit = found(
            "UNSUPPORTED_CNI_PLUGIN",
            json!({"network_type": "Calico", "current_version": "4.12"}),
        );
        assert_eq!(answer(r#"{"status": {"networkType": "Calico"}}"#), hit);
        assert_eq!(
            answer(r#"{"spec": {"networkType": "Calico"}, "status": {"networkType": ""}}"#),
            hit
        );
    }

    #[test]
    fn supported_or_unknown_ones_do_not() {
        for name in ["OpenShiftSDN", "ovnkubernetes", "Kuryr", ""] {
            assert_eq!(
                answer(&json!({"status": {"networkType": name}}).to_string()),
                Answer::Nothing
            );
        }
        assert_eq!(
            answer(
                r#"{"spec": {"networkType": "Calico"}, "status": {"networkType": "OVNKubernetes"}}"#
            ),
            Answer::Nothing
        );
    }

    #[test]
    fn both_documents_are_needed() {
        assert_eq!(
            run(&RULE, &[]),
            skip(
                "All: ['ccx_ocp_core.models.network.Network', 'ccx_ocp_core.models.version.ClusterVersion'] Any: "
            )
        );
    }
}
