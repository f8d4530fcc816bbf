//! Workers and librdkafka consumers in one group, either of them leading, either of them killed: a
//! record is the worker's, with an outcome, or the fellow's, which writes down what it got.

use std::collections::BTreeMap;

use rustix::process::Signal;

use super::delivery::{stage, worker};
use crate::on_brokers;
use crate::support::librdkafka::{Fellow, FellowOptions};
use crate::support::program::Running;
use crate::support::real::RealBroker;
use crate::support::stage::Stage;

fn join(broker: &RealBroker, stage: &Stage) -> Fellow {
    let options = FellowOptions::default();
    Fellow::join(&broker.address, &stage.group, &[&stage.incoming], &options)
}

/// How often each record was done, by whomever.
fn times(broker: &RealBroker, stage: &Stage, fellow: &mut Fellow) -> BTreeMap<String, usize> {
    fellow.look();
    let ledger = super::delivery::ledger(broker, stage);
    let mut times = ledger.published;
    for (id, count) in ledger.buried {
        *times.entry(id).or_default() += count;
    }
    for seen in fellow.records() {
        let key = seen.record.key.clone().unwrap();
        let id = String::from_utf8(key.to_vec()).unwrap();
        *times.entry(id).or_default() += 1;
    }
    times
}

/// Waits until all is committed; then every record was done, and at most `bound` of them twice.
fn check(broker: &RealBroker, stage: &Stage, fellow: &mut Fellow, records: usize, bound: usize) {
    super::delivery::wait_for_no_lag(broker, stage);
    let times = times(broker, stage, fellow);
    let lost: Vec<_> = (0..records)
        .map(|id| format!("r-{id}"))
        .filter(|id| !times.contains_key(id))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    let twice = times.values().sum::<usize>() - times.len();
    println!("{twice} of {records} done more than once");
    assert!(
        twice <= bound,
        "{twice} done more than once, {bound} allowed"
    );
    assert!(!fellow.records().is_empty(), "both have worked");
    assert!(fellow.records().len() < records, "both have worked");
}

/// Waits until both have a share.
fn shared(stage: &Stage, worker: &Running, fellow: &mut Fellow) {
    fellow.wait("it has a share", |f| {
        f.assigned().len() == super::delivery::PARTITIONS / 2
    });
    worker.line(&format!("assigned: {}", stage.incoming));
}

/// In flight and uncommitted at the worker, or told of and uncommitted at the fellow; commits of
/// the worker come each second or after 500.
const BOUND: usize = super::delivery::IN_FLIGHT + 500;

on_brokers! {
    /// The worker leads and is killed; the fellow, which followed, takes over.
    [apache_3_9, apache_4]
    fn a_leading_worker_is_killed_beside_a_fellow(broker) {
        let stage = stage(broker);
        let victim = worker(&stage);
        let mut fellow = join(broker, &stage);
        shared(&stage, &victim, &mut fellow);
        broker.load(&stage.incoming, stage.records(0..1500));
        broker.wait("some results", || super::super::delivery::published(broker, &stage) > 100);
        victim.signal(Signal::KILL);
        drop(victim);
        fellow.wait("it has all", |f| f.assigned().len() == super::super::delivery::PARTITIONS);
        broker.load(&stage.incoming, stage.records(1500..1600));
        super::check(broker, &stage, &mut fellow, 1600, BOUND);
    }

    /// The fellow leads and is killed; the worker takes over. Another fellow comes and goes in
    /// order.
    [apache_3_9, apache_4]
    fn a_leading_fellow_is_killed_beside_a_worker(broker) {
        let stage = stage(broker);
        let mut victim = join(broker, &stage);
        victim.wait("it has all", |f| f.assigned().len() == super::super::delivery::PARTITIONS);
        let worker = worker(&stage);
        shared(&stage, &worker, &mut victim);
        broker.load(&stage.incoming, stage.records(0..1000));
        victim.wait("it has read some", |f| f.records().len() > 50);
        victim.kill();
        let mut second = join(broker, &stage);
        second.wait("it has a share", |f| !f.assigned().is_empty());
        broker.load(&stage.incoming, stage.records(1000..1500));
        second.wait("it has read some", |f| f.records().len() > 50);
        second.leave();
        broker.load(&stage.incoming, stage.records(1500..1600));
        super::super::delivery::wait_for_no_lag(broker, &stage);
        let mut times = times(broker, &stage, &mut victim);
        for seen in second.records() {
            let key = seen.record.key.clone().unwrap();
            *times.entry(String::from_utf8(key.to_vec()).unwrap()).or_default() += 1;
        }
        let lost: Vec<_> = (0..1600).map(|id| format!("r-{id}")).filter(|id| !times.contains_key(id)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let twice = times.values().sum::<usize>() - times.len();
        println!("{twice} of 1600 done more than once");
        // What the killed one told of and could not commit, and a commit that a rebalance refused.
        assert!(twice <= BOUND, "{twice}");
    }
}
