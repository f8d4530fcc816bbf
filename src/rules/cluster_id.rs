//! The identity of the cluster.
//!
//! For people who look a cluster up by its report. Reads `config/id`. Informs as `GRAFANA_LINK`.

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// In place of a link to a dashboard where none is configured.
const NO_LINK: &str = "N/A";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.cluster_id.report",
    detects: "Identity of the cluster.",
    keys: &[Key::info("GRAFANA_LINK")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: None,
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::ClusterId],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let Some(id) = context.archive.cluster_uuid() else {
        return Ok(None);
    };
    let link = match &context.settings.grafana_url {
        Some(prefix) => format!("{prefix}{id}"),
        None => NO_LINK.to_owned(),
    };
    respond(
        "GRAFANA_LINK",
        details! { "cluster_id": id.to_string(), "grafana_link": link },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{found, reference_time, run, skip};
    use super::super::{Profile, Settings};
    use super::*;
    use crate::archive::Archive;

    const ID: &str = "b0c2d108-0603-41c3-9a8f-0a37eba5df49";

    #[test]
    fn tells_the_id_without_what_follows_it() {
        for text in [
            ID.to_owned(),
            format!("{ID}\n"),
            format!("{ID}{}", "x".repeat(100)),
        ] {
            assert_eq!(
                run(&RULE, &[("config/id", &text)]),
                found(
                    "GRAFANA_LINK",
                    json!({"cluster_id": ID, "grafana_link": "N/A"})
                )
            );
        }
    }

    #[test]
    fn links_to_the_dashboard_where_one_is_configured() {
        let settings = Settings {
            grafana_url: Some("https://grafana.example.com/d/cluster?var-id=".to_owned()),
            ..Settings::default()
        };
        let archive = Archive::from_files([("config/id", ID)]);
        let context = Context {
            archive: &archive,
            reference_time: reference_time(),
            profile: Profile::External,
            settings: &settings,
        };
        let response = check(&context).unwrap().unwrap();
        assert_eq!(
            response.details["grafana_link"],
            format!("https://grafana.example.com/d/cluster?var-id={ID}")
        );
    }

    #[test]
    fn what_is_no_uuid_is_no_id() {
        for files in [
            &[][..],
            &[("config/id", "")],
            &[("config/id", "not one")],
            &[("config/id", &ID[..35])],
        ] {
            assert_eq!(
                run(&RULE, files),
                skip("All: ['ccx_ocp_core.models.cluster_id.ClusterId'] Any: ")
            );
        }
    }
}
