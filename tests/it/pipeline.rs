//! One record end to end: the built program between a scripted broker and a scripted server.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use rustix::process::Signal;
use serde_json::json;

use crate::support::archive_builder::Tar;
use crate::support::archive_server::{Gate, Reply};
use crate::support::broker::Broker;
use crate::support::broker::batch::{LogRecord, NewRecord};
use crate::support::stage::{
    CLUSTER, Ledger, Stage, archive, endpoint, get, identity, metric, value,
};

fn stage(broker: &Broker, partitions: usize) -> Stage {
    Stage::new(&broker.bootstrap(), partitions, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

fn count(broker: &Broker, topic: &str) -> usize {
    broker.all_records(topic).len()
}

#[test]
fn a_record_becomes_a_result_and_its_offset_is_committed() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let record = stage
        .record("r-1", "/archive")
        .header("traceparent", Some(b"00-abc-def-01"))
        .header("other", Some(b"x"));
    broker.append(&stage.incoming, 0, [record]);
    let worker = stage.worker("");
    broker.wait("a result", |b| count(b, &stage.outgoing) == 1);
    broker.wait("a commit", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(1)
    });

    let result = broker.all_records(&stage.outgoing).remove(0);
    assert_eq!(result.key.as_deref(), Some(CLUSTER.as_bytes()));
    assert_eq!(
        result.header("traceparent").as_deref(),
        Some("00-abc-def-01")
    );
    assert_eq!(result.header("other"), None);
    let text = result.text();
    assert!(text.ends_with("}\n"), "{text}");
    let message = value(&result);
    let keys: Vec<&String> = message.as_object().unwrap().keys().collect();
    let expected = [
        "OrgID",
        "ClusterName",
        "Report",
        "LastChecked",
        "Version",
        "RequestId",
        "Metadata",
        "AccountNumber",
    ];
    assert_eq!(keys, expected);
    assert_eq!(message["OrgID"], 7);
    assert_eq!(message["AccountNumber"], 42);
    assert_eq!(message["LastChecked"], "2026-01-02T03:04:05.678Z");
    assert_eq!(message["Version"], 2);
    assert_eq!(
        message["Metadata"],
        json!({"gathering_time": "2026-01-02T03:00:00Z"})
    );
    assert_eq!(
        message["Report"]["info"][0]["details"]["cluster_id"],
        CLUSTER
    );
    for key in ["system", "reports", "fingerprints", "skips", "info", "pass"] {
        assert!(message["Report"].get(key).is_some(), "{key}");
    }

    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    let left = std::fs::read_dir(finished.dir.path().join("tmp")).unwrap();
    assert_eq!(left.count(), 0, "the work directory is gone");
    assert!(
        !finished.stdout.contains("X-Amz-Signature"),
        "{}",
        finished.stdout
    );
}

