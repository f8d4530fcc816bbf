//! A router serves more back-end servers than its metrics exporter counts one by one.
//!
//! Above its limit the exporter leaves out the metrics of single servers, and autoscaling and
//! alerts that use them see nothing. Reads metrics of 4.17 and later; without the series it is
//! skipped. Reports `HAPROXY_EXPORTER_SERVER_THRESHOLD_EXCEEDED`.

use std::collections::BTreeMap;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond};
use crate::archive::Model;

const SERIES: &str = "haproxy_exporter_server_threshold";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.external.rules.haproxy_exporter_server_threshold_exceeded.report",
    detects: "A router serves more back-end servers than the metrics exporter limit.",
    keys: &[Key::fail("HAPROXY_EXPORTER_SERVER_THRESHOLD_EXCEEDED")],
    profile: RuleProfile::External,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        all: &[Model::Metrics],
        ..Requires::NOTHING
    },
    check,
};

/// What a router's pod says, as far as it does.
#[derive(Default)]
struct Servers {
    current: Option<i64>,
    limit: Option<i64>,
}

fn check(context: &Context<'_>) -> RuleResult {
    let mut routers: BTreeMap<(&str, &str), Servers> = BTreeMap::new();
    let metrics = context.archive.metrics();
    for series in metrics
        .into_iter()
        .flat_map(|metrics| metrics.series(SERIES))
    {
        // By pod first: that is the order of the list.
        let router = (series.label("pod"), series.label("namespace"));
        let servers = routers.entry(router).or_default();
        match series.label("type") {
            "current" => servers.current = whole(series.value),
            "limit" => servers.limit = whole(series.value),
            _ => {}
        }
    }
    if routers.is_empty() {
        return Err(Skip::model(Model::Metrics));
    }

    let exceeded = list(
        routers
            .into_iter()
            .filter_map(|((pod, namespace), servers)| {
                let (current, limit) = (servers.current?, servers.limit?);
                (current > limit).then(|| {
                    details! {
                        "namespace": namespace,
                        "pod": pod,
                        "current": current,
                        "limit": limit,
                    }
                })
            }),
    );
    if exceeded.is_empty() {
        return Ok(None);
    }
    respond(
        "HAPROXY_EXPORTER_SERVER_THRESHOLD_EXCEEDED",
        details! { "routers": exceeded },
    )
}

/// A count out of a sample, which is always a floating point number.
fn whole(value: f64) -> Option<i64> {
    format!("{:.0}", value.trunc()).parse().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    fn skipped() -> Answer {
        skip("All: ['ccx_ocp_core.models.metrics.Metrics'] Any: ")
    }

    /// A sample for each of `(pod, type, value)`.
    fn answer(samples: &[(&str, &str, &str)]) -> Answer {
        let lines: Vec<_> = samples
            .iter()
            .map(|(pod, kind, value)| {
                format!(
                    "{SERIES}{{namespace=\"openshift-ingress\",pod=\"{pod}\",type=\"{kind}\"}} {value} 1720178542159"
                )
            })
            .collect();
        let text = format!("# TYPE {SERIES} untyped\n{}\n", lines.join("\n"));
        run(&RULE, &[("config/metrics", &text)])
    }

    #[test]
    fn names_routers_over_their_limit() {
        let samples = [
            ("router-b", "limit", "500"),
            ("router-b", "current", "620"),
            ("router-a", "current", "5.01e2"),
            ("router-a", "limit", "500"),
            ("router-c", "current", "20"),
            ("router-c", "limit", "500"),
        ];
        let entry = |pod: &str, current: i64| json!({"namespace": "openshift-ingress", "pod": pod, "current": current, "limit": 500});
        assert_eq!(
            answer(&samples),
            found(
                "HAPROXY_EXPORTER_SERVER_THRESHOLD_EXCEEDED",
                json!({"routers": [entry("router-a", 501), entry("router-b", 620)]})
            )
        );
    }

    #[test]
    fn the_limit_itself_is_well_and_each_pod_has_its_own() {
        let at_limit = [("a", "current", "500"), ("a", "limit", "500")];
        assert_eq!(answer(&at_limit), Answer::Nothing);
        let apart = [("a", "current", "501"), ("b", "limit", "500")];
        assert_eq!(answer(&apart), Answer::Nothing);
        for odd in ["NaN", "+Inf", "-Inf", "1e300"] {
            let samples = [("a", "current", odd), ("a", "limit", "500")];
            assert_eq!(answer(&samples), Answer::Nothing, "{odd}");
        }
        assert_eq!(answer(&[("a", "other", "1")]), Answer::Nothing);
    }

    #[test]
    fn without_the_series_it_is_skipped() {
        assert_eq!(run(&RULE, &[]), skipped());
        for text in [
            "",
            "up 1 1720178542159\n",
            "haproxy_exporter_server_threshold{pod=\"a",
        ] {
            assert_eq!(run(&RULE, &[("config/metrics", text)]), skipped(), "{text}");
        }
    }
}
