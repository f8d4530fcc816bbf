//! Prometheus holds an unusually high number of series.
//!
//! It then needs much memory and answers slowly. Reads the statistics of its store. Reports
//! `PROMETHEUS_HIGH_CARDINALITY`.

use serde_json::json;

use super::details::details;
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, respond};
use crate::archive::Model;

/// Series from which on there are too many. Ours: about ten times those of a small cluster.
const SERIES: i64 = 3_000_000;
/// Metrics told, those with the most series.
const METRICS: usize = 5;

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.prometheus_high_cardinality.report",
    detects: "Prometheus holds an unusually high number of series.",
    keys: &[Key::fail("PROMETHEUS_HIGH_CARDINALITY")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(2),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Tsdb],
        ..Requires::NOTHING
    },
    check,
};

fn check(context: &Context<'_>) -> RuleResult {
    let data = match context.archive.tsdb() {
        Some(tsdb) if tsdb.data.head.series >= SERIES => &tsdb.data,
        _ => return Ok(None),
    };
    let top: Vec<_> = data
        .series_by_metric
        .iter()
        .take(METRICS)
        .map(|metric| json!({ "name": metric.name, "value": metric.count }))
        .collect();
    respond(
        "PROMETHEUS_HIGH_CARDINALITY",
        details! { "num_series": data.head.series, "top_metrics": top },
    )
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const PATH: &str = "config/tsdb.json";

    fn answer(series: &Value, metrics: &Value) -> Answer {
        let file = json!({"status": "success", "data": {
            "headStats": {"numSeries": series}, "seriesCountByMetricName": metrics}});
        run(&RULE, &[(PATH, &file.to_string())])
    }

    #[test]
    fn many_series_hit_and_the_first_metrics_are_told() {
        let metrics: Vec<_> = (0..7_i64)
            .map(|number| json!({"name": format!("metric_{number}"), "value": 100 - number}))
            .collect();
        assert_eq!(
            answer(&json!(3_500_000), &json!(metrics)),
            found(
                "PROMETHEUS_HIGH_CARDINALITY",
                json!({"num_series": 3_500_000, "top_metrics": metrics[..5]})
            )
        );
    }

    #[test]
    fn the_limit_itself_hits() {
        let hit = json!({"num_series": 3_000_000, "top_metrics": []});
        assert_eq!(
            answer(&json!(3_000_000), &json!(null)),
            found("PROMETHEUS_HIGH_CARDINALITY", hit)
        );
        for series in [json!(2_999_999), json!("3000000"), json!(null)] {
            assert_eq!(answer(&series, &json!([])), Answer::Nothing, "{series}");
        }
    }

    #[test]
    fn without_statistics_it_is_skipped() {
        let skipped = skip("All: ['ccx_ocp_core.models.monitoring.TSDB'] Any: ");
        assert_eq!(run(&RULE, &[]), skipped);
        assert_eq!(run(&RULE, &[(PATH, "[]")]), skipped);
    }
}