/// A record, and what becomes of it.
fn bad_records(stage: &Stage) -> Vec<(NewRecord, &'static str)> {
    let server = &stage.server;
    let id = Tar::new().file("config/id", CLUSTER);
    server.serve("/cut", &archive()[..60]);
    server.serve("/empty", "");
    server.serve("/page", "<html>log in</html>");
    server.serve("/zip", "PK\x03\x04 and so on");
    server.serve("/up", id.clone().file("../evil", "x").gzip());
    server.serve(
        "/anonymous",
        Tar::new().file("config/version.json", "{}").gzip(),
    );
    server.script("/gone", [Reply::status(404, &[], "NoSuchKey")]);
    server.script("/expired", [Reply::status(403, &[], "Request has expired")]);
    server.script(
        "/moved",
        [Reply::status(302, &[("Location", "http://127.0.0.1/")], "")],
    );
    server.script("/slow-down", [Reply::status(503, &[], "SlowDown")]);

    let edited = |edit: &dyn Fn(&mut serde_json::Value)| {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let id = format!("edited-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut message = stage.announcement(&id, "/archive");
        edit(&mut message);
        NewRecord::value(message.to_string())
    };
    let at = |path: &str| stage.record(path, path);
    vec![
        (
            NewRecord {
                key: Some("k".into()),
                ..NewRecord::default()
            },
            "message_empty",
        ),
        (NewRecord::value("{"), "message_json"),
        (NewRecord::value("[]"), "message_schema"),
        (edited(&|m| m["url"] = json!(3)), "message_schema"),
        (edited(&|m| m["b64_identity"] = json!("%")), "identity"),
        (
            edited(&|m| m["b64_identity"] = json!(identity("x"))),
            "org_id",
        ),
        (edited(&|m| m["timestamp"] = json!("today")), "timestamp"),
        (
            edited(&|m| m["url"] = json!("https://example.org/a")),
            "url_refused",
        ),
        (
            edited(&|m| m["size"] = json!(1_u64 << 40)),
            "archive_too_large",
        ),
        (at("/cut"), "archive_corrupt"),
        (at("/empty"), "archive_empty"),
        (at("/page"), "not_an_archive"),
        (at("/zip"), "unsupported_container"),
        (at("/up"), "archive_unsafe"),
        (at("/anonymous"), "cluster_id"),
        (at("/gone"), "not_found"),
        (at("/expired"), "url_expired"),
        (at("/moved"), "http_redirect"),
        (at("/slow-down"), "download_failed"),
    ]
}

#[test]
fn every_bad_record_is_a_dead_letter_with_its_reason() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let bad = bad_records(&stage);
    let records: Vec<NewRecord> = bad.iter().map(|(record, _)| record.clone()).collect();
    broker.append(&stage.incoming, 0, records.clone());
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/archive")]);
    let worker = stage.worker("");
    let all = records.len() as i64 + 1;
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(all)
    });

    let letters = broker.all_records(&stage.dead_letters);
    let by_offset: BTreeMap<usize, &LogRecord> = letters
        .iter()
        .map(|l| (l.header("ccx-dlq-offset").unwrap().parse().unwrap(), l))
        .collect();
    assert_eq!(by_offset.len(), bad.len());
    for (offset, (original, reason)) in bad.iter().enumerate() {
        let letter = by_offset[&offset];
        assert_eq!(
            letter.header("ccx-dlq-reason").as_deref(),
            Some(*reason),
            "{offset}"
        );
        assert_eq!(letter.value, original.value, "{reason}");
        assert_eq!(letter.key, original.key, "{reason}");
        assert_eq!(letter.header("ccx-dlq-topic"), Some(stage.incoming.clone()));
        assert_eq!(letter.header("ccx-dlq-group"), Some(stage.group.clone()));
        let message = letter.header("ccx-dlq-message").unwrap();
        assert!(
            !message.is_empty() && !message.contains("Signature"),
            "{message}"
        );
    }
    assert_eq!(
        by_offset[&18].header("ccx-dlq-attempts").as_deref(),
        Some("2")
    );
    assert_eq!(count(&broker, &stage.outgoing), 1);

    let endpoint = endpoint(&worker);
    assert_eq!(get(&endpoint, "/livez").0, 200);
    assert_eq!(get(&endpoint, "/readyz").0, 200);
    for (_, reason) in &bad {
        let series = format!("ccx_dead_letters_total{{reason=\"{reason}\"}}");
        assert!(metric(&endpoint, &series).unwrap() >= 1.0, "{series}");
    }
    let published = "ccx_outcomes_total{outcome=\"published\",reason=\"none\"}";
    assert_eq!(metric(&endpoint, published), Some(1.0));
    assert_eq!(metric(&endpoint, "ccx_not_handled_total"), Some(7.0));

    // Whoever sent it finds it in the log by its request id, whatever else is wrong with it.
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 0);
    for (original, reason) in &bad {
        let bytes = original.value.as_deref().unwrap_or_default();
        let message = serde_json::from_slice(bytes).unwrap_or(json!(null));
        let Some(id) = message["request_id"].as_str() else {
            continue;
        };
        let (id, reason) = (format!("request_id={id} "), format!("reason={reason} "));
        let lines = finished.stdout.lines();
        let lines = lines.filter(|line| line.contains(&id) && line.contains(&reason));
        assert_eq!(lines.count(), 1, "{id}{reason}: {}", finished.stdout);
    }
}

