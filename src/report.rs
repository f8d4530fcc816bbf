//! The report, byte for byte as downstream reads it.
//!
//! Names, order of keys and shapes are those of the system that this worker replaces; its
//! readers are the aggregator and dashboards. The same evaluation gives the same bytes.

use serde::Serialize;
use serde_json::{Map, Value, json};
use time::{OffsetDateTime, UtcOffset};

use crate::engine::Evaluation;
use crate::rules::{Details, KeyKind, Response, Rule, Workload};
use crate::version::{COMMIT, RULES_VERSION};

/// The context by which readers know where an archive comes from.
const EXECUTION_CONTEXT: &str = "ccx_ocp_core.context.InsightsOperatorContext";
/// The packages that readers look for. They name what they replace; versions are ours.
const PLUGIN_SETS: [&str; 3] = ["insights-core", "ccx_rules_ocp", "ccx_ocp_core"];
/// The only reason that a skip ever has.
const MISSING_REQUIREMENTS: &str = "MISSING_REQUIREMENTS";

/// A report. Serialises to an object whose keys have the order of these fields.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Constant for archives of clusters.
    pub system: System,
    /// Hits.
    pub reports: Vec<Value>,
    /// Always empty for these rules.
    pub fingerprints: Vec<Value>,
    /// Rules that did not apply.
    pub skips: Vec<SkipEntry>,
    /// What info rules say.
    pub info: Vec<Value>,
    /// What rules found in order.
    pub pass: Vec<Value>,
    /// When, and by what.
    pub analysis_metadata: AnalysisMetadata,
    /// What rules for workloads recommend; left out where none of them applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload_recommendations: Option<Vec<Recommendation>>,
}

/// An element of `workload_recommendations`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// Name and key.
    pub response_id: String,
    /// The rule's component.
    pub component: &'static str,
    /// The key.
    pub key: &'static str,
    /// The rule's fields.
    pub details: Details,
    /// Sorted.
    pub tags: Vec<&'static str>,
    /// Group and URLs.
    pub links: Map<String, Value>,
    /// The workloads that it is for.
    pub workloads: Vec<Workload>,
}

/// The report's `system`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct System {
    /// Empty.
    pub metadata: std::collections::BTreeMap<String, String>,
    /// Null.
    pub hostname: Option<String>,
}

/// An element of `skips`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SkipEntry {
    /// The rule's component.
    pub rule_fqdn: &'static str,
    /// Constant.
    pub reason: &'static str,
    /// What is missing.
    pub details: String,
    /// Constant.
    pub r#type: &'static str,
}

/// The report's `analysis_metadata`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AnalysisMetadata {
    /// With microseconds and offset.
    pub start: String,
    /// With microseconds and offset.
    pub finish: String,
    /// Constant.
    pub execution_context: &'static str,
    /// Packages, their versions and commits.
    pub plugin_sets: Map<String, Value>,
}

/// Renders an evaluation. `start` and `finish` are when the analysis began and ended.
pub fn render(evaluation: &Evaluation, start: OffsetDateTime, finish: OffsetDateTime) -> Report {
    let list = |wanted: KeyKind| {
        evaluation
            .responses
            .iter()
            .filter(|(_, kind, _)| *kind == wanted)
            .map(|(rule, kind, response)| element(rule, *kind, response))
            .collect()
    };
    let skips = evaluation
        .skips
        .iter()
        .map(|(rule, details)| SkipEntry {
            rule_fqdn: rule.component,
            reason: MISSING_REQUIREMENTS,
            details: details.clone(),
            r#type: "skip",
        })
        .collect();
    let plugin_sets = PLUGIN_SETS
        .map(|name| {
            (
                name.to_owned(),
                json!({ "version": RULES_VERSION, "commit": COMMIT }),
            )
        })
        .into_iter()
        .collect();

    Report {
        system: System::default(),
        reports: list(KeyKind::Fail),
        fingerprints: Vec::new(),
        skips,
        info: list(KeyKind::Info),
        pass: list(KeyKind::Pass),
        analysis_metadata: AnalysisMetadata {
            start: timestamp(start),
            finish: timestamp(finish),
            execution_context: EXECUTION_CONTEXT,
            plugin_sets,
        },
        workload_recommendations: evaluation.workloads_evaluated.then(|| {
            let of_workloads = |(_, kind, _): &&(_, KeyKind, _)| *kind == KeyKind::Recommendation;
            let responses = evaluation.responses.iter().filter(of_workloads);
            responses
                .map(|(rule, _, response)| recommendation(rule, response))
                .collect()
        }),
    }
}

