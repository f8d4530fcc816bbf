//! Every metric, declared once and named once.
//!
//! The `ccx_…` names without a remark are those of the service that this worker replaces, so that
//! its dashboards and alerts go on working. All series exist from the start; every label value
//! comes from a fixed set, but for the remote-configuration versions, whose number is capped.

use std::collections::BTreeSet;
use std::sync::Mutex;

use prometheus::core::Collector;
use prometheus::{
    CounterVec, Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter,
    IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::archive::ArchiveKind;
use crate::archive::extract::IgnoredMembers;
use crate::error::{Class, Reason};

/// Sizes of archives: 4 KiB × 4 up to 256 MiB.
const SIZE_BUCKETS: [f64; 9] = [
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
];

const SECONDS_BUCKETS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
];

/// Remote-configuration versions that get a label of their own; later ones are `other`.
const VERSION_LABELS: usize = 32;

/// Faults that `ccx_fault` knows.
pub const FAULTS: [&str; 3] = ["sink", "host", "input_topic"];

/// Stages that `ccx_retries_total` knows.
const RETRY_STAGES: [&str; 5] = ["download", "extract", "publish", "dead_letter", "commit"];

/// The metrics of one run.
#[expect(
    missing_docs,
    reason = "each field is the metric that `new` names and describes"
)]
pub struct Metrics {
    registry: Registry,
    pub received: IntCounter,
    pub filtered: IntCounter,
    pub not_handled: IntCounter,
    pub downloaded_bytes: Histogram,
    pub archive_size: HistogramVec,
    pub extracted: IntCounterVec,
    pub processed: IntCounterVec,
    pub processed_timeout: IntCounterVec,
    pub published: IntCounterVec,
    pub failures: IntCounterVec,
    pub download_seconds: Histogram,
    pub process_seconds: HistogramVec,
    pub publish_seconds: HistogramVec,
    remote_configuration: IntCounterVec,
    remote_configuration_seen: Mutex<BTreeSet<String>>,
    pub outcomes: IntCounterVec,
    pub dead_letters: IntCounterVec,
    pub dead_letter_stubs: IntCounter,
    pub retries: IntCounterVec,
    pub in_flight_records: IntGauge,
    pub in_flight_bytes: IntGauge,
    pub oldest_unfinished_seconds: Gauge,
    pub lag: IntGaugeVec,
    pub rebalances: IntCounter,
    pub assigned_partitions: IntGauge,
    pub paused_partitions: IntGauge,
    pub breaker_open: IntGauge,
    pub commits: IntCounterVec,
    pub reconnects: IntCounterVec,
    pub skipped_offsets: IntCounterVec,
    pub producer_resets: IntCounterVec,
    pub fault: GaugeVec,
    pub members_ignored: IntCounterVec,
    pub documents_damaged: IntCounter,
    pub rule_runs: IntCounterVec,
    pub rule_hits: IntCounterVec,
    pub rule_failures: IntCounterVec,
    pub rule_seconds: CounterVec,
    pub payload_tracker_dropped: IntCounter,
    pub log_lines_dropped: IntCounter,
}

impl Metrics {
    /// Declares everything; `rules` are the names of all rules, `clusters` those of the Kafka
    /// clusters.
    ///
    /// # Errors
    /// When two metrics have one name, or a name is not legal.
    pub fn new(
        version: &str,
        commit: &str,
        rules_version: &str,
        rules: &[&str],
    ) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let archives = ArchiveKind::ALL.map(ArchiveKind::as_str);
        let clusters = ["consumer", "publisher"];
        let reasons: Vec<&str> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        let failures: Vec<&str> = Reason::ALL
            .iter()
            .filter(|r| r.class() != Class::Skip)
            .map(|r| r.as_str())
            .collect();
        let d = Declare(&registry);