#[test]
fn m10_m11_other_services_and_old_records_are_passed_over() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let record = |id: &str| stage.record(id, "/archive");
    broker.append(
        &stage.incoming,
        0,
        [
            record("none"),
            record("other").header("service", Some(b"advisor")),
            record("null").header("service", None),
            record("bytes").header("service", Some(b"\xff\xfe")),
            record("first-is-not-last")
                .header("service", Some(b"openshift"))
                .header("service", Some(b"advisor")),
            record("old")
                .at(1_000)
                .header("service", Some(b"openshift")),
            record("ours")
                .header("service", Some(b"advisor"))
                .header("service", Some(b"openshift")),
        ],
    );
    let config = stage
        .config("")
        .replace("[consumer]", "[consumer]\nplatform_service = \"openshift\"");
    let worker = crate::support::program::Program::new(["run"])
        .config(&config)
        .start();
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(7)
    });
    let ledger = Ledger::new(broker.all_records(&stage.outgoing), []);
    assert_eq!(ledger.published.keys().collect::<Vec<_>>(), ["ours"]);
    assert_eq!(count(&broker, &stage.dead_letters), 0);
    let endpoint = endpoint(&worker);
    assert_eq!(metric(&endpoint, "ccx_consumer_filtered_total"), Some(6.0));
    let old = "ccx_outcomes_total{outcome=\"skipped\",reason=\"too_old\"}";
    assert_eq!(metric(&endpoint, old), Some(1.0));
}

#[test]
fn without_a_dead_letter_topic_failures_are_skipped_and_counted() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.incoming, 0, [NewRecord::value("{")]);
    let config = stage.config("").replace(&stage.dead_letters, "");
    let worker = crate::support::program::Program::new(["run"])
        .config(&config)
        .start();
    broker.wait("settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(1)
    });
    worker.line("message_json");
    let skipped = "ccx_outcomes_total{outcome=\"skipped\",reason=\"message_json\"}";
    assert_eq!(metric(&endpoint(&worker), skipped), Some(1.0));
}

/// A fetch brings more small records than may be open at once; nobody may wait for room that only
/// they themselves can make.
#[test]
fn k11_more_small_records_than_may_be_open_are_all_done() {
    const RECORDS: usize = 11_000;
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.append(&stage.incoming, 0, vec![NewRecord::default(); RECORDS]);
    let topic = format!("topic = \"{}\"", stage.dead_letters);
    let config = stage
        .config("")
        .replace(&topic, "max_ratio = \"off\"\nmax_consecutive = \"off\"");
    let worker = crate::support::program::Program::new(["run"])
        .config(&config)
        .start();
    broker.wait_for(Duration::from_secs(120), "all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(RECORDS as i64)
    });
    let skipped = "ccx_outcomes_total{outcome=\"skipped\",reason=\"message_empty\"}";
    assert_eq!(metric(&endpoint(&worker), skipped), Some(RECORDS as f64));
}

#[test]
fn k11_a_slow_archive_holds_back_its_own_offset_only() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    let gate = Gate::default();
    stage
        .server
        .script("/slow", [Reply::ok(archive()).behind(&gate)]);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/slow")]);
    broker.append(&stage.incoming, 0, stage.records(1..40));
    broker.append(&stage.incoming, 1, stage.records(40..60));
    let _worker = stage.worker_with("", &[("downloader.response_timeout", "100s")]);
    broker.wait("the others", |b| count(b, &stage.outgoing) >= 59);
    broker.wait("the other partition", |b| {
        b.committed(&stage.group, &stage.incoming, 1) == Some(20)
    });
    assert!(
        broker
            .committed(&stage.group, &stage.incoming, 0)
            .unwrap_or(0)
            <= 0
    );
    gate.open();
    broker.wait("the slow one", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(40)
    });
    let ledger = Ledger::new(
        broker.all_records(&stage.outgoing),
        broker.all_records(&stage.dead_letters),
    );
    assert_eq!(ledger.lost(0..60), Vec::<String>::new());
    assert_eq!(ledger.duplicates(), 0);
}

#[test]
fn m19_a_result_that_the_topic_refuses_for_its_size_is_a_dead_letter() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.set_max_message_bytes(&stage.outgoing, 1000);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/archive")]);
    let _worker = stage.worker("");
    broker.wait("a dead letter", |b| count(b, &stage.dead_letters) == 1);
    let letter = broker.all_records(&stage.dead_letters).remove(0);
    assert_eq!(
        letter.header("ccx-dlq-reason").as_deref(),
        Some("report_too_large")
    );
    broker.wait("the commit", |b| stage.committed(b) == 1);
    assert_eq!(count(&broker, &stage.outgoing), 0);
}