/// An element of `reports`, `info` or `pass`.
fn element(rule: &Rule, kind: KeyKind, response: &Response) -> Value {
    let (id_field, kind_word, key_field) = match kind {
        KeyKind::Fail => ("rule_id", "rule", "error_key"),
        KeyKind::Info => ("info_id", "info", "info_key"),
        KeyKind::Pass => ("pass_id", "pass", "pass_key"),
        // Recommendations have a list and a shape of their own.
        KeyKind::Recommendation => return Value::Null,
    };
    let mut details = response.details.clone();
    details.insert("type".to_owned(), kind_word.into());
    details.insert(key_field.to_owned(), response.key.into());

    let is_bare = rule.key(response.key).is_some_and(|key| key.is_bare);

    json!({
        id_field: rule.id(response.key),
        "component": rule.component,
        "type": kind_word,
        "key": response.key,
        "details": details,
        "tags": if is_bare { Vec::new() } else { tags(rule) },
        "links": if is_bare { Map::new() } else { links(rule) },
    })
}

fn recommendation(rule: &'static Rule, response: &Response) -> Recommendation {
    Recommendation {
        response_id: rule.id(response.key),
        component: rule.component,
        key: response.key,
        details: response.details.clone(),
        tags: tags(rule),
        links: links(rule),
        workloads: response.workloads.clone(),
    }
}

fn tags(rule: &Rule) -> Vec<&'static str> {
    let mut tags = rule.tags.to_vec();
    tags.sort_unstable();
    tags
}

fn links(rule: &Rule) -> Map<String, Value> {
    rule.links
        .iter()
        .map(|(group, urls)| ((*group).to_owned(), json!(urls)))
        .collect()
}

