//! The consumer against the scripted cluster: membership, positions, commits, and every way in
//! which a broker can say no.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ccx_data_pipeline::backoff::sleep_unless;
use ccx_data_pipeline::kafka::options::{
    ClusterOptions, ConsumerOptions, IsolationLevel, OffsetReset, OnCorruptBatch,
};
use ccx_data_pipeline::kafka::{
    Assigned, Code, Commit, CommitResult, Consumer, Event, Fatal, FatalKind, Lease, Metadata,
    Phase, SkipCause, TopicPartition,
};
use ccx_data_pipeline::telemetry::health::TICK_LIMIT;
use kafka_protocol::messages::{JoinGroupRequest, OffsetCommitRequest};

use crate::support::broker::batch::{Batch, Codec, NewRecord};
use crate::support::broker::versions::Versions;
use crate::support::broker::{ApiKey, Broker, PATIENCE};

const GROUP: &str = "g";
const TOPIC: &str = "in";

fn options(broker: &Broker) -> ConsumerOptions {
    ConsumerOptions {
        cluster: ClusterOptions {
            name: "consumer",
            bootstrap_servers: broker.addresses(),
            client_id: "worker".into(),
            metadata_max_age: Duration::from_millis(200),
            ..ClusterOptions::default()
        },
        group_id: GROUP.into(),
        topic: TOPIC.into(),
        session_timeout: Duration::from_secs(20),
        heartbeat_interval: Duration::from_millis(50),
        rebalance_timeout: Duration::from_secs(30),
        fetch_max_wait: Duration::from_millis(100),
        ..ConsumerOptions::default()
    }
}

/// With a short session, for faults that leave a member behind which the group waits for.
fn brief(broker: &Broker) -> ConsumerOptions {
    ConsumerOptions {
        session_timeout: Duration::from_millis(1500),
        ..options(broker)
    }
}

fn part(number: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, number)
}

/// A consumer and all that it has told.
struct Member {
    consumer: Consumer,
    /// Whether it answers `Revoking` by itself, committing what it has read.
    releases: bool,
    generation: i32,
    owned: Vec<Assigned>,
    /// Values in the order in which they came.
    read: Vec<String>,
    next: BTreeMap<TopicPartition, (Lease, i64)>,
    events: Vec<Event>,
    fatal: Option<Fatal>,
}

impl Member {
    fn start(options: ConsumerOptions) -> Self {
        Self {
            consumer: Consumer::start(options),
            releases: true,
            generation: -1,
            owned: Vec::new(),
            read: Vec::new(),
            next: BTreeMap::new(),
            events: Vec::new(),
            fatal: None,
        }
    }

    fn poll(&mut self, timeout: Duration) {
        match self.consumer.poll(timeout, &|| false) {
            Ok(events) => events.into_iter().for_each(|event| self.take(event)),
            Err(fatal) => self.fatal = Some(fatal),
        }
    }

    fn take(&mut self, event: Event) {
        self.events.push(event.clone());
        match event {
            Event::Assigned {
                generation,
                partitions,
            } => {
                self.generation = generation;
                self.next
                    .retain(|_, (lease, _)| partitions.iter().any(|p| p.lease == *lease));
                self.owned = partitions;
            }
            Event::Revoking { .. } => {
                if self.releases {
                    self.commit();
                    self.consumer.release(&[]);
                }
            }
            Event::Lost => {
                self.owned.clear();
                self.next.clear();
            }
            Event::Fetched {
                partition,
                lease,
                from,
                records,
                next,
            } => {
                assert!(next > from);
                let mut floor = from;
                for record in records {
                    assert!(record.offset >= floor && record.offset < next);
                    assert_eq!((&record.partition, &record.lease), (&partition, &lease));
                    floor = record.offset + 1;
                    let value = record.value.unwrap_or_default();
                    self.read.push(String::from_utf8_lossy(&value).into_owned());
                }
                if let Some((known, at)) = self.next.get(&partition) {
                    assert!(*known != lease || *at == from, "neither gap nor repetition");
                }
                self.next.insert(partition, (lease, next));
            }
            Event::Skipped {
                partition,
                lease,
                to,
                ..
            } => {
                self.next.insert(partition, (lease, to));
            }
            Event::StartedOver {
                partition,
                lease,
                at,
            } => {
                self.next.insert(partition, (lease, at));
            }
            Event::Halted { .. } => {}
        }
    }

    fn commits(&self) -> Vec<Commit> {
        self.next
            .iter()
            .map(|(partition, (lease, offset))| Commit {
                partition: partition.clone(),
                lease: lease.clone(),
                offset: *offset,
            })
            .collect()
    }

    fn commit(&mut self) -> Vec<CommitResult> {
        let commits = self.commits();
        self.consumer.commit(&commits, &Metadata::new(), PATIENCE)
    }

    fn commit_code(&mut self) -> Option<Code> {
        let result = self.commit().remove(0).result;
        result.err().map(|error| error.code().unwrap())
    }

    fn numbers(&self) -> Vec<i32> {
        self.owned.iter().map(|p| p.partition.partition).collect()
    }

    fn until(&mut self, what: &str, so: impl Fn(&Member) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so(self) {
            assert!(self.fatal.is_none(), "{what}: {:?}", self.fatal);
            assert!(
                Instant::now() < end,
                "in vain: {what}; state {:?}, read {:?}, events {:#?}",
                self.consumer.state(),
                self.read,
                self.events
            );
            self.poll(Duration::from_millis(50));
        }
    }

    fn until_read(&mut self, values: &[&str]) {
        let wanted = values.len();
        self.until("records", |m| m.read.len() >= wanted);
        let mut read = self.read.clone();
        read.sort();
        assert_eq!(read, values);
    }

    fn until_stable(&mut self, partitions: usize) {
        self.until("assignment", |m| {
            m.consumer.state().phase == Phase::Stable && m.owned.len() == partitions
        });
    }

    fn until_fatal(&mut self) -> Fatal {
        let end = Instant::now() + PATIENCE;
        while self.fatal.is_none() {
            assert!(
                Instant::now() < end,
                "it goes on: {:?}",
                self.consumer.state()
            );
            self.poll(Duration::from_millis(50));
        }
        self.fatal.take().unwrap()
    }

    fn count(&self, wanted: impl Fn(&Event) -> bool) -> usize {
        self.events.iter().filter(|event| wanted(event)).count()
    }
}

