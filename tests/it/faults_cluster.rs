//! Brokers that are away, move, hang or forget: the built program and the bare client among them.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use ccx_data_pipeline::kafka::options::{
    ClusterOptions, Compression, ConsumerOptions, ProducerOptions,
};
use ccx_data_pipeline::kafka::{Consumer, Event, OutgoingRecord, Phase, Producer};
use rustix::process::Signal;

use crate::support::broker::batch::NewRecord;
use crate::support::broker::{ApiKey, Broker, PATIENCE};
use crate::support::peers::{BlackHole, Closing};
use crate::support::stage::{Stage, endpoint, get, metric, scripted};

/// Longer than any limit of the client for a request.
const LONG: Duration = Duration::from_secs(100);

fn published(broker: &Broker, stage: &Stage) -> usize {
    broker.all_records(&stage.outgoing).len()
}

fn cluster(bootstrap_servers: Vec<String>) -> ClusterOptions {
    ClusterOptions {
        bootstrap_servers,
        ..ClusterOptions::default()
    }
}

fn consumer(bootstrap_servers: Vec<String>) -> Consumer {
    Consumer::start(ConsumerOptions {
        cluster: cluster(bootstrap_servers),
        group_id: "g".into(),
        topic: "in".into(),
        session_timeout: Duration::from_secs(20),
        heartbeat_interval: Duration::from_millis(100),
        fetch_max_wait: Duration::from_millis(100),
        ..ConsumerOptions::default()
    })
}

fn producer(bootstrap_servers: Vec<String>) -> Producer {
    Producer::start(ProducerOptions {
        cluster: cluster(bootstrap_servers),
        compression: Compression::None,
    })
}

fn outgoing(topic: &str, partition: i32, value: &str) -> OutgoingRecord {
    OutgoingRecord {
        topic: topic.into(),
        partition: Some(partition),
        key: None,
        value: Some(value.to_owned().into()),
        headers: Vec::new(),
    }
}

/// Polls until it is so. Fails on anything that ends a membership.
fn poll_until(consumer: &mut Consumer, what: &str, so: impl Fn(&[String]) -> bool) -> Vec<String> {
    let until = Instant::now() + LONG;
    let mut read = Vec::new();
    while !so(&read) {
        assert!(
            Instant::now() < until,
            "in vain: {what}; {read:?} {:?}",
            consumer.state()
        );
        for event in consumer.poll(Duration::from_millis(50), &|| false).unwrap() {
            match event {
                Event::Fetched { records, .. } => {
                    let values = records.iter().filter_map(|r| r.value.as_deref());
                    read.extend(values.map(|v| String::from_utf8_lossy(v).into_owned()));
                }
                Event::Revoking { .. } => consumer.release(&[]),
                Event::Assigned { .. } => {}
                other => panic!("{what}: {other:?}"),
            }
        }
    }
    read
}

#[test]
fn k01_a_worker_without_brokers_keeps_trying_quietly() {
    let broker = Broker::start();
    let closing = Closing::start();
    let mut stage = scripted(&broker, 1);
    stage.bootstrap = format!(
        "{},{},no-such.invalid:9092",
        broker.bootstrap(),
        closing.address()
    );
    stage.spread(&broker, "/archive", 0..3);
    broker.stop(1);
    let worker = stage.starting_worker("");
    let endpoint = endpoint(&worker);
    worker.line("no broker of the cluster answers");
    let until = Instant::now() + PATIENCE;
    while closing.visits() < 8 {
        assert!(Instant::now() < until, "{} visits", closing.visits());
        assert_eq!(get(&endpoint, "/livez").0, 200);
        assert_eq!(get(&endpoint, "/readyz").0, 503);
    }
    // One line for each change of state, not for each of the attempts.
    assert_eq!(worker.lines("no broker of the cluster answers").len(), 1);
    for address in [
        broker.address(1),
        closing.address(),
        "no-such.invalid:9092".into(),
    ] {
        let lines = worker.lines(&format!("lost broker at {address}"));
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
    broker.restart(1);
    broker.wait("all is done", |b| stage.committed(b) == 3);
    stage.ledger(&broker).check(0..3, 0);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
}

#[test]
fn k02_one_bootstrap_broker_of_three_is_enough() {
    let broker = Broker::start();
    broker.create_topic("in", 1);
    broker.create_topic("out", 1);
    broker.append("in", 0, [NewRecord::value("a")]);
    // One refuses, one is silent: five seconds, and that is all.
    let refusing = Broker::start();
    refusing.stop(1);
    let silent = BlackHole::open();
    let servers = vec![silent.address(), refusing.address(1), broker.address(1)];
    let began = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut consumer = consumer(servers.clone());
            poll_until(&mut consumer, "the record", |read| read == ["a"]);
        });
        scope.spawn(|| {
            let producer = producer(servers.clone());
            producer.send(outgoing("out", 0, "b"), &|| false).unwrap();
        });
    });
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

