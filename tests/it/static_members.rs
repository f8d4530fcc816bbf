//! Static members: a restart moves no partition, and no two live under one id.

use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, OffsetCommitRequest, SyncGroupRequest,
};
use rustix::process::Signal;

use crate::support::broker::{ApiKey, Broker};
use crate::support::program::{Program, Running};
use crate::support::stage::{Ledger, Stage};

fn stage(broker: &Broker, partitions: usize) -> Stage {
    Stage::new(&broker.bootstrap(), partitions, |name, partitions| {
        broker.create_topic(name, partitions);
    })
}

/// A worker with a static id.
fn worker(stage: &Stage, id: &str) -> Running {
    let keys = format!("[consumer]\ngroup_instance_id = \"{id}\"\nmetadata_max_age = \"1s\"\n");
    // Long enough for a restart on a busy machine.
    let config = stage
        .config("")
        .replace("[consumer]\n", &keys)
        .replace("session_timeout = \"6s\"", "session_timeout = \"60s\"");
    Program::new(["run"]).config(&config).start()
}

fn committed(broker: &Broker, stage: &Stage, partitions: i32) -> i64 {
    let of = |partition| broker.committed(&stage.group, &stage.incoming, partition);
    (0..partitions).map(|p| of(p).unwrap_or(0)).sum()
}

fn append(broker: &Broker, stage: &Stage, partitions: i32, ids: std::ops::Range<usize>) {
    for (record, partition) in stage.records(ids).into_iter().zip((0..partitions).cycle()) {
        broker.append(&stage.incoming, partition, [record]);
    }
}

fn ledger(broker: &Broker, stage: &Stage) -> Ledger {
    let published = broker.all_records(&stage.outgoing);
    Ledger::new(published, broker.all_records(&stage.dead_letters))
}

#[test]
fn k09_of_two_with_one_static_id_the_first_ends_with_76_and_nothing_is_lost() {
    let broker = Broker::start();
    let stage = stage(&broker, 2);
    append(&broker, &stage, 2, 0..10);
    let first = worker(&stage, "worker-0");
    broker.wait("the first works", |b| committed(b, &stage, 2) == 10);
    let second = worker(&stage, "worker-0");
    let finished = first.finish();
    assert_eq!(finished.code(), 76, "{}", finished.stdout);
    let words = "another member uses the same static id (82): worker-0";
    assert!(finished.stdout.contains(words), "{}", finished.stdout);

    second.line("assigned: ");
    append(&broker, &stage, 2, 10..20);
    broker.wait("the second works", |b| committed(b, &stage, 2) == 20);
    second.signal(Signal::TERM);
    assert_eq!(second.finish().code(), 0);
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.lost(0..20), [""; 0]);
    assert_eq!(ledger.duplicates(), 0);
}

#[test]
fn k09_a_member_that_is_fenced_while_it_commits_ends_with_76() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    append(&broker, &stage, 1, 0..1);
    broker
        .on(ApiKey::OffsetCommit)
        .partition(&stage.incoming, 0)
        .error(82);
    let finished = worker(&stage, "worker-0").finish();
    assert_eq!(finished.code(), 76, "{}", finished.stdout);
    assert_eq!(committed(&broker, &stage, 1), 0);
}

#[test]
fn k09_a_restart_within_the_session_moves_no_partition() {
    let broker = Broker::start();
    let stage = stage(&broker, 4);
    let start = |n: usize| worker(&stage, &format!("worker-{n}"));
    let mut workers = vec![start(0), start(1)];
    broker.wait("both are in", |b| b.group(&stage.group).is_stable_with(2));
    append(&broker, &stage, 4, 0..20);
    broker.wait("all are committed", |b| committed(b, &stage, 4) == 20);
    let holds = || {
        let members = broker.group(&stage.group).members.into_iter();
        let mut all: Vec<_> = members.map(|m| (m.instance, m.assigned)).collect();
        all.sort();
        all
    };
    let (generation, held) = (broker.group(&stage.group).generation, holds());
    let joins = broker.count(ApiKey::JoinGroup);
    // One of the two leads.
    for n in 0..2 {
        let leaver = workers.remove(0);
        leaver.signal(Signal::TERM);
        assert_eq!(leaver.finish().code(), 0);
        let from = 20 + 20 * n;
        append(&broker, &stage, 4, from..from + 20);
        workers.push(start(n));
        broker.wait("what came meanwhile is committed", |b| {
            committed(b, &stage, 4) == from as i64 + 20
        });
    }
    assert_eq!(broker.group(&stage.group).generation, generation);
    assert_eq!(holds(), held);
    assert_eq!(broker.count(ApiKey::LeaveGroup), 0);
    assert_eq!(
        broker.count(ApiKey::JoinGroup),
        joins + 2,
        "nobody else had to join again"
    );
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.lost(0..60), [""; 0]);
    assert_eq!(ledger.duplicates(), 0);
}

/// The leader that came back is not told that it leads, and nobody else watches the topic.
#[test]
fn k04_a_static_leader_that_came_back_sees_new_partitions() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    let first = worker(&stage, "worker-0");
    first.line("assigned: ");
    first.signal(Signal::TERM);
    assert_eq!(first.finish().code(), 0);
    let again = worker(&stage, "worker-0");
    again.line("assigned: ");
    broker.add_partitions(&stage.incoming, 3);
    append(&broker, &stage, 3, 0..6);
    broker.wait("all are committed", |b| committed(b, &stage, 3) == 6);
    let ledger = ledger(&broker, &stage);
    assert_eq!(ledger.lost(0..6), [""; 0]);
    assert_eq!(ledger.duplicates(), 0);
}

#[test]
fn the_static_id_goes_with_everything_that_the_group_is_asked() {
    let broker = Broker::start();
    let stage = stage(&broker, 1);
    append(&broker, &stage, 1, 0..1);
    let _worker = worker(&stage, "worker-0");
    broker.wait("a commit and a heartbeat", |b| {
        committed(b, &stage, 1) == 1 && b.count(ApiKey::Heartbeat) > 0
    });
    let mut seen = Vec::new();
    for request in broker.requests() {
        let id = match request.api {
            ApiKey::JoinGroup => request.decode::<JoinGroupRequest>().group_instance_id,
            ApiKey::SyncGroup => request.decode::<SyncGroupRequest>().group_instance_id,
            ApiKey::Heartbeat => request.decode::<HeartbeatRequest>().group_instance_id,
            ApiKey::OffsetCommit => request.decode::<OffsetCommitRequest>().group_instance_id,
            _ => continue,
        };
        assert_eq!(id.as_deref(), Some("worker-0"), "{:?}", request.api);
        seen.push(request.api as i16);
    }
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, [8, 11, 12, 14]);
}