/// Polls two members in turn on this thread, which works because neither waits for the other.
fn both(a: &mut Member, b: &mut Member, what: &str, so: impl Fn(&Member, &Member) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so(a, b) {
        assert!(
            Instant::now() < end,
            "in vain: {what}; {:#?} {:#?}",
            a.events,
            b.events
        );
        a.poll(Duration::from_millis(10));
        b.poll(Duration::from_millis(10));
    }
}

fn halves(a: &Member, b: &Member) -> bool {
    a.generation == b.generation && a.owned.len() == 2 && b.owned.len() == 2
}

fn values(broker: &Broker, partition: i32, of: &[&str]) {
    broker.append(TOPIC, partition, of.iter().map(NewRecord::value));
}

fn lost(event: &Event) -> bool {
    matches!(event, Event::Lost)
}

fn revoking(event: &Event) -> bool {
    matches!(event, Event::Revoking { .. })
}

#[test]
fn reads_commits_and_leaves() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 3);
    values(&broker, 0, &["a", "b"]);
    values(&broker, 2, &["c"]);
    let mut member = Member::start(options(&broker));
    assert_eq!(broker.requests().len(), 0, "no I/O before the first poll");
    assert_eq!(member.consumer.state().phase, Phase::Joining);
    member.until_read(&["a", "b", "c"]);
    assert_eq!(member.numbers(), [0, 1, 2]);
    let state = member.consumer.state();
    assert_eq!((state.phase, state.topic_known), (Phase::Stable, true));
    assert_eq!(state.generation, member.generation);
    assert!(member.commit().iter().all(|done| done.result.is_ok()));
    assert_eq!(broker.committed(GROUP, TOPIC, 0), Some(2));
    assert_eq!(broker.committed(GROUP, TOPIC, 1), None);
    assert_eq!(broker.committed(GROUP, TOPIC, 2), Some(1));
    values(&broker, 1, &["d"]);
    member.until_read(&["a", "b", "c", "d"]);
    assert!(member.consumer.lag().contains(&(part(1), 1)));
    // MEMBER_ID_REQUIRED: the second JoinGroup carried the id of the first answer.
    let joins = broker.requests_of(ApiKey::JoinGroup);
    let ids: Vec<String> = joins
        .iter()
        .map(|join| join.decode::<JoinGroupRequest>().member_id.to_string())
        .collect();
    assert_eq!(ids.len(), 2);
    assert!(ids[0].is_empty() && ids[1].starts_with("worker-"));
    member.consumer.close(Duration::from_secs(5));
    assert_eq!(broker.group(GROUP).state, "Empty");
    assert_eq!(broker.count(ApiKey::LeaveGroup), 1);
    // Whoever comes next goes on behind what was committed.
    let mut next = Member::start(options(&broker));
    next.until_read(&["d"]);
}

#[test]
fn a_broker_of_2_1_is_enough() {
    let broker = Broker::builder().versions(Versions::kafka_2_1()).start();
    broker.create_topic(TOPIC, 1);
    values(&broker, 0, &["a"]);
    let mut member = Member::start(options(&broker));
    member.until_read(&["a"]);
    assert!(member.commit()[0].result.is_ok());
    member.consumer.close(Duration::from_secs(5));
    assert_eq!(broker.group(GROUP).state, "Empty");
}

#[test]
fn a_dropped_consumer_stops_its_heartbeats() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut member = Member::start(ConsumerOptions {
        session_timeout: Duration::from_millis(500),
        ..options(&broker)
    });
    member.until_stable(1);
    drop(member);
    broker.wait("silence removes it", |b| b.group(GROUP).members.is_empty());
    assert_eq!(broker.count(ApiKey::LeaveGroup), 0);
}

#[test]
fn k07_two_members_share_and_take_over() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 4);
    let mut a = Member::start(options(&broker));
    a.until_stable(4);
    let first = a.owned.clone();
    let mut b = Member::start(options(&broker));
    both(&mut a, &mut b, "both have half", halves);
    let mut all = [a.numbers(), b.numbers()].concat();
    all.sort_unstable();
    assert_eq!(all, [0, 1, 2, 3]);
    assert_eq!(a.count(revoking), 1);
    assert_eq!(a.count(lost), 0);
    // What came back is the same lease, what went is dead.
    for old in &first {
        let stays = a.owned.iter().find(|new| new.partition == old.partition);
        assert_eq!(old.lease.is_live(), stays.is_some());
        assert!(stays.is_none_or(|new| new.kept && new.lease == old.lease));
        if stays.is_none() {
            // Its generation is the present one, and the broker would take it.
            let late = Commit {
                partition: old.partition.clone(),
                lease: old.lease.clone(),
                offset: 1,
            };
            let results = a.consumer.commit(&[late], &Metadata::new(), PATIENCE);
            assert!(results[0].result.is_err());
        }
    }
    assert!(broker.commits(GROUP).is_empty());
    for number in 0..4 {
        values(&broker, number, &["x"]);
    }
    both(&mut a, &mut b, "records", |a, b| {
        a.read.len() + b.read.len() == 4
    });
    b.commit();
    b.consumer.close(Duration::from_secs(5));
    a.until_stable(4);
    a.commit();
    for number in 0..4 {
        assert_eq!(broker.committed(GROUP, TOPIC, number), Some(1));
    }
    assert_eq!(
        a.read.len(),
        2,
        "what the other committed is not read again"
    );
}

#[test]
fn joining_does_not_hold_the_poll() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let held = broker
        .on(ApiKey::JoinGroup)
        .after(1)
        .times(1)
        .delay(Duration::from_secs(2));
    let mut member = Member::start(options(&broker));
    let mut polls = 0;
    while held.used() == 0 || member.owned.is_empty() {
        member.poll(Duration::from_millis(20));
        polls += 1;
        assert!(polls < 1000 && member.fatal.is_none());
    }
    assert!(polls > 10, "{polls} polls while the group was waited for");
}

