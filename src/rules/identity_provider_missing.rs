//! No identity provider: only the temporary kubeadmin user can log in.
//!
//! Reads the OAuth server's configuration, the kind of authentication and the version. Reports
//! `IDENTITY_PROVIDER_MISSING`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::version::Version;

/// The first version that the condition is for.
const SINCE: [u64; 2] = [4, 2];
/// The kind of authentication that needs no provider of the cluster's own.
const EXTERNAL: &str = "OIDC";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.identity_provider_missing.report",
    detects: "No identity provider: only the temporary kubeadmin user can log in.",
    keys: &[Key::fail("IDENTITY_PROVIDER_MISSING")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::OAuth],
        optional: &[Model::Authentication, Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let archive = context.archive;
    let missing = archive
        .oauth()
        .is_some_and(|oauth| oauth.spec.identity_providers.is_empty());
    let external = archive
        .authentication()
        .is_some_and(|authentication| authentication.spec.kind == EXTERNAL);
    let affected = archive
        .cluster_version()
        .and_then(|version| version.current_version())
        .is_some_and(|version| version >= Version::release(&SINCE));
    if !missing || external || !affected {
        return Ok(None);
    }
    respond("IDENTITY_PROVIDER_MISSING", details! {})
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(oauth: &str, authentication: &str, version: &str) -> Answer {
        let version = json!({"status": {"desired": {"version": version}}}).to_string();
        run(
            &RULE,
            &[
                ("config/oauth.json", oauth),
                ("config/authentication.json", authentication),
                ("config/version.json", &version),
            ],
        )
    }

    fn hit() -> Answer {
        found("IDENTITY_PROVIDER_MISSING", json!({}))
    }

    #[test]
    fn no_provider_hits_whatever_the_rest_says() {
        for oauth in [
            "{}",
            r#"{"spec": null}"#,
            r#"{"spec": {"identityProviders": null}}"#,
            r#"{"spec": {"identityProviders": []}}"#,
        ] {
            for authentication in ["{}", r#"{"spec": {"type": ""}}"#, "broken"] {
                assert_eq!(answer(oauth, authentication, "4.7.16"), hit(), "{oauth}");
            }
        }
    }

    #[test]
    fn a_provider_of_either_kind_is_well() {
        let provider = r#"{"spec": {"identityProviders": [{"name": "ldap"}]}}"#;
        assert_eq!(answer(provider, "{}", "4.7.16"), Answer::Nothing);
        let oidc = r#"{"spec": {"type": "OIDC"}}"#;
        assert_eq!(answer("{}", oidc, "4.17.0"), Answer::Nothing);
    }

    #[test]
    fn it_is_for_versions_from_4_2() {
        assert_eq!(answer("{}", "{}", "4.2.0"), hit());
        for version in ["4.1.41", "4.2.0-rc.1", ""] {
            assert_eq!(answer("{}", "{}", version), Answer::Nothing, "{version}");
        }
        assert_eq!(run(&RULE, &[("config/oauth.json", "{}")]), Answer::Nothing);
    }

    #[test]
    fn without_the_oauth_configuration_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.oauth.OAuth'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[("config/oauth.json", "[]")]), skipped);
    }
}
