//! Groups that change, forget, refuse and come back while records are in work.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::archive_server::{Gate, Reply};
use crate::support::broker::{ApiKey, Broker, PATIENCE};
use crate::support::program::Running;
use crate::support::stage::{Ledger, Stage, archive, scripted};

/// Ten held archives leave room for others.
const SLOTS: &str = "[worker]\nthreads = 20\nmax_in_flight = 20";
/// A held archive must not look like a slow server.
const PATIENT: (&str, &str) = ("downloader.response_timeout", "100s");

fn published(broker: &Broker, stage: &Stage) -> usize {
    broker.all_records(&stage.outgoing).len()
}

/// The archive at `/held` comes when the gate opens for the first `count` requests, later ones
/// at once.
fn hold(stage: &Stage, count: usize) -> Gate {
    let gate = Gate::default();
    let held = (0..count).map(|_| Reply::ok(archive()).behind(&gate));
    stage
        .server
        .script("/held", held.chain([Reply::ok(archive())]));
    gate
}

/// A worker that has as many held archives in work as there are.
fn busy_worker(broker: &Broker, stage: &Stage, keys: &[(&str, &str)], held: usize) -> Running {
    let worker = stage.worker_with(SLOTS, &[keys, &[PATIENT]].concat());
    worker.line("assigned: ");
    broker.wait("archives in work", |_| {
        stage.server.requests("/held") == held
    });
    worker
}

/// No commit was taken from a member for a partition that it did not hold then.
fn no_commit_under_an_old_generation(broker: &Broker, stage: &Stage) {
    let mut newest = -1;
    for seen in broker.commits(&stage.group) {
        if seen.code == 0 {
            assert!(
                seen.generation >= newest,
                "{seen:?} after generation {newest}"
            );
            newest = seen.generation;
        }
    }
}

#[test]
fn k07_work_in_flight_is_finished_before_partitions_go() {
    let broker = Broker::start();
    let stage = scripted(&broker, 4);
    let gate = hold(&stage, 10);
    stage.spread(&broker, "/held", 0..10);
    let first = busy_worker(&broker, &stage, &[], 10);
    let _second = stage.starting_worker(SLOTS);
    first.line("the group rebalances; 10 records in flight");
    stage.spread(&broker, "/archive", 10..60);
    assert_eq!(published(&broker, &stage), 0);
    gate.open();
    broker.wait("all is done", |b| stage.committed(b) == 60);
    broker.wait("shared", |b| b.group(&stage.group).is_stable_with(2));
    stage.ledger(&broker).check(0..60, 0);
    no_commit_under_an_old_generation(&broker, &stage);
    assert!(first.lines("not done in time").is_empty());
}

#[test]
fn k07_work_that_is_not_finished_in_time_is_dropped_uncommitted() {
    let broker = Broker::start();
    let stage = scripted(&broker, 4);
    let gate = hold(&stage, 10);
    stage.spread(&broker, "/held", 0..10);
    // The drain has what the rebalance leaves: eleven seconds.
    let keys = [
        ("consumer.rebalance_timeout", "16s"),
        ("consumer.heartbeat_interval", "100ms"),
    ];
    let first = busy_worker(&broker, &stage, &keys, 10);
    let second = stage.worker_with(SLOTS, &keys);
    second.line("assigned: ");
    first.line("10 records were not done in time for the rebalance");
    // Whoever holds the partitions now does them again.
    broker.wait("all is done", |b| stage.committed(b) == 10);
    stage.ledger(&broker).check(0..10, 0);
    // The first attempts end too, and neither publish nor commit anything.
    gate.open();
    stage.spread(&broker, "/archive", 10..30);
    broker.wait("more is done", |b| stage.committed(b) == 30);
    for worker in [first, second] {
        worker.signal(Signal::TERM);
        assert_eq!(worker.finish().code(), 0);
    }
    stage.ledger(&broker).check(0..30, 0);
    no_commit_under_an_old_generation(&broker, &stage);
}