/// More of them are silent than are waited for in one go: each has its turn, and none a second
/// one before the others. The list is shuffled, so several clients see several orders.
#[test]
fn k02_the_last_bootstrap_broker_has_its_turn() {
    let broker = Broker::start();
    broker.create_topic("out", 1);
    let silent: Vec<BlackHole> = (0..4).map(|_| BlackHole::open()).collect();
    let mut servers: Vec<String> = silent.iter().map(BlackHole::address).collect();
    servers.push(broker.address(1));
    let began = Instant::now();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let producer = producer(servers.clone());
                let late = || began.elapsed() > LONG;
                producer.send(outgoing("out", 0, "a"), &late).unwrap();
            });
        }
    });
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn k03_a_missing_incoming_topic_is_waited_for_and_never_made() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    broker.delete_topic(&stage.incoming);
    let worker = stage.starting_worker("");
    worker.line("does not exist, waiting for it");
    let endpoint = endpoint(&worker);
    broker.wait("it is said", |_| {
        let (status, cause) = get(&endpoint, "/readyz");
        status == 503 && cause.contains(&stage.incoming)
    });
    assert_eq!(get(&endpoint, "/livez").0, 200);
    let asked = broker.count(ApiKey::Metadata);
    broker.wait("it asks on", |b| b.count(ApiKey::Metadata) > asked + 3);
    assert_eq!(broker.partitions(&stage.incoming), 0);
    assert_eq!(worker.lines("does not exist, waiting for it").len(), 1);
    assert_eq!(broker.count(ApiKey::CreateTopics), 0);
    broker.create_topic(&stage.incoming, 2);
    stage.spread(&broker, "/archive", 0..4);
    broker.wait("all is done", |b| stage.committed(b) == 4);
    stage.ledger(&broker).check(0..4, 0);
}

/// For half a minute a topic that we write to may be missing, as it is while a cluster is set up.
#[test]
fn k03_missing_topics_to_write_to_end_it() {
    let broker = Broker::start();
    let stages: Vec<Stage> = (0..3).map(|_| scripted(&broker, 1)).collect();
    broker.delete_topic(&stages[0].outgoing);
    broker.delete_topic(&stages[1].dead_letters);
    broker.delete_topic(&stages[2].outgoing);
    let workers: Vec<_> = stages
        .iter()
        .map(|stage| stage.starting_worker(""))
        .collect();
    for worker in &workers {
        worker.line("is missing; waits for it, never creates it");
    }
    // One is made after all.
    broker.create_topic(&stages[2].outgoing, 2);
    stages[2].spread(&broker, "/archive", 0..1);
    broker.wait("a result", |b| stages[2].committed(b) == 1);
    for (worker, topic) in workers
        .into_iter()
        .zip([&stages[0].outgoing, &stages[1].dead_letters])
    {
        let finished = worker.finish();
        assert_eq!(finished.code(), 78, "{}", finished.stdout);
        let words = format!("topic {topic} is still missing");
        assert!(finished.stdout.contains(&words), "{}", finished.stdout);
        assert_eq!(broker.partitions(topic), 0);
    }
}

