//! A topic that takes no records holds the flow up, and only for as long as somebody could notice
//! that it takes them again: with nothing fetched no later record would.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ccx_data_pipeline::kafka::options::{ClusterOptions, Compression, ProducerOptions};
use ccx_data_pipeline::kafka::{OutgoingRecord, Producer, SendError};

use crate::support::broker::{ApiKey, Broker, PATIENCE};
use crate::support::stage::Stage;

const TOPIC: &str = "out";

fn producer(broker: &Broker) -> Producer {
    Producer::start(ProducerOptions {
        cluster: ClusterOptions {
            name: "publisher",
            bootstrap_servers: broker.addresses(),
            client_id: "test".into(),
            metadata_max_age: Duration::from_secs(300),
            ..ClusterOptions::default()
        },
        compression: Compression::None,
    })
}

fn record() -> OutgoingRecord {
    OutgoingRecord {
        topic: TOPIC.into(),
        partition: Some(0),
        key: None,
        value: Some(Bytes::from_static(b"x")),
        headers: Vec::new(),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "the pace of asking, not a synchronisation"
)]
fn wait_until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn k08_a_stall_ends_when_its_records_are_given_up() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let producer = producer(&broker);
    assert!(producer.partitions(TOPIC, PATIENCE).unwrap().is_some());
    broker.stop(1);
    let given_up = AtomicBool::new(false);
    thread::scope(|scope| {
        let sending = scope.spawn(|| producer.send(record(), &|| given_up.load(Ordering::Relaxed)));
        wait_until("a stall", || producer.stalled(TOPIC).is_some());
        given_up.store(true, Ordering::Relaxed);
        assert_eq!(sending.join().unwrap().unwrap_err(), SendError::Cancelled);
    });
    wait_until("no stall", || producer.stalled(TOPIC).is_none());
}

#[test]
fn m19_a_stall_ends_with_a_record_that_is_refused() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let producer = producer(&broker);
    broker.on(ApiKey::Produce).drop_connection();
    broker.on(ApiKey::Produce).error(10);
    let end = Instant::now() + PATIENCE;
    let outcome = producer.send(record(), &|| Instant::now() > end);
    assert!(matches!(outcome, Err(SendError::RecordTooLarge { .. })));
    wait_until("no stall", || producer.stalled(TOPIC).is_none());
}

/// The leader of the results is away and the membership gets lost, which gives up what is in
/// flight. When the leader is back there is nothing left whose success could tell.
#[test]
fn k08_a_worker_whose_results_were_given_up_goes_on() {
    let broker = Broker::builder().nodes(2).start();
    let stage = Stage::new(&broker.address(1), 1, |name, partitions| {
        broker.create_topic(name, partitions);
    });
    for partition in 0..2 {
        broker.move_leader(&stage.outgoing, partition, 2);
    }
    broker.move_leader(&stage.incoming, 0, 1);
    broker.move_leader(&stage.dead_letters, 0, 1);
    broker.move_coordinator(&stage.group, 1);
    let worker = stage.worker("");
    broker.stop(2);
    broker.append(&stage.incoming, 0, stage.records(0..4));
    worker.line(&format!(
        "nothing is acknowledged for topic {}",
        stage.outgoing
    ));
    let member = broker.group(&stage.group).members.remove(0);
    broker.kick(&stage.group, &member.id);
    worker.line("membership lost");
    broker.restart(2);
    broker.wait("all results", |b| b.all_records(&stage.outgoing).len() >= 4);
    broker.wait("their commit", |b| {
        b.committed(&stage.group, &stage.incoming, 0) == Some(4)
    });
    assert_eq!(broker.all_records(&stage.outgoing).len(), 4);
}