#[test]
fn m20_a_dead_letter_that_is_too_large_becomes_a_stub() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker.set_max_message_bytes(&stage.dead_letters, 2000);
    broker.append(
        &stage.incoming,
        0,
        [NewRecord::keyed("k", "x".repeat(5000))],
    );
    let worker = stage.worker("");
    broker.wait("a stub", |b| count(b, &stage.dead_letters) == 1);
    let stub = broker.all_records(&stage.dead_letters).remove(0);
    assert_eq!(stub.header("ccx-dlq-stub").as_deref(), Some("true"));
    assert_eq!(stub.value, None);
    let place = ["topic", "partition", "offset", "reason"];
    let place = place.map(|name| stub.header(&format!("ccx-dlq-{name}")).unwrap());
    assert_eq!(place, [&stage.incoming, "0", "0", "message_json"]);
    worker.line("a stub without its value");
    broker.wait("the commit", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(1)
    });
    let lost = metric(&endpoint(&worker), "ccx_dead_letter_stubs_total");
    assert_eq!(lost, Some(1.0));
}

#[test]
fn k13_while_results_are_refused_nothing_is_lost_and_readiness_says_so() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let worker = stage.worker("");
    let endpoint = endpoint(&worker);
    let refusals = broker
        .on(ApiKey::Produce)
        .topic(&stage.outgoing)
        .always()
        .error(ResponseError::NotEnoughReplicas.code());
    broker.append(&stage.incoming, 0, stage.records(0..50));
    broker.wait("refusals", |_| refusals.used() >= 3);
    worker.line("sink fault");
    let (status, cause) = get(&endpoint, "/readyz");
    assert_eq!(status, 503);
    assert!(cause.contains(&stage.outgoing), "{cause}");
    assert_eq!(get(&endpoint, "/livez").0, 200);
    assert!(
        broker
            .committed(&stage.group, &stage.incoming, 0)
            .unwrap_or(0)
            <= 0
    );
    refusals.remove();
    broker.wait("all", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(50)
    });
    let ledger = Ledger::new(broker.all_records(&stage.outgoing), []);
    assert_eq!(ledger.lost(0..50), Vec::<String>::new());
    assert_eq!(ledger.duplicates(), 0);
}

#[test]
fn k21_a_dead_letter_topic_that_refuses_holds_its_partition_only() {
    // The producer tries again by itself, or leaves that to whoever waits for the record.
    for (code, is_final) in [
        (ResponseError::NotEnoughReplicas.code(), false),
        (ResponseError::TopicAuthorizationFailed.code(), true),
        (9999, true),
    ] {
        holds_its_partition_only(code, is_final);
    }
}

fn holds_its_partition_only(code: i16, is_final: bool) {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    let refusals = broker
        .on(ApiKey::Produce)
        .topic(&stage.dead_letters)
        .always()
        .error(code);
    let bad = NewRecord::value("{\"request_id\":\"r-0\"}");
    broker.append(&stage.incoming, 0, [bad]);
    let worker = stage.worker("");
    let endpoint = endpoint(&worker);
    broker.wait("its partition pauses", |_| {
        metric(&endpoint, "ccx_consumer_paused_partitions") == Some(1.0)
    });
    // What comes later waits in its partition, and is done in the other one.
    broker.append(&stage.incoming, 0, stage.records(30..31));
    broker.append(&stage.incoming, 1, stage.records(1..30));
    broker.wait("the other partition", |b| {
        b.committed(&stage.group, &stage.incoming, 1) == Some(29)
    });
    assert_eq!(stage.committed(&broker), 29);
    assert!(!stage.ledger(&broker).published.contains_key("r-30"));
    if is_final {
        let tries = "ccx_retries_total{stage=\"dead_letter\"}";
        broker.wait("some tries", |_| metric(&endpoint, tries) >= Some(3.0));
        let said = worker.lines("dead letters are not accepted");
        assert_eq!(said.len(), 1, "{said:?}");
        let used = refusals.used();
        assert!(used <= 10, "{used} tries");
    }
    refusals.remove();
    broker.wait("the dead letter", |b| stage.committed(b) == 31);
    let ledger = stage.ledger(&broker);
    ledger.check(0..31, 0);
    assert_eq!(ledger.buried.keys().collect::<Vec<_>>(), ["r-0"]);
}

