//! Old clusters with a cluster-wide proxy that their cluster-version operator ignores.
//!
//! Such a cluster cannot learn of updates. Reads the proxy and the cluster version. Reports
//! `BUGZILLA_BUG_1766907`.

use super::{Context, Details, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::version::Version;

/// The first version with the fix, inferred from the age of the bug.
const FIXED_IN: [u64; 3] = [4, 3, 0];

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.bug_rules.bug_1766907.report",
    detects: "Old clusters with a cluster-wide proxy whose cluster-version operator ignores the proxy.",
    keys: &[Key::fail("BUGZILLA_BUG_1766907")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[
        ("kcs", &["https://access.redhat.com/solutions/4631541"]),
        ("doc", &[]),
        (
            "bz",
            &["https://bugzilla.redhat.com/show_bug.cgi?id=1766907"],
        ),
    ],
    requires: Requires {
        all: &[Model::Proxy, Model::ClusterVersion],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let archive = context.archive;
    let proxied = archive.proxy().is_some_and(|proxy| proxy.is_set());
    let version = archive
        .cluster_version()
        .and_then(|version| version.current_version());
    if proxied && version.is_some_and(|version| version < Version::release(&FIXED_IN)) {
        return respond("BUGZILLA_BUG_1766907", Details::new());
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PROXY: &str = r#"{"spec": {"httpsProxy": "xxxx"}, "status": {}}"#;

    fn answer(proxy: &str, version: &str) -> Answer {
        let version = json!({"status": {"desired": {"version": version}}}).to_string();
        run(
            &RULE,
            &[
                ("config/proxy.json", proxy),
                ("config/version.json", &version),
            ],
        )
    }

    #[test]
    fn an_old_cluster_behind_a_proxy_hits() {
        for version in ["4.2.9", "4.1.0", "4.3.0-rc.1"] {
            assert_eq!(
                answer(PROXY, version),
                found("BUGZILLA_BUG_1766907", json!({}))
            );
        }
        assert!(matches!(
            answer(r#"{"status": {"httpProxy": "x"}}"#, "4.2.0"),
            Answer::Found(..)
        ));
    }

    #[test]
    fn without_proxy_or_with_the_fix_it_does_not() {
        assert_eq!(answer(PROXY, "4.3.0"), Answer::Nothing);
        assert_eq!(answer(PROXY, ""), Answer::Nothing);
        assert_eq!(
            answer(r#"{"spec": {"httpProxy": ""}}"#, "4.2.0"),
            Answer::Nothing
        );
    }

    #[test]
    fn both_documents_are_needed() {
        assert_eq!(
            run(&RULE, &[]),
            skip(
                "All: ['ccx_ocp_core.models.proxy.Proxy', 'ccx_ocp_core.models.version.ClusterVersion'] Any: "
            )
        );
        assert_eq!(
            run(&RULE, &[("config/proxy.json", PROXY)]),
            skip("All: ['ccx_ocp_core.models.version.ClusterVersion'] Any: ")
        );
    }
}