/// What is fetched and not begun is left to whoever has it next: the group waits for what is in
/// work, and for no more.
#[test]
fn k07_nothing_is_begun_while_the_group_waits() {
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    let gate = hold(&stage, 2);
    broker.append(
        &stage.incoming,
        0,
        (0..20).map(|id| stage.record(&format!("r-{id}"), "/held")),
    );
    let two = "[worker]\nthreads = 2\nmax_in_flight = 2";
    let first = stage.worker_with(two, &[PATIENT]);
    first.line("assigned: ");
    broker.wait("archives in work", |_| stage.server.requests("/held") == 2);
    let before = broker.group(&stage.group).generation;
    let _second = stage.starting_worker(two);
    first.line("the group rebalances; 2 records in flight");
    gate.open();
    broker.wait("all is done", |b| stage.committed(b) == 20);
    stage.ledger(&broker).check(0..20, 0);
    for seen in broker.commits(&stage.group) {
        assert!(seen.generation > before || seen.offset <= 2, "{seen:?}");
    }
}

/// The group has removed it, or says that its generation or epoch is over.
#[test]
fn k08_a_stale_member_publishes_and_commits_nothing_of_before() {
    for code in [22, 25, 110] {
        let broker = Broker::start();
        let stage = scripted(&broker, 2);
        let gate = hold(&stage, 6);
        stage.spread(&broker, "/held", 0..6);
        let brief = [
            ("consumer.session_timeout", "4s"),
            ("consumer.heartbeat_interval", "100ms"),
        ];
        let worker = busy_worker(&broker, &stage, &brief, 6);
        let before = broker.group(&stage.group);
        if code == 25 {
            broker.kick(&stage.group, &before.members[0].id);
        } else {
            broker.on(ApiKey::Heartbeat).error(code);
        }
        worker.line("membership lost; 6 records in flight are given up");
        broker.wait("it is back", |b| {
            let now = b.group(&stage.group);
            now.is_stable_with(1) && now.generation > before.generation
        });
        // They come again, to slots that do not wait for the old ones.
        gate.open();
        broker.wait("all is done", |b| stage.committed(b) == 6);
        stage.spread(&broker, "/archive", 6..20);
        broker.wait("more is done", |b| stage.committed(b) == 20);
        worker.signal(Signal::TERM);
        assert_eq!(worker.finish().code(), 0, "{code}");
        stage.ledger(&broker).check(0..20, 0);
        // What the old generation committed says that records are in work, and moves no offset.
        for seen in broker.commits(&stage.group) {
            let moved = seen.offset > 0;
            assert!(
                !moved || seen.generation > before.generation,
                "{code}: {seen:?}"
            );
        }
    }
}

/// The results' cluster takes everything while the group's does not answer: whoever has the partitions by then, it is
/// not this worker.
#[test]
fn k08_a_worker_that_is_cut_off_for_a_session_publishes_nothing_of_before() {
    let (broker, results) = (Broker::start(), Broker::start());
    let stage = scripted(&broker, 2);
    results.create_topic(&stage.outgoing, 2);
    let gate = hold(&stage, 6);
    stage.spread(&broker, "/held", 0..6);
    let worker = stage
        .program(SLOTS)
        .env("CDP_PUBLISHER_BOOTSTRAP_SERVER", results.bootstrap())
        .env("CCX_DATA_PIPELINE__DOWNLOADER__RESPONSE_TIMEOUT", PATIENT.1)
        .start();
    broker.wait("archives in work", |_| stage.server.requests("/held") == 6);
    broker.freeze(1);
    worker.line("the coordinator has not answered for 6s");
    worker.line("membership lost; 6 records in flight are given up");
    gate.open();
    broker.thaw(1);
    broker.wait("all is done", |b| stage.committed(b) == 6);
    worker.signal(Signal::TERM);
    assert_eq!(worker.finish().code(), 0);
    let dead_letters = broker.all_records(&stage.dead_letters);
    Ledger::new(results.all_records(&stage.outgoing), dead_letters).check(0..6, 0);
    no_commit_under_an_old_generation(&broker, &stage);
}

