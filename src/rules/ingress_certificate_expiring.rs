//! Certificates of ingress controllers that are expired or about to expire.
//!
//! Clients then refuse routes and the console. Reads the certificates of ingress controllers,
//! the router's own authority included. Reports `INGRESS_CERTIFICATE_EXPIRED`, else
//! `INGRESS_CERTIFICATE_EXPIRING_SOON`.

use serde_json::json;
use time::Duration;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::{IngressCert, timestamp};

/// How long before its end a certificate is told. Ours: time to order another.
const SOON: Duration = Duration::days(30);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.ingress_certificate_expiring.report",
    detects: "Certificates of ingress controllers that are expired or about to expire.",
    keys: &[
        Key::fail("INGRESS_CERTIFICATE_EXPIRED").when("not_after <= reference_time for any"),
        Key::fail("INGRESS_CERTIFICATE_EXPIRING_SOON").when("not_after within 30 days"),
    ],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::IngressCerts],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let certificates = context.archive.ingress_certs();
    let mut ending: Vec<(&IngressCert, Duration)> = certificates
        .into_iter()
        .flat_map(|certificates| &certificates.0)
        .filter_map(|certificate| {
            let left = timestamp::parse(&certificate.not_after)? - context.reference_time;
            (left <= SOON).then_some((certificate, left))
        })
        .collect();
    let is_expired = |left: Duration| left <= Duration::ZERO;
    let key = if ending.iter().any(|(_, left)| is_expired(*left)) {
        ending.retain(|(_, left)| is_expired(*left));
        "INGRESS_CERTIFICATE_EXPIRED"
    } else if ending.is_empty() {
        return Ok(None);
    } else {
        "INGRESS_CERTIFICATE_EXPIRING_SOON"
    };
    ending.sort_by_key(|(certificate, _)| (&certificate.name, &certificate.namespace));
    let certificates = list(ending.into_iter().map(|(certificate, left)| {
        json!({
            "name": certificate.name,
            "namespace": certificate.namespace,
            "not_after": certificate.not_after,
            "days_left": whole_days(left),
            "controllers": controllers(certificate),
        })
    }));
    respond(key, details! { "certificates": certificates })
}

/// Rounded down, so that an hour ago is -1 and not 0.
fn whole_days(left: Duration) -> i64 {
    let days = left
        .whole_nanoseconds()
        .div_euclid(Duration::DAY.whole_nanoseconds());
    i64::try_from(days).unwrap_or(i64::MAX)
}

fn controllers(certificate: &IngressCert) -> Vec<String> {
    let mut names: Vec<_> = certificate
        .controllers
        .iter()
        .map(|controller| format!("{}/{}", controller.namespace, controller.name))
        .collect();
    names.sort_unstable();
    list(names)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "aggregated/ingress_controllers_certs.json";

    fn certificate(name: &str, not_after: &str) -> Value {
        json!({"name": name, "namespace": "openshift-ingress", "not_after": not_after,
            "controllers": [{"name": "default", "namespace": "openshift-ingress-operator"}]})
    }

    fn told(name: &str, not_after: &str, days_left: i64) -> Value {
        json!({"name": name, "namespace": "openshift-ingress", "not_after": not_after,
            "days_left": days_left, "controllers": ["openshift-ingress-operator/default"]})
    }

    fn answer(certificates: &Value) -> Answer {
        run(&RULE, &[(PATH, &certificates.to_string())])
    }

    #[test]
    fn expired_ones_go_first_and_alone() {
        let (past, soon) = ("2021-07-13T06:16:44Z", "2021-07-26T07:16:43Z");
        assert_eq!(
            answer(&json!([
                certificate("b", past),
                certificate("soon", soon),
                certificate("a", past)
            ])),
            found(
                "INGRESS_CERTIFICATE_EXPIRED",
                json!({"certificates": [told("a", past, -1), told("b", past, -1)]})
            )
        );
        assert_eq!(
            answer(&json!([certificate("router-certs-default", soon)])),
            found(
                "INGRESS_CERTIFICATE_EXPIRING_SOON",
                json!({"certificates": [told("router-certs-default", soon, 12)]})
            )
        );
    }

    #[test]
    fn both_ends_of_the_thirty_days_count() {
        let expired = "INGRESS_CERTIFICATE_EXPIRED";
        let expiring = "INGRESS_CERTIFICATE_EXPIRING_SOON";
        for (not_after, key, days_left) in [
            ("2021-07-13T07:16:43.5Z", expired, -1),
            ("2021-07-13T07:16:44Z", expired, 0),
            ("2021-07-13T09:16:44+02:00", expired, 0),
            ("2021-07-13T07:16:44.5Z", expiring, 0),
            ("2021-08-12T07:16:43Z", expiring, 29),
            ("2021-08-12T07:16:44Z", expiring, 30),
        ] {
            assert_eq!(
                answer(&json!([certificate("a", not_after)])),
                found(
                    key,
                    json!({"certificates": [told("a", not_after, days_left)]})
                ),
                "{not_after}"
            );
        }
        let later = json!([certificate("a", "2021-08-12T07:16:45Z")]);
        assert_eq!(answer(&later), Answer::Nothing);
    }

    #[test]
    fn an_unreadable_end_is_no_end() {
        for certificates in [
            json!([certificate("a", "soon")]),
            json!([{"name": "a"}]),
            json!([null, 1]),
            json!([]),
        ] {
            assert_eq!(answer(&certificates), Answer::Nothing, "{certificates}");
        }
    }

    #[test]
    fn without_the_list_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.ingress_certs.IngressCerts'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "null")]), skipped);
    }
}
