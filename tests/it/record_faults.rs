//! What a record's age, its repetition and an archive that takes too long cost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::archive_builder::Tar;
use crate::support::broker::Broker;
use crate::support::broker::batch::{LogRecord, NewRecord};
use crate::support::program::{Program, Running};
use crate::support::stage::{CLUSTER, Ledger, Stage, endpoint, metric, value};

fn stage(broker: &Broker) -> Stage {
    Stage::new(&broker.bootstrap(), 1, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

fn worker(stage: &Stage, old: &str, new: &str) -> Running {
    let config = stage.config("").replace(old, new);
    assert!(config.contains(new));
    Program::new(["run"]).config(&config).start()
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

#[test]
fn m12_old_records_are_skipped_unless_that_is_off() {
    let broker = Broker::start();
    let stage = stage(&broker);
    let hour = Duration::from_secs(3600).as_millis() as i64;
    for (id, time) in [
        ("two-hours", now_ms() - 2 * hour),
        ("without", -1),
        ("half-an-hour", now_ms() - hour / 2),
        ("tomorrow", now_ms() + 24 * hour),
    ] {
        let record = stage.record(id, "/archive").at(time);
        broker.append(&stage.incoming, 0, [record]);
    }
    let first = worker(&stage, "[consumer]", "[consumer]\nmax_record_age = \"1h\"");
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(4)
    });
    let published = || Ledger::new(broker.all_records(&stage.outgoing), []).published;
    let ids = ["half-an-hour", "tomorrow", "without"];
    assert_eq!(published().keys().collect::<Vec<_>>(), ids);
    let old = "ccx_outcomes_total{outcome=\"skipped\",reason=\"too_old\"}";
    assert_eq!(metric(&endpoint(&first), old), Some(1.0));
    first.signal(Signal::TERM);
    assert_eq!(first.finish().code(), 0);

    broker.set_committed(&stage.group, &stage.incoming, 0, 0);
    let second = worker(&stage, "[consumer]", "[consumer]\nmax_record_age = \"off\"");
    broker.wait("the old one", |_| published().contains_key("two-hours"));
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(4)
    });
    assert_eq!(metric(&endpoint(&second), old), Some(0.0));
    assert_eq!(broker.all_records(&stage.dead_letters).len(), 0);
}

/// A result without its times.
fn timeless(mut result: Value) -> String {
    let times = result["Report"]["analysis_metadata"].as_object_mut();
    let times = times.expect("times of the analysis");
    for name in ["start", "finish"] {
        assert!(times.remove(name).is_some(), "{name}");
    }
    result.to_string()
}

#[test]
fn m18_a_record_that_comes_again_gives_the_same_result() {
    let broker = Broker::start();
    let stage = stage(&broker);
    let record = stage.record("r-0", "/archive");
    // Twice in the topic, and each of them delivered twice.
    broker.append(&stage.incoming, 0, [record.clone(), record]);
    for run in 1..=2 {
        broker.set_committed(&stage.group, &stage.incoming, 0, 0);
        let worker = stage.worker("");
        broker.wait("results", |b| {
            b.all_records(&stage.outgoing).len() == 2 * run
                && b.committed(&stage.group, &stage.incoming, 0) == Some(2)
        });
        let published = "ccx_outcomes_total{outcome=\"published\",reason=\"none\"}";
        let endpoint = endpoint(&worker);
        assert_eq!(metric(&endpoint, published), Some(2.0));
        let runs = "ccx_rule_runs_total{rule=\"cluster_id\"}";
        assert_eq!(metric(&endpoint, runs), Some(2.0));
        worker.signal(Signal::TERM);
        assert_eq!(worker.finish().code(), 0);
    }
    let results = broker.all_records(&stage.outgoing);
    let first = &results[0];
    for result in &results {
        assert_eq!(result.key, first.key);
        assert_eq!(timeless(value(result)), timeless(value(first)));
        let length = |r: &LogRecord| r.text().len();
        assert_eq!(length(result), length(first));
    }
}