#[test]
fn k07_work_is_drained_before_partitions_go() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 4);
    values(&broker, 0, &["a"]);
    values(&broker, 3, &["z"]);
    let mut a = Member::start(options(&broker));
    a.releases = false;
    a.until_read(&["a", "z"]);
    let mut b = Member::start(options(&broker));
    both(&mut a, &mut b, "asked to drain", |a, _| {
        a.count(revoking) == 1
    });
    assert_eq!(a.consumer.state().phase, Phase::Draining);
    let leases = a.owned.clone();
    // Nothing is handed out while draining, whatever comes.
    values(&broker, 0, &["b"]);
    for _ in 0..10 {
        a.poll(Duration::from_millis(10));
        b.poll(Duration::from_millis(10));
    }
    assert_eq!(a.read.len(), 2);
    assert!(leases.iter().all(|owned| owned.lease.is_live()));
    // Commits still count, under the old generation.
    let generation = a.generation;
    assert!(a.commit().iter().all(|done| done.result.is_ok()));
    let commits = broker.commits(GROUP);
    assert!(commits.iter().all(|seen| seen.generation == generation));
    // The work of one partition is given up.
    a.consumer.release(&[part(0)]);
    assert!(!leases[0].lease.is_live() && leases[3].lease.is_live());
    both(&mut a, &mut b, "both have half", halves);
    for owned in &a.owned {
        assert_eq!(owned.kept, owned.partition != part(0));
    }
    both(&mut a, &mut b, "the rest", |a, b| {
        a.read.len() + b.read.len() == 3
    });
}

#[test]
fn k07_the_drain_has_an_end() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut a = Member::start(ConsumerOptions {
        rebalance_timeout: Duration::from_millis(5300),
        ..options(&broker)
    });
    a.releases = false;
    a.until_stable(1);
    let lease = a.owned[0].lease.clone();
    broker.rebalance(GROUP);
    a.until("the drain is over", |m| m.count(lost) == 1);
    assert!(!lease.is_live());
    a.until_stable(1);
    assert!(!a.owned[0].kept && a.owned[0].lease != lease);
    // Late by much, but harmless.
    a.consumer.release(&[]);
    assert_eq!(a.consumer.state().phase, Phase::Stable);
}

#[test]
fn k08_refused_commits() {
    // Code, whether it is lost, whether it joins again.
    let rows = [
        (Code::IllegalGeneration, true, true),
        (Code::UnknownMemberId, true, true),
        (Code::RebalanceInProgress, false, true),
        (Code::UnknownTopicOrPartition, false, false),
        (Code::OffsetMetadataTooLarge, false, false),
        (Code::InvalidCommitOffsetSize, false, false),
    ];
    for (code, is_lost, rejoins) in rows {
        let broker = Broker::start();
        broker.create_topic(TOPIC, 1);
        values(&broker, 0, &["a"]);
        let mut member = Member::start(brief(&broker));
        member.until_read(&["a"]);
        let generation = member.generation;
        broker.on(ApiKey::OffsetCommit).error(code.code());
        let lease = member.owned[0].lease.clone();
        assert_eq!(member.commit_code(), Some(code));
        assert_eq!(lease.is_live(), !is_lost, "{code}");
        assert_eq!(broker.committed(GROUP, TOPIC, 0), None);
        if rejoins {
            member.until("a new generation", |m| m.generation > generation);
            assert_eq!(member.count(lost), usize::from(is_lost), "{code}");
        }
        if is_lost {
            // Not committed: it comes again.
            member.until("the record again", |m| m.read == ["a", "a"]);
        }
        assert_eq!(member.commit_code(), None);
        assert_eq!(broker.committed(GROUP, TOPIC, 0), Some(1));
    }
}

#[test]
fn k16_commits_that_pass_when_tried_again() {
    let rows = [
        Code::RequestTimedOut,
        Code::CoordinatorLoadInProgress,
        Code::CoordinatorNotAvailable,
        Code::NotCoordinator,
        Code::KafkaStorageError,
        Code::UnknownServerError,
    ];
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut member = Member::start(options(&broker));
    member.until_stable(1);
    let mut wanted = Vec::new();
    for code in rows {
        values(&broker, 0, &["a"]);
        wanted.push("a");
        member.until_read(&wanted);
        let hook = broker.on(ApiKey::OffsetCommit).times(2).error(code.code());
        assert_eq!(member.commit_code(), None, "{code}");
        assert_eq!(hook.used(), 2);
    }
    values(&broker, 0, &["a"]);
    wanted.push("a");
    member.until_read(&wanted);
    broker.on(ApiKey::OffsetCommit).drop_connection();
    assert_eq!(member.commit_code(), None);
    assert_eq!(broker.committed(GROUP, TOPIC, 0), Some(7));
    assert_eq!(member.count(lost) + member.count(revoking), 0);
    assert!(member.consumer.stats().commits_retried.get() >= 13);
}

/// The time for a commit ends with a last refusal, not with a try that has no time for an answer:
/// that would close a connection which is well.
#[test]
fn k16_a_commit_that_runs_out_of_time_keeps_its_connection() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    values(&broker, 0, &["a"]);
    let mut member = Member::start(options(&broker));
    member.until_read(&["a"]);
    let code = Code::RequestTimedOut;
    let hook = broker
        .on(ApiKey::OffsetCommit)
        .times(1000)
        .error(code.code());
    let reconnects = member.consumer.stats().reconnects.get();
    assert_eq!(member.commit_code(), Some(code));
    assert!(hook.used() > 3);
    broker.clear_hooks();
    assert_eq!(member.commit_code(), None);
    assert_eq!(broker.committed(GROUP, TOPIC, 0), Some(1));
    assert_eq!(member.consumer.stats().reconnects.get(), reconnects);
    assert_eq!(member.count(lost) + member.count(revoking), 0);
}

#[test]
fn k16_each_partition_of_a_commit_has_its_own_answer() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 3);
    for number in 0..3 {
        values(&broker, number, &["a"]);
    }
    let mut member = Member::start(options(&broker));
    member.until_read(&["a", "a", "a"]);
    broker.on(ApiKey::OffsetCommit).partition(TOPIC, 1).error(3);
    let mut commits = member.commits();
    // One that is no longer ours is not even sent.
    commits[2].lease = Lease::new();
    let results = member.consumer.commit(&commits, &Metadata::new(), PATIENCE);
    let codes: Vec<Option<Code>> = results
        .into_iter()
        .map(|done| done.result.err().and_then(|error| error.code()))
        .collect();
    assert_eq!(
        codes,
        [
            None,
            Some(Code::UnknownTopicOrPartition),
            Some(Code::IllegalGeneration)
        ]
    );
    assert_eq!(broker.committed(GROUP, TOPIC, 0), Some(1));
    let sent = broker.requests_of(ApiKey::OffsetCommit);
    let request: OffsetCommitRequest = sent[0].decode();
    assert_eq!(request.topics[0].partitions.len(), 2);
}

