//! The producer against a scripted cluster: every way in which a record may be answered, brokers
//! that come and go, frames that are none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ccx_data_pipeline::kafka::options::{ClusterOptions, Compression, ProducerOptions};
use ccx_data_pipeline::kafka::{
    Acknowledged, Error, Finding, Header, OutgoingRecord, Producer, SendError, probe,
};
use kafka_protocol::messages::ProduceRequest;

use crate::support::broker::versions::Versions;
use crate::support::broker::{ApiKey, Broker, PATIENCE};

fn cluster(broker: &Broker) -> ClusterOptions {
    ClusterOptions {
        name: "publisher",
        bootstrap_servers: broker.addresses(),
        client_id: "test".into(),
        metadata_max_age: Duration::from_secs(300),
        ..ClusterOptions::default()
    }
}

fn producer(broker: &Broker) -> Producer {
    Producer::start(ProducerOptions {
        cluster: cluster(broker),
        compression: Compression::None,
    })
}

fn record(topic: &str, value: impl Into<Bytes>) -> OutgoingRecord {
    OutgoingRecord {
        topic: topic.into(),
        partition: Some(0),
        key: None,
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

/// Sends, and fails the test when that takes too long.
fn send(producer: &Producer, record: OutgoingRecord) -> Result<Acknowledged, SendError> {
    let end = Instant::now() + PATIENCE;
    producer.send(record, &|| Instant::now() > end)
}

/// Only then does a broker say that replicas are missing.
fn waits_for_all_replicas(broker: &Broker) {
    for seen in broker.requests_of(ApiKey::Produce) {
        assert_eq!(seen.decode::<ProduceRequest>().acks, -1);
    }
}

fn values(broker: &Broker, topic: &str) -> Vec<String> {
    let records = broker.all_records(topic);
    records.iter().map(|record| record.text()).collect()
}

#[test]
fn a_record_arrives_as_it_was_given() {
    for codec in [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ] {
        let broker = Broker::start();
        broker.create_topic("out", 3);
        let producer = Producer::start(ProducerOptions {
            cluster: cluster(&broker),
            compression: codec,
        });
        let header = |name: &'static [u8], value: Option<&'static [u8]>| Header {
            name: Bytes::from_static(name),
            value: value.map(Bytes::from_static),
        };
        let headers = vec![
            header(b"twice", Some(b"1")),
            header(b"twice", None),
            header(b"\xff", Some(b"")),
        ];
        let done = send(
            &producer,
            OutgoingRecord {
                topic: "out".into(),
                partition: None,
                // Java's murmur2 of this is -790332482: partition 0 of 3.
                key: Some(Bytes::from_static(b"foobar")),
                value: None,
                headers: headers.clone(),
            },
        )
        .unwrap();
        let partition = (-790_332_482i32 & 0x7fff_ffff) % 3;
        assert_eq!(done.partition.partition, partition);
        assert_eq!(done.offset, 0);
        let written = broker.records("out", partition);
        assert_eq!(written.len(), 1, "{codec:?}");
        assert_eq!(written[0].key.as_deref(), Some(&b"foobar"[..]));
        assert_eq!(written[0].value, None);
        assert_eq!(written[0].headers.len(), headers.len());
        for (wanted, found) in headers.iter().zip(&written[0].headers) {
            assert_eq!(wanted.name, found.0);
            assert_eq!(wanted.value, found.1);
        }
        producer.close(PATIENCE);
    }
}

/// Codes after which the same batch is sent again, and after which there is one copy.
#[test]
fn k05_k13_every_passing_error_is_retried() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    let codes = [
        -1, 2, 3, 5, 6, 7, 8, 9, 13, 14, 19, 20, 56, 74, 75, 78, 89, 100, 103,
    ];
    for code in codes {
        let hook = broker.on(ApiKey::Produce).times(1).error(code);
        send(&producer, record("out", code.to_string())).unwrap();
        assert_eq!(hook.used(), 1, "code {code}");
        assert_eq!(producer.stalled("out"), None);
    }
    let expected: Vec<_> = codes.iter().map(i16::to_string).collect();
    assert_eq!(values(&broker, "out"), expected);
    waits_for_all_replicas(&broker);
    assert_eq!(producer.stats().produce_retries.get(), codes.len() as u64);
    assert_eq!(producer.stats().producer_resets.get(), 0);
}

/// Written, but the answer says no or never comes: the sequence keeps it at one copy.
#[test]
fn k12_what_was_written_is_not_written_twice() {
    for forty_six in [false, true] {
        let builder = Broker::builder();
        let broker = if forty_six {
            builder.duplicates_are_46().start()
        } else {
            builder.start()
        };
        broker.create_topic("out", 1);
        let producer = producer(&broker);
        broker.on(ApiKey::Produce).handled().error(7);
        send(&producer, record("out", "a")).unwrap();
        broker.on(ApiKey::Produce).handled().error(20);
        send(&producer, record("out", "b")).unwrap();
        broker.on(ApiKey::Produce).handled().drop_connection();
        send(&producer, record("out", "c")).unwrap();
        broker.on(ApiKey::Produce).handled().cut_answer(9);
        let done = send(&producer, record("out", "d")).unwrap();
        assert_eq!(done.offset, if forty_six { -1 } else { 3 });
        assert_eq!(send(&producer, record("out", "e")).unwrap().offset, 4);
        assert_eq!(values(&broker, "out"), ["a", "b", "c", "d", "e"]);
        assert_eq!(producer.stats().producer_resets.get(), 0);
        assert!(producer.stats().reconnects.get() >= 2);
        // The same bytes, or the broker could not know them again.
        let requests = broker.requests_of(ApiKey::Produce);
        let bodies: Vec<_> = requests
            .iter()
            .map(|seen| {
                let request: ProduceRequest = seen.decode();
                request.topic_data[0].partition_data[0].records.clone()
            })
            .collect();
        assert_eq!(bodies[0], bodies[1]);
    }
}

#[test]
fn k19_malformed_answers_cost_a_connection_and_no_record() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    broker.on(ApiKey::Produce).handled().wrong_correlation_id();
    send(&producer, record("out", "a")).unwrap();
    broker.on(ApiKey::Produce).handled().huge_length();
    send(&producer, record("out", "b")).unwrap();
    // A count of topics that no memory could hold.
    broker.on(ApiKey::Produce).handled().overwrite(8, i32::MAX);
    send(&producer, record("out", "c")).unwrap();
    broker
        .on(ApiKey::Produce)
        .handled()
        .raw(*b"HTTP/1.1 400 Bad Request\r\n\r\n");
    send(&producer, record("out", "d")).unwrap();
    broker.on(ApiKey::Produce).drop_connection();
    send(&producer, record("out", "e")).unwrap();
    assert_eq!(values(&broker, "out"), ["a", "b", "c", "d", "e"]);
}

