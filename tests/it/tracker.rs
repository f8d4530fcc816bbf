//! The payload tracker: what it is told, and that nothing ever waits for it.

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;
use kafka_protocol::messages::ApiKey;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::broker::Broker;
use crate::support::broker::batch::NewRecord;
use crate::support::program::Program;
use crate::support::stage::{Ledger, Stage, endpoint, get, metric, value};

/// A stage and the lines that switch the tracker on.
fn stage(broker: &Broker) -> (Stage, String, String) {
    let stage = Stage::new(&broker.bootstrap(), 1, |name, partitions| {
        broker.create_topic(name, partitions);
    });
    let topic = format!("statuses-{}", stage.group);
    let more = format!("[watchers.payload_tracker]\nenabled = true\ntopic = \"{topic}\"\n");
    (stage, topic, more)
}

/// What was said of each upload, in order: status and message.
fn statuses(broker: &Broker, topic: &str) -> BTreeMap<String, Vec<(String, Value)>> {
    let mut statuses = BTreeMap::<_, Vec<_>>::new();
    for record in broker.all_records(topic) {
        let message = value(&record);
        let id = message["request_id"].as_str().unwrap().to_owned();
        assert_eq!(record.key.as_deref(), Some(id.as_bytes()));
        let status = message["status"].as_str().unwrap().to_owned();
        let said = (status, message["status_msg"].clone());
        statuses.entry(id).or_default().push(said);
    }
    statuses
}

#[test]
fn the_payload_tracker_learns_how_far_each_upload_is() {
    let broker = Broker::start();
    let (stage, topic, more) = stage(&broker);
    broker.create_topic(&topic, 3);
    let mut nameless = stage.announcement("x", "/archive");
    nameless.as_object_mut().unwrap().remove("request_id");
    let records = [
        stage.record("good", "/archive"),
        stage.record("gone", "/not-there"),
        NewRecord::value(nameless.to_string()),
        NewRecord::value(r#"{"request_id": "no-upload"}"#),
        NewRecord::value(r#"{"request_id": "no-json""#),
    ];
    broker.append(&stage.incoming, 0, records);
    let worker = stage.worker(&more);
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(5)
    });
    // The last ones are sent at the latest before the end.
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);

    let told = statuses(&broker, &topic);
    let said = |status: &str| (status.to_owned(), Value::Null);
    let good = ["received", "processing", "success"].map(said);
    assert_eq!(told["good"], good);
    let failed = ("error".to_owned(), json!("not_found"));
    assert_eq!(told["gone"], [said("received"), failed]);
    // What is no announcement may still say whose it is.
    let failed = ("error".to_owned(), json!("message_schema"));
    assert_eq!(told["no-upload"], [failed]);
    assert_eq!(told.len(), 3, "{told:?}");
    let first = value(&broker.all_records(&topic)[0]);
    assert_eq!(first["service"], "ccx-data-pipeline");
    assert_eq!(
        (&first["org_id"], &first["account"]),
        (&json!("7"), &json!("42"))
    );
    assert!(first["date"].as_str().unwrap().ends_with('Z'), "{first}");
}

#[test]
fn k22_a_tracker_topic_that_refuses_costs_statuses_only() {
    const RECORDS: usize = 500;
    let broker = Broker::start();
    let (stage, topic, more) = stage(&broker);
    broker.create_topic(&topic, 1);
    let refusals = broker.on(ApiKey::Produce).topic(&topic).always();
    let refusals = refusals.error(ResponseError::NotEnoughReplicas.code());
    broker.append(&stage.incoming, 0, stage.records(0..RECORDS));
    let worker = stage.worker(&more);
    let endpoint = endpoint(&worker);
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(RECORDS as i64)
    });
    let ledger = Ledger::new(broker.all_records(&stage.outgoing), []);
    assert_eq!(ledger.lost(0..RECORDS), Vec::<String>::new());
    assert_eq!(ledger.duplicates(), 0);
    assert!(refusals.used() > 0);
    // Three of each record; a thousand wait.
    let dropped = metric(&endpoint, "ccx_payload_tracker_dropped_total");
    assert_eq!(dropped, Some((3 * RECORDS - 1000) as f64));
    assert_eq!(get(&endpoint, "/readyz").0, 200);
    assert!(statuses(&broker, &topic).is_empty());

    // What waits is sent when the topic is back.
    refusals.remove();
    broker.wait("the statuses that waited", |b| {
        b.all_records(&topic).len() == 1000
    });
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

#[test]
fn k22_a_tracker_topic_that_is_not_there_delays_no_end() {
    let broker = Broker::start();
    let (stage, topic, more) = stage(&broker);
    broker.append(&stage.incoming, 0, stage.records(0..20));
    let worker = stage.worker(&more);
    broker.wait("all settled", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(20)
    });
    assert_eq!(broker.partitions(&topic), 0, "never made by us");
    worker.signal(Signal::TERM);
    // In the shutdown time, whose excess would be 75.
    assert_eq!(worker.finish().code(), 0);

    // Before it is started, somebody may want to know.
    let check = Program::new(["check", "--connect"])
        .config(&stage.config(&more))
        .finish();
    assert_eq!(check.code(), 78, "{}", check.stdout);
    let missing = format!("# FAILED: topic {topic} does not exist");
    assert!(check.stdout.contains(&missing), "{}", check.stdout);
}
