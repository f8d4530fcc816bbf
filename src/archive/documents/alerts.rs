//! What monitoring says: alerts, and a few series of metrics.
//!
//! Alerts are Alertmanager's list in `config/alerts.json`; archives before 4.17 have them as
//! `ALERTS` series of `config/metrics` too. One type for both files, since one file may answer
//! for both models.

use super::field::{hold, object, of_map, of_texts};
use super::prometheus::{self, Sample};
use super::{Damage, Document, Labels, Source};
use crate::archive::models::Model;

/// Series that some rule reads; a rule that reads another adds it here.
const SERIES: &[&str] = &[
    "cluster_installer",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "haproxy_exporter_server_threshold",
];
/// The series that holds alerts, pending ones too.
const ALERTS: &str = "ALERTS";
/// Most memory of kept series, in bytes: ten thousand of them. What comes after is left out.
const KEPT: usize = 16 * 1024 * 1024;

/// What `config/alerts.json` or `config/metrics` says.
#[derive(Debug, Default)]
pub struct Monitoring {
    /// Alerts, firing and other.
    pub alerts: Vec<Alert>,
    series: Vec<Series>,
    /// Whether the file tells alerts at all.
    tells_alerts: bool,
}

/// The newest sample of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    name: &'static str,
    labels: Labels,
    /// May be infinite or no number.
    pub value: f64,
    /// Milliseconds since 1970, where the file says it.
    pub timestamp: Option<i64>,
}

/// Silenced alerts, Alertmanager's list.
#[derive(Debug)]
pub struct SilencedAlerts(pub Vec<Alert>);

object! {
    /// An alert in Alertmanager's form.
    pub struct Alert {
        /// `alertname`, `severity`, `namespace` and the alert's own.
        pub labels: Labels = "labels",
        /// `summary`, `description`.
        pub annotations: Labels = "annotations",
        /// Since when, RFC 3339.
        pub starts_at: Option<String> = "startsAt",
        /// What became of it.
        pub status: AlertStatus = "status",
    }

    /// What of an alert's `status` is read.
    pub struct AlertStatus {
        /// `active`, `suppressed` or `unprocessed`; `pending` only out of series.
        pub state: String = "state",
        /// Ids of the silences that hold it back.
        pub silenced_by: Vec<String> = "silencedBy",
    }
}

impl Alert {
    /// A label, empty when absent.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// What it is called, empty when absent.
    pub fn name(&self) -> &str {
        self.label("alertname")
    }

    /// `critical`, `warning`, `info` or `none`; empty when absent.
    pub fn severity(&self) -> &str {
        self.label("severity")
    }

    /// One sentence for people, empty when absent; series have none.
    pub fn summary(&self) -> &str {
        self.annotations.get("summary").map_or("", String::as_str)
    }

    /// Whether it fires and nobody has silenced it.
    pub fn is_active(&self) -> bool {
        self.status.state == "active"
    }

    /// As a series tells it, which says less than Alertmanager: neither since when nor whether
    /// it is silenced.
    fn of(sample: &Sample<'_>) -> Alert {
        let state = match sample.label("alertstate") {
            "firing" => "active",
            other => other,
        };
        Alert {
            labels: labels(sample),
            status: AlertStatus {
                state: state.to_owned(),
                ..AlertStatus::default()
            },
            ..Alert::default()
        }
    }
}

/// Bytes that a sample takes once it is kept, as an alert or not.
fn memory(sample: &Sample<'_>) -> usize {
    let names = sample.labels.iter().map(|(name, _)| *name);
    let values = sample.labels.iter().map(|(_, value)| value.as_ref());
    size_of::<Alert>()
        + of_map::<String, String>(sample.labels.len())
        + of_texts(names.chain(values))
}

fn labels(sample: &Sample<'_>) -> Labels {
    let labels = sample.labels.iter();
    labels
        .map(|(name, value)| ((*name).to_owned(), value.clone().into_owned()))
        .collect()
}

impl Monitoring {
    /// The series of a name, in the order of the file. The name must be one of those that are
    /// kept, or nothing is found.
    pub fn series<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Series> {
        self.series.iter().filter(move |series| series.name == name)
    }

    fn take(&mut self, line: &str, kept: &mut usize) {
        let Some(name) = prometheus::name(line) else {
            return;
        };
        let series = SERIES.iter().find(|known| **known == name);
        if (series.is_none() && name != ALERTS) || line.len() > *kept {
            return;
        }
        let Some(sample) = Sample::parse(line) else {
            return;
        };
        let memory = memory(&sample);
        if memory > *kept {
            *kept = 0;
            return;
        }
        *kept -= memory;
        match series {
            Some(name) => self.series.push(Series {
                name,
                labels: labels(&sample),
                value: sample.value,
                timestamp: sample.timestamp,
            }),
            None => {
                self.alerts.push(Alert::of(&sample));
                self.tells_alerts = true;
            }
        }
    }
}