        let outcomes = d.labelled(
            "ccx_outcomes_total",
            "Records by their outcome and its reason.",
            &["outcome", "reason"],
        )?;
        outcomes.with_label_values(&["published", "none"]);
        for reason in &failures {
            outcomes.with_label_values(&["dead_letter", reason]);
        }
        for reason in &reasons {
            outcomes.with_label_values(&["skipped", reason]);
        }

        let build = d.put(IntGaugeVec::new(
            Opts::new("ccx_build_info", "1, with what runs here as labels."),
            &["version", "commit", "rules_version"],
        )?)?;
        build
            .with_label_values(&[version, commit, rules_version])
            .set(1);
        #[cfg(target_os = "linux")]
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;

        let fault = d.put(GaugeVec::new(
            Opts::new(
                "ccx_fault",
                "1 while a fault that is not a record's holds the flow up.",
            ),
            &["kind"],
        )?)?;
        for kind in FAULTS {
            fault.with_label_values(&[kind]);
        }
        let rule_seconds = d.put(CounterVec::new(
            Opts::new("ccx_rule_seconds_total", "Time that rules took."),
            &["rule"],
        )?)?;
        for rule in rules {
            rule_seconds.with_label_values(&[*rule]);
        }

        Ok(Self {
            received: d.counter(
                "ccx_consumer_received_total",
                "Records whose announcement was parsed.",
            )?,
            filtered: d.counter(
                "ccx_consumer_filtered_total",
                "Records of other services, or too old.",
            )?,
            not_handled: d.counter(
                "ccx_not_handled_total",
                "Records whose value is no announcement.",
            )?,
            downloaded_bytes: d.histogram(
                "ccx_downloaded_total",
                "Sizes of downloaded archives in bytes.",
                &SIZE_BUCKETS,
            )?,
            archive_size: d.histograms(
                "ccx_consumer_archive_size",
                "Sizes of extracted archives in bytes.",
                &SIZE_BUCKETS,
                &archives,
            )?,
            extracted: d.counters(
                "ccx_consumer_extracted_total",
                "Archives extracted.",
                "archive",
                &archives,
            )?,
            processed: d.counters(
                "ccx_engine_processed_total",
                "Archives that rules ran over.",
                "archive",
                &archives,
            )?,
            processed_timeout: d.counters(
                "ccx_engine_processed_timeout_total",
                "Archives whose deadline was spent.",
                "archive",
                &archives,
            )?,
            published: d.counters(
                "ccx_published_total",
                "Results acknowledged.",
                "archive",
                &archives,
            )?,
            failures: d.counters(
                "ccx_failures_total",
                "Records that failed behind ingress.",
                "archive",
                &archives,
            )?,
            download_seconds: d.histogram(
                "ccx_download_duration_seconds",
                "Time of downloads, all attempts together.",
                &SECONDS_BUCKETS,
            )?,
            process_seconds: d.histograms(
                "ccx_process_duration_seconds",
                "Time of extraction, rules and rendering.",
                &SECONDS_BUCKETS,
                &archives,
            )?,
            publish_seconds: d.histograms(
                "ccx_publish_duration_seconds",
                "Time until the result was acknowledged.",
                &SECONDS_BUCKETS,
                &archives,
            )?,
            remote_configuration: d.labelled(
                "gathering_conditions_remote_configuration_version_total",
                "Archives by the version of their remote configuration.",
                &["version"],
            )?,
            remote_configuration_seen: Mutex::default(),
            outcomes,
            dead_letters: d.counters(
                "ccx_dead_letters_total",
                "Dead letters acknowledged.",
                "reason",
                &failures,
            )?,
            dead_letter_stubs: d.counter(
                "ccx_dead_letter_stubs_total",
                "Dead letters whose record was too large to be kept.",
            )?,
            retries: d.counters(
                "ccx_retries_total",
                "Attempts after the first one.",
                "stage",
                &RETRY_STAGES,
            )?,
            in_flight_records: d.gauge(
                "ccx_in_flight_records",
                "Records handed out and not settled.",
            )?,
            in_flight_bytes: d
                .gauge("ccx_in_flight_bytes", "Bytes reserved for archive bodies.")?,
            oldest_unfinished_seconds: d.put(Gauge::with_opts(Opts::new(
                "ccx_oldest_unfinished_seconds",
                "Age of the oldest record handed out and not settled.",
            ))?)?,
            lag: d.put(IntGaugeVec::new(
                Opts::new(
                    "kafka_consumer_lag",
                    "High watermark less committed offset, owned partitions.",
                ),
                &["topic", "partition"],
            )?)?,
            rebalances: d.counter("ccx_consumer_rebalances_total", "Assignments received.")?,
            assigned_partitions: d.gauge(
                "ccx_consumer_assigned_partitions",
                "Partitions that are ours.",
            )?,
            paused_partitions: d.gauge(
                "ccx_consumer_paused_partitions",
                "Partitions that are not fetched.",
            )?,
            breaker_open: d.gauge(
                "ccx_breaker_open",
                "1 while too many records fail and the next ones wait.",
            )?,
            commits: d.counters(
                "ccx_consumer_commits_total",
                "Offset commits by result, one per partition.",
                "result",
                &["ok", "retried", "failed"],
            )?,
            reconnects: d.counters(
                "ccx_kafka_reconnects_total",
                "Connections opened again.",
                "cluster",
                &clusters,
            )?,
            skipped_offsets: d.counters(
                "ccx_consumer_skipped_offsets_total",
                "Offsets passed over without a record's outcome.",
                "cause",
                &["out_of_range", "corrupt_batch"],
            )?,
            producer_resets: d.counters(
                "ccx_producer_resets_total",
                "New producer ids: duplicates are possible.",
                "cluster",
                &clusters,
            )?,
            fault,
            members_ignored: d.counters(
                "ccx_archive_members_ignored_total",
                "Archive members that are no plain files; `absolute` counts renamed ones.",
                "kind",
                &IgnoredMembers::KINDS,
            )?,
            documents_damaged: d.counter(
                "ccx_documents_damaged_total",
                "Documents inside archives that could not be read.",
            )?,
            rule_runs: d.counters("ccx_rule_runs_total", "Runs of rules.", "rule", rules)?,
            rule_hits: d.counters("ccx_rule_hits_total", "Hits of rules.", "rule", rules)?,
            rule_failures: d.counters(
                "ccx_rule_failures_total",
                "Rules that failed or panicked.",
                "rule",
                rules,
            )?,
            rule_seconds,
            payload_tracker_dropped: d.counter(
                "ccx_payload_tracker_dropped_total",
                "Statuses for the payload tracker that were not sent.",
            )?,
            log_lines_dropped: d.counter(
                "ccx_log_lines_dropped_total",
                "Log lines that could not be written.",
            )?,
            registry,
        })
    }

    /// Counts one archive by the version of its remote configuration.
    pub fn count_remote_configuration(&self, version: Option<&str>) {
        // The lock only guards a set of names: a panic elsewhere cannot leave it half changed.
        let mut seen = self
            .remote_configuration_seen
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let label = match version {
            None => "None",
            Some(version) if seen.contains(version) => version,
            Some(version) if seen.len() < VERSION_LABELS && version.len() <= 64 => {
                seen.insert(version.to_owned());
                version
            }
            Some(_) => "other",
        };
        self.remote_configuration.with_label_values(&[label]).inc();
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8_lossy(&text).into_owned(),
            Err(error) => format!("# metrics cannot be written: {error}\n"),
        }
    }
}