#[test]
fn p07_an_archive_past_its_deadline_is_a_dead_letter() {
    let broker = Broker::start();
    let stage = stage(&broker);
    broker.append(&stage.incoming, 0, stage.records(0..2));
    let engine = "[engine]\narchive_deadline = \"1ms\"\nmax_ratio = 2000\n[downloader]";
    let worker = worker(&stage, "[downloader]", engine);
    // The usual archive may be done within a millisecond; thousands of members are not.
    let large = (0..5000).fold(Tar::new(), |tar, n| {
        tar.file(format!("config/pod/a/{n}.json"), "{}")
    });
    let large = large.gzip();
    stage.server.serve("/large", large);
    broker.append(&stage.incoming, 0, [stage.record("r-2", "/large")]);
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(3)
    });
    let letters = broker.all_records(&stage.dead_letters);
    let of_large = letters.iter().find(|l| value(l)["request_id"] == "r-2");
    let reason = of_large.unwrap().header("ccx-dlq-reason");
    assert_eq!(reason.as_deref(), Some("timeout"));
    let endpoint = endpoint(&worker);
    let timeouts = "ccx_engine_processed_timeout_total{archive=\"ocp\"}";
    assert!(metric(&endpoint, timeouts) >= Some(1.0));
    let ledger = Ledger::new(broker.all_records(&stage.outgoing), letters);
    assert_eq!(ledger.lost(0..3), Vec::<String>::new());
}

/// Six names stand in the answers of many rules, and nothing of that fits into a message.
#[test]
fn m19_a_report_that_no_message_can_hold_is_a_dead_letter() {
    let broker = Broker::start();
    let stage = stage(&broker);
    let name = "n".repeat(6 << 20);
    let node = |number: usize| {
        json!({
            "metadata": {"name": format!("{name}{number}")},
            "spec": {"unschedulable": true},
            "status": {
                "conditions": [
                    {"type": "Ready", "status": "False"},
                    {"type": "DiskPressure", "status": "True"},
                ],
                "nodeInfo": {"kubeletVersion": format!("v1.{number}.0")},
            },
        })
    };
    let large = (0..6).fold(Tar::new().file("config/id", CLUSTER), |tar, number| {
        let path = format!("config/node/{number}.json");
        tar.file(&path, node(number).to_string())
    });
    stage.server.serve("/large", large.gzip());
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/large")]);
    broker.append(&stage.incoming, 0, stage.records(1..2));
    let worker = stage.worker("[engine]\nmax_ratio = 2000\n");
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(2)
    });
    let letters = broker.all_records(&stage.dead_letters);
    let reasons: Vec<_> = letters.iter().map(|l| l.header("ccx-dlq-reason")).collect();
    assert_eq!(reasons, [Some("report_too_large".to_owned())]);
    assert_eq!(broker.all_records(&stage.outgoing).len(), 1);
    let counted = "ccx_dead_letters_total{reason=\"report_too_large\"}";
    assert_eq!(metric(&endpoint(&worker), counted), Some(1.0));
}

#[test]
fn m07_an_account_that_is_no_number_is_left_out_with_one_warning() {
    let broker = Broker::start();
    let stage = stage(&broker);
    let accounts = [
        json!("x"),
        json!(u64::MAX),
        json!(""),
        json!(null),
        json!("7"),
    ];
    let records = accounts.iter().enumerate().map(|(number, account)| {
        let identity = json!({"identity": {
            "internal": {"org_id": "7"},
            "account_number": account,
        }});
        let mut value = stage.announcement(&format!("r-{number}"), "/archive");
        value["b64_identity"] = json!(BASE64_STANDARD.encode(identity.to_string()));
        NewRecord::keyed("k", value.to_string()).at(now_ms())
    });
    broker.append(&stage.incoming, 0, records.collect::<Vec<_>>());
    let worker = stage.worker("");
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(5)
    });
    let results = broker.all_records(&stage.outgoing);
    let accounts: Vec<_> = results
        .iter()
        .map(|result| value(result).get("AccountNumber").cloned())
        .collect();
    assert_eq!(accounts.len(), 5);
    assert_eq!(accounts.iter().flatten().collect::<Vec<_>>(), [&json!(7)]);
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    let warnings = finished.stdout.lines();
    let warnings = warnings.filter(|line| line.contains("the account is no number"));
    assert_eq!(warnings.count(), 2, "{}", finished.stdout);
}