/// More of its partition is fetched already than there are slots: that waits, and nobody else.
#[test]
fn k21_what_was_fetched_behind_a_waiting_dead_letter_holds_up_no_other_partition() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    let refusals = broker
        .on(ApiKey::Produce)
        .topic(&stage.dead_letters)
        .always()
        .error(ResponseError::TopicAuthorizationFailed.code());
    let gate = Gate::default();
    let held = Reply::ok(archive()).behind(&gate);
    stage.server.script("/held", [held]);
    stage.server.serve("/behind", archive());
    let behind = (2..20).map(|id| stage.record(&format!("r-{id}"), "/behind"));
    let records = [
        NewRecord::value("{\"request_id\":\"r-0\"}"),
        stage.record("r-1", "/held"),
    ];
    broker.append(&stage.incoming, 0, records.into_iter().chain(behind));
    let worker = stage.worker("[worker]\nthreads = 2\nmax_in_flight = 2\n");
    let endpoint = endpoint(&worker);
    broker.wait("its partition pauses", |_| {
        stage.server.requests("/held") == 1
            && metric(&endpoint, "ccx_consumer_paused_partitions") == Some(1.0)
    });
    gate.open();
    broker.append(&stage.incoming, 1, stage.records(20..40));
    broker.wait("the other partition", |b| {
        b.committed(&stage.group, &stage.incoming, 1) == Some(20)
    });
    assert_eq!(stage.server.requests("/behind"), 0);
    refusals.remove();
    broker.wait("all of it", |b| stage.committed(b) == 40);
    stage.ledger(&broker).check(0..40, 0);
}

#[test]
fn p03_a_drain_that_takes_too_long_leaves_the_record_uncommitted() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    stage
        .server
        .script("/slow", [Reply::nothing().then_stall()]);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/slow")]);
    let worker = stage.worker("[worker]\nshutdown_timeout = \"2s\"");
    broker.wait("the request", |_| stage.server.requests("/slow") == 1);
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 75, "{}", finished.stdout);
    assert!(
        broker
            .committed(&stage.group, &stage.incoming, 0)
            .unwrap_or(0)
            <= 0
    );
    // In order: the drain itself keeps the limit, and there is time left to say good-bye.
    let why = "1 records were not done within 2s";
    assert!(finished.stdout.contains(why), "{}", finished.stdout);
    assert!(broker.group(&stage.group).members.is_empty(), "it has left");
    let left = std::fs::read_dir(finished.dir.path().join("tmp")).unwrap();
    assert_eq!(left.count(), 0, "the work directory is gone");
}

/// Ten archives in work, and as many announced that nobody has begun.
#[test]
fn p02_a_busy_worker_finishes_what_it_has_and_leaves() {
    const IN_WORK: usize = 10;
    let broker = Broker::start();
    let stage = stage(&broker, 3);
    let gate = Gate::default();
    let bodies = [
        ("/good", archive()),
        ("/bad", b"<html>log in</html>".to_vec()),
    ];
    for (path, body) in bodies {
        let held = Reply::ok(body).behind(&gate);
        stage.server.script(path, [held]);
    }
    for partition in 0..3 {
        let records = (0..100).map(|id| {
            let path = if id % 2 == 0 { "/good" } else { "/bad" };
            stage.record(&format!("r-{partition}-{id}"), path)
        });
        broker.append(&stage.incoming, partition, records);
    }
    let slots = format!("[worker]\nthreads = {IN_WORK}\nmax_in_flight = {IN_WORK}\n");
    let patient = [("downloader.response_timeout", "100s")];
    let worker = stage.worker_with(&slots, &patient);
    let begun = || stage.server.requests("/good") + stage.server.requests("/bad");
    broker.wait("ten archives in work", |_| begun() == IN_WORK);
    worker.signal(Signal::TERM);
    worker.line("drains 10 records in flight");
    gate.open();
    let finished = worker.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    assert_eq!(begun(), IN_WORK, "nothing more is begun");
    let ledger = stage.ledger(&broker);
    let (published, buried) = (ledger.published.len(), ledger.buried.len());
    assert!(published > 0 && buried > 0, "{ledger:?}");
    assert_eq!(published + buried, IN_WORK, "what was begun is done");
    assert_eq!(ledger.duplicates(), 0);
    assert_eq!(stage.committed(&broker), IN_WORK, "and committed");
    assert!(broker.group(&stage.group).members.is_empty(), "it has left");
}

