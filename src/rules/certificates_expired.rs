//! Issued client or serving certificates (from CSRs) that are expired or not yet valid.
//!
//! Whoever shows such a certificate is turned away. Reads the signing requests. Reports
//! `CERTIFICATES_EXPIRED`.

use time::OffsetDateTime;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{Certificate, timestamp};

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.certificates_expired.report",
    detects: "Issued client or serving certificates (from CSRs) that are expired or not yet valid.",
    keys: &[Key::fail("CERTIFICATES_EXPIRED")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(3),
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
        let certificate = request.document().status.certificate.as_ref();
        let invalid = certificate.filter(|found| is_invalid(found, context.reference_time))?;
        Some(details! {
            "name": request.name(),
            "not_before": invalid.not_before,
            "not_after": invalid.not_after,
            "verified": invalid.verified,
        })
    }));
    if certificates.is_empty() {
        return Ok(None);
    }
    respond(
        "CERTIFICATES_EXPIRED",
        details! { "certificates": certificates },
    )
}

fn is_invalid(certificate: &Certificate, now: OffsetDateTime) -> bool {
    let not_after = timestamp::parse(&certificate.not_after);
    let not_before = timestamp::parse(&certificate.not_before);
    not_after.is_some_and(|end| end <= now)
        || not_before.is_some_and(|start| start > now)
        || certificate.verified == Some(false)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(certificate: Value) -> Answer {
        let file = json!({"ObjectMeta": {"name": "csr-8x2lq"}, "Status": {"Cert": certificate}});
        let path = "config/certificatesigningrequests/csr-8x2lq.json";
        run(&RULE, &[(path, &file.to_string())])
    }

    fn certificate(not_before: &str, not_after: &str, verified: Value) -> Value {
        json!({"NotBefore": not_before, "NotAfter": not_after, "Verified": verified})
    }

    #[test]
    fn tells_of_what_time_the_certificate_is() {
        let (before, after) = ("2021-01-01T00:00:00Z", "2021-02-01T00:00:00Z");
        assert_eq!(
            answer(certificate(before, after, json!(true))),
            found(
                "CERTIFICATES_EXPIRED",
                json!({"certificates": [{
                    "name": "csr-8x2lq",
                    "not_before": before,
                    "not_after": after,
                    "verified": true,
                }]})
            )
        );
    }

    #[test]
    fn the_bounds_are_those_of_validity() {
        let (early, late) = ("2021-01-01T00:00:00Z", "2022-01-01T00:00:00Z");
        let now = "2021-07-13T07:16:44Z";
        for (certificate, is_told) in [
            (certificate(early, late, json!(true)), false),
            (certificate(early, now, json!(true)), true),
            (
                certificate(early, "2021-07-13T07:16:45Z", json!(true)),
                false,
            ),
            (certificate(now, late, json!(true)), false),
            (certificate("2021-07-13T07:16:45Z", late, json!(true)), true),
            (certificate(early, late, json!(false)), true),
            (certificate(early, late, json!("false")), false),
            (certificate("?", "?", json!(null)), false),
            (json!({}), false),
            (json!(null), false),
        ] {
            let told = matches!(answer(certificate.clone()), Answer::Found(..));
            assert_eq!(told, is_told, "{certificate}");
        }
    }

    #[test]
    fn without_requests_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[("config/certificatesigningrequests/a", "")]),
            skip("All: ['ccx_ocp_core.models.certificates.Certificates'] Any: ")
        );
    }
}