#[test]
fn refusals_that_end_it() {
    let rows = [
        (ApiKey::JoinGroup, 30, FatalKind::NotAuthorised),
        (ApiKey::JoinGroup, 23, FatalKind::Configuration),
        (ApiKey::JoinGroup, 26, FatalKind::Configuration),
        (ApiKey::JoinGroup, 81, FatalKind::Configuration),
        (ApiKey::JoinGroup, 82, FatalKind::Fenced),
        (ApiKey::SyncGroup, 30, FatalKind::NotAuthorised),
        (ApiKey::Heartbeat, 82, FatalKind::Fenced),
        (ApiKey::FindCoordinator, 30, FatalKind::NotAuthorised),
        (ApiKey::OffsetFetch, 30, FatalKind::NotAuthorised),
        (ApiKey::Metadata, 29, FatalKind::NotAuthorised),
        (ApiKey::Fetch, 29, FatalKind::NotAuthorised),
        (ApiKey::ListOffsets, 29, FatalKind::NotAuthorised),
    ];
    for (api, code, kind) in rows {
        let broker = Broker::start();
        broker.create_topic(TOPIC, 1);
        broker.on(api).always().error(code);
        let mut member = Member::start(options(&broker));
        let fatal = member.until_fatal();
        assert_eq!(fatal.kind, kind, "{api:?} {code}: {}", fatal.message);
        assert!(
            fatal.message.contains(&code.to_string()),
            "{}",
            fatal.message
        );
        assert_eq!(member.consumer.state().phase, Phase::Stopped);
        assert!(member.owned.iter().all(|owned| !owned.lease.is_live()));
    }
}

#[test]
fn k05_k06_refusals_that_pass() {
    let rows = [
        (ApiKey::FindCoordinator, 15),
        (ApiKey::JoinGroup, 14),
        (ApiKey::JoinGroup, 15),
        (ApiKey::JoinGroup, 16),
        (ApiKey::JoinGroup, 25),
        (ApiKey::JoinGroup, -1),
        (ApiKey::SyncGroup, 14),
        (ApiKey::SyncGroup, 16),
        (ApiKey::SyncGroup, 22),
        (ApiKey::SyncGroup, 25),
        (ApiKey::SyncGroup, 27),
        (ApiKey::OffsetFetch, 14),
        (ApiKey::OffsetFetch, 16),
        (ApiKey::OffsetFetch, 88),
        (ApiKey::ListOffsets, 5),
        (ApiKey::ListOffsets, 6),
        (ApiKey::ListOffsets, 78),
        (ApiKey::Fetch, 3),
        (ApiKey::Fetch, 5),
        (ApiKey::Fetch, 6),
        (ApiKey::Fetch, 9),
        (ApiKey::Fetch, 56),
        (ApiKey::Fetch, 74),
        (ApiKey::Fetch, 75),
        (ApiKey::Fetch, 78),
        (ApiKey::Fetch, -1),
        (ApiKey::Fetch, 1234),
        (ApiKey::Heartbeat, 14),
        (ApiKey::Heartbeat, 15),
        (ApiKey::Heartbeat, 16),
        (ApiKey::Heartbeat, 1234),
    ];
    for (api, code) in rows {
        let broker = Broker::start();
        broker.create_topic(TOPIC, 1);
        values(&broker, 0, &["a"]);
        let hook = broker.on(api).times(2).error(code);
        let mut member = Member::start(match api {
            ApiKey::JoinGroup | ApiKey::SyncGroup => brief(&broker),
            _ => options(&broker),
        });
        member.until_read(&["a"]);
        member.until("refused twice", |_| hook.used() == 2);
        values(&broker, 0, &["b"]);
        member.until_read(&["a", "b"]);
        assert_eq!(member.commit_code(), None, "{api:?} {code}");
        assert_eq!(member.count(lost), 0, "{api:?} {code}");
    }
}

#[test]
fn k19_broken_answers_of_every_kind_pass() {
    let apis = [
        ApiKey::Metadata,
        ApiKey::FindCoordinator,
        ApiKey::JoinGroup,
        ApiKey::SyncGroup,
        ApiKey::OffsetFetch,
        ApiKey::ListOffsets,
        ApiKey::Fetch,
        ApiKey::Heartbeat,
    ];
    for api in apis {
        let broker = Broker::start();
        broker.create_topic(TOPIC, 1);
        values(&broker, 0, &["a"]);
        broker.on(api).drop_connection();
        broker.on(api).cut_answer(7);
        let hook = broker.on(api).wrong_correlation_id();
        let mut member = Member::start(match api {
            ApiKey::JoinGroup | ApiKey::SyncGroup => brief(&broker),
            _ => options(&broker),
        });
        member.until_read(&["a"]);
        member.until("all three", |_| hook.used() == 1);
        values(&broker, 0, &["b"]);
        member.until_read(&["a", "b"]);
        assert_eq!(member.commit_code(), None, "{api:?}");
    }
}

#[test]
fn k08_a_lost_membership_joins_again() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    values(&broker, 0, &["a"]);
    let mut member = Member::start(options(&broker));
    member.until_read(&["a"]);
    let lease = member.owned[0].lease.clone();
    broker.kick(GROUP, &broker.group(GROUP).members[0].id);
    // The heartbeat thread ends the lease; nobody has to poll for that.
    let slept = sleep_unless(PATIENCE, || !lease.is_live());
    assert!(!slept, "the lease lives on");
    let results = member.commit();
    assert!(results[0].result.is_err(), "nothing of it can be committed");
    member.until("the record again", |m| m.read == ["a", "a"]);
    assert_eq!(member.count(lost), 1);
    assert_eq!(member.commit_code(), None);
}

#[test]
fn a_stalled_owner_leaves() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut member = Member::start(ConsumerOptions {
        rebalance_timeout: Duration::from_millis(500),
        ..options(&broker)
    });
    member.until_stable(1);
    let lease = member.owned[0].lease.clone();
    broker.wait("it leaves by itself", |b| b.count(ApiKey::LeaveGroup) == 1);
    assert!(!lease.is_live(), "before anybody else can have it");
    broker.wait("the group is empty", |b| b.group(GROUP).members.is_empty());
    // And comes back when it is polled again.
    member.until("lost and back", |m| {
        m.count(lost) == 1 && m.owned.len() == 1
    });
}