#[test]
fn k12_a_lost_sequence_is_answered_with_a_new_producer_id() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    for (resets, code) in (1..).zip([45, 47, 59]) {
        broker.on(ApiKey::Produce).error(code);
        send(&producer, record("out", code.to_string())).unwrap();
        assert_eq!(producer.stats().producer_resets.get(), resets, "{code}");
    }
    assert_eq!(values(&broker, "out"), ["45", "47", "59"]);
    assert_eq!(broker.requests_of(ApiKey::InitProducerId).len(), 4);
}

#[test]
fn what_concerns_the_record_alone_fails_it_alone() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    let refused = |code| {
        broker.on(ApiKey::Produce).error(code);
        send(&producer, record("out", "bad")).unwrap_err()
    };
    let too_large = SendError::RecordTooLarge {
        topic: "out".into(),
        size: 3,
    };
    assert_eq!(refused(10), too_large);
    assert_eq!(refused(18), too_large);
    assert_eq!(
        refused(87),
        SendError::InvalidRecord {
            topic: "out".into()
        }
    );
    assert_eq!(
        refused(29),
        SendError::NotAuthorised {
            topic: "out".into()
        }
    );
    assert!(matches!(refused(999), SendError::Refused { .. }));
    // The sequence has not moved: the next one is taken.
    assert_eq!(send(&producer, record("out", "good")).unwrap().offset, 0);
    assert_eq!(producer.stats().producer_resets.get(), 0);
}

