//! API audit logging is switched off.
//!
//! Nobody can tell later who did what. Reads the API server's configuration. Reports
//! `AUDIT_PROFILE_NONE`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.audit_profile_none.report",
    detects: "API audit logging is switched off.",
    keys: &[Key::fail("AUDIT_PROFILE_NONE")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
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
        Some(server) if server.spec.audit.profile == "None" => respond(
            "AUDIT_PROFILE_NONE",
            details! { "profile": server.spec.audit.profile },
        ),
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
    fn the_profile_none_hits() {
        let file = r#"{"spec": {"audit": {"profile": "None"}}}"#;
        assert_eq!(
            run(&RULE, &[(PATH, file)]),
            found("AUDIT_PROFILE_NONE", json!({"profile": "None"}))
        );
    }

    #[test]
    fn any_other_does_not() {
        for audit in [
            r#"{"profile": "Default"}"#,
            r#"{"profile": "none"}"#,
            r#"{"profile": null}"#,
            "null",
        ] {
            let file = format!(r#"{{"spec": {{"audit": {audit}}}}}"#);
            assert_eq!(run(&RULE, &[(PATH, &file)]), Answer::Nothing, "{audit}");
        }
    }

    #[test]
    fn without_the_configuration_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.apiserver.APIServer'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "{")]), skipped);
    }
}