#[test]
fn k06_the_coordinator_moves() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic(TOPIC, 3);
    let mut member = Member::start(options(&broker));
    member.until_stable(3);
    // Both threads have a connection to the old one.
    member.until("a heartbeat", |_| broker.count(ApiKey::Heartbeat) > 0);
    let generation = member.generation;
    let other = broker.coordinator(GROUP) % 3 + 1;
    broker.move_coordinator(GROUP, other);
    values(&broker, 0, &["a"]);
    member.until_read(&["a"]);
    assert_eq!(member.commit_code(), None);
    let beats = broker.count(ApiKey::Heartbeat);
    member.until("heartbeats at the new one", |_| {
        let seen = broker.requests_of(ApiKey::Heartbeat);
        seen.iter().skip(beats).any(|beat| beat.node == other)
    });
    assert_eq!(member.generation, generation);
    assert_eq!(member.count(lost) + member.count(revoking), 0);
}

#[test]
fn k05_the_leader_moves() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic(TOPIC, 3);
    let mut member = Member::start(with_old_metadata(&broker));
    for number in 0..3 {
        values(&broker, number, &["a"]);
    }
    member.until_read(&["a", "a", "a"]);
    let other = broker.leader(TOPIC, 1) % 3 + 1;
    broker.move_leader(TOPIC, 1, other);
    values(&broker, 1, &["b"]);
    member.until_read(&["a", "a", "a", "b"]);
    assert_eq!(member.count(lost) + member.count(revoking), 0);
}

/// Metadata that lives for so long is refreshed for a reason only.
fn with_old_metadata(broker: &Broker) -> ConsumerOptions {
    ConsumerOptions {
        cluster: ClusterOptions {
            metadata_max_age: Duration::from_secs(300),
            ..options(broker).cluster
        },
        ..options(broker)
    }
}

/// Each of these codes of a former leader is a reason to ask who leads now.
#[test]
fn k05_every_word_for_another_leader_is_followed() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic(TOPIC, 1);
    let mut member = Member::start(with_old_metadata(&broker));
    member.until_stable(1);
    let mut wanted = Vec::new();
    for code in [3, 5, 6, 9, 56, 74, 75, 78] {
        let former = broker.leader(TOPIC, 0);
        let says = broker.on(ApiKey::Fetch).node(former).always().error(code);
        broker.move_leader(TOPIC, 0, 3 - former);
        values(&broker, 0, &["a"]);
        wanted.push("a");
        member.until_read(&wanted);
        says.remove();
    }
    assert_eq!(member.count(lost) + member.count(revoking), 0);
}

/// The leader moves between the plan for the group and the question where the log begins.
#[test]
fn k05_the_leader_moves_before_the_first_fetch() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic(TOPIC, 1);
    values(&broker, 0, &["a"]);
    let held = broker.on(ApiKey::OffsetFetch).always().error(14);
    let mut member = Member::start(with_old_metadata(&broker));
    member.until("assigned", |_| held.used() > 0);
    let former = broker.leader(TOPIC, 0);
    broker.move_leader(TOPIC, 0, 3 - former);
    held.remove();
    member.until_read(&["a"]);
    let asked = broker.requests_of(ApiKey::ListOffsets);
    assert_eq!(asked[0].node, former);
}

/// While a partition has no leader there is nobody to ask, and nobody to say so either.
#[test]
fn k05_a_partition_that_finds_a_leader_again_is_read() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic(TOPIC, 2);
    broker.move_coordinator(GROUP, 1);
    let mut member = Member::start(with_old_metadata(&broker));
    member.until_stable(2);
    // It leads partition 1, and nobody takes over.
    broker.stop(2);
    let asked = broker.count(ApiKey::Metadata);
    values(&broker, 0, &["a"]);
    member.until_read(&["a"]);
    member.until("metadata", |_| broker.count(ApiKey::Metadata) > asked);
    values(&broker, 1, &["b"]);
    broker.move_leader(TOPIC, 1, 1);
    member.until_read(&["a", "b"]);
}

/// Heartbeats that come so rarely do not tell in time that the coordinator is elsewhere.
fn with_rare_heartbeats(broker: &Broker) -> ConsumerOptions {
    ConsumerOptions {
        session_timeout: 9 * PATIENCE,
        heartbeat_interval: 3 * PATIENCE,
        ..options(broker)
    }
}

#[test]
fn k06_the_coordinator_moves_before_the_committed_offsets_are_asked_for() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic(TOPIC, 1);
    values(&broker, 0, &["a", "b"]);
    broker.set_committed(GROUP, TOPIC, 0, 1);
    let held = broker.on(ApiKey::OffsetFetch).always().error(14);
    let mut member = Member::start(with_rare_heartbeats(&broker));
    member.until("assigned", |_| held.used() > 0);
    broker.move_coordinator(GROUP, 3 - broker.coordinator(GROUP));
    held.remove();
    member.until_read(&["b"]);
}

#[test]
fn k06_commits_find_the_new_coordinator_by_themselves() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic(TOPIC, 1);
    broker.move_leader(TOPIC, 0, 3);
    broker.move_coordinator(GROUP, 1);
    let mut member = Member::start(with_rare_heartbeats(&broker));
    values(&broker, 0, &["a"]);
    member.until_read(&["a"]);
    broker.move_coordinator(GROUP, 2);
    assert_eq!(member.commit_code(), None, "it has moved");
    assert_eq!(broker.committed(GROUP, TOPIC, 0), Some(1));
    values(&broker, 0, &["a"]);
    member.until_read(&["a", "a"]);
    broker.fail_over(2);
    assert_eq!(member.commit_code(), None, "it has died");
    assert_eq!(broker.committed(GROUP, TOPIC, 0), Some(2));
    assert_eq!(member.count(lost) + member.count(revoking), 0);
}

/// The coordinator dies while a newcomer waits for the others, and another takes over.
#[test]
fn k06_a_coordinator_that_dies_while_the_group_joins_is_left() {
    let broker = Broker::builder().nodes(2).start();
    broker.create_topic(TOPIC, 4);
    let mut a = Member::start(brief(&broker));
    a.releases = false;
    a.until_stable(4);
    let mut b = Member::start(brief(&broker));
    both(&mut a, &mut b, "asked to drain", |a, _| {
        a.count(revoking) == 1
    });
    broker.fail_over(broker.coordinator(GROUP));
    a.consumer.release(&[]);
    a.releases = true;
    both(&mut a, &mut b, "both have half", halves);
}