/// Ten records wait for one that is under way and go out as one batch, in which one is too large.
#[test]
fn one_record_too_large_does_not_take_its_batch_with_it() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    broker.set_max_message_bytes("out", 2000);
    let producer = producer(&broker);
    send(&producer, record("out", "first")).unwrap();
    let held = broker.on(ApiKey::Produce).delay(Duration::from_millis(300));
    thread::scope(|scope| {
        let held_one = scope.spawn(|| send(&producer, record("out", "held")));
        held.wait_used(1);
        let others: Vec<_> = (0..10)
            .map(|n| {
                let value = "x".repeat(if n == 5 { 3000 } else { 10 });
                scope.spawn(|| send(&producer, record("out", value)))
            })
            .collect();
        held_one.join().unwrap().unwrap();
        let failed = others
            .into_iter()
            .filter_map(|other| other.join().unwrap().err())
            .collect::<Vec<_>>();
        assert_eq!(
            failed,
            [SendError::RecordTooLarge {
                topic: "out".into(),
                size: 3000
            }]
        );
    });
    assert_eq!(values(&broker, "out").len(), 11);
}

#[test]
fn goes_on_without_idempotence_where_it_may_not_have_it() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    broker.on(ApiKey::InitProducerId).always().error(31);
    let first = producer(&broker);
    send(&first, record("out", "a")).unwrap();
    send(&first, record("out", "b")).unwrap();
    assert_eq!(broker.requests_of(ApiKey::InitProducerId).len(), 1);
    // Or when the id is given and writing with it is refused.
    broker.clear_hooks();
    broker.on(ApiKey::Produce).error(31);
    let second = producer(&broker);
    send(&second, record("out", "c")).unwrap();
    assert_eq!(values(&broker, "out"), ["a", "b", "c"]);
}

#[test]
fn compression_that_a_topic_does_not_take_is_left_out() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    broker.on(ApiKey::Produce).error(76);
    let producer = Producer::start(ProducerOptions {
        cluster: cluster(&broker),
        compression: Compression::Zstd,
    });
    send(&producer, record("out", "a")).unwrap();
    assert_eq!(values(&broker, "out"), ["a"]);
}

#[test]
fn a_producer_id_that_is_long_in_coming_is_waited_for() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    broker.on(ApiKey::InitProducerId).times(3).error(15);
    let producer = producer(&broker);
    send(&producer, record("out", "a")).unwrap();
    assert_eq!(broker.requests_of(ApiKey::InitProducerId).len(), 4);
}

#[test]
fn k05_follows_the_leader() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic("out", 3);
    let producer = producer(&broker);
    send(&producer, record("out", "a")).unwrap();
    broker.move_leader("out", 0, 2);
    send(&producer, record("out", "b")).unwrap();
    broker.fail_over(2);
    send(&producer, record("out", "c")).unwrap();
    assert_eq!(values(&broker, "out"), ["a", "b", "c"]);
    assert_eq!(producer.stats().producer_resets.get(), 0);
}

/// Each of these codes of a former leader is a reason to ask who leads now.
#[test]
fn k05_every_word_for_another_leader_is_followed() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    let codes = [3, 5, 6, 7, 9, 19, 56, 74, 75];
    for code in codes {
        let former = broker.leader("out", 0);
        let says = broker.on(ApiKey::Produce).node(former).always().error(code);
        broker.move_leader("out", 0, 3 - former);
        send(&producer, record("out", code.to_string())).unwrap();
        says.remove();
    }
    let expected: Vec<_> = codes.iter().map(i16::to_string).collect();
    assert_eq!(values(&broker, "out"), expected);
    assert_eq!(producer.stats().producer_resets.get(), 0);
}

#[test]
fn a_restarted_broker_needs_no_hand() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    send(&producer, record("out", "a")).unwrap();
    broker.stop(1);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| send(&producer, record("out", "b")));
        wait("a reason", || producer.stalled("out").is_some());
        broker.restart(1);
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(producer.stalled("out"), None);
    assert_eq!(values(&broker, "out"), ["a", "b"]);
    assert!(producer.stats().reconnects.get() >= 1);
}

#[test]
fn k24_a_connection_closed_while_idle_is_no_event() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    send(&producer, record("out", "a")).unwrap();
    broker.drop_connections(1);
    broker.wait("connections are closed", |b| b.connections(1) == 0);
    send(&producer, record("out", "b")).unwrap();
    assert_eq!(producer.stats().reconnects.get(), 0);
    assert_eq!(producer.stats().produce_retries.get(), 0);
}