/// Refused commits: the worker joins again and does what is not committed once more.
#[test]
fn k08_refused_commits_cost_duplicates_and_no_record() {
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    let brief = [
        ("consumer.session_timeout", "4s"),
        ("consumer.heartbeat_interval", "100ms"),
    ];
    let worker = stage.worker_with("", &brief);
    worker.line("assigned: ");
    for (round, code) in [22, 25, 27].into_iter().enumerate() {
        let first = round * 40;
        let refused = broker.on(ApiKey::OffsetCommit).error(code);
        stage.spread(&broker, "/archive", first..first + 40);
        broker.wait("refused", |_| refused.used() == 1);
        broker.wait("all is done", |b| stage.committed(b) == first + 40);
    }
    // At most all records of the rounds that lost the membership, once more.
    stage.ledger(&broker).check(0..120, 80);
    assert_eq!(worker.lines("membership lost").len(), 2);
}

#[test]
fn k10_a_slow_archive_costs_no_membership_and_holds_nobody_up() {
    let broker = Broker::start();
    let stage = scripted(&broker, 2);
    let gate = hold(&stage, 1);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/held")]);
    let brief = [
        ("consumer.session_timeout", "3s"),
        ("consumer.heartbeat_interval", "300ms"),
    ];
    let worker = busy_worker(&broker, &stage, &brief, 1);
    let generation = broker.group(&stage.group).generation;
    let beats = broker.count(ApiKey::Heartbeat);
    broker.append(&stage.incoming, 1, stage.records(1..50));
    broker.wait("the other slots", |b| published(b, &stage) == 49);
    broker.wait("three sessions", |b| {
        b.count(ApiKey::Heartbeat) > beats + 30
    });
    assert_eq!(stage.committed(&broker), 49);
    assert_eq!(broker.group(&stage.group).generation, generation);
    gate.open();
    broker.wait("the slow one", |b| stage.committed(b) == 50);
    stage.ledger(&broker).check(0..50, 0);
    assert!(worker.lines("the group rebalances").is_empty());
}

/// Every slot is taken for longer than the group waits for a member that does not poll.
#[test]
fn k10_archives_in_every_slot_cost_no_membership() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    let gate = hold(&stage, 1);
    broker.append(&stage.incoming, 0, [stage.record("r-0", "/held")]);
    broker.append(&stage.incoming, 0, stage.records(1..10));
    let one = "[worker]\nthreads = 1\nmax_in_flight = 1";
    let brief = [
        ("consumer.session_timeout", "3s"),
        ("consumer.heartbeat_interval", "100ms"),
        ("consumer.rebalance_timeout", "15200ms"),
        PATIENT,
    ];
    let worker = stage.worker_with(one, &brief);
    worker.line("assigned: ");
    broker.wait("in work", |_| stage.server.requests("/held") == 1);
    let generation = broker.group(&stage.group).generation;
    let beats = broker.count(ApiKey::Heartbeat);
    broker.wait_for(3 * PATIENCE, "seventeen seconds", |b| {
        b.count(ApiKey::Heartbeat) > beats + 170 || !b.group(&stage.group).is_stable_with(1)
    });
    assert_eq!(broker.group(&stage.group).generation, generation);
    gate.open();
    broker.wait("all is done", |b| stage.committed(b) == 10);
    stage.ledger(&broker).check(0..10, 0);
    assert!(worker.lines("membership lost").is_empty());
}

/// Commits are refused, or not answered, for as long as the work lasts: it goes on all the same.
#[test]
fn k16_records_are_done_while_commits_fail() {
    for silent in [false, true] {
        let broker = Broker::start();
        let stage = scripted(&broker, 2);
        let worker = stage.worker("[worker]\nthreads = 4\nmax_in_flight = 4");
        let failing = broker.on(ApiKey::OffsetCommit).always();
        let failing = if silent {
            failing.silence()
        } else {
            failing.error(15)
        };
        stage.spread(&broker, "/archive", 0..200);
        broker.wait("all is published", |b| published(b, &stage) == 200);
        broker.wait("three commits", |_| silent || failing.used() >= 3);
        assert_eq!(stage.committed(&broker), 0);
        failing.remove();
        broker.wait("all is committed", |b| stage.committed(b) == 200);
        stage.ledger(&broker).check(0..200, 0);
        assert!(worker.lines("membership lost").is_empty());
    }
}

