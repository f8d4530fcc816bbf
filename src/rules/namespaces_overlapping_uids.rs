//! Namespaces share user id ranges, which weakens isolation.
//!
//! A container that escapes can then read files of the other namespace's pods. Reads the groups
//! of namespaces that the Insights Operator found. Reports `NAMESPACES_OVERLAPPING_UIDS`.

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// Most groups in details.
const GROUPS: usize = 50;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.namespaces_overlapping_uids.report",
    detects: "Namespaces share user id ranges, which weakens isolation.",
    keys: &[Key::fail("NAMESPACES_OVERLAPPING_UIDS")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::OverlappingUids],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let groups = match context.archive.overlapping_uids() {
        Some(groups) if !groups.0.is_empty() => &groups.0,
        _ => return Ok(None),
    };
    let namespaces: Vec<_> = groups.iter().take(GROUPS).map(list).collect();
    respond(
        "NAMESPACES_OVERLAPPING_UIDS",
        details! { "namespaces": namespaces, "count": groups.len() },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/namespaces_with_overlapping_uids.json";

    #[test]
    fn tells_groups_as_they_are() {
        let file = r#"[["openshift", "test-2", "test-1"], ["b", "a"]]"#;
        let hit = found(
            "NAMESPACES_OVERLAPPING_UIDS",
            json!({"namespaces": [["openshift", "test-2", "test-1"], ["b", "a"]], "count": 2}),
        );
        assert_eq!(run(&RULE, &[(PATH, file)]), hit);
        let without_suffix = PATH.strip_suffix(".json").unwrap();
        assert_eq!(run(&RULE, &[(without_suffix, file)]), hit);
    }

    #[test]
    fn counts_more_groups_than_it_tells() {
        for (count, told) in [(GROUPS, GROUPS), (GROUPS + 1, GROUPS)] {
            let file = json!(vec![["a", "b"]; count]).to_string();
            let details = json!({"namespaces": vec![["a", "b"]; told], "count": count});
            assert_eq!(
                run(&RULE, &[(PATH, &file)]),
                found("NAMESPACES_OVERLAPPING_UIDS", details)
            );
        }
    }

    #[test]
    fn no_group_is_well() {
        for file in ["[]", "[1, null]"] {
            assert_eq!(run(&RULE, &[(PATH, file)]), Answer::Nothing, "{file}");
        }
    }

    #[test]
    fn without_the_list_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.namespaces.OverlappingUIDs'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        for damaged in ["null", "{}", "[["] {
            assert_eq!(run(&RULE, &[(PATH, damaged)]), skipped, "{damaged}");
        }
    }
}