#[test]
fn k14_a_broker_that_hangs_holds_up_its_own_partitions_only() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic("out", 2);
    let producer = producer(&broker);
    for partition in [0, 1] {
        send(
            &producer,
            OutgoingRecord {
                partition: Some(partition),
                ..record("out", "warm")
            },
        )
        .unwrap();
    }
    let hung = broker.leader("out", 0);
    broker.freeze(hung);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| send(&producer, record("out", "held")));
        for n in 0..20 {
            send(
                &producer,
                OutgoingRecord {
                    partition: Some(1),
                    ..record("out", n.to_string())
                },
            )
            .unwrap();
        }
        assert!(!waiting.is_finished());
        broker.thaw(hung);
        waiting.join().unwrap().unwrap();
    });
}

#[test]
fn speaks_to_old_and_new_brokers() {
    for (versions, produce, init) in [
        (Versions::kafka_2_1(), 7, 1),
        (Versions::kafka_3_9(), 8, 4),
        (Versions::kafka_4(), 8, 4),
    ] {
        let broker = Broker::builder().versions(versions).start();
        broker.create_topic("out", 1);
        let producer = producer(&broker);
        send(&producer, record("out", "a")).unwrap();
        let version = |api| broker.requests_of(api)[0].version;
        assert_eq!(version(ApiKey::Produce), produce);
        assert_eq!(version(ApiKey::InitProducerId), init);
    }
}

#[test]
fn a_broker_without_a_common_version_is_named() {
    let versions = Versions::kafka_4().with(ApiKey::Produce, 20, 21);
    let broker = Broker::builder().versions(versions).start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    thread::scope(|scope| {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let sending = scope
            .spawn(|| producer.send(record("out", "a"), &move || stopped.load(Ordering::SeqCst)));
        wait("a reason", || {
            producer
                .stalled("out")
                .is_some_and(|reason| reason.contains("Produce: ours 7-8, its 20-21"))
        });
        stop.store(true, Ordering::SeqCst);
        assert_eq!(sending.join().unwrap(), Err(SendError::Cancelled));
    });
}

#[test]
fn k03_a_topic_that_is_made_later_is_found() {
    let broker = Broker::start();
    let producer = producer(&broker);
    assert_eq!(producer.partitions("out", PATIENCE).unwrap(), None);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| send(&producer, record("out", "a")));
        wait("a reason", || {
            producer.stalled("out").as_deref() == Some("topic out does not exist")
        });
        broker.create_topic("out", 2);
        waiting.join().unwrap().unwrap();
    });
    assert_eq!(producer.partitions("out", PATIENCE).unwrap(), Some(2));
    // Never made by us.
    assert_eq!(producer.partitions("other", PATIENCE).unwrap(), None);
    assert_eq!(broker.partitions("other"), 0);
}

/// Those that were refused by the old topic, and those that came when it was gone.
#[test]
fn k03_records_of_a_topic_that_is_made_anew_with_fewer_partitions_find_another_one() {
    const RECORDS: usize = 12;
    let broker = Broker::start();
    broker.create_topic("out", 6);
    let producer = producer(&broker);
    let free = |value: String| OutgoingRecord {
        partition: None,
        ..record("out", value)
    };
    for number in 0..RECORDS {
        send(&producer, free(format!("before-{number}"))).unwrap();
    }
    broker.delete_topic("out");
    thread::scope(|scope| {
        let all = (0..RECORDS).map(|number| free(format!("{number:02}")));
        let waiting = scope.spawn(|| producer.send_all(all, &|| false));
        wait("a reason", || {
            producer.stalled("out").as_deref() == Some("topic out does not exist")
        });
        broker.create_topic("out", 1);
        for outcome in waiting.join().unwrap() {
            assert_eq!(outcome.unwrap().partition.partition, 0);
        }
    });
    let expected: Vec<String> = (0..RECORDS).map(|number| format!("{number:02}")).collect();
    let mut found = values(&broker, "out");
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn who_gives_up_is_let_go() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    // Before anything: not sent.
    let gone = producer.send(record("out", "never"), &|| true);
    assert_eq!(gone, Err(SendError::Cancelled));
    // Sent once and refused until the caller goes: repeated behind its back, so that the next
    // record has a known sequence.
    let refusing = broker.on(ApiKey::Produce).always().error(19);
    let gone = producer.send(record("out", "attempted"), &|| refusing.used() > 0);
    assert_eq!(gone, Err(SendError::Cancelled));
    // Never sent, since the other is before it: forgotten.
    let gone = producer.send(record("out", "queued"), &|| refusing.used() > 1);
    assert_eq!(gone, Err(SendError::Cancelled));
    refusing.remove();
    send(&producer, record("out", "after")).unwrap();
    assert_eq!(values(&broker, "out"), ["attempted", "after"]);
    assert_eq!(producer.stats().producer_resets.get(), 0);
}

