//! The workload message: what rules recommend for the workloads of a cluster.
//!
//! A message of its own on its own topic, read by the same aggregator through another consumer.
//! An empty list is an answer: it clears what was recommended before.

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::VERSION;
use crate::ingress::Ingress;
use crate::report::{AnalysisMetadata, Recommendation, Report, SkipEntry, System};

/// Key order is part of the format.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Message<'a> {
    #[serde(rename = "OrgID")]
    org_id: u32,
    cluster_name: Uuid,
    metrics: Metrics<'a>,
    request_id: Option<&'a str>,
    last_checked: &'a str,
    version: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_number: Option<u32>,
}

/// The report without its `reports`, which have their own message.
#[derive(Serialize)]
struct Metrics<'a> {
    system: &'a System,
    fingerprints: &'a [Value],
    skips: &'a [SkipEntry],
    info: &'a [Value],
    pass: &'a [Value],
    analysis_metadata: &'a AnalysisMetadata,
    workload_recommendations: &'a [Recommendation],
}

/// Renders the value of the message: compact JSON and one newline.
///
/// # Errors
/// When the report holds what JSON cannot say; that is an error of ours.
pub fn render(
    ingress: &Ingress,
    cluster: Uuid,
    report: &Report,
    recommendations: &[Recommendation],
) -> serde_json::Result<Vec<u8>> {
    let message = Message {
        org_id: ingress.org_id,
        cluster_name: cluster,
        metrics: Metrics {
            system: &report.system,
            fingerprints: &report.fingerprints,
            skips: &report.skips,
            info: &report.info,
            pass: &report.pass,
            analysis_metadata: &report.analysis_metadata,
            workload_recommendations: recommendations,
        },
        request_id: ingress.request_id.as_deref(),
        last_checked: &ingress.timestamp,
        version: VERSION,
        account_number: ingress.account_number,
    };
    let mut bytes = serde_json::to_vec(&message)?;
    bytes.push(b'\n');
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::archive::Archive;
    use crate::engine::{RuleOptions, RuleSet, evaluate};
    use crate::report;
    use crate::signed_url::SignedUrl;

    fn ingress() -> Ingress {
        Ingress {
            url: SignedUrl::new("https://bucket.s3.amazonaws.com/a".to_owned()),
            org_id: 11,
            odd_account: false,
            account_number: None,
            cluster_name: None,
            timestamp: "2021-07-13T07:16:44Z".to_owned(),
            uploaded_at: datetime!(2021-07-13 07:16:44 UTC),
            gathering_time: None,
            request_id: None,
            size: None,
        }
    }

    fn message(ingress: &Ingress, metrics: &str) -> String {
        let rules = RuleSet::new(&RuleOptions {
            workloads: true,
            ..RuleOptions::default()
        })
        .unwrap();
        let files = [
            ("config/dvo_metrics", metrics),
            (
                "config/machineconfigpools/a.json",
                r#"{"spec": {"paused": true}}"#,
            ),
        ];
        let archive = Archive::from_files(files);
        let time = ingress.uploaded_at;
        let evaluation = evaluate(&rules, &archive, time, &|| None).unwrap();
        let mut report = report::render(&evaluation, time, time);
        let recommendations = report.workload_recommendations.take().unwrap();
        assert_eq!(report.reports.len(), 1);
        let cluster = Uuid::from_u128(0xABC);
        String::from_utf8(render(ingress, cluster, &report, &recommendations).unwrap()).unwrap()
    }

    #[test]
    fn keys_have_the_order_of_the_format_and_hits_stay_out() {
        let metrics = "deployment_validation_operator_host_ipc{namespace_uid=\"1\",uid=\"2\"} 1\n";
        let text = message(
            &Ingress {
                account_number: Some(6_212_377),
                request_id: Some("r".to_owned()),
                ..ingress()
            },
            metrics,
        );
        let start = concat!(
            r#"{"OrgID":11,"ClusterName":"00000000-0000-0000-0000-000000000abc","#,
            r#""Metrics":{"system":{"metadata":{},"hostname":null},"fingerprints":[],"skips":[{"#,
        );
        assert!(text.starts_with(start), "{text}");
        let end = concat!(
            r#""workloads":[{"namespace":"","namespace_uid":"1","kind":"","name":"","uid":"2"}]}]},"#,
            r#""RequestId":"r","LastChecked":"2021-07-13T07:16:44Z","Version":2,"#,
            r#""AccountNumber":6212377}"#,
            "\n",
        );
        assert!(text.ends_with(end), "{text}");
        let message: Value = serde_json::from_str(&text).unwrap();
        let keys: Vec<_> = message["Metrics"].as_object().unwrap().keys().collect();
        assert_eq!(
            keys,
            [
                "system",
                "fingerprints",
                "skips",
                "info",
                "pass",
                "analysis_metadata",
                "workload_recommendations"
            ]
        );
        assert!(!text.contains("MCP_SET_TO_PAUSE"));
    }

    #[test]
    fn nothing_found_is_a_message_too() {
        let text = message(&ingress(), "\n");
        let end = concat!(
            r#""workload_recommendations":[]},"RequestId":null,"#,
            r#""LastChecked":"2021-07-13T07:16:44Z","Version":2}"#,
            "\n",
        );
        assert!(text.ends_with(end), "{text}");
    }
}
