//! etcd members with slow disks.
//!
//! A slow member slows down or loses the whole control plane. Reads etcd's counters among the
//! metrics, which count since its process started, and what it says in its logs; either is
//! enough. Reports `ETCD_LOW_BACKEND_PERFORMANCE`.

use std::collections::BTreeMap;

use super::details::{details, list};
use super::{Context, Key, Requires, Rule, RuleProfile, RuleResult, Skip, respond};
use crate::archive::Model;
use crate::archive::documents::{Monitoring, Series};

/// Where the answer may come from.
const SOURCES: &[Model] = &[Model::Metrics, Model::PodLogs];
const SLOW_APPLY: &str = "etcd_server_slow_apply_total";
const SLOW_READ: &str = "etcd_server_slow_read_indexes_total";
/// Slow operations of one member since its start, from which on its disk is slow: ours.
const SLOW_OPERATIONS: f64 = 1000.0;
/// Lines of one member about slowness, from which on its disk is slow: ours.
const LOG_LINES: u64 = 10;
const NAMESPACE: &str = "openshift-etcd";
const POD_PREFIX: &str = "etcd-";

pub(super) const RULE: Rule = Rule {
    component: "ccx_rules_ocp.internal.rules.etcd_low_backend_performance.report",
    detects: "etcd members with slow disks.",
    keys: &[Key::fail("ETCD_LOW_BACKEND_PERFORMANCE")],
    profile: RuleProfile::Both,
    enabled_by_default: true,
    total_risk: Some(3),
    tags: &[],
    links: &[],
    requires: Requires {
        any: &[SOURCES],
        ..Requires::NOTHING
    },
    check,
};

/// What is known of one member.
#[derive(Default)]
struct Member {
    slow_apply: Option<f64>,
    slow_read: Option<f64>,
    log_lines: u64,
}

impl Member {
    fn is_slow(&self) -> bool {
        let counters = [self.slow_apply, self.slow_read];
        counters
            .iter()
            .flatten()
            .any(|count| *count >= SLOW_OPERATIONS)
            || self.log_lines >= LOG_LINES
    }
}

fn check(context: &Context<'_>) -> RuleResult {
    let mut members: BTreeMap<&str, Member> = BTreeMap::new();
    if let Some(metrics) = context.archive.metrics() {
        for (pod, value) in counters(metrics, SLOW_APPLY) {
            raise(&mut members.entry(pod).or_default().slow_apply, value);
        }
        for (pod, value) in counters(metrics, SLOW_READ) {
            raise(&mut members.entry(pod).or_default().slow_read, value);
        }
    }
    for log in context.archive.pod_logs() {
        let (namespace, pod) = log.namespace_and_pod();
        if namespace == NAMESPACE && pod.starts_with(POD_PREFIX) {
            members.entry(pod).or_default().log_lines += log.etcd_slow_lines;
        }
    }
    if members.is_empty() {
        return Err(Skip::any_of(SOURCES));
    }

    let slow = list(
        members
            .into_iter()
            .filter(|(_, member)| member.is_slow())
            .map(|(pod, member)| {
                details! {
                    "pod": pod,
                    "slow_apply_total": member.slow_apply.map(whole),
                    "slow_read_indexes_total": member.slow_read.map(whole),
                    "log_lines": member.log_lines,
                }
            }),
    );
    if slow.is_empty() {
        return Ok(None);
    }
    respond("ETCD_LOW_BACKEND_PERFORMANCE", details! { "members": slow })
}

/// Pod and value of each series that has a value.
fn counters<'a>(metrics: &'a Monitoring, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    let series = metrics.series(name);
    series
        .filter(|series| series.value.is_finite())
        .map(|series: &Series| (series.label("pod"), series.value))
}

/// Several series of a pod are the same counter as several Prometheus servers saw it.
fn raise(counter: &mut Option<f64>, value: f64) {
    *counter = Some(counter.map_or(value, |known| known.max(value)));
}