#[test]
fn closing_waits_for_what_is_under_way() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    send(&producer, record("out", "first")).unwrap();
    // Nobody waits for this one any more, and it is repeated until it is through.
    let refusing = broker.on(ApiKey::Produce).times(3).error(19);
    let gone = producer.send(record("out", "second"), &|| refusing.used() > 0);
    assert_eq!(gone, Err(SendError::Cancelled));
    producer.close(PATIENCE);
    assert_eq!(values(&broker, "out"), ["first", "second"]);
    broker.wait("its connections are closed", |b| b.connections(1) == 0);
}

#[test]
fn closing_does_not_wait_for_a_dead_broker() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    broker.stop(1);
    let gone = producer.send(record("out", "a"), &|| producer.stalled("out").is_some());
    assert_eq!(gone, Err(SendError::Cancelled));
    producer.close(PATIENCE);
}

#[test]
fn many_threads_share_one_producer() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic("out", 4);
    let producer = producer(&broker);
    thread::scope(|scope| {
        for thread in 0..8 {
            let producer = &producer;
            scope.spawn(move || {
                for n in 0..50 {
                    let record = OutgoingRecord {
                        partition: None,
                        ..record("out", format!("{thread}-{n}"))
                    };
                    send(producer, record).unwrap();
                }
            });
        }
    });
    let mut values = values(&broker, "out");
    values.sort();
    values.dedup();
    assert_eq!(values.len(), 400);
    for partition in 0..4 {
        assert_eq!(broker.records("out", partition).len(), 100);
    }
}

#[test]
fn k23_throttling_is_kept() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let producer = producer(&broker);
    let pause = Duration::from_millis(300);
    broker.on(ApiKey::Produce).throttle(pause);
    send(&producer, record("out", "a")).unwrap();
    send(&producer, record("out", "b")).unwrap();
    let requests = broker.requests_of(ApiKey::Produce);
    assert!(requests[1].at - requests[0].at >= pause);
    assert_eq!(broker.hasty(), []);
}

#[test]
fn k01_nobody_there_is_said_in_time() {
    let broker = Broker::start();
    broker.stop(1);
    let producer = producer(&broker);
    let error = producer
        .partitions("out", Duration::from_millis(200))
        .unwrap_err();
    assert!(matches!(error, Error::NoBroker { .. }), "{error}");
    assert!(error.to_string().contains("cannot connect"), "{error}");
}

#[test]
fn the_probe_tells_what_is_there() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic("in", 3);
    broker.set_versions(2, Versions::kafka_4().without(ApiKey::Fetch));
    let lines = probe(&cluster(&broker), &["in", "out"], Some("group"));
    let found = |text: &str, ok| {
        let fits = lines
            .iter()
            .any(|line| (line.finding == Finding::Fine) == ok && line.text.contains(text));
        assert!(fits, "no line '{text}' in {lines:#?}");
    };
    found("reachable, versions agree", true);
    found("no version of Fetch", false);
    found("topic in: 3 partitions", true);
    found("topic out does not exist", false);
    found("group group: coordinator is broker", true);
    broker.on(ApiKey::Heartbeat).error(30);
    let lines = probe(&cluster(&broker), &[], Some("group"));
    assert_ne!(lines.last().unwrap().finding, Finding::Fine, "{lines:#?}");
    broker.stop(1);
    broker.stop(2);
    let lines = probe(&cluster(&broker), &["in"], None);
    assert!(
        lines.iter().all(|line| line.finding != Finding::Fine),
        "{lines:#?}"
    );
    assert_eq!(lines.len(), 3);
}

/// Waits until a condition holds.
fn wait(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what} did not come");
        thread::yield_now();
    }
}
