//! A replicated cluster of three Apache Kafka nodes, started for these tests alone: nodes that go
//! and come back under load, leaders that move, topics that grow and shrink.
//!
//! On one version only: three nodes are what a machine with two cores can carry. One test at a time
//! has the cluster, since some of them stop its nodes.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::process::Signal;

use crate::support::program::Running;
use crate::support::real;
use crate::support::real_cluster::RealCluster;
use crate::support::stage::{Stage, endpoint, metric};

/// Records that a worker may hold at once.
const IN_FLIGHT: usize = 8;

/// The cluster, started by whoever needs it first; `None`: this kind is not tested here.
fn cluster() -> Option<MutexGuard<'static, RealCluster>> {
    static CLUSTER: OnceLock<Mutex<RealCluster>> = OnceLock::new();
    real::find("apache_4")?;
    let cluster = CLUSTER.get_or_init(|| Mutex::new(RealCluster::start("apache-4")));
    Some(cluster.lock().unwrap_or_else(PoisonError::into_inner))
}

fn worker(stage: &Stage, keys: &[(&str, &str)]) -> Running {
    let slots = format!("[worker]\nthreads = 4\nmax_in_flight = {IN_FLIGHT}");
    // A session that outlives the election of a coordinator.
    let worker = stage.worker_with(
        &slots,
        &[keys, &[("consumer.session_timeout", "20s")]].concat(),
    );
    worker.line("assigned: ");
    worker
}

/// Every node is stopped once, two in order and one by a kill, while records come in and three
/// workers do them.
#[test]
fn k26_a_rolling_restart_under_load_loses_nothing() {
    const RECORDS: usize = 3000;
    let Some(mut cluster) = cluster() else { return };
    let stage = cluster.stage(6);
    stage.server.serve("/bad", "not an archive");
    let workers: Vec<_> = (0..3).map(|_| worker(&stage, &[])).collect();
    let records = |ids: std::ops::Range<usize>| {
        let path = |id| if id % 10 == 3 { "/bad" } else { "/archive" };
        let records = ids.map(|id| stage.record(&format!("r-{id}"), path(id)));
        records.collect::<Vec<_>>()
    };
    let step = RECORDS / 6;
    for node in 1..=3 {
        let first = (node as usize - 1) * 2 * step;
        cluster.load(&stage.incoming, records(first..first + step));
        cluster.wait("the first of them", || {
            cluster.published(&stage) > first / 2
        });
        if node == 2 {
            cluster.kill(node);
        } else {
            cluster.stop(node);
        }
        cluster.load(&stage.incoming, records(first + step..first + 2 * step));
        cluster.restart(node);
        let topics = [&stage.incoming, &stage.outgoing, &stage.dead_letters];
        cluster.wait_replicated(&topics.map(String::as_str));
    }
    cluster.wait_for_no_lag(&stage);
    let ledger = cluster.ledger(&stage);
    let loaded_twice = cluster.loaded_twice(&stage);
    println!(
        "{} duplicates after three restarts, {loaded_twice} of them loaded twice",
        ledger.duplicates()
    );
    // Each worker may lose its membership with each node, and then does what it had in flight
    // and what it settled since its last commit, some hundred a second, once more.
    ledger.check(0..RECORDS, loaded_twice + 3 * 3 * (IN_FLIGHT + 100));
    assert_eq!(ledger.buried.len(), RECORDS / 10);
    for worker in workers {
        worker.signal(Signal::TERM);
        let finished = worker.finish();
        assert_eq!(finished.code(), 0, "{}", finished.stdout);
    }
}

/// Leaders of all three topics move under load, by reassignment and election.
#[test]
fn k05_moved_leaders_lose_and_repeat_nothing() {
    let Some(cluster) = cluster() else { return };
    let stage = cluster.stage(3);
    let worker = worker(&stage, &[]);
    for round in 0..3 {
        let first = round * 300;
        cluster.load(&stage.incoming, stage.records(first..first + 300));
        cluster.wait("some of it", || cluster.published(&stage) > first + 20);
        for (topic, partition) in [
            (&stage.incoming, round as i32),
            (&stage.outgoing, 0),
            (&stage.outgoing, 1),
        ] {
            let to = cluster.leader(topic, partition) % 3 + 1;
            cluster.move_leader(topic, partition, to);
        }
    }
    cluster.wait_for_no_lag(&stage);
    cluster
        .ledger(&stage)
        .check(0..900, cluster.loaded_twice(&stage));
    assert!(worker.lines("membership lost").is_empty());
}

#[test]
fn k04_added_partitions_are_found_and_read_from_their_start() {
    let Some(cluster) = cluster() else { return };
    let stage = cluster.stage(3);
    let keys = [
        ("consumer.metadata_max_age", "1s"),
        ("consumer.auto_offset_reset", "latest"),
    ];
    let worker = worker(&stage, &keys);
    // With `latest` what comes before the first look is not ours.
    for partition in 0..3 {
        worker.line(&format!(
            "{}-{partition} has no committed offset",
            stage.incoming
        ));
    }
    cluster.load(&stage.incoming, stage.records(0..60));
    cluster.add_partitions(&stage.incoming, 6);
    cluster.load(&stage.incoming, stage.records(60..180));
    cluster.wait("all is done", || {
        cluster.ledger(&stage).lost(0..180).is_empty()
    });
    cluster.wait_for_no_lag(&stage);
    cluster
        .ledger(&stage)
        .check(0..180, cluster.loaded_twice(&stage));
}

/// What was committed is not there any more.
#[test]
fn k15_removed_records_are_counted_and_passed() {
    let Some(cluster) = cluster() else { return };
    let stage = cluster.stage(2);
    cluster.load(&stage.incoming, stage.records(0..40));
    let first = worker(&stage, &[]);
    cluster.wait_for_no_lag(&stage);
    first.signal(Signal::TERM);
    assert_eq!(first.finish().code(), 0);
    cluster.load(&stage.incoming, stage.records(40..80));
    let (_, end) = cluster.ends(&stage.incoming, 0);
    let at = cluster.committed(&stage.group, &stage.incoming)[&0];
    assert!(end - at >= 20);
    // Half of what is new in one partition, all that there is in the other.
    cluster.delete_before(&stage.incoming, 0, at + 10);
    let (_, last) = cluster.ends(&stage.incoming, 1);
    let gone = 10 + last - cluster.committed(&stage.group, &stage.incoming)[&1];
    cluster.delete_before(&stage.incoming, 1, last);
    let second = worker(&stage, &[]);
    cluster.wait_for_no_lag(&stage);
    let endpoint = endpoint(&second);
    let skipped = "ccx_consumer_skipped_offsets_total{cause=\"out_of_range\"}";
    assert_eq!(metric(&endpoint, skipped), Some(gone as f64));
    let ledger = cluster.ledger(&stage);
    ledger.check(0..40, cluster.loaded_twice(&stage));
    assert_eq!(ledger.published.len() as i64, 80 - gone);
}