#[test]
fn k05_k06_a_broker_dies_and_others_take_over() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic(TOPIC, 3);
    let mut member = Member::start(options(&broker));
    member.until_stable(3);
    let generation = member.generation;
    let coordinator = broker.coordinator(GROUP);
    broker.fail_over(coordinator);
    for number in 0..3 {
        values(&broker, number, &["a"]);
    }
    member.until_read(&["a", "a", "a"]);
    member.commit();
    for number in 0..3 {
        assert_eq!(broker.committed(GROUP, TOPIC, number), Some(1));
    }
    assert_eq!(member.generation, generation);
}

#[test]
fn the_broker_restarts() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 2);
    let mut member = Member::start(options(&broker));
    member.until_stable(2);
    broker.stop(1);
    values(&broker, 0, &["a"]);
    member.until("trouble is told", |m| m.consumer.state().trouble.is_some());
    broker.restart(1);
    values(&broker, 1, &["b"]);
    member.until_read(&["a", "b"]);
    assert!(member.commit().iter().all(|done| done.result.is_ok()));
    assert_eq!(broker.committed(GROUP, TOPIC, 1), Some(1));
    member.until("all is well", |m| m.consumer.state().trouble.is_none());
}

#[test]
fn k01_no_broker_at_start() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    values(&broker, 0, &["a"]);
    broker.stop(1);
    let mut member = Member::start(options(&broker));
    for _ in 0..5 {
        member.poll(Duration::from_millis(50));
    }
    assert!(member.fatal.is_none());
    assert!(member.consumer.state().trouble.is_some());
    broker.restart(1);
    member.until_read(&["a"]);
}

/// Of many brokers that hang, one poll does not wait for each: its owner would be taken for dead.
#[test]
fn p21_a_poll_ends_although_every_broker_hangs() {
    const NODES: i32 = 9;
    let broker = Broker::builder().nodes(NODES as usize).start();
    broker.create_topic(TOPIC, 1);
    let mut member = Member::start(options(&broker));
    member.until_stable(1);
    (1..=NODES).for_each(|node| broker.freeze(node));
    let frozen = Instant::now();
    while frozen.elapsed() < TICK_LIMIT {
        let began = Instant::now();
        member.poll(Duration::ZERO);
        // One question alone is waited for twice as long.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    (1..=NODES).for_each(|node| broker.thaw(node));
    values(&broker, 0, &["a"]);
    member.until("the record", |m| m.read.contains(&"a".to_owned()));
}

/// What goes on in the middle of an answer goes on while nobody waits for it.
#[test]
fn k14_p21_answers_that_stop_in_the_middle_hold_up_no_poll() {
    const NODES: i32 = 4;
    let broker = Broker::builder().nodes(NODES as usize).start();
    broker.create_topic(TOPIC, NODES as usize);
    let mut member = Member::start(options(&broker));
    member.until_stable(NODES as usize);
    let stops: Vec<_> = (1..=NODES)
        .map(|node| {
            let stop = broker.on(ApiKey::Fetch).node(node);
            stop.patch(|frame| frame.truncate(frame.len() - 1))
        })
        .collect();
    let until = Instant::now() + 2 * PATIENCE;
    let mut poll_until = |is_met: &dyn Fn(&Member) -> bool| {
        while !is_met(&member) {
            assert!(Instant::now() < until, "{:?}", member.read);
            let began = Instant::now();
            member.poll(Duration::ZERO);
            let took = began.elapsed();
            assert!(took < Duration::from_secs(5), "{took:?}");
        }
    };
    poll_until(&|_| stops.iter().all(|stop| stop.used() > 0));
    for number in 0..NODES {
        values(&broker, number, &["a"]);
    }
    poll_until(&|member| member.read.len() == NODES as usize);
    assert_eq!(member.read, vec!["a"; NODES as usize]);
}

#[test]
fn k14_one_hanging_broker_does_not_delay_the_others() {
    let broker = Broker::builder().nodes(3).start();
    broker.create_topic(TOPIC, 3);
    let mut member = Member::start(options(&broker));
    member.until_stable(3);
    values(&broker, 0, &["a"]);
    values(&broker, 1, &["a"]);
    values(&broker, 2, &["a"]);
    member.until_read(&["a", "a", "a"]);
    let coordinator = broker.coordinator(GROUP);
    let hung = (0..3)
        .find(|number| broker.leader(TOPIC, *number) != coordinator)
        .unwrap();
    broker
        .on(ApiKey::Fetch)
        .partition(TOPIC, hung)
        .always()
        .silence();
    let others: Vec<i32> = (0..3).filter(|number| *number != hung).collect();
    for _ in 0..5 {
        for number in &others {
            values(&broker, *number, &["b"]);
        }
    }
    member.until("the others", |m| m.read.len() == 13);
}

#[test]
fn offset_reset_both_ways() {
    for (policy, wanted) in [
        (OffsetReset::Earliest, vec!["new", "old"]),
        (OffsetReset::Latest, vec!["new"]),
    ] {
        let broker = Broker::start();
        broker.create_topic(TOPIC, 1);
        values(&broker, 0, &["old"]);
        let mut member = Member::start(ConsumerOptions {
            auto_offset_reset: policy,
            ..options(&broker)
        });
        // A Fetch tells that the start is fixed.
        member.until("fetching", |_| broker.count(ApiKey::Fetch) > 0);
        values(&broker, 0, &["new"]);
        member.until_read(&wanted);
    }
}

#[test]
fn k15_below_the_start_goes_on_at_the_start() {
    for policy in [OffsetReset::Earliest, OffsetReset::Latest] {
        let broker = Broker::start();
        broker.create_topic(TOPIC, 1);
        values(&broker, 0, &["0"]);
        values(&broker, 0, &["1"]);
        values(&broker, 0, &["2"]);
        broker.delete_before(TOPIC, 0, 2);
        broker.set_committed(GROUP, TOPIC, 0, 1);
        let mut member = Member::start(ConsumerOptions {
            auto_offset_reset: policy,
            ..options(&broker)
        });
        member.until_read(&["2"]);
        let skipped = member.events.iter().find_map(|event| match event {
            Event::Skipped {
                from, to, cause, ..
            } => Some((*from, *to, *cause)),
            _ => None,
        });
        assert_eq!(skipped, Some((1, 2, SkipCause::OutOfRange)));
        assert_eq!(member.consumer.stats().skipped_out_of_range.get(), 1);
    }
}

#[test]
fn k15_above_the_end_goes_by_the_policy() {
    for (policy, to, wanted) in [
        (OffsetReset::Earliest, 0, vec!["a", "b"]),
        (OffsetReset::Latest, 1, vec!["b"]),
    ] {
        let broker = Broker::start();
        broker.create_topic(TOPIC, 1);
        values(&broker, 0, &["a"]);
        broker.set_committed(GROUP, TOPIC, 0, 5);
        let mut member = Member::start(ConsumerOptions {
            auto_offset_reset: policy,
            ..options(&broker)
        });
        member.until("skipped", |m| {
            m.count(|e| matches!(e, Event::Skipped { from: 5, to: at, .. } if *at == to)) == 1
        });
        values(&broker, 0, &["b"]);
        member.until_read(&wanted);
    }
}

/// A batch of two whose checksum is wrong.
fn corrupt() -> Vec<u8> {
    let mut bytes = Batch::of(["x", "y"].map(NewRecord::value)).encode();
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

#[test]
fn m21_a_corrupt_batch_stops_its_partition_only() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 2);
    values(&broker, 0, &["a"]);
    broker.append_raw(TOPIC, 0, &corrupt(), 2);
    values(&broker, 0, &["never"]);
    let mut member = Member::start(options(&broker));
    member.until("it halts", |m| {
        m.count(|e| matches!(e, Event::Halted { .. })) == 1
    });
    assert_eq!(member.read, ["a"]);
    values(&broker, 1, &["b"]);
    member.until_read(&["a", "b"]);
    member.commit();
    assert_eq!(broker.committed(GROUP, TOPIC, 0), Some(1));
}