#[test]
fn k04_added_partitions_are_shared_and_read_from_their_start() {
    let broker = Broker::start();
    let stage = scripted(&broker, 3);
    for partition in 0..3 {
        broker.set_committed(&stage.group, &stage.incoming, partition, 0);
    }
    // The policy is for those that were there, not for those that come.
    let keys = [
        ("consumer.metadata_max_age", "1s"),
        ("consumer.auto_offset_reset", "latest"),
    ];
    let first = stage.worker_with("", &keys);
    first.line("assigned: ");
    let _second = stage.worker_with("", &keys);
    broker.wait("two members", |b| b.group(&stage.group).is_stable_with(2));
    stage.spread(&broker, "/archive", 0..30);
    broker.wait("some work", |b| published(b, &stage) > 5);
    broker.add_partitions(&stage.incoming, 6);
    stage.spread(&broker, "/archive", 30..90);
    broker.wait("all is done", |b| stage.committed(b) == 90);
    broker.wait("shared", |b| {
        let group = b.group(&stage.group);
        let mut counts = group.members.iter().map(|m| m.assigned.len());
        group.is_stable_with(2) && counts.all(|count| count == 3)
    });
    // The rebalance waits for what is in flight: nothing is done twice.
    stage.ledger(&broker).check(0..90, 0);
}

#[test]
fn k05_moving_leaders_lose_and_repeat_nothing() {
    let broker = Broker::builder().nodes(3).start();
    let stage = scripted(&broker, 6);
    stage.server.serve("/bad", "not an archive");
    let _worker = stage.worker("");
    let generation = broker.group(&stage.group).generation;
    for round in 0..10 {
        let first = round * 30;
        stage.spread(&broker, "/archive", first..first + 27);
        stage.spread(&broker, "/bad", first + 27..first + 30);
        for (api, code) in [
            (ApiKey::Fetch, [5, 6, 74][round % 3]),
            (ApiKey::Produce, [6, 5, 74][round % 3]),
        ] {
            broker.on(api).times(2).error(code);
        }
        for (topic, partition) in [
            (&stage.incoming, round % 6),
            (&stage.incoming, (round + 3) % 6),
            (&stage.outgoing, round % 2),
            (&stage.dead_letters, 0),
        ] {
            let partition = partition as i32;
            let next = broker.leader(topic, partition) % 3 + 1;
            broker.move_leader(topic, partition, next);
        }
        broker.wait("this round", |b| stage.committed(b) == first + 30);
    }
    let ledger = stage.ledger(&broker);
    ledger.check(0..300, 0);
    assert_eq!(ledger.buried.len(), 30);
    assert_eq!(broker.group(&stage.group).generation, generation);
}

/// Makes a node tell what it tells now for ever, as one does that is cut off from its cluster.
fn cut_off(broker: &Broker, node: i32, api: ApiKey) {
    let first: Mutex<Option<Vec<u8>>> = Mutex::default();
    broker.on(api).node(node).always().patch(move |frame| {
        let mut first = first.lock().unwrap();
        let kept = first.get_or_insert_with(|| frame.clone());
        // But for the correlation id.
        frame.truncate(8);
        frame.extend_from_slice(&kept[8..]);
        let length = (frame.len() - 4) as u32;
        frame[..4].copy_from_slice(&length.to_be_bytes());
    });
}

/// The broker that was asked first is cut off from the others: what it tells is of the past.
#[test]
fn k05_a_broker_that_tells_of_former_leaders_is_not_asked_for_ever() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic("in", 1);
    broker.move_leader("in", 0, 2);
    broker.move_coordinator("g", 2);
    cut_off(&broker, 1, ApiKey::Metadata);
    let asked_first = vec![broker.address(1)];
    let mut consumer = consumer(asked_first.clone());
    let producer = producer(asked_first);
    let send = |value: &str| {
        let late = Instant::now() + LONG;
        let is_late = || Instant::now() > late;
        producer.send(outgoing("in", 0, value), &is_late).unwrap();
    };
    send("a");
    poll_until(&mut consumer, "the first record", |read| read == ["a"]);
    broker.move_leader("in", 0, 3);
    send("b");
    poll_until(&mut consumer, "the record of the new leader", |read| {
        read == ["b"]
    });
}

