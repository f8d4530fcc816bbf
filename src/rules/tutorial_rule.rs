//! An introduction that is shown to new users: it always hits.
//!
//! Off, since a hit that says nothing of the cluster is only for demonstrations. Reads nothing.
//! Reports `TUTORIAL_ERROR`.

use super::{Context, Details, Key, Requires, Rule, RuleProfile, RuleResult, respond};

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.tutorial_rule.report",
    detects: "Always hits; an introduction shown to new users.",
    keys: &[Key::fail("TUTORIAL_ERROR")],
    profile: RuleProfile::External,
    enabled_by_default: false,
    total_risk: Some(1),
    tags: &[],
    links: &[],
    requires: Requires::NOTHING,
    check,
};

fn check(_: &Context<'_>) -> RuleResult {
    respond("TUTORIAL_ERROR", Details::new())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{found, run};
    use super::*;

    #[test]
    fn always_hits() {
        assert_eq!(run(&RULE, &[]), found("TUTORIAL_ERROR", json!({})));
    }
}
