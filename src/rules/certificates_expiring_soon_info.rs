//! Gathered certificates that expire soon.
//!
//! For those who run the service. Its values are lists, which the aggregator refuses, so it
//! stays in the internal profile. Reads the signing requests. Informs as
//! `CERTIFICATES_EXPIRING_SOON`.

use time::Duration;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::timestamp;

/// What is soon: ours.
const SOON: Duration = Duration::days(30);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.certificates_expiring_soon_info.report",
    detects: "Gathered certificates that expire soon.",
    keys: &[Key::info("CERTIFICATES_EXPIRING_SOON")],
    profile: RuleProfile::Internal,
    enabled_by_default: true,
    total_risk: None,
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Certificates],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let mut requests = context.archive.certificates();
    requests.sort_by_key(|request| request.name());
    let certificates = list(requests.into_iter().filter_map(|request| {
        let not_after = &request.document().status.certificate.as_ref()?.not_after;
        let left = timestamp::parse(not_after)? - context.reference_time;
        let is_soon = (Duration::ZERO..=SOON).contains(&left);
        is_soon.then(|| {
            details! {
                "name": request.name(),
                "not_after": not_after,
                "days_left": left.whole_days(),
            }
        })
    }));
    if certificates.is_empty() {
        return Ok(None);
    }
    respond(
        "CERTIFICATES_EXPIRING_SOON",
        details! { "certificates": certificates },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(not_after: &str) -> Answer {
        let file = json!({
            "ObjectMeta": {"name": "csr-8x2lq"},
            "Status": {"Cert": {"NotAfter": not_after}},
        });
        let path = "config/certificatesigningrequests/csr-8x2lq.json";
        run(&RULE, &[(path, &file.to_string())])
    }

    #[test]
    fn tells_how_many_days_are_left() {
        for (not_after, days) in [
            ("2021-08-01T00:00:00Z", 18),
            ("2021-07-13T07:16:44Z", 0),
            ("2021-08-12T07:16:44Z", 30),
        ] {
            assert_eq!(
                answer(not_after),
                found(
                    "CERTIFICATES_EXPIRING_SOON",
                    json!({"certificates": [
                        {"name": "csr-8x2lq", "not_after": not_after, "days_left": days},
                    ]})
                )
            );
        }
    }

    #[test]
    fn what_is_expired_or_lasts_is_not_soon() {
        for not_after in ["2021-07-13T07:16:43.9Z", "2021-08-12T07:16:44.1Z", "", "?"] {
            assert_eq!(answer(not_after), Answer::Nothing, "{not_after}");
        }
        let path = "config/certificatesigningrequests/a.json";
        let none = r#"{"Status": {"Cert": null}}"#;
        assert_eq!(run(&RULE, &[(path, none)]), Answer::Nothing);
    }

    #[test]
    fn without_requests_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.certificates.Certificates'] Any: ")
        );
    }
}