#[test]
fn m21_a_corrupt_batch_is_passed_over_where_wished() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    values(&broker, 0, &["a"]);
    broker.append_raw(TOPIC, 0, &corrupt(), 2);
    values(&broker, 0, &["b"]);
    let mut member = Member::start(ConsumerOptions {
        on_corrupt_batch: OnCorruptBatch::Skip,
        ..options(&broker)
    });
    member.until_read(&["a", "b"]);
    let skipped = member.events.iter().find_map(|event| match event {
        Event::Skipped {
            from, to, cause, ..
        } => Some((*from, *to, *cause)),
        _ => None,
    });
    assert_eq!(skipped, Some((1, 3, SkipCause::CorruptBatch)));
    assert_eq!(member.consumer.stats().skipped_corrupt_batch.get(), 2);
}

#[test]
fn m21_a_batch_that_was_broken_on_the_way_is_read() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    values(&broker, 0, &["a"]);
    // Its last byte is one of the batch.
    let broken = broker
        .on(ApiKey::Fetch)
        .times(1)
        .patch(|frame| *frame.last_mut().unwrap() ^= 1);
    let mut member = Member::start(options(&broker));
    member.until_read(&["a"]);
    assert_eq!(broken.used(), 1);
    assert_eq!(member.count(|e| matches!(e, Event::Halted { .. })), 0);
}

#[test]
fn k25_m21_holes_markers_and_every_codec() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let codecs = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::SnappyRaw,
        Codec::Lz4,
        Codec::Zstd,
    ];
    for codec in codecs {
        let records = [
            NewRecord::value("a").delta(1),
            NewRecord::value("b").delta(4),
        ];
        broker.append_batch(TOPIC, 0, &Batch::of(records).codec(codec).span(9));
        broker.append_batch(TOPIC, 0, &Batch::hole(3));
    }
    broker.append_batch(TOPIC, 0, &Batch::marker(7, 0, true));
    let mut member = Member::start(options(&broker));
    let (_, end) = broker.ends(TOPIC, 0);
    member.until("the end", |m| {
        m.next.get(&part(0)).is_some_and(|(_, next)| *next == end)
    });
    assert_eq!(member.read.len(), 12);
    // Committed is the end of the log, so that no lag stays.
    member.commit();
    assert_eq!(broker.committed(GROUP, TOPIC, 0), Some(end));
}

#[test]
fn k25_aborted_transactions_are_left_out_of_read_committed() {
    for (level, wanted) in [
        (
            IsolationLevel::ReadCommitted,
            vec!["after", "committed", "plain"],
        ),
        (
            IsolationLevel::ReadUncommitted,
            vec!["aborted", "aborted", "after", "committed", "plain"],
        ),
    ] {
        let broker = Broker::start();
        broker.create_topic(TOPIC, 1);
        let transactional = |producer, value: &str| {
            let batch = Batch::of([NewRecord::value(value)]);
            broker.append_batch(TOPIC, 0, &batch.producer(producer, 0, 0).transactional())
        };
        let first = transactional(7, "aborted");
        values(&broker, 0, &["plain"]);
        transactional(8, "committed");
        transactional(7, "aborted");
        broker.append_batch(TOPIC, 0, &Batch::marker(7, 0, false));
        broker.append_batch(TOPIC, 0, &Batch::marker(8, 0, true));
        transactional(7, "after");
        broker.append_batch(TOPIC, 0, &Batch::marker(7, 0, true));
        broker.set_aborted(TOPIC, 0, &[(7, first)]);
        let mut member = Member::start(ConsumerOptions {
            isolation_level: level,
            ..options(&broker)
        });
        let (_, end) = broker.ends(TOPIC, 0);
        member.until("the end", |m| {
            m.next.get(&part(0)).is_some_and(|(_, next)| *next == end)
        });
        member.until_read(&wanted);
    }
}

#[test]
fn k04_added_partitions_are_read_from_their_start() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut a = Member::start(ConsumerOptions {
        auto_offset_reset: OffsetReset::Latest,
        ..options(&broker)
    });
    a.until_stable(1);
    let lease = a.owned[0].lease.clone();
    broker.add_partitions(TOPIC, 3);
    values(&broker, 1, &["early"]);
    values(&broker, 2, &["early"]);
    a.until_read(&["early", "early"]);
    assert_eq!(a.numbers(), [0, 1, 2]);
    assert!(a.owned[0].kept && a.owned[0].lease == lease);
}

#[test]
fn k03_a_missing_topic_is_waited_for() {
    let broker = Broker::start();
    let mut member = Member::start(ConsumerOptions {
        auto_offset_reset: OffsetReset::Latest,
        ..options(&broker)
    });
    member.until("an empty assignment", |m| m.generation > 0);
    assert!(member.owned.is_empty());
    let state = member.consumer.state();
    assert!(!state.topic_known && state.trouble.is_some());
    // This broker makes topics for those who let it.
    assert_eq!(broker.partitions(TOPIC), 0, "never made by us");
    broker.create_topic(TOPIC, 2);
    values(&broker, 1, &["first"]);
    member.until_read(&["first"]);
    assert!(member.consumer.state().topic_known);
}