/// Short forms of declaring and registering at once.
struct Declare<'a>(&'a Registry);

impl Declare<'_> {
    fn put<C: Collector + Clone + 'static>(&self, collector: C) -> prometheus::Result<C> {
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.put(IntCounter::new(name, help)?)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.put(IntGauge::new(name, help)?)
    }

    fn labelled(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.put(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let counters = self.labelled(name, help, &[label])?;
        for value in values {
            counters.with_label_values(&[*value]);
        }
        Ok(counters)
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.put(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        )?)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
        archives: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = self.put(HistogramVec::new(options, &["archive"])?)?;
        for archive in archives {
            histograms.with_label_values(&[*archive]);
        }
        Ok(histograms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new("1", "abc", "2", &["tutorial_rule"]).unwrap()
    }

    #[test]
    fn every_series_exists_from_the_start() {
        let text = metrics().render();
        for series in [
            "ccx_consumer_received_total 0",
            "ccx_published_total{archive=\"hypershift\"} 0",
            "ccx_outcomes_total{outcome=\"published\",reason=\"none\"} 0",
            "ccx_outcomes_total{outcome=\"skipped\",reason=\"too_old\"} 0",
            "ccx_dead_letters_total{reason=\"archive_corrupt\"} 0",
            "ccx_downloaded_total_bucket{le=\"4096\"} 0",
            "ccx_rule_seconds_total{rule=\"tutorial_rule\"} 0",
            "ccx_fault{kind=\"sink\"} 0",
            "ccx_build_info{commit=\"abc\",rules_version=\"2\",version=\"1\"} 1",
        ] {
            assert!(text.contains(series), "{series} is missing in\n{text}");
        }
        assert!(!text.contains("ccx_dead_letters_total{reason=\"too_old\"}"));
    }

    /// The row of each metric of ours in the README: name and labels, type, help.
    fn rows() -> String {
        let metrics = metrics();
        metrics.count_remote_configuration(None);
        metrics.lag.with_label_values(&["in", "0"]).set(1);
        let families = metrics.registry.gather();
        let ours = families
            .iter()
            .filter(|f| !f.name().starts_with("process_"));
        let row = |family: &prometheus::proto::MetricFamily| {
            let labels = family.get_metric()[0].get_label();
            let labels: Vec<_> = labels.iter().map(|label| label.name()).collect();
            let labels = match &*labels {
                [] => String::new(),
                some => format!("{{{}}}", some.join(", ")),
            };
            let kind = format!("{:?}", family.get_field_type()).to_lowercase();
            format!(
                "| `{}{labels}` | {kind} | {} |\n",
                family.name(),
                family.help()
            )
        };
        ours.map(row).collect()
    }

    #[test]
    fn the_readme_has_every_metric() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
        let readme = std::fs::read_to_string(path).unwrap();
        let table = readme.split_once("| metric | type | meaning |\n|---|---|---|\n");
        let table = table
            .and_then(|(_, rest)| rest.split_once("\n\n"))
            .unwrap()
            .0;
        let rows = rows();
        assert!(
            format!("{table}\n") == rows,
            "the table of metrics in README.md should be:\n{rows}"
        );
    }

    #[test]
    fn m16_versions_of_archives_cannot_grow_the_labels() {
        let metrics = metrics();
        metrics.count_remote_configuration(None);
        for version in 0..1000 {
            metrics.count_remote_configuration(Some(&format!("1.{version}.0")));
        }
        metrics.count_remote_configuration(Some("1.0.0"));
        let text = metrics.render();
        let series = text
            .lines()
            .filter(|l| l.starts_with("gathering_conditions_remote_configuration_version_total{"));
        assert_eq!(series.count(), VERSION_LABELS + 2);
        assert!(text.contains("{version=\"other\"} 968"));
        assert!(text.contains("{version=\"1.0.0\"} 2"));
        assert!(text.contains("{version=\"None\"} 1"));
        let metrics = self::metrics();
        for length in [64, 65] {
            metrics.count_remote_configuration(Some(&"9".repeat(length)));
        }
        let text = metrics.render();
        assert!(text.contains(&format!("{{version=\"{}\"}} 1", "9".repeat(64))));
        assert!(
            text.contains("{version=\"other\"} 1"),
            "too long for a label"
        );
    }
}
