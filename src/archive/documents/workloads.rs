//! What the deployment validation operator says of workloads.
//!
//! The file grows with the number of workloads, so it is read line by line, and only violations
//! of checks that some rule knows are kept.

use super::field::{hold, of_texts};
use super::prometheus::{Sample, name};
use super::{Damage, Document, Source};

/// What the names of the operator's series begin with; the check follows.
const PREFIX: &str = "deployment_validation_operator_";

/// The checks that are read. A rule for another one adds it here.
const CHECKS: &[&str] = &[
    "dnsconfig_options",
    "host_ipc",
    "host_network",
    "host_pid",
    "minimum_three_replicas",
    "no_anti_affinity",
    "no_node_affinity",
    "non_isolated_pod",
    "pdb_max_unavailable",
    "pdb_min_available",
    "privilege_escalation_container",
    "privileged_container",
    "run_as_non_root",
    "unsafe_sysctls",
    "unset_cpu_requirements",
    "unset_memory_requirements",
];

/// The value of a series whose workload fails the check.
const VIOLATED: f64 = 1.0;

/// Most violations kept of one archive: a message with more is several times what brokers take.
const VIOLATIONS: usize = 50_000;

/// Violations, in the order of the file.
#[derive(Debug, Default)]
pub struct DvoMetrics {
    violations: Vec<Violation>,
}

/// A workload that fails a check. Texts are empty where the operator does not tell them.
#[derive(Debug, PartialEq, Eq)]
pub struct Violation {
    check: &'static str,
    /// Such as `Deployment`.
    pub kind: String,
    /// Name of the workload.
    pub name: String,
    /// Id of the workload, never empty.
    pub uid: String,
    /// Name of its namespace.
    pub namespace: String,
    /// Id of its namespace, never empty.
    pub namespace_uid: String,
}

impl Violation {
    /// Bytes that it takes in memory.
    fn memory(&self) -> usize {
        let texts = [&self.kind, &self.name, &self.uid, &self.namespace];
        let texts = texts.into_iter().chain([&self.namespace_uid]);
        size_of::<Violation>() + of_texts(texts.map(String::as_str))
    }
}

impl DvoMetrics {
    /// The violations of any of the checks, in the order of the file. Checks must come from the
    /// list of what is kept, or nothing is found.
    pub fn violations(&self, checks: &[&str]) -> impl Iterator<Item = &Violation> {
        self.violations
            .iter()
            .filter(|violation| checks.contains(&violation.check))
    }
}

impl Document for DvoMetrics {
    fn read(source: Source<'_>) -> Result<DvoMetrics, Damage> {
        let mut violations = Vec::new();
        source.lines(|line| {
            if violations.len() < VIOLATIONS
                && let Some(violation) = violation(line)
            {
                hold(violation.memory())?;
                violations.push(violation);
            }
            Ok(())
        })?;
        Ok(DvoMetrics { violations })
    }
}

/// What a line says, if it is of a check that is read and names the workload.
fn violation(line: &str) -> Option<Violation> {
    let check = name(line)?.strip_prefix(PREFIX)?;
    let check = CHECKS.iter().find(|known| **known == check)?;
    let sample = Sample::parse(line).filter(|sample| sample.value == VIOLATED)?;
    let text = |label| sample.label(label).to_owned();
    let violation = Violation {
        check,
        kind: text("kind"),
        name: text("name"),
        uid: text("uid"),
        namespace: text("namespace"),
        namespace_uid: text("namespace_uid"),
    };
    let named = !violation.uid.is_empty() && !violation.namespace_uid.is_empty();
    named.then_some(violation)
}

#[cfg(test)]
mod tests {
    use super::super::field::within;
    use super::*;

    fn read(text: &str) -> Result<DvoMetrics, Damage> {
        DvoMetrics::read(Source::new(
            "x",
            text.len() as u64,
            10,
            Box::new(text.as_bytes()),
        ))
    }

    #[test]
    fn keeps_violations_of_known_checks() {
        let text = r#"# http://dvo.svc:8383
deployment_validation_operator_host_ipc{kind="Deployment",name="a \"b\"",namespace="n",namespace_uid="1",uid="2"} 1
deployment_validation_operator_host_ipc{kind="Deployment",namespace_uid="1",uid="3"} 0
deployment_validation_operator_host_ipc{kind="Deployment",namespace_uid="1"} 1
deployment_validation_operator_host_ipc{kind="Deployment",uid="1"} 1
deployment_validation_operator_host_ipc{kind="Deployment",namespace_uid="1",uid="4"
deployment_validation_operator_host_pid{namespace_uid="1",uid="5"} 1e0 1700000000000
deployment_validation_operator_unheard_of{namespace_uid="1",uid="6"} 1
host_ipc{namespace_uid="1",uid="7"} 1
"#;
        let metrics = read(text).unwrap();
        assert_eq!(
            metrics.violations(&["host_ipc"]).collect::<Vec<_>>(),
            [&Violation {
                check: "host_ipc",
                kind: "Deployment".into(),
                name: "a \"b\"".into(),
                uid: "2".into(),
                namespace: "n".into(),
                namespace_uid: "1".into(),
            }]
        );
        let uids: Vec<_> = metrics
            .violations(&["host_pid", "host_ipc"])
            .map(|violation| violation.uid.as_str())
            .collect();
        assert_eq!(uids, ["2", "5"]);
    }

    #[test]
    fn an_empty_file_is_none_and_a_bounded_number_is_kept() {
        assert!(matches!(read(""), Err(Damage::Text)));
        assert_eq!(read("\n").unwrap().violations(CHECKS).count(), 0);
        let line = "deployment_validation_operator_host_ipc{namespace_uid=\"1\",uid=\"2\"} 1\n";
        let metrics = read(&line.repeat(VIOLATIONS + 1)).unwrap();
        assert_eq!(metrics.violations(CHECKS).count(), VIOLATIONS);
    }

    #[test]
    fn a28_short_texts_take_a_block_each() {
        let line = "deployment_validation_operator_host_ipc{namespace_uid=\"1\",uid=\"2\"} 1\n";
        let (metrics, left) = within(1 << 20, || read(&line.repeat(100)));
        assert_eq!(metrics.unwrap().violations(CHECKS).count(), 100);
        // What is empty may take nothing.
        let least = 100 * (size_of::<Violation>() + 2 * 32);
        let taken = (1 << 20) - left;
        assert!((least..2 * least).contains(&taken), "{taken} for {least}");
    }

    #[test]
    fn checks_are_listed_once() {
        assert!(CHECKS.is_sorted_by(|a, b| a < b));
    }
}
