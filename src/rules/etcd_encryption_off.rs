//! Secrets are not encrypted in etcd.
//!
//! Whoever gets hold of a disk or a backup reads them. Reads the API server's configuration.
//! Reports `ETCD_ENCRYPTION_OFF`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// The type that stores as it is; unset means the same.
const UNENCRYPTED: &str = "identity";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.etcd_encryption_off.report",
    detects: "Secrets are not encrypted in etcd.",
    keys: &[Key::fail("ETCD_ENCRYPTION_OFF")],
    profile: RuleProfile::External,
    enabled_by_default: false,
    total_risk: Some(1),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ApiServer],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    match context.archive.api_server() {
        Some(server) if ["", UNENCRYPTED].contains(&server.spec.encryption.kind.as_str()) => {
            respond(
                "ETCD_ENCRYPTION_OFF",
                details! { "encryption_type": server.spec.encryption.kind },
            )
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/apiserver.json";

    #[test]
    fn identity_or_nothing_hits() {
        for (spec, kind) in [
            (r#"{"encryption": {"type": "identity"}}"#, "identity"),
            (r#"{"encryption": {"type": ""}}"#, ""),
            (r#"{"encryption": {"type": 1}}"#, ""),
            (r#"{"encryption": {}}"#, ""),
            ("{}", ""),
        ] {
            let file = format!(r#"{{"spec": {spec}}}"#);
            assert_eq!(
                run(&RULE, &[(PATH, &file)]),
                found("ETCD_ENCRYPTION_OFF", json!({"encryption_type": kind})),
                "{spec}"
            );
        }
    }

    #[test]
    fn encryption_is_well() {
        for kind in ["aescbc", "aesgcm", "KMS"] {
            let file = json!({"spec": {"encryption": {"type": kind}}}).to_string();
            assert_eq!(run(&RULE, &[(PATH, &file)]), Answer::Nothing, "{kind}");
        }
    }

    #[test]
    fn without_the_configuration_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.apiserver.APIServer'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "null")]), skipped);
    }
}
