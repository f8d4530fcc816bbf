//! Answers that are none: whatever a broker sends, the client drops the connection and asks again,
//! within bounded memory and without a panic.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ccx_data_pipeline::kafka::options::{
    ClusterOptions, Compression, ConsumerOptions, ProducerOptions,
};
use ccx_data_pipeline::kafka::{Commit, Consumer, Event, Metadata, OutgoingRecord, Producer};

use crate::support::broker::batch::NewRecord;
use crate::support::broker::script::HookHandle;
use crate::support::broker::{ApiKey, Broker, PATIENCE};
use crate::support::child::{is_child, limit_memory};

const CONSUMED: [ApiKey; 10] = [
    ApiKey::ApiVersions,
    ApiKey::Metadata,
    ApiKey::FindCoordinator,
    ApiKey::JoinGroup,
    ApiKey::SyncGroup,
    ApiKey::OffsetFetch,
    ApiKey::ListOffsets,
    ApiKey::Fetch,
    ApiKey::Heartbeat,
    ApiKey::OffsetCommit,
];
const PRODUCED: [ApiKey; 4] = [
    ApiKey::ApiVersions,
    ApiKey::Metadata,
    ApiKey::InitProducerId,
    ApiKey::Produce,
];

/// Ways in which an answer can be wrong.
const KINDS: usize = 10;

fn spoil(broker: &Broker, api: ApiKey, kind: usize) -> HookHandle<'_> {
    let hook = broker.on(api);
    // Behind the throttle time, which would be a wish to follow, or the code.
    let inside = if api == ApiKey::ApiVersions { 10 } else { 12 };
    let length = |n: i32| move |frame: &mut Vec<u8>| frame[..4].copy_from_slice(&n.to_be_bytes());
    match kind {
        0 => hook.huge_length(),
        1 => hook.patch(length(-1)),
        2 => hook.patch(length(0)),
        // Shorter than what follows: the rest would be the next answer.
        3 => hook.patch(length(7)),
        4 => hook.cut_answer(2),
        5 => hook.cut_answer(10),
        6 => hook.wrong_correlation_id(),
        // Whatever stands there, counts among it: the largest, and a negative number.
        7 => hook.patch(move |frame| frame[inside..].fill(0x7f)),
        8 => hook.patch(move |frame| frame[inside..].fill(0xfe)),
        _ => hook
            .handled()
            .raw(*b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
    }
}

fn cluster(broker: &Broker) -> ClusterOptions {
    ClusterOptions {
        bootstrap_servers: broker.addresses(),
        metadata_max_age: Duration::from_millis(200),
        ..ClusterOptions::default()
    }
}

/// A consumer that joins again by itself.
fn consumer(broker: &Broker) -> Consumer {
    Consumer::start(ConsumerOptions {
        cluster: cluster(broker),
        group_id: "g".into(),
        topic: "in".into(),
        session_timeout: Duration::from_millis(1500),
        heartbeat_interval: Duration::from_millis(50),
        rebalance_timeout: Duration::from_secs(8),
        fetch_max_wait: Duration::from_millis(50),
        ..ConsumerOptions::default()
    })
}

fn producer(broker: &Broker) -> Producer {
    Producer::start(ProducerOptions {
        cluster: cluster(broker),
        compression: Compression::None,
    })
}

/// Takes what there is and commits it; the values read.
fn turn(consumer: &mut Consumer) -> Result<Vec<String>, String> {
    let mut read = Vec::new();
    let events = consumer.poll(Duration::from_millis(20), &|| false);
    for event in events.map_err(|fatal| fatal.message)? {
        match event {
            Event::Fetched {
                records,
                partition,
                lease,
                next,
                ..
            } => {
                let values = records.iter().filter_map(|r| r.value.as_deref());
                read.extend(values.map(|v| String::from_utf8_lossy(v).into_owned()));
                let commit = Commit {
                    partition,
                    lease,
                    offset: next,
                };
                consumer.commit(&[commit], &Metadata::new(), Duration::from_secs(2));
            }
            Event::Revoking { .. } => consumer.release(&[]),
            _ => {}
        }
    }
    Ok(read)
}

#[test]
fn k19_no_malformed_answer_stops_the_consumer() {
    const TEST: &str = "faults_frames::k19_no_malformed_answer_stops_the_consumer";
    if !is_child(TEST) {
        return;
    }
    // Announced gigabytes that were believed would end this process.
    limit_memory(2 << 30);
    for api in CONSUMED {
        let broker = Broker::start();
        broker.create_topic("in", 1);
        let mut consumer = consumer(&broker);
        let until = Instant::now() + 3 * PATIENCE;
        for kind in 0..KINDS {
            // What is asked once only is asked anew by a new member.
            let again = [
                ApiKey::Metadata,
                ApiKey::Fetch,
                ApiKey::Heartbeat,
                ApiKey::OffsetCommit,
            ];
            if !again.contains(&api) {
                consumer.close(Duration::from_secs(1));
                broker.delete_committed("g");
                consumer = self::consumer(&broker);
            }
            let hook = spoil(&broker, api, kind);
            let value = format!("{kind}");
            broker.append("in", 0, [NewRecord::value(&value)]);
            let mut read = Vec::new();
            while hook.used() == 0 || !read.contains(&value) {
                assert!(
                    Instant::now() < until,
                    "{api:?}, kind {kind}: {:?}",
                    consumer.state()
                );
                read.extend(turn(&mut consumer).unwrap());
            }
        }
    }
}