#[test]
fn k06_a_broker_that_tells_of_a_former_coordinator_is_not_asked_for_ever() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic("in", 1);
    broker.move_coordinator("g", 2);
    cut_off(&broker, 1, ApiKey::FindCoordinator);
    let mut consumer = consumer(vec![broker.address(1)]);
    let beats = |b: &Broker, node| {
        let seen = b.requests_of(ApiKey::Heartbeat);
        seen.iter().filter(|seen| seen.node == node).count()
    };
    poll_until(&mut consumer, "assigned", |_| beats(&broker, 2) > 3);
    broker.move_coordinator("g", 3);
    poll_until(&mut consumer, "heartbeats at the new one", |_| {
        beats(&broker, 3) > 3
    });
    assert_eq!(broker.group("g").members.len(), 1);
}

#[test]
fn k06_a_broker_that_knows_of_no_coordinator_is_not_asked_for_ever() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic("in", 1);
    let find = broker.on(ApiKey::FindCoordinator).node(1);
    let find = find.always().error(15);
    let mut consumer = consumer(vec![broker.address(1)]);
    poll_until(&mut consumer, "assigned", |_| {
        broker.count(ApiKey::Heartbeat) > 3
    });
    assert!(find.used() > 0);
}

/// Each node in turn is killed and comes back; what it led and kept goes to others meanwhile.
#[test]
fn k05_k06_k26_each_broker_dies_once_and_nothing_is_lost() {
    let broker = Broker::builder().nodes(3).start();
    let stage = scripted(&broker, 6);
    let _worker = stage.worker("");
    let generation = broker.group(&stage.group).generation;
    for node in 1..=3 {
        let first = (node as usize - 1) * 120;
        stage.spread(&broker, "/archive", first..first + 60);
        broker.wait("some of it", |b| published(b, &stage) > first + 10);
        broker.fail_over(node);
        stage.spread(&broker, "/archive", first + 60..first + 120);
        broker.wait("all of it", |b| stage.committed(b) == first + 120);
        broker.restart(node);
    }
    stage.ledger(&broker).check(0..360, 0);
    assert_eq!(broker.group(&stage.group).generation, generation);
}

#[test]
fn k06_a_moving_coordinator_costs_neither_membership_nor_commits() {
    let broker = Broker::builder().nodes(3).start();
    let stage = scripted(&broker, 3);
    let worker = stage.worker("");
    let group = broker.group(&stage.group);
    for round in 0..6 {
        let first = round * 50;
        stage.spread(&broker, "/archive", first..first + 50);
        broker.wait("some of it", |b| published(b, &stage) > first + 10);
        let next = broker.coordinator(&stage.group) % 3 + 1;
        broker.move_coordinator(&stage.group, next);
        let code = [14, 15, 16][round % 3];
        for api in [
            ApiKey::OffsetCommit,
            ApiKey::Heartbeat,
            ApiKey::FindCoordinator,
        ] {
            broker.on(api).times(2).error(code);
        }
        broker.wait("all of it", |b| stage.committed(b) == first + 50);
    }
    stage.ledger(&broker).check(0..300, 0);
    let now = broker.group(&stage.group);
    assert_eq!(now.generation, group.generation);
    assert_eq!(now.members[0].id, group.members[0].id);
    assert!(worker.lines("membership lost").is_empty());
}

/// Packets to one broker vanish: what is asked of it is given up in the time for a request and
/// asked on a new connection, the others are not held up, and it is used again when it is back.
#[test]
fn k14_a_half_open_connection_is_given_up() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic("in", 3);
    broker.move_coordinator("g", 3);
    let mut consumer = consumer(broker.addresses());
    poll_until(&mut consumer, "assigned", |_| {
        broker.count(ApiKey::Fetch) > 6
    });
    broker.freeze(1);
    broker.append("in", 0, [NewRecord::value("held")]);
    let tried = |b: &Broker| {
        let seen = b.requests_of(ApiKey::ApiVersions);
        seen.iter().filter(|seen| seen.node == 1).count()
    };
    let before = tried(&broker);
    broker.append("in", 1, [NewRecord::value("other")]);
    let first = Instant::now();
    poll_until(&mut consumer, "another broker", |read| read == ["other"]);
    assert!(first.elapsed() < PATIENCE);
    // The metadata connection may have been to it as well: two beyond what there was.
    poll_until(&mut consumer, "it is asked anew", |_| {
        tried(&broker) >= before + 2
    });
    broker.thaw(1);
    poll_until(&mut consumer, "the record", |read| read == ["held"]);
    assert_eq!(consumer.state().phase, Phase::Stable);
}

