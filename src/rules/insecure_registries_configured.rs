//! Image registries are allowed without transport security.
//!
//! Whoever sits on the way can replace an image. Reads the image configuration. Reports
//! `INSECURE_REGISTRIES_CONFIGURED`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.insecure_registries_configured.report",
    detects: "Image registries allowed without transport security.",
    keys: &[Key::fail("INSECURE_REGISTRIES_CONFIGURED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Image],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut insecure: Vec<_> = context
        .archive
        .image()
        .into_iter()
        .flat_map(|image| &image.spec.registry_sources.insecure_registries)
        .collect();
    insecure.sort_unstable();
    if insecure.is_empty() {
        return Ok(None);
    }
    respond(
        "INSECURE_REGISTRIES_CONFIGURED",
        details! { "insecure_registries": list(insecure) },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/image.json";

    #[test]
    fn lists_registries_sorted() {
        let file = r#"{"spec": {"registrySources": {"insecureRegistries":
            ["images.example.com:5000", "a.example.com", 1]}}}"#;
        assert_eq!(
            run(&RULE, &[(PATH, file)]),
            found(
                "INSECURE_REGISTRIES_CONFIGURED",
                json!({"insecure_registries": ["a.example.com", "images.example.com:5000"]})
            )
        );
    }

    #[test]
    fn none_is_well() {
        for sources in ["{}", "null", "[]", r#"{"insecureRegistries": []}"#] {
            let file = format!(r#"{{"spec": {{"registrySources": {sources}}}}}"#);
            assert_eq!(run(&RULE, &[(PATH, &file)]), Answer::Nothing, "{sources}");
        }
    }

    #[test]
    fn without_the_configuration_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.image.Image'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "null")]), skipped);
    }
}