#[test]
fn k19_no_malformed_answer_loses_or_repeats_a_record() {
    for api in PRODUCED {
        for kind in 0..KINDS {
            let broker = Broker::start();
            broker.create_topic("out", 1);
            let hook = spoil(&broker, api, kind);
            let producer = producer(&broker);
            let end = Instant::now() + PATIENCE;
            let record = OutgoingRecord {
                topic: "out".into(),
                partition: Some(0),
                key: None,
                value: Some("a".into()),
                headers: Vec::new(),
            };
            let sent = producer.send(record, &|| Instant::now() > end);
            assert!(sent.is_ok(), "{api:?}, kind {kind}: {sent:?}");
            assert_eq!(hook.used(), 1, "{api:?}, kind {kind}");
            assert_eq!(broker.records("out", 0).len(), 1, "{api:?}, kind {kind}");
        }
    }
}

/// Damages a part of the bytes behind the length, at random; sometimes the length too.
fn damage(rng: &mut fastrand::Rng, frame: &mut Vec<u8>) {
    let mut below = |n: usize| rng.usize(..n);
    match below(8) {
        0 => frame.truncate(4 + below(frame.len() - 3)),
        1 => {
            let at = 8 + below(frame.len() - 8);
            let number = [i32::MAX, i32::MIN, -1, 0, 1 << 20][below(5)];
            for (to, from) in frame[at..].iter_mut().zip(number.to_be_bytes()) {
                *to = from;
            }
        }
        2 => {
            let at = 8 + below(frame.len() - 8);
            frame.remove(at);
        }
        3 => {
            let at = 4 + below(frame.len() - 4);
            frame.splice(at..at, std::iter::repeat_n(0xff, 1 + below(40)));
        }
        _ => {
            for _ in 0..1 + below(4) {
                let at = 4 + below(frame.len() - 4);
                frame[at] = below(256) as u8;
            }
        }
    }
    // Mostly a whole frame, so that what is inside is read at all.
    if below(8) > 0 {
        let length = (frame.len() - 4) as i32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
    }
}

/// Every third answer of a cluster is damaged at random, for some seconds. Members may be lost and
/// told to stop, results may be wrong; but nothing panics, hangs or grows, and as soon as the
/// cluster is sound a member reads and a producer writes.
#[test]
fn k19_random_damage_neither_panics_nor_hangs_nor_grows() {
    const TEST: &str = "faults_frames::k19_random_damage_neither_panics_nor_hangs_nor_grows";
    if !is_child(TEST) {
        return;
    }
    limit_memory(2 << 30);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let rng = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    let broker = Broker::start();
    broker.create_topic("in", 2);
    broker.create_topic("out", 2);
    for api in CONSUMED.into_iter().chain(PRODUCED) {
        let rng = Arc::clone(&rng);
        broker.on(api).always().patch(move |frame| {
            let mut rng = rng.lock().unwrap();
            if frame.len() > 9 && rng.u8(..3) == 0 {
                damage(&mut rng, frame);
            }
        });
    }
    let end = Instant::now() + Duration::from_secs(15);
    let over = || Instant::now() > end;
    thread::scope(|scope| {
        let broker = &broker;
        scope.spawn(move || {
            let mut ours = consumer(broker);
            for n in 0.. {
                if over() {
                    break;
                }
                broker.append("in", n % 2, [NewRecord::value("x".repeat(300))]);
                // Told to stop by a code that nobody meant, or sent to a log's end that is none.
                if turn(&mut ours).is_err() || n % 50 == 49 {
                    drop(std::mem::replace(&mut ours, consumer(broker)));
                }
            }
            ours.close(Duration::from_secs(1));
        });
        scope.spawn(move || {
            let mut ours = producer(broker);
            for n in 0.. {
                if over() {
                    break;
                }
                let record = OutgoingRecord {
                    topic: "out".into(),
                    partition: None,
                    key: None,
                    value: Some("x".repeat(300).into()),
                    headers: Vec::new(),
                };
                let patience = Instant::now() + Duration::from_secs(2);
                // An error is fine, and so is none.
                let _ = ours.send(record, &|| over() || Instant::now() > patience);
                if n % 10 == 9 {
                    drop(std::mem::replace(&mut ours, producer(broker)));
                }
            }
        });
    });
    println!("{} requests", broker.requests().len());
    broker.clear_hooks();
    broker.delete_committed("g");
    broker.append("in", 0, [NewRecord::value("sound")]);
    let mut ours = consumer(&broker);
    let until = Instant::now() + 2 * PATIENCE;
    while !turn(&mut ours).unwrap().contains(&"sound".to_owned()) {
        assert!(Instant::now() < until, "{:?}", ours.state());
    }
    let record = OutgoingRecord {
        topic: "out".into(),
        partition: Some(0),
        key: None,
        value: Some("sound".into()),
        headers: Vec::new(),
    };
    producer(&broker)
        .send(record, &|| Instant::now() > until)
        .unwrap();
}
