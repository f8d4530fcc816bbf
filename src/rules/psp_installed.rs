//! PodSecurityPolicy objects, which OpenShift does not support, are installed.
//!
//! Somebody relies on a protection that is not there. Reads their names. Reports
//! `PSP_INSTALLED`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.psp_installed.report",
    detects: "PodSecurityPolicy objects, which OpenShift does not support, are installed.",
    keys: &[Key::fail("PSP_INSTALLED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[
        ("jira", &["https://issues.redhat.com/browse/INSIGHTOCP-433"]),
        ("kcs", &["https://access.redhat.com/solutions/5622051"]),
    ],
    requires: Requires {
        all: &[Model::PspNames],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    match context.archive.psp_names() {
        // The list as it is, also its order: public reports show the file unchanged.
        Some(names) if !names.0.is_empty() => {
            respond("PSP_INSTALLED", details! { "psps": list(&names.0) })
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    #[test]
    fn lists_the_names_as_they_are() {
        assert_eq!(
            run(
                &RULE,
                &[("config/psp_names.json", r#"["next-psp-name", "100-psp"]"#)]
            ),
            found(
                "PSP_INSTALLED",
                json!({"psps": ["next-psp-name", "100-psp"]})
            )
        );
    }

    #[test]
    fn an_empty_list_is_well() {
        assert_eq!(
            run(&RULE, &[("config/psp_names.json", "[]")]),
            Answer::Nothing
        );
    }

    #[test]
    fn without_the_list_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.psp.PSPNames'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[("config/psp_names.json", "null")]), skipped);
    }
}