#[test]
fn p15_a_metrics_address_in_use_ends_with_78() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let config = stage
        .config("")
        .replace("port = 0", &format!("port = {port}"));
    let finished = crate::support::program::Program::new(["run"])
        .config(&config)
        .finish();
    assert_eq!(finished.code(), 78);
    assert!(
        finished.stdout.contains(&format!("127.0.0.1:{port}")),
        "{}",
        finished.stdout
    );
}

#[test]
fn p15_without_the_endpoint_a_taken_address_does_not_matter() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    broker.append(&stage.incoming, 0, stage.records(0..3));
    let config = stage
        .config("")
        .replace("port = 0", &format!("port = {port}\nenabled = false"));
    let worker = crate::support::program::Program::new(["run"])
        .config(&config)
        .start();
    broker.wait("all settled", |b| stage.committed(b) == 3);
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    let said = finished.stdout.contains("metrics and health on");
    assert!(!said, "{}", finished.stdout);
}

#[test]
fn k17_no_right_to_the_outgoing_topic_ends_with_77_and_loses_nothing() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    broker
        .on(ApiKey::Produce)
        .topic(&stage.outgoing)
        .always()
        .error(ResponseError::TopicAuthorizationFailed.code());
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/archive")]);
    let finished = stage.worker("").finish();
    assert_eq!(finished.code(), 77, "{}", finished.stdout);
    assert!(finished.stdout.contains(&stage.outgoing));
    assert!(
        broker
            .committed(&stage.group, &stage.incoming, 0)
            .unwrap_or(0)
            <= 0
    );
}

#[test]
fn check_connect_says_what_brokers_and_topics_are_like() {
    let broker = Broker::start();
    let stage = stage(&broker, 3);
    let check = |config: &str| {
        crate::support::program::Program::new(["check", "--connect"])
            .config(config)
            .finish()
    };
    let fine = check(&stage.config(""));
    assert_eq!(fine.code(), 0, "{}", fine.stdout);
    let topic = format!("# ok: topic {}: 3 partitions", stage.incoming);
    assert!(fine.stdout.contains(&topic), "{}", fine.stdout);
    assert!(
        fine.stdout
            .contains(&format!("# ok: group {}", stage.group))
    );

    let missing = check(&stage.config("").replace(&stage.outgoing, "not-there"));
    assert_eq!(missing.code(), 78, "{}", missing.stdout);
    assert!(
        missing
            .stdout
            .contains("# FAILED: topic not-there does not exist")
    );

    let nobody = check(&stage.config("").replace(&stage.bootstrap, "127.0.0.1:1"));
    assert_eq!(nobody.code(), 69, "{}", nobody.stdout);
}

#[test]
fn workloads_go_to_a_topic_of_their_own_and_are_awaited() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let workloads = format!("workloads-{}", stage.group);
    broker.create_topic(&workloads, 1);
    let metric = r#"deployment_validation_operator_no_anti_affinity{kind="Deployment",name="web",namespace="shop",namespace_uid="n-1",uid="u-1"} 1"#;
    let archive = Tar::new()
        .file("config/id", CLUSTER)
        .file("config/dvo_metrics", format!("{metric}\n"))
        .gzip();
    stage.server.serve("/workloads", archive);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/workloads")]);
    broker.append(&stage.incoming, 0, [stage.record("r-1", "/archive")]);
    let topic = format!("[publisher]\nworkloads_topic = \"{workloads}\"");
    let config = stage.config("").replace("[publisher]", &topic);
    let _worker = crate::support::program::Program::new(["run"])
        .config(&config)
        .start();
    broker.wait("both settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(2)
    });
    assert_eq!(count(&broker, &stage.outgoing), 2);
    let messages = broker.all_records(&workloads);
    let found = messages.iter().map(value).find(|m| m["RequestId"] == "r-0");
    let recommended = &found.unwrap()["Metrics"]["workload_recommendations"][0];
    assert_eq!(recommended["workloads"][0]["name"], "web", "{recommended}");
    let result = broker.all_records(&stage.outgoing).remove(0);
    assert!(
        value(&result)["Report"]
            .get("workload_recommendations")
            .is_none()
    );
}