#[test]
fn k23_throttling_is_obeyed_and_costs_no_membership() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    values(&broker, 0, &["a"]);
    let mut member = Member::start(ConsumerOptions {
        session_timeout: Duration::from_secs(1),
        ..options(&broker)
    });
    member.until_stable(1);
    let pause = Duration::from_millis(1500);
    let throttled = broker.on(ApiKey::Fetch).throttle(pause);
    member.until_read(&["a"]);
    member.until("throttled", |_| throttled.used() == 1);
    let asked = broker.count(ApiKey::Fetch);
    member.until("asked again", |_| broker.count(ApiKey::Fetch) > asked);
    values(&broker, 0, &["b"]);
    member.until_read(&["a", "b"]);
    let fetches = broker.requests_of(ApiKey::Fetch);
    let gaps = fetches.windows(2).map(|pair| pair[1].at - pair[0].at);
    let gap = gaps.max().unwrap();
    assert!(gap >= pause, "{gap:?}");
    assert_eq!(broker.hasty(), []);
    assert_eq!(member.count(lost) + member.count(revoking), 0);
}

/// Whatever is throttled, it is waited for: neither on the same connection nor by another one is
/// anything asked within the pause, and it is no sign of trouble.
#[test]
fn k23_throttling_of_every_request_is_obeyed_and_no_trouble() {
    let apis = [
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
    let pause = Duration::from_millis(400);
    for api in apis {
        let broker = Broker::builder().nodes(2).start();
        broker.create_topic(TOPIC, 1);
        values(&broker, 0, &["a"]);
        let throttled = broker.on(api).times(2).throttle(pause);
        let mut member = Member::start(match api {
            ApiKey::Metadata => options(&broker),
            _ => with_old_metadata(&broker),
        });
        member.until_stable(1);
        let metadata = broker.count(ApiKey::Metadata);
        member.until_read(&["a"]);
        assert_eq!(member.commit_code(), None, "{api:?}");
        values(&broker, 0, &["b"]);
        member.until_read(&["a", "b"]);
        assert_eq!(member.commit_code(), None, "{api:?}");
        let often = matches!(api, ApiKey::Metadata | ApiKey::Heartbeat);
        if often {
            let seen = broker.count(api);
            member.until("asked again", |_| {
                throttled.used() == 2 && broker.count(api) > seen + 2
            });
            let seen = broker.requests_of(api);
            for pair in seen.windows(2).take(2) {
                assert!(pair[1].at - pair[0].at >= pause, "{api:?}");
            }
        }
        assert!(throttled.used() > 0);
        assert_eq!(broker.hasty(), []);
        assert_eq!(member.count(lost) + member.count(revoking), 0);
        assert_eq!(member.consumer.stats().reconnects.get(), 0);
        // Nobody has been looked for elsewhere.
        assert_eq!(broker.count(ApiKey::FindCoordinator), 1, "{api:?}");
        if api != ApiKey::Metadata {
            assert_eq!(broker.count(ApiKey::Metadata), metadata, "{api:?}");
        }
    }
}

#[test]
fn pausing() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 2);
    let mut member = Member::start(options(&broker));
    member.until_stable(2);
    member.until("fetching", |_| broker.count(ApiKey::Fetch) > 0);
    // One partition: an answer under way is dropped and nothing is lost.
    member.consumer.pause(&[part(0)]);
    values(&broker, 0, &["a"]);
    values(&broker, 1, &["b"]);
    member.until_read(&["b"]);
    member.consumer.resume(&[part(0)]);
    member.until_read(&["a", "b"]);
    // All: nothing is asked, group work goes on, a poll without time returns.
    member.consumer.pause_all();
    values(&broker, 1, &["c"]);
    member.poll(Duration::ZERO);
    let asked = broker.count(ApiKey::Fetch);
    let beats = broker.count(ApiKey::Heartbeat);
    let generation = member.generation;
    broker.rebalance(GROUP);
    member.until("a new generation", |m| m.generation > generation);
    member.until("heartbeats", |_| {
        broker.count(ApiKey::Heartbeat) > beats + 3
    });
    assert_eq!(member.read.len(), 2);
    assert_eq!(broker.count(ApiKey::Fetch), asked);
    assert!(member.owned.iter().all(|owned| owned.kept));
    member.consumer.resume_all();
    member.until_read(&["a", "b", "c"]);
}

#[test]
fn k10_heartbeats_need_no_poll() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut member = Member::start(ConsumerOptions {
        session_timeout: Duration::from_millis(900),
        ..options(&broker)
    });
    member.until_stable(1);
    let beats = broker.count(ApiKey::Heartbeat);
    broker.wait("heartbeats while nobody polls", |b| {
        b.count(ApiKey::Heartbeat) > beats + 30
    });
    assert!(broker.group(GROUP).is_stable_with(1));
    // Connections of their own: no heartbeat shares one with another request.
    let seen = broker.requests();
    for beat in seen.iter().filter(|seen| seen.api == ApiKey::Heartbeat) {
        assert!(seen.iter().all(|other| other.connection != beat.connection
            || matches!(other.api, ApiKey::Heartbeat | ApiKey::ApiVersions)));
    }
}

#[test]
fn closing_ends_within_its_time() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut member = Member::start(options(&broker));
    member.until_stable(1);
    broker.freeze(1);
    let began = Instant::now();
    member.consumer.close(Duration::from_secs(10));
    assert!(began.elapsed() < Duration::from_secs(8));
    broker.thaw(1);
}

#[test]
fn closing_while_joining_leaves() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut a = Member::start(options(&broker));
    a.releases = false;
    a.until_stable(1);
    let mut b = Member::start(options(&broker));
    // `b` waits in JoinGroup for `a`, which does not let go.
    both(&mut a, &mut b, "b waits", |a, _| a.count(revoking) == 1);
    b.consumer.close(Duration::from_secs(2));
    a.consumer.release(&[]);
    a.until("alone again", |m| m.generation > 1 && m.owned.len() == 1);
    assert!(broker.group(GROUP).is_stable_with(1));
}

#[test]
fn the_poll_is_woken() {
    let broker = Broker::start();
    broker.create_topic(TOPIC, 1);
    let mut member = Member::start(options(&broker));
    member.until_stable(1);
    let began = Instant::now();
    let events = member
        .consumer
        .poll(PATIENCE, &|| began.elapsed() > Duration::from_millis(100))
        .unwrap();
    assert!(events.is_empty());
    assert!(began.elapsed() < PATIENCE / 2);
}