impl Series {
    /// A label, empty when absent.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

impl Document for Monitoring {
    fn read(source: Source<'_>) -> Result<Monitoring, Damage> {
        if !source.path().ends_with("metrics") {
            return Ok(Monitoring {
                alerts: source.json()?,
                tells_alerts: true,
                ..Monitoring::default()
            });
        }
        let mut monitoring = Monitoring::default();
        let mut kept = KEPT;
        source.lines(|line| {
            monitoring.take(line, &mut kept);
            Ok(())
        })?;
        hold(KEPT - kept)?;
        Ok(monitoring)
    }

    fn belongs(&self, model: Model) -> bool {
        // Some alert always fires, so metrics without any did not gather them.
        model != Model::Alerts || self.tells_alerts
    }
}

impl Document for SilencedAlerts {
    fn read(source: Source<'_>) -> Result<SilencedAlerts, Damage> {
        source.json().map(SilencedAlerts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Archive;

    const METRICS: &str = "# TYPE ALERTS untyped\n\
        ALERTS{alertname=\"A\",alertstate=\"firing\",severity=\"critical\"} 1 1592829361218\n\
        ALERTS{alertname=\"B\",alertstate=\"pending\"} 1\n\
        ALERTS{alertname=\"damaged\n\
        etcd_server_slow_apply_total{pod=\"etcd-a\"} 8 5\n\
        something_else 1\n";
    const ALERTS_FILE: &str = r#"[{"labels": {"alertname": "F"}, "status": {"state": "active"},
        "startsAt": "2022-01-04T14:49:16.272Z", "annotations": {"summary": "s"}}, 1]"#;

    fn names(archive: &Archive) -> Option<Vec<&str>> {
        let alerts = archive.alerts()?.alerts.iter();
        Some(
            alerts
                .filter(|alert| alert.is_active())
                .map(Alert::name)
                .collect(),
        )
    }

    #[test]
    fn metrics_tell_alerts_and_series() {
        let archive = Archive::from_files([("config/metrics", METRICS)]);
        assert_eq!(names(&archive), Some(vec!["A"]));
        assert_eq!(archive.alerts().unwrap().alerts.len(), 2);
        let metrics = archive.metrics().unwrap();
        let series: Vec<_> = metrics.series("etcd_server_slow_apply_total").collect();
        assert_eq!(
            (series[0].label("pod"), series[0].label("x")),
            ("etcd-a", "")
        );
        assert_eq!((series[0].value, series[0].timestamp), (8.0, Some(5)));
        assert_eq!(series.len(), 1);
        assert_eq!(metrics.series("something_else").count(), 0);
        assert_eq!(archive.reads(), 1);
    }

    #[test]
    fn of_both_sources_only_the_file_counts() {
        let archive = Archive::from_files([
            ("config/metrics", METRICS),
            ("config/alerts.json", ALERTS_FILE),
        ]);
        assert_eq!(names(&archive), Some(vec!["F"]));
        let alert = &archive.alerts().unwrap().alerts[0];
        assert_eq!(alert.summary(), "s");
        assert_eq!(alert.starts_at.as_deref(), Some("2022-01-04T14:49:16.272Z"));
        assert!(archive.metrics().is_some());
        let damaged =
            Archive::from_files([("config/metrics", METRICS), ("config/alerts.json", "{}")]);
        assert_eq!(names(&damaged), Some(vec!["A"]));
        let none = Archive::from_files([("config/alerts.json", "[]")]);
        assert_eq!(names(&none), Some(vec![]));
    }

    #[test]
    fn metrics_without_alerts_are_no_source_of_them() {
        let archive = Archive::from_files([("config/metrics", "etcd_server_slow_apply_total 1")]);
        assert!(archive.alerts().is_none() && archive.metrics().is_some());
        let archive = Archive::from_files([("config/metrics", "")]);
        assert!(archive.metrics().is_none());
    }

    #[test]
    fn of_endless_series_the_first_are_kept() {
        let line = format!("ALERTS{{alertname=\"{}\"}} 1\n", "a".repeat(1000));
        let each = memory(&Sample::parse(line.trim_end()).unwrap());
        assert!(each > line.len());
        let text = line.repeat(2 * KEPT / each);
        let archive = Archive::from_files([("config/metrics", text.as_str())]);
        let kept = archive.alerts().unwrap().alerts.len();
        assert_eq!(kept, KEPT / each);
    }
}