/// `2021-12-13T15:51:02.895120+00:00`: always UTC, always microseconds.
fn timestamp(moment: OffsetDateTime) -> String {
    let utc = moment.to_offset(UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}+00:00",
        utc.year(),
        u8::from(utc.month()),
        utc.day(),
        utc.hour(),
        utc.minute(),
        utc.second(),
        utc.microsecond(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Archive;
    use crate::archive::documents::timestamp as times;
    use crate::engine::{RuleOptions, RuleSet, evaluate};
    use crate::rules::Settings;

    fn report(files: &[(&str, &str)], rules: &RuleSet) -> String {
        let archive = Archive::from_files(files.iter().copied());
        let time = times::parse("2021-07-13T09:16:44.1234567+02:00").unwrap();
        let evaluation = evaluate(rules, &archive, time, &|| None).unwrap();
        serde_json::to_string(&render(&evaluation, time, time)).unwrap()
    }

    #[test]
    fn an_empty_report_has_every_list() {
        let disable = vec!["ccx_rules_ocp".into(), "ccx_rules_processing".into()];
        let rules = RuleSet::new(&RuleOptions {
            disable,
            ..Default::default()
        })
        .unwrap();
        let set = format!(
            "{{\"version\":\"{}\",\"commit\":{}}}",
            RULES_VERSION,
            json!(COMMIT)
        );
        assert_eq!(
            report(&[], &rules),
            format!(
                "{{\"system\":{{\"metadata\":{{}},\"hostname\":null}},\"reports\":[],\
                 \"fingerprints\":[],\"skips\":[],\"info\":[],\"pass\":[],\
                 \"analysis_metadata\":{{\"start\":\"2021-07-13T07:16:44.123456+00:00\",\
                 \"finish\":\"2021-07-13T07:16:44.123456+00:00\",\
                 \"execution_context\":\"ccx_ocp_core.context.InsightsOperatorContext\",\
                 \"plugin_sets\":{{\"insights-core\":{set},\"ccx_rules_ocp\":{set},\
                 \"ccx_ocp_core\":{set}}}}}}}"
            )
        );
    }

    #[test]
    fn elements_have_the_public_shape() {
        let files = [
            ("config/id", "B0C2D108-0603-41c3-9a8f-0a37eba5df49\n"),
            (
                "config/machineconfigpools/master.json",
                r#"{"metadata": {"name": "master"}, "spec": {"paused": true}}"#,
            ),
        ];
        let text = report(&files, &RuleSet::all(Settings::default()));
        let hit = concat!(
            r#"{"rule_id":"mcp_set_to_pause|MCP_SET_TO_PAUSE","#,
            r#""component":"ccx_rules_ocp.external.rules.mcp_set_to_pause.report","type":"rule","#,
            r#""key":"MCP_SET_TO_PAUSE","details":{"pause":[{"name":"master"}],"type":"rule","#,
            r#""error_key":"MCP_SET_TO_PAUSE"},"tags":[],"links":{"kcs":["#,
            r#""https://access.redhat.com/solutions/5317441"],"jira":["#,
            r#""https://issues.redhat.com/browse/INSIGHTOCP-109","#,
            r#""https://issues.redhat.com/browse/INSIGHTOCP-396"]}}"#,
        );
        assert!(text.contains(hit), "{text}");
        let info = concat!(
            r#""info":[{"info_id":"cluster_id|GRAFANA_LINK","#,
            r#""component":"ccx_rules_ocp.external.rules.cluster_id.report","type":"info","#,
            r#""key":"GRAFANA_LINK","details":{"cluster_id":"b0c2d108-0603-41c3-9a8f-0a37eba5df49","#,
            r#""grafana_link":"N/A","type":"info","info_key":"GRAFANA_LINK"},"tags":[],"links":{}}"#,
        );
        assert!(text.contains(info), "{text}");
        let skip = concat!(
            r#"{"rule_fqdn":"ccx_rules_ocp.external.rules.nodes_requirements_check.report","#,
            r#""reason":"MISSING_REQUIREMENTS","#,
            r#""details":"All: ['ccx_ocp_core.models.nodes.Nodes'] Any: ","type":"skip"}"#,
        );
        assert!(text.contains(skip), "{text}");
        assert_eq!(text, report(&files, &RuleSet::all(Settings::default())));
    }

    #[test]
    fn recommendations_are_the_last_list_where_the_operator_runs() {
        let metrics = "deployment_validation_operator_host_ipc\
                       {kind=\"Pod\",namespace_uid=\"1\",uid=\"2\"} 1\n";
        let text = report(
            &[("config/dvo_metrics", metrics)],
            &RuleSet::all(Settings::default()),
        );
        let last = concat!(
            r#""workload_recommendations":[{"response_id":"host_ipc|DVO_HOST_IPC","#,
            r#""component":"ccx_rules_ocp.external.dvo.host_ipc.recommendation","#,
            r#""key":"DVO_HOST_IPC","details":{"check_name":"host_ipc","check_url":"","#,
            r#""samples":[{"namespace_uid":"1","kind":"Pod","uid":"2"}]},"tags":[],"#,
            r#""links":{"jira":[],"product_documentation":[]},"workloads":[{"namespace":"","#,
            r#""namespace_uid":"1","kind":"Pod","name":"","uid":"2"}]}]}"#,
        );
        assert!(text.ends_with(last), "{text}");
        // Nothing found is an answer too: it clears what was found before.
        let text = report(
            &[("config/dvo_metrics", "\n")],
            &RuleSet::all(Settings::default()),
        );
        assert!(text.ends_with(r#","workload_recommendations":[]}"#));
        assert!(
            !report(&[], &RuleSet::all(Settings::default())).contains("workload_recommendations")
        );
    }

    #[test]
    fn a_bare_key_goes_without_tags_and_links() {
        let answer = |progressing: &str| {
            let file = json!({"status": {
                "desired": {"version": "4.8.13"},
                "history": [{"state": "Completed", "version": "4.8.12"}],
                "conditions": [{"type": "Progressing", "status": progressing}],
            }});
            let files = [("config/version.json", file.to_string())];
            let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
            let report: Value =
                serde_json::from_str(&report(&files, &RuleSet::all(Settings::default()))).unwrap();
            let reports = report["reports"].as_array().unwrap();
            let element = reports
                .iter()
                .find(|element| element["component"].to_string().contains(".version_check."))
                .unwrap();
            (element["tags"].clone(), element["links"].clone())
        };
        assert_eq!(answer("False"), (json!([]), json!({})));
        let (tags, links) = answer("True");
        assert_eq!(tags, json!(["phased_gates"]));
        assert_eq!(
            links["kcs"][0],
            "https://access.redhat.com/solutions/3799561"
        );
    }
}
