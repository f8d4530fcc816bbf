//! Delivery on real brokers, with a ledger: every record is published or buried, and those that
//! are so twice are counted against a bound.

use rustix::process::Signal;

use crate::on_brokers;
use crate::support::archive_server::Reply;
use crate::support::own_broker::OwnBroker;
use crate::support::program::Running;
use crate::support::real::RealBroker;
use crate::support::stage::{Ledger, Stage};

/// Records that a worker may hold at once; what a killed one leaves behind is at most this.
pub(super) const IN_FLIGHT: usize = 8;
/// Records of a delivery test.
const RECORDS: usize = 3000;
pub(super) const PARTITIONS: usize = 6;

/// A worker that may hold [`IN_FLIGHT`] records.
pub(super) fn worker(stage: &Stage) -> Running {
    stage.worker(&format!(
        "[worker]\nthreads = 4\nmax_in_flight = {IN_FLIGHT}"
    ))
}

pub(super) fn stage(broker: &RealBroker) -> Stage {
    let mut names = Vec::new();
    let mut stage = Stage::new(&broker.address, PARTITIONS, |_, _| {});
    for (name, partitions) in [("incoming", PARTITIONS as i32), ("results", 2), ("dlq", 1)] {
        names.push(broker.create_topic(name, partitions));
    }
    stage.dead_letters = names.pop().unwrap();
    stage.outgoing = names.pop().unwrap();
    stage.incoming = names.pop().unwrap();
    stage
}

pub(super) fn published(broker: &RealBroker, stage: &Stage) -> i64 {
    (0..2).map(|p| broker.ends(&stage.outgoing, p).1).sum()
}

pub(super) fn ledger(broker: &RealBroker, stage: &Stage) -> Ledger {
    let records = |topic: &str| broker.read_all(topic).into_iter().map(|(_, record)| record);
    Ledger::new(records(&stage.outgoing), records(&stage.dead_letters))
}

pub(super) fn wait_for_no_lag(broker: &RealBroker, stage: &Stage) {
    broker.wait("everything is committed", || {
        broker.lag(&stage.group, &stage.incoming) == 0
    });
}

on_brokers! {
    /// Three workers share a group; one more joins and one leaves in the middle. Nothing is lost
    /// and nothing is done twice: a rebalance waits for what is in flight.
    [tansu, apache_3_9, apache_4]
    fn joining_and_leaving_members_lose_and_repeat_nothing(broker) {
        let stage = stage(broker);
        let first = worker(&stage);
        let _second = worker(&stage);
        let _third = worker(&stage);
        broker.load(&stage.incoming, stage.records(0..RECORDS));
        broker.wait("a third of the work", || published(broker, &stage) > RECORDS as i64 / 3);
        let _fourth = worker(&stage);
        first.signal(Signal::TERM);
        let finished = first.finish();
        assert_eq!(finished.code(), 0, "{}", finished.stdout);
        wait_for_no_lag(broker, &stage);
        let ledger = ledger(broker, &stage);
        assert_eq!(ledger.lost(0..RECORDS), Vec::<String>::new());
        assert_eq!(ledger.duplicates(), 0);
        assert!(ledger.buried.is_empty());
    }

    /// The topic is deleted and made again with more records than there were, while the worker
    /// reads on: all of the new ones are read.
    [apache_3_9, apache_4]
    fn k15_a_topic_that_was_made_anew_is_read_from_its_beginning(broker) {
        let stage = stage(broker);
        let worker = worker(&stage);
        broker.load(&stage.incoming, stage.records(0..12));
        wait_for_no_lag(broker, &stage);
        broker.make_anew(&stage.incoming, PARTITIONS as i32);
        broker.load(&stage.incoming, stage.records(12..60));
        worker.line("was deleted and made again, it is read from its beginning");
        broker.wait("all are published", || published(broker, &stage) >= 60);
        wait_for_no_lag(broker, &stage);
        // Those read before the worker learnt of it come again.
        ledger(broker, &stage).check(0..60, 48);
    }

    /// One of three workers is killed in the middle: what it had in flight comes again, the rest
    /// does not.
    [apache_3_9, apache_4]
    fn p05_a_killed_worker_loses_nothing(broker) {
        let stage = stage(broker);
        let victim = worker(&stage);
        let _second = worker(&stage);
        let _third = worker(&stage);
        broker.load(&stage.incoming, stage.records(0..RECORDS));
        broker.wait("a third of the work", || published(broker, &stage) > RECORDS as i64 / 3);
        victim.signal(Signal::KILL);
        drop(victim);
        wait_for_no_lag(broker, &stage);
        let ledger = ledger(broker, &stage);
        assert_eq!(ledger.lost(0..RECORDS), Vec::<String>::new());
        // In flight, and published since its last commit: commits come each second or after 500.
        let bound = IN_FLIGHT + 500;
        assert!(ledger.duplicates() <= bound, "{} duplicates", ledger.duplicates());
        println!("duplicates after the kill: {}", ledger.duplicates());
    }

    /// Bad and slow archives among good ones: each has its outcome, in any order.
    [tansu, apache_3_9, apache_4]
    fn slow_and_bad_archives_hold_nobody_up(broker) {
        let stage = stage(broker);
        let late = Reply::nothing().then_stall();
        stage.server.script("/slow", [late, Reply::ok(crate::support::stage::archive())]);
        stage.server.serve("/bad", "not an archive");
        let records = (0..300).map(|id| {
            let path = match id {
                0 => "/slow",
                id if id % 10 == 3 => "/bad",
                _ => "/archive",
            };
            stage.record(&format!("r-{id}"), path)
        });
        broker.load(&stage.incoming, records.collect::<Vec<_>>());
        let _worker = worker(&stage);
        wait_for_no_lag(broker, &stage);
        let ledger = ledger(broker, &stage);
        assert_eq!(ledger.lost(0..300), Vec::<String>::new());
        assert_eq!(ledger.buried.len(), 30);
        assert_eq!(ledger.duplicates(), 0);
    }
}

/// The broker restarts in the middle of 1,000 records, once in order and once by a kill.
fn a_broker_restart_loses_nothing(kind: &str) {
    let mut own = OwnBroker::start(kind, 1);
    let broker = RealBroker::at(kind, own.bootstrap());
    let stage = stage(&broker);
    let _worker = worker(&stage);
    broker.load(&stage.incoming, stage.records(0..1000));
    for (word, done) in [("stop", 200), ("kill", 600)] {
        broker.wait("a part of the work", || published(&broker, &stage) > done);
        own.order(word);
        own.order("start");
    }
    wait_for_no_lag(&broker, &stage);
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.lost(0..1000), Vec::<String>::new());
    println!("duplicates after two restarts: {}", ledger.duplicates());
}

#[test]
fn k12_a_broker_restart_loses_nothing_apache_3_9() {
    if crate::support::real::find("apache_3_9").is_some() {
        a_broker_restart_loses_nothing("apache-3.9");
    }
}

#[test]
fn k12_a_broker_restart_loses_nothing_apache_4() {
    if crate::support::real::find("apache_4").is_some() {
        a_broker_restart_loses_nothing("apache-4");
    }
}