/// Counters are whole; what is too large for the type is as large as the type.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, and the value is finite"
)]
fn whole(counter: f64) -> i64 {
    counter as i64
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::{Answer, found, run, skip};
    use super::*;

    const POD: &str = "etcd-ip-10-0-109-44.us-west-1.compute.internal";
    const LOG: &str = "namespaces/openshift-etcd/pods/etcd-a/etcd/current.log";

    fn series(name: &str, pod: &str, value: &str) -> String {
        format!("{name}{{namespace=\"openshift-etcd\",pod=\"{pod}\"}} {value} 1706601229875\n")
    }

    fn member(pod: &str, apply: Value, read: Value, lines: u64) -> Value {
        json!({"pod": pod, "slow_apply_total": apply, "slow_read_indexes_total": read,
            "log_lines": lines})
    }

    fn expected(members: &[Value]) -> Answer {
        found("ETCD_LOW_BACKEND_PERFORMANCE", json!({"members": members}))
    }

    #[test]
    fn tells_members_with_many_slow_operations() {
        let metrics = [
            series(SLOW_APPLY, POD, "1204"),
            series(SLOW_APPLY, POD, "1203"),
            series(SLOW_READ, POD, "0"),
            series(SLOW_APPLY, "etcd-well", "8"),
            series(SLOW_READ, "etcd-b", "1e+300"),
        ];
        assert_eq!(
            run(&RULE, &[("config/metrics", &metrics.concat())]),
            expected(&[
                member("etcd-b", json!(null), json!(i64::MAX), 0),
                member(POD, json!(1204), json!(0), 0),
            ])
        );
    }

    #[test]
    fn a_thousand_operations_or_ten_lines_are_too_many() {
        for name in [SLOW_APPLY, SLOW_READ] {
            for (value, is_slow) in [("1000", true), ("999.9", false), ("NaN", false)] {
                let metrics = [series(name, POD, value), series(name, "etcd-b", "1")];
                let answer = run(&RULE, &[("config/metrics", &metrics.concat())]);
                assert_eq!(matches!(answer, Answer::Found(..)), is_slow, "{value}");
            }
        }
        let line = "apply request took too long\n";
        assert_eq!(run(&RULE, &[(LOG, &line.repeat(9))]), Answer::Nothing);
        assert_eq!(
            run(&RULE, &[(LOG, &line.repeat(10))]),
            expected(&[member("etcd-a", json!(null), json!(null), 10)])
        );
    }

    #[test]
    fn lines_of_one_pod_count_together_in_every_layout_of_logs() {
        let slow = "took too long\nfailed to send out heartbeat on time\nother\n";
        let a = slow.repeat(3);
        let files = [
            (
                "config/pod/openshift-etcd/logs/etcd-a/etcd_current.log",
                a.as_str(),
            ),
            ("config/pod/openshift-etcd/logs/etcd-a/errors.log", slow),
            (
                "conditional/namespaces/openshift-etcd/pods/etcd-a/containers/etcd/logs/last-100-lines.log",
                slow,
            ),
        ];
        let member = member("etcd-a", json!(null), json!(null), 10);
        assert_eq!(run(&RULE, &files), expected(&[member]));
        assert_eq!(run(&RULE, &files[..2]), Answer::Nothing);
    }

    #[test]
    fn where_neither_source_knows_etcd_it_is_skipped() {
        let skipped = skip(
            "All: [] Any: ['ccx_ocp_core.models.metrics.Metrics', \
             'ccx_ocp_core.models.logs.PodLogs']",
        );
        let text = "took too long\n".repeat(20);
        let [other_pod, other_namespace] = [
            "namespaces/openshift-etcd/pods/installer-1/etcd/current.log",
            "namespaces/openshift-etcd-operator/pods/etcd-operator-1/x/current.log",
        ];
        for files in [
            &[][..],
            &[("config/metrics", "up 1\n")],
            &[("config/metrics", "")],
            &[(other_pod, text.as_str()), (other_namespace, &text)],
        ] {
            assert_eq!(run(&RULE, files), skipped);
        }
    }
}
