//! The Insights Operator is still configured by the support secret.
//!
//! From 4.15 on a config map takes its place, and the secret is read for the old settings only.
//! Reads the cluster version, the names of the secret's settings and whether there is a config
//! map. Reports `IO_415_CHANGE_CONFIG_LOCATION`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::version::Version;

/// The first branch that reads the config map.
const FIRST: [u64; 2] = [4, 15];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.io_415_change_config_location.report",
    detects: "From 4.15 the Insights Operator should be configured by config map, not by the support secret.",
    keys: &[Key::fail("IO_415_CHANGE_CONFIG_LOCATION")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(1),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ClusterVersion, Model::SupportSecret],
        optional: &[Model::InsightsConfigMap],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let archive = context.archive;
    let (Some(cluster), Some(secret)) = (archive.cluster_version(), archive.support_secret())
    else {
        return Ok(None);
    };
    let affected = cluster
        .current_version()
        .is_some_and(|version| version >= Version::release(&FIRST));
    if !affected || secret.0.is_empty() || archive.insights_config_map().is_some() {
        return Ok(None);
    }
    respond(
        "IO_415_CHANGE_CONFIG_LOCATION",
        details! { "current_version": cluster.current(), "keys": list(&secret.0) },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const SECRET: (&str, &str) = (
        "config/secrets/openshift-config/support/data.json",
        r#"{"scaInterval": "xxxx", "conditionalGathererEndpoint": "xxxx"}"#,
    );
    const CONFIG_MAP: &str = "config/configmaps/openshift-insights/insights-config/config.json";

    fn answer(version: &str, files: &[(&str, &str)]) -> Answer {
        let version = json!({"status": {"desired": {"version": version}}}).to_string();
        let version = [("config/version.json", version.as_str())];
        run(&RULE, &[&version, files].concat())
    }

    #[test]
    fn a_secret_without_a_config_map_hits_by_names_alone() {
        assert_eq!(
            answer("4.16.3", &[SECRET]),
            found(
                "IO_415_CHANGE_CONFIG_LOCATION",
                json!({
                    "current_version": "4.16.3",
                    "keys": ["conditionalGathererEndpoint", "scaInterval"],
                })
            )
        );
    }

    #[test]
    fn versions_before_4_15_have_no_config_map() {
        for version in ["4.15.0", "4.15.1-rc.1", "5.0.0"] {
            let answer = answer(version, &[SECRET]);
            assert!(matches!(answer, Answer::Found(..)), "{version}");
        }
        for version in ["4.14.99", "4.15.0-rc.1", "4.9.0", "", "unknown"] {
            assert_eq!(answer(version, &[SECRET]), Answer::Nothing, "{version}");
        }
    }

    #[test]
    fn a_config_map_is_enough_even_when_it_cannot_be_read() {
        for content in ["{}", "null", "{"] {
            let files = [SECRET, (CONFIG_MAP, content)];
            assert_eq!(answer("4.16.3", &files), Answer::Nothing, "{content}");
        }
        let empty = (SECRET.0, "{}");
        assert_eq!(answer("4.16.3", &[empty]), Answer::Nothing);
    }

    #[test]
    fn without_a_secret_it_is_skipped() {
        let secret = "'ccx_ocp_core.models.insights.SupportSecret'";
        let skipped = skip(&format!("All: [{secret}] Any: "));
        assert_eq!(answer("4.16.3", &[]), skipped);
        assert_eq!(answer("4.16.3", &[(SECRET.0, "null")]), skipped);
        assert_eq!(
            run(&RULE, &[]),
            skip(&format!(
                "All: ['ccx_ocp_core.models.version.ClusterVersion', {secret}] Any: "
            ))
        );
    }
}