#[test]
fn k16_a_last_commit_that_fails_does_not_hold_up_the_end() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    let worker = stage.worker("[worker]\nshutdown_timeout = \"4s\"");
    broker.on(ApiKey::OffsetCommit).always().silence();
    stage.spread(&broker, "/archive", 0..5);
    broker.wait("all is published", |b| published(b, &stage) == 5);
    worker.signal(Signal::TERM);
    let asked = Instant::now();
    let finished = worker.finish();
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    // In order: what is not committed comes again, but nothing was cut off.
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    let why = format!(
        "the last offsets of {}-0 could not be committed",
        stage.incoming
    );
    assert!(finished.stdout.contains(&why), "{}", finished.stdout);
    broker.clear_hooks();
    let _next = stage.worker("");
    broker.wait("all is committed", |b| stage.committed(b) == 5);
    stage.ledger(&broker).check(0..5, 5);
}

#[test]
fn k16_a_last_commit_that_is_not_answered_is_sent_again() {
    let broker = Broker::start();
    let stage = scripted(&broker, 1);
    let worker = stage.worker("");
    let silent = broker.on(ApiKey::OffsetCommit).always().silence();
    stage.spread(&broker, "/archive", 0..5);
    broker.wait("all is published", |b| published(b, &stage) == 5);
    worker.signal(Signal::TERM);
    worker.line("drains ");
    silent.wait_used(silent.used() + 1);
    silent.remove();
    let finished = worker.finish();
    assert_eq!(finished.code(), 0, "{}", finished.stdout);
    assert_eq!(stage.committed(&broker), 5);
}

/// A second worker joins and leaves again and again.
#[test]
fn k27_a_flapping_member_leaves_more_than_half_of_the_rate() {
    const RECORDS: usize = 240;
    let run = |flapping: bool| {
        let broker = Broker::start();
        let stage = scripted(&broker, 4);
        // What bounds the rate is the server, not this machine: two at a time, 90 ms each.
        let slow = Reply::nothing()
            .then_trickle(Vec::from(&b"HTTP/1.1 "[..]), Duration::from_millis(10))
            .then_send(ok_without_protocol());
        stage.server.script("/slow", [slow]);
        let slots = "[worker]\nthreads = 2\nmax_in_flight = 2";
        let keys = [("consumer.heartbeat_interval", "200ms")];
        let worker = stage.worker_with(slots, &keys);
        worker.line("assigned: ");
        let began = Instant::now();
        stage.spread(&broker, "/slow", 0..RECORDS);
        let mut joins = 0;
        while flapping && stage.committed(&broker) < RECORDS {
            let second = stage.worker_with(slots, &keys);
            broker.wait("it is in", |b| {
                b.group(&stage.group).is_stable_with(2) || stage.committed(b) == RECORDS
            });
            let there = Instant::now();
            broker.wait("it stays a while", |b| {
                there.elapsed() > Duration::from_secs(3) || stage.committed(b) == RECORDS
            });
            second.signal(Signal::TERM);
            assert_eq!(second.finish().code(), 0);
            joins += 1;
        }
        broker.wait_for(3 * PATIENCE, "all is done", |b| {
            stage.committed(b) == RECORDS
        });
        let took = began.elapsed();
        stage.ledger(&broker).check(0..RECORDS, 0);
        (took, joins)
    };
    let (alone, _) = run(false);
    let (disturbed, joins) = run(true);
    println!("alone {alone:?}, with {joins} joins and leaves {disturbed:?}");
    assert!(joins >= 2);
    assert!(disturbed < 2 * alone, "{disturbed:?} and {alone:?} alone");
}

fn ok_without_protocol() -> Vec<u8> {
    let body = archive();
    let mut bytes = format!("200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend(body);
    bytes
}
