//! The watcher that counts: events of the pipeline become metrics.

use std::sync::Arc;

use super::{Event, Outcome, Stage, Subject, Watcher};
use crate::archive::ArchiveKind;
use crate::engine::RuleOutcome;
use crate::error::Reason;
use crate::telemetry::metrics::Metrics;

/// Counts what happens to records.
pub struct Stats(Arc<Metrics>);

impl Stats {
    /// Counts into `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self(metrics)
    }
}

impl Watcher for Stats {
    fn notify(&self, subject: &Subject<'_>, event: &Event<'_>) {
        let m = &self.0;
        // Before extraction nobody knows the kind; `ocp` is what the replaced service says then.
        let archive = &[subject.archive.unwrap_or(ArchiveKind::Ocp).as_str()];
        match event {
            Event::Received { .. } => m.received.inc(),
            Event::Filtered { .. } => m.filtered.inc(),
            Event::Downloaded {
                bytes, duration, ..
            } => {
                m.downloaded_bytes.observe(*bytes as f64);
                m.download_seconds.observe(duration.as_secs_f64());
            }
            Event::Extracted {
                bytes,
                ignored,
                remote_configuration_version,
                ..
            } => {
                m.archive_size
                    .with_label_values(archive)
                    .observe(*bytes as f64);
                m.extracted.with_label_values(archive).inc();
                for (kind, count) in *ignored {
                    m.members_ignored.with_label_values(&[*kind]).inc_by(*count);
                }
                m.count_remote_configuration(*remote_configuration_version);
            }
            Event::Processed {
                rules,
                damaged_documents,
                duration,
            } => {
                m.processed.with_label_values(archive).inc();
                m.process_seconds
                    .with_label_values(archive)
                    .observe(duration.as_secs_f64());
                m.documents_damaged.inc_by(*damaged_documents);
                for run in *rules {
                    let rule = &[run.name];
                    m.rule_runs.with_label_values(rule).inc();
                    m.rule_seconds
                        .with_label_values(rule)
                        .inc_by(run.duration.as_secs_f64());
                    match run.outcome {
                        RuleOutcome::Hit => m.rule_hits.with_label_values(rule).inc(),
                        RuleOutcome::Failed => m.rule_failures.with_label_values(rule).inc(),
                        _ => {}
                    }
                }
            }
            Event::Published { duration, .. } => {
                m.published.with_label_values(archive).inc();
                m.publish_seconds
                    .with_label_values(archive)
                    .observe(duration.as_secs_f64());
            }
            Event::Failed {
                stage: Stage::Ingress,
                ..
            } => m.not_handled.inc(),
            Event::Failed { reason, .. } => {
                m.failures.with_label_values(archive).inc();
                if *reason == Reason::Timeout {
                    m.processed_timeout.with_label_values(archive).inc();
                }
            }
            Event::DeadLettered { reason, stub } => {
                m.dead_letters.with_label_values(&[reason.as_str()]).inc();
                if *stub {
                    m.dead_letter_stubs.inc();
                }
            }
            Event::Retried { stage } => m.retries.with_label_values(&[*stage]).inc(),
            Event::Completed { outcome, .. } => {
                let labels = [Outcome::as_str(*outcome), outcome.reason()];
                m.outcomes.with_label_values(&labels).inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::RuleRun;
    use crate::kafka::TopicPartition;

    #[test]
    fn p06_runs_of_rules_are_counted_by_what_came_of_them() {
        let metrics = Arc::new(Metrics::new("1", "c", "1", &["loud", "odd", "quiet"]).unwrap());
        let subject = Subject {
            partition: &TopicPartition::new("upload", 0),
            offset: 7,
            request_id: None,
            org_id: None,
            account_number: None,
            archive: None,
        };
        let run = |name, outcome| RuleRun {
            name,
            duration: Duration::from_secs(2),
            outcome,
        };
        let event = Event::Processed {
            rules: &[
                run("loud", RuleOutcome::Hit),
                run("odd", RuleOutcome::Failed),
                run("quiet", RuleOutcome::NoHit),
            ],
            damaged_documents: 0,
            duration: Duration::from_secs(6),
        };
        let stats = Stats::new(Arc::clone(&metrics));
        stats.notify(&subject, &event);
        stats.notify(&subject, &event);
        for (rule, hits, failures) in [("loud", 2, 0), ("odd", 0, 2), ("quiet", 0, 0)] {
            let of = |counter: &prometheus::IntCounterVec| counter.with_label_values(&[rule]).get();
            let counted = [
                &metrics.rule_runs,
                &metrics.rule_hits,
                &metrics.rule_failures,
            ]
            .map(of);
            assert_eq!(counted, [2, hits, failures], "{rule}");
            let seconds = metrics.rule_seconds.with_label_values(&[rule]).get();
            assert_eq!(seconds, 4.0, "{rule}");
        }
    }
}