#[test]
fn k14_a_half_open_leader_is_written_to_once_when_it_is_back() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic("out", 2);
    let producer = producer(broker.addresses());
    for partition in [0, 1] {
        producer
            .send(outgoing("out", partition, "warm"), &|| false)
            .unwrap();
    }
    broker.freeze(1);
    let tried = |b: &Broker| {
        let seen = b.requests_of(ApiKey::ApiVersions);
        seen.iter().filter(|seen| seen.node == 1).count()
    };
    let before = tried(&broker);
    thread::scope(|scope| {
        let held = scope.spawn(|| producer.send(outgoing("out", 0, "held"), &|| false));
        producer
            .send(outgoing("out", 1, "other"), &|| false)
            .unwrap();
        assert!(!held.is_finished());
        broker.wait_for(LONG, "it is asked anew", |b| tried(b) >= before + 2);
        assert!(producer.stalled("out").is_some(), "it is said");
        broker.thaw(1);
        held.join().unwrap().unwrap();
    });
    let values: Vec<String> = broker.records("out", 0).iter().map(|r| r.text()).collect();
    // The frozen broker has read the first request too, and knows the second again.
    assert_eq!(values, ["warm", "held"]);
}

/// The coordinator hangs and another takes over: found in a third of the session, which lives on.
#[test]
fn k14_k06_a_hanging_coordinator_is_left_in_time() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic("in", 3);
    broker.move_coordinator("g", 2);
    let mut consumer = consumer(broker.addresses());
    poll_until(&mut consumer, "assigned", |_| {
        broker.count(ApiKey::Heartbeat) > 3
    });
    let generation = consumer.state().generation;
    broker.freeze(2);
    broker.move_coordinator("g", 3);
    let beats = |b: &Broker| {
        let seen = b.requests_of(ApiKey::Heartbeat);
        seen.iter().filter(|seen| seen.node == 3).count()
    };
    poll_until(&mut consumer, "heartbeats at the new one", |_| {
        beats(&broker) > 3
    });
    assert_eq!(consumer.state().generation, generation);
    assert_eq!(broker.group("g").members.len(), 1);
    broker.thaw(2);
}

/// Brokers close what is idle for ten minutes. Whoever asks next must not pay for it.
#[test]
fn k24_connections_closed_while_idle_are_reopened_silently() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    let keys = [
        ("consumer.fetch_max_wait", "20s"),
        ("consumer.heartbeat_interval", "2s"),
    ];
    let worker = stage.worker_with("", &keys);
    worker.line("assigned: ");
    for round in 0..5 {
        stage.spread(&broker, "/archive", round..round + 1);
        broker.wait("a commit", |b| stage.committed(b) == round + 1);
        // All but the Fetch that waits; among them that to the group and that for results.
        broker.wait("idle ones", |b| b.idle_connections(1) >= 2);
        assert!(broker.drop_idle_connections(1) >= 2);
    }
    stage.ledger(&broker).check(0..5, 0);
    let endpoint = endpoint(&worker);
    for cluster in ["consumer", "publisher"] {
        let series = format!("ccx_kafka_reconnects_total{{cluster=\"{cluster}\"}}");
        assert_eq!(metric(&endpoint, &series).unwrap_or(0.0), 0.0, "{cluster}");
    }
    worker.signal(Signal::TERM);
    let finished = worker.finish();
    for word in ["WARN", "ERROR", "lost"] {
        assert!(!finished.stdout.contains(word), "{}", finished.stdout);
    }
}
