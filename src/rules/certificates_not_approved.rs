//! Certificate signing requests that wait for approval.
//!
//! A node or a user cannot join the cluster before its request is approved. Reads the requests,
//! of which only those are gathered that are not valid. Reports `CERTIFICATES_NOT_APPROVED`.

use time::Duration;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;
use crate::archive::documents::timestamp;

/// For how long a request may wait: ours.
const WAIT: Duration = Duration::hours(1);

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.certificates_not_approved.report",
    detects: "Certificate signing requests that wait for approval.",
    keys: &[Key::fail("CERTIFICATES_NOT_APPROVED")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(2),
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
    requests.retain(|request| {
        let created = timestamp::parse(&request.metadata.creation_timestamp);
        request.status.certificate.is_none()
            && !request.is_decided()
            && created.is_some_and(|created| context.reference_time - created >= WAIT)
    });
    if requests.is_empty() {
        return Ok(None);
    }
    requests.sort_by_key(|request| request.name());
    let count = requests.len();
    let requests = list(requests.into_iter().map(|request| {
        details! {
            "name": request.name(),
            "requestor": request.spec.username,
            "created": request.metadata.creation_timestamp,
        }
    }));
    respond(
        "CERTIFICATES_NOT_APPROVED",
        details! { "csrs": requests, "count": count },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn answer(created: &str, status: Value) -> Answer {
        let file = json!({
            "ObjectMeta": {"name": "csr-test", "creationTimestamp": created},
            "Spec": {"Username": "kube:admin"},
            "Status": status,
        });
        let path = "config/certificatesigningrequests/x.json";
        run(&RULE, &[(path, &file.to_string())])
    }

    const EARLY: &str = "2021-07-12T11:13:05Z";

    #[test]
    fn tells_who_waits_and_since_when() {
        for status in [
            json!({"Conditions": null, "Cert": null}),
            json!({"Conditions": [{"type": "Pending"}, {}]}),
            json!(null),
        ] {
            assert_eq!(
                answer(EARLY, status),
                found(
                    "CERTIFICATES_NOT_APPROVED",
                    json!({
                        "csrs": [
                            {"name": "csr-test", "requestor": "kube:admin", "created": EARLY},
                        ],
                        "count": 1,
                    })
                )
            );
        }
    }

    #[test]
    fn the_name_may_be_that_of_the_file() {
        let files = [
            (
                "config/certificatesigningrequests/csr-b",
                r#"{"ObjectMeta": {"creationTimestamp": "2021-01-01T00:00:00Z"}}"#,
            ),
            (
                "config/certificatesigningrequests/csr-a.json",
                r#"{"ObjectMeta": {"creationTimestamp": "2021-01-02T00:00:00Z"}}"#,
            ),
        ];
        assert_eq!(
            run(&RULE, &files),
            found(
                "CERTIFICATES_NOT_APPROVED",
                json!({
                    "csrs": [
                        {"name": "csr-a", "requestor": "", "created": "2021-01-02T00:00:00Z"},
                        {"name": "csr-b", "requestor": "", "created": "2021-01-01T00:00:00Z"},
                    ],
                    "count": 2,
                })
            )
        );
    }

    #[test]
    fn decided_and_issued_requests_do_not_wait() {
        for kind in ["Approved", "Denied", "Failed"] {
            for field in ["type", "Type"] {
                let status = json!({"Conditions": [{field: kind}]});
                assert_eq!(answer(EARLY, status), Answer::Nothing, "{field} {kind}");
            }
        }
        assert_eq!(answer(EARLY, json!({"Cert": {}})), Answer::Nothing);
    }

    #[test]
    fn an_hour_of_waiting_is_well() {
        for (created, is_told) in [
            ("2021-07-13T06:16:44Z", true),
            ("2021-07-13T06:16:44.1Z", false),
            ("2021-07-14T00:00:00Z", false),
            ("", false),
        ] {
            let told = matches!(answer(created, json!({})), Answer::Found(..));
            assert_eq!(told, is_told, "{created}");
        }
    }

    #[test]
    fn without_requests_it_is_skipped() {
        assert_eq!(
            run(&RULE, &[]),
            skip("All: ['ccx_ocp_core.models.certificates.Certificates'] Any: ")
        );
    }
}
