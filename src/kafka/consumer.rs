//! The consumer: carries out what membership ([`super::group`]) and positions ([`super::fetch`])
//! ask for, on the thread that polls it.
//!
//! It guarantees: `poll` waits for no group and no data beyond its time, since a JoinGroup or
//! Fetch stays under way over several polls; whatever passes by itself is tried again for ever;
//! commits go out only under a live lease, with the identity of its generation. It never commits
//! by itself, and never waits for name or broker on the heartbeat thread.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    BrokerId, FetchRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    ListOffsetsRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
    SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::assignor::{self, Strategy};
use super::cluster::{self, Cluster, TopicState};
use super::connection::Connection;
use super::fetch::{Asked, Fetcher, Place, isolation, said, topic_name};
use super::group::{
    Coordinator, Failure, Group, Identity, Joined, Notice, Phase, Shared, Step, Ticket, Timing,
};
use super::heartbeat::{self, Heartbeat};
use super::options::{ConsumerOptions, IsolationLevel, OffsetReset};
use super::stats::Stats;
use super::versions::Api;
use super::{
    Code, Commit, CommitResult, Error, Event, Fatal, FatalKind, MemberState, TopicPartition,
};
use crate::backoff::{Backoff, sleep_unless};
use crate::error::chain;

/// Time for answers that a broker gives without waiting for anybody.
const ANSWER: Duration = Duration::from_secs(10);
/// A broker that holds a Fetch for so much longer than asked is gone.
const FETCH_GRACE: Duration = Duration::from_secs(30);
/// Time for a commit, unless the caller has less: for the last try to begin, or for the only one.
const COMMIT: Duration = Duration::from_secs(5);
/// Least time for the answer to one try of a commit.
const COMMIT_ANSWER: Duration = Duration::from_secs(1);
/// Longest wait on one thing without looking at the others.
const SLICE: Duration = Duration::from_millis(50);

/// What is committed along with the offsets of partitions.
pub type Metadata = BTreeMap<TopicPartition, String>;

/// A question to the coordinator that waits for the whole group.
#[derive(Debug, Clone, Copy)]
struct Entering {
    ticket: Ticket,
    sent: Instant,
    syncs: bool,
}

enum Entry {
    Joined(JoinGroupResponse),
    Synced(SyncGroupResponse),
}

/// A member of a consumer group. One thread owns it and polls it.
#[derive(Debug)]
pub struct Consumer {
    options: ConsumerOptions,
    topic: Arc<str>,
    cluster: Cluster,
    coordinator: Option<cluster::Coordinator>,
    /// The coordinator is found and the connection to it under way.
    connecting: bool,
    shared: Arc<Shared>,
    heartbeat: Option<Heartbeat>,
    fetcher: Fetcher,
    entering: Option<Entering>,
    /// Numbers of partitions that our plan for the group dealt out.
    planned: BTreeMap<String, i32>,
    /// Number of partitions that the topic had with our last assignment.
    assigned_of: Option<i32>,
    /// Partitions that the topic had when we first saw it; later ones start at their beginning.
    known_at_start: Option<i32>,
    topic_missing: bool,
    /// What the brokers say of the topic instead of what it is.
    topic_trouble: Option<String>,
    metadata_seen: Option<Instant>,
    stats: Arc<Stats>,
}

impl Consumer {
    /// A consumer that joins with its first poll. No I/O yet.
    pub fn start(options: ConsumerOptions) -> Self {
        let stats = Arc::new(Stats::default());
        let timing = Timing {
            session_timeout: options.session_timeout,
            heartbeat_interval: options.heartbeat_interval,
            rebalance_timeout: options.rebalance_timeout,
        };
        let topic: Arc<str> = options.topic.as_str().into();
        let mut cluster = Cluster::new(options.cluster.clone(), stats.clone());
        cluster.want(&topic);
        Self {
            cluster,
            coordinator: None,
            connecting: false,
            shared: Shared::new(Group::new(
                &*options.group_id,
                options.group_instance_id.clone(),
                timing,
                Instant::now(),
            )),
            heartbeat: None,
            fetcher: Fetcher::new(&options, stats.clone()),
            entering: None,
            planned: BTreeMap::new(),
            assigned_of: None,
            known_at_start: None,
            topic_missing: false,
            topic_trouble: None,
            metadata_seen: None,
            stats,
            topic,
            options,
        }
    }

    /// Drives membership and fetching for at most `timeout`; returns as soon as there is an event.
    ///
    /// `wake` ends the wait early; it is asked at least every 100 ms. A broker that does not
    /// answer connection attempts, metadata or offset look-ups can hold it for some seconds more.
    ///
    /// # Errors
    /// What no retry mends. The consumer is of no more use then, but for [`Consumer::close`].
    pub fn poll(
        &mut self,
        timeout: Duration,
        wake: &dyn Fn() -> bool,
    ) -> Result<Vec<Event>, Fatal> {
        let deadline = Instant::now() + timeout;
        loop {
            self.shared.lock().progress(Instant::now());
            self.watch_heartbeat()?;
            self.look_around()?;
            self.drive()?;
            let mut events = self.notices();
            if self.shared.lock().phase() == Phase::Stable {
                self.place(&mut events)?;
                self.ask()?;
                self.collect(&mut events)?;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !events.is_empty() || left.is_zero() || wake() {
                self.shared.lock().progress(Instant::now());
                return Ok(events);
            }
            self.wait(left.min(SLICE));
        }
    }

    /// Commits the next offsets to read, under the identity of the member. One answer for each.
    ///
    /// Tried again while the coordinator is away, for at most `limit` and never more than some
    /// seconds: for the commits that have no next time. Only offsets whose lease is live are sent.
    ///
    /// Each offset is committed with the metadata of its partition, empty where there is none.
    /// [`Consumer::began_at`] tells it to the next owner.
    pub fn commit(
        &mut self,
        offsets: &[Commit],
        metadata: &Metadata,
        limit: Duration,
    ) -> Vec<CommitResult> {
        self.commit_until(offsets, metadata, Instant::now() + limit.min(COMMIT), true)
    }

    /// [`Consumer::commit`] that is tried once: for those that come again in a moment anyway.
    ///
    /// While the coordinator is not reached it returns at once, so that a group that cannot take
    /// commits does not hold up the reading of records.
    pub fn commit_once(
        &mut self,
        offsets: &[Commit],
        metadata: &Metadata,
        limit: Duration,
    ) -> Vec<CommitResult> {
        self.commit_until(offsets, metadata, Instant::now() + limit.min(COMMIT), false)
    }

    fn commit_until(
        &mut self,
        offsets: &[Commit],
        metadata: &Metadata,
        deadline: Instant,
        insists: bool,
    ) -> Vec<CommitResult> {
        let mut open: Vec<&Commit> = offsets.iter().collect();
        let mut done: BTreeMap<&TopicPartition, Result<(), Error>> = BTreeMap::new();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 20);
        while !open.is_empty() {
            let identity = {
                let group = self.shared.lock();
                let committer = group.committer();
                open.retain(|commit| {
                    let ours = group.lease(&commit.partition) == Some(&commit.lease)
                        && commit.lease.is_live();
                    let refusal = match (&committer, ours) {
                        (Some(_), true) => return true,
                        (None, true) => Code::RebalanceInProgress,
                        (_, false) => Code::IllegalGeneration,
                    };
                    done.insert(&commit.partition, Err(self.refusal(refusal)));
                    false
                });
                committer
            };
            let Some(identity) = identity else { break };
            if open.is_empty() {
                break;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // An answer that comes too late costs the connection, however well the broker is.
            let answer_within = left.max(COMMIT_ANSWER);
            let last = match self.send_commit(&identity, &open, metadata, answer_within) {
                Ok(codes) => {
                    let mut last = None;
                    open.retain(|commit| {
                        let code = codes.get(&commit.partition).copied();
                        match code {
                            Some(None) => {
                                done.insert(&commit.partition, Ok(()));
                                false
                            }
                            Some(Some(code)) if !passes(code) => {
                                done.insert(&commit.partition, Err(self.refusal(code)));
                                false
                            }
                            Some(Some(code)) => {
                                last = Some(self.refusal(code));
                                true
                            }
                            None => {
                                last = Some(self.refusal(Code::UnknownServerError));
                                true
                            }
                        }
                    });
                    last
                }
                Err(error) => Some(error),
            };
            if open.is_empty() {
                break;
            }
            let last = last.unwrap_or_else(|| self.refusal(Code::UnknownServerError));
            let pause = last.pause().unwrap_or_else(|| backoff.next_pause());
            if !insists || Instant::now() + pause >= deadline {
                for commit in open.drain(..) {
                    done.insert(&commit.partition, Err(last.clone()));
                }
                break;
            }
            self.stats.commits_retried.increment();
            log::debug!("commit is tried again: {}", chain(&last));
            sleep_unless(pause, || false);
        }
        self.shared.lock().progress(Instant::now());
        let missing = self.refusal(Code::UnknownServerError);
        offsets
            .iter()
            .map(|commit| {
                let result = done
                    .get(&commit.partition)
                    .cloned()
                    .unwrap_or(Err(missing.clone()));
                match result {
                    Ok(()) => self.stats.commits_ok.increment(),
                    Err(_) => self.stats.commits_failed.increment(),
                }
                CommitResult {
                    partition: commit.partition.clone(),
                    offset: commit.offset,
                    result,
                }
            })
            .collect()
    }

    /// Leaves these partitions out of fetching. An answer that is already under way is dropped
    /// for them, without moving their position.
    pub fn pause(&mut self, partitions: &[TopicPartition]) {
        self.fetcher.set_paused(partitions, true);
    }

    /// Fetches these partitions again. A new lease is never paused.
    pub fn resume(&mut self, partitions: &[TopicPartition]) {
        self.fetcher.set_paused(partitions, false);
    }

    /// Asks for no more records at all. Answers under way are kept for [`Consumer::resume_all`].
    pub fn pause_all(&mut self) {
        self.fetcher.set_all_paused(true);
    }

    /// Ends [`Consumer::pause_all`]; partitions paused one by one stay so.
    pub fn resume_all(&mut self) {
        self.fetcher.set_all_paused(false);
    }

    /// After [`Event::Revoking`]: all work is finished and committed, but for that of `abandoned`,
    /// whose leases end now. Without a rebalance under way it does nothing.
    ///
    /// The other leases stay live until the next [`Event::Assigned`], and on when their partition
    /// comes back at once (`kept`). No record of them may be in work any more.
    pub fn release(&mut self, abandoned: &[TopicPartition]) {
        self.shared.lock().release(abandoned, Instant::now());
    }

    /// Leaves the group, in at most `timeout` and never more than two seconds. Ends all leases;
    /// commits nothing. A static member does not leave: it is expected back.
    pub fn close(self, timeout: Duration) {
        let (member_id, coordinator) = {
            let mut group = self.shared.lock();
            (group.leave(), group.coordinator())
        };
        self.shared.wake();
        if let Some(id) = &self.options.group_instance_id {
            log::info!(
                "group {}: {id} stays a member for {:?}, its partitions wait for it",
                self.options.group_id,
                self.options.session_timeout
            );
        }
        if let (Some(member_id), Some(coordinator)) = (member_id, coordinator) {
            heartbeat::leave(
                &self.options.cluster,
                &self.options.group_id,
                &member_id,
                &coordinator,
                timeout,
            );
        }
    }

    /// How the member is doing.
    pub fn state(&self) -> MemberState {
        let group = self.shared.lock();
        let topic_known = matches!(self.cluster.topic(&self.topic), TopicState::Known { .. });
        let trouble = if let Some(problem) = self.cluster.problem() {
            Some(format!("no broker answers: {problem}"))
        } else if let Some(trouble) = group.trouble() {
            Some(trouble.to_owned())
        } else if self.topic_missing {
            Some(format!("topic {} does not exist", self.topic))
        } else {
            let found = self.topic_trouble.as_ref();
            found.map(|found| format!("topic {} is not available: {found}", self.topic))
        };
        MemberState {
            phase: group.phase(),
            generation: group.generation(),
            topic_known,
            trouble,
        }
    }

    /// The high watermark of each partition that we read and that has been asked for: the offset
    /// behind its last record, transactions that are still open included.
    pub fn lag(&self) -> Vec<(TopicPartition, i64)> {
        self.fetcher.high_watermarks()
    }

    /// The committed offset that reading a partition began at under its present lease, and the
    /// metadata that was committed with it. `None` without one.
    pub fn began_at(&self, partition: &TopicPartition) -> Option<(i64, Arc<str>)> {
        self.fetcher.began_at(partition)
    }

    /// Where each partition that we read is read next. What lies before it was handed out, though
    /// not by a poll that is still to come.
    pub fn positions(&self) -> Vec<(TopicPartition, i64)> {
        let positions = self.fetcher.positions();
        positions
            .map(|(partition, offset)| (partition.clone(), offset))
            .collect()
    }

    /// What was counted since the start.
    pub fn stats(&self) -> Arc<Stats> {
        self.stats.clone()
    }

    /// Starts the heartbeat thread, and notices its end.
    fn watch_heartbeat(&mut self) -> Result<(), Fatal> {
        let broken = |why: &str| Fatal::new(FatalKind::Internal, why);
        match &self.heartbeat {
            None => {
                let started = Heartbeat::start(self.shared.clone(), &self.options)
                    .map_err(|error| broken(&format!("no thread for heartbeats: {error}")))?;
                self.heartbeat = Some(started);
            }
            Some(running) if running.has_ended() => {
                let mut group = self.shared.lock();
                // It ends by itself once the member is stopped; the reason is the group's to tell.
                if group.phase() != Phase::Stopped {
                    group.stop(broken("the heartbeat thread has died"));
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Keeps metadata fresh and tells what changed of our topic.
    fn look_around(&mut self) -> Result<(), Fatal> {
        if let Err(error) = self.cluster.refresh_if_due()
            && !error.is_transient()
        {
            let fatal = Fatal::of(&error)
                .unwrap_or_else(|| Fatal::new(FatalKind::Configuration, chain(&error)));
            return Err(self.stop(fatal.kind, fatal.message));
        }
        let seen = self.cluster.refreshed();
        if seen == self.metadata_seen {
            return Ok(());
        }
        self.metadata_seen = seen;
        match self.cluster.topic(&self.topic) {
            TopicState::Unknown => self.note_topic("metadata does not tell of it".into()),
            TopicState::Known { partitions } => {
                self.known_at_start.get_or_insert(partitions);
                if self.topic_trouble.take().is_some() {
                    log::info!("topic {} is available", self.topic);
                }
                if std::mem::take(&mut self.topic_missing) {
                    log::info!(
                        "topic {} is there now, with {partitions} partitions",
                        self.topic
                    );
                }
            }
            TopicState::Refused(Code::TopicAuthorizationFailed) => {
                let message = format!("no permission to read topic {} (29)", self.topic);
                return Err(self.stop(FatalKind::NotAuthorised, message));
            }
            TopicState::Refused(code @ Code::InvalidTopicException) => {
                let message = format!("topic {}: {code} ({})", self.topic, code.code());
                return Err(self.stop(FatalKind::Configuration, message));
            }
            TopicState::Refused(Code::UnknownTopicOrPartition) => {
                // Whatever it has once it is there was written while we watched.
                self.known_at_start.get_or_insert(0);
                if !std::mem::replace(&mut self.topic_missing, true) {
                    log::warn!("topic {} does not exist, waiting for it", self.topic);
                }
            }
            TopicState::Refused(code) => self.note_topic(said(code)),
        }
        let mut group = self.shared.lock();
        if group.phase() == Phase::Stable {
            // A topic that is missing for a moment is no reason to stop everybody.
            let differs = |topic: &str, planned: i32| {
                matches!(self.cluster.topic(topic),
                    TopicState::Known { partitions } if partitions != planned)
            };
            // A static member that comes back while it leads is not told that it does (before
            // JoinGroup 9, KIP-814): whoever is static asks, and only the leader's asking counts.
            let changed = if group.leads() {
                self.planned
                    .iter()
                    .any(|(topic, planned)| differs(topic, *planned))
            } else {
                let planned = self.assigned_of;
                self.options.group_instance_id.is_some()
                    && planned.is_some_and(|planned| differs(&self.topic, planned))
            };
            if changed {
                group.partitions_changed(Instant::now());
            }
        }
        Ok(())
    }

    /// The topic may be there or not; only a change is worth a line.
    fn note_topic(&mut self, found: String) {
        if self.topic_trouble.as_ref() != Some(&found) {
            log::warn!(
                "topic {} is not available: {found}; waiting for it",
                self.topic
            );
        }
        self.topic_trouble = Some(found);
    }

    fn stop(&self, kind: FatalKind, message: String) -> Fatal {
        let fatal = Fatal::new(kind, message);
        self.shared.lock().stop(fatal.clone());
        self.shared.wake();
        fatal
    }

    /// Takes the membership as far as it goes without waiting.
    fn drive(&mut self) -> Result<(), Fatal> {
        loop {
            let now = Instant::now();
            let step = self.shared.lock().step(now);
            match step {
                Step::Run | Step::Pause(_) => return Ok(()),
                Step::Stop(fatal) => return Err(fatal),
                Step::Find => self.find(),
                Step::Join { ticket, member_id } => {
                    let request = self.join_request(&member_id);
                    self.enter(ticket, false, &request);
                }
                Step::Sync {
                    ticket,
                    identity,
                    shares,
                } => {
                    let request = self.sync_request(&identity, &shares);
                    self.enter(ticket, true, &request);
                }
                Step::Plan {
                    ticket,
                    strategy,
                    members,
                } => self.plan(ticket, strategy, &members),
                Step::Await => {
                    if !self.await_entry() {
                        return Ok(());
                    }
                }
                Step::Abandon { member_id } => self.abandon(&member_id),
            }
        }
    }

    /// Finds the coordinator and connects to it.
    fn find(&mut self) {
        if !std::mem::take(&mut self.connecting) {
            self.cluster.forget_coordinator();
        }
        let reached = self
            .cluster
            .coordinator(&self.options.group_id)
            .and_then(|found| {
                let connection = self.cluster.group_connection(&found)?;
                check_versions(connection, self.options.group_instance_id.is_some())?;
                let peer = connection.peer();
                Ok((found, peer))
            });
        let mut group = self.shared.lock();
        match reached {
            Ok((found, peer)) => {
                group.found(Coordinator {
                    name: found.address.clone(),
                    address: peer,
                });
                self.coordinator = Some(found);
            }
            Err(Error::Connecting { .. }) => {
                self.connecting = true;
                group.connecting(Instant::now());
            }
            Err(error) => group.not_found(&Failure::Connection(error), Instant::now()),
        }
        drop(group);
        self.shared.wake();
    }

    /// The connection to the coordinator.
    fn group_connection(&mut self) -> Result<&mut Connection, Error> {
        match &self.coordinator {
            Some(coordinator) => self.cluster.group_connection(coordinator),
            None => Err(self.refusal(Code::CoordinatorNotAvailable)),
        }
    }

    /// Sends a JoinGroup or SyncGroup.
    fn enter<A: Api>(&mut self, ticket: Ticket, syncs: bool, request: &A) {
        let now = Instant::now();
        let sent = self.group_connection().and_then(|connection| {
            if connection.in_flight() > 0 {
                // A question that no longer counts is still open, and ours would wait behind it.
                let _ = connection.receive::<A>(Duration::ZERO);
            }
            connection.send(request)
        });
        match sent {
            Ok(()) => {
                self.entering = Some(Entering {
                    ticket,
                    sent: now,
                    syncs,
                });
            }
            Err(error) => self.entry_failed(ticket, syncs, &Failure::Connection(error)),
        }
    }

    fn entry_failed(&self, ticket: Ticket, syncs: bool, failure: &Failure) {
        let mut group = self.shared.lock();
        if syncs {
            group.sync_failed(ticket, failure, Instant::now());
        } else {
            group.join_failed(ticket, failure, Instant::now());
        }
    }

    /// Takes the answer of the coordinator, if it is there. Whether anything happened.
    fn await_entry(&mut self) -> bool {
        let Some(entering) = self.entering else {
            return false;
        };
        // The broker answers when all members are there, at the latest after the longest of
        // their time-outs.
        let late =
            entering.sent.elapsed() > self.options.rebalance_timeout + Duration::from_secs(5);
        let reachable = self.group_connection().and_then(|connection| {
            if connection.in_flight() > 0 {
                Ok(connection)
            } else {
                // Made anew meanwhile: the question went with the old one.
                Err(Error::Closed {
                    address: connection.address().clone(),
                    api: if entering.syncs {
                        SyncGroupRequest::NAME
                    } else {
                        JoinGroupRequest::NAME
                    },
                })
            }
        });
        let outcome = match reachable {
            Ok(connection) => {
                let waited = entering.sent.elapsed();
                let is_there = connection.ready(Duration::ZERO);
                match (is_there, entering.syncs) {
                    (true, true) => connection
                        .receive::<SyncGroupRequest>(ANSWER)
                        .map(Entry::Synced),
                    (true, false) => connection
                        .receive::<JoinGroupRequest>(ANSWER)
                        .map(Entry::Joined),
                    (false, _) if !late => return false,
                    (false, true) => Err(connection.give_up::<SyncGroupRequest>(waited)),
                    (false, false) => Err(connection.give_up::<JoinGroupRequest>(waited)),
                }
            }
            Err(error) => Err(error),
        };
        self.entering = None;
        let Entering { ticket, syncs, .. } = entering;
        match outcome {
            Ok(Entry::Joined(answer)) => self.joined(ticket, answer),
            Ok(Entry::Synced(answer)) => match Code::try_from_code(answer.error_code) {
                Some(code) => self.entry_failed(ticket, syncs, &Failure::Code(code)),
                None => {
                    let (ours, strange) = assignor::only(&answer.assignment, &self.topic);
                    if !strange.is_empty() {
                        log::warn!(
                            "group {}: partitions of topics that we do not subscribe to are \
                             left alone: {}",
                            self.options.group_id,
                            strange.join(" ")
                        );
                    }
                    self.shared.lock().synced(ticket, &ours, Instant::now());
                    self.shared.wake();
                }
            },
            Err(error) => self.entry_failed(ticket, syncs, &Failure::Connection(error)),
        }
        true
    }

    fn joined(&mut self, ticket: Ticket, answer: JoinGroupResponse) {
        let member_id: Arc<str> = answer.member_id.as_str().into();
        let mut group = self.shared.lock();
        match Code::try_from_code(answer.error_code) {
            Some(Code::MemberIdRequired) if !member_id.is_empty() => {
                group.member_id_required(ticket, member_id, Instant::now());
            }
            Some(code) => group.join_failed(ticket, &Failure::Code(code), Instant::now()),
            None => {
                let joined = Joined {
                    leads: answer.leader == answer.member_id,
                    identity: Identity {
                        generation: answer.generation_id,
                        member_id,
                    },
                    protocol: answer
                        .protocol_name
                        .map(|name| name.to_string())
                        .unwrap_or_default(),
                    members: answer
                        .members
                        .into_iter()
                        .map(|member| {
                            let instance_id = member.group_instance_id.map(|id| id.to_string());
                            (member.member_id.to_string(), instance_id, member.metadata)
                        })
                        .collect(),
                };
                let leads = joined.leads;
                group.joined(ticket, joined, Instant::now());
                drop(group);
                if !leads {
                    self.forget_plan();
                }
            }
        }
    }

    /// We lead: deals out the partitions of all topics that any member subscribes to.
    fn plan(&mut self, ticket: Ticket, strategy: Strategy, members: &[assignor::Subscriber]) {
        let topics: BTreeSet<&str> = members
            .iter()
            .flat_map(|member| member.topics.iter().map(String::as_str))
            .collect();
        self.forget_plan();
        for topic in &topics {
            self.cluster.want(&Arc::from(*topic));
        }
        if let Err(error) = self.cluster.refresh() {
            let failure = Failure::Connection(error);
            return self
                .shared
                .lock()
                .plan_failed(ticket, &failure, Instant::now());
        }
        let counts: BTreeMap<String, i32> = topics
            .into_iter()
            .map(|topic| {
                let count = match self.cluster.topic(topic) {
                    TopicState::Known { partitions } => partitions,
                    // Dealt out once it is there.
                    TopicState::Unknown | TopicState::Refused(_) => 0,
                };
                (topic.to_owned(), count)
            })
            .collect();
        let shares = assignor::assign(strategy, members, &counts);
        self.planned = counts;
        self.shared.lock().planned(ticket, shares);
    }

    /// Looks after the topics of other members only as long as the plan is ours.
    fn forget_plan(&mut self) {
        for topic in std::mem::take(&mut self.planned).into_keys() {
            if *topic != *self.topic {
                self.cluster.forget(&topic);
            }
        }
    }

    /// Leaves a group that does not come to an assignment.
    fn abandon(&mut self, member_id: &str) {
        if let Some(entering) = self.entering.take()
            && let Ok(connection) = self.group_connection()
        {
            // Ends the connection, and with it our JoinGroup at the broker.
            connection.give_up::<JoinGroupRequest>(entering.sent.elapsed());
        }
        let coordinator = self.shared.lock().coordinator();
        if let Some(coordinator) = coordinator
            && !member_id.is_empty()
            && self.options.group_instance_id.is_none()
        {
            heartbeat::leave(
                &self.options.cluster,
                &self.options.group_id,
                member_id,
                &coordinator,
                heartbeat::LEAVE,
            );
        }
    }

    /// Hands notices of the group on, and follows them with the positions.
    fn notices(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut group = self.shared.lock();
        while let Some(notice) = group.notice() {
            events.push(match notice {
                Notice::Assigned {
                    generation,
                    partitions,
                } => {
                    self.stats.rebalances.increment();
                    self.assigned_of = match self.cluster.topic(&self.topic) {
                        TopicState::Known { partitions } => Some(partitions),
                        TopicState::Unknown | TopicState::Refused(_) => None,
                    };
                    self.fetcher.assign(&partitions);
                    Event::Assigned {
                        generation,
                        partitions,
                    }
                }
                Notice::Revoking { deadline } => Event::Revoking { deadline },
                Notice::Lost => {
                    self.fetcher.clear();
                    Event::Lost
                }
            });
        }
        events
    }

    /// Finds out where partitions are read that have no position yet.
    fn place(&mut self, events: &mut Vec<Event>) -> Result<(), Fatal> {
        let now = Instant::now();
        let unplaced = self.fetcher.unplaced(now);
        if !unplaced.is_empty() && self.known_at_start.is_some() {
            self.look_up_committed(&unplaced)?;
        }
        let mut by_leader: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
        for asked in self.fetcher.unlisted(now) {
            match self.cluster.leader(&asked.partition) {
                // Behind a Fetch the answer would wait for data.
                Some(node) if self.fetcher.is_outstanding(node) => {}
                Some(node) => by_leader.entry(node).or_default().push(asked),
                None => self.fetcher.not_now(&asked, None, now),
            }
        }
        for (node, asked) in by_leader {
            self.look_up_ends(node, &asked, events)?;
        }
        Ok(())
    }

    fn look_up_committed(&mut self, unplaced: &[Asked]) -> Result<(), Fatal> {
        let mut topics: BTreeMap<Arc<str>, Vec<i32>> = BTreeMap::new();
        for asked in unplaced {
            topics
                .entry(asked.partition.topic.clone())
                .or_default()
                .push(asked.partition.partition);
        }
        let topics = topics
            .into_iter()
            .map(|(topic, numbers)| {
                OffsetFetchRequestTopic::default()
                    .with_name(topic_name(&topic))
                    .with_partition_indexes(numbers)
            })
            .collect();
        let request = OffsetFetchRequest::default()
            .with_group_id(self.group_id())
            .with_topics(Some(topics));
        let outcome = self
            .group_connection()
            .and_then(|connection| connection.request(&request, ANSWER));
        let now = Instant::now();
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                self.fetcher.unsent(unplaced, error.pause(), now);
                self.coordinator_failed(Failure::Connection(error));
                return Ok(());
            }
        };
        if let Some(code) = Code::try_from_code(answer.error_code) {
            return self.committed_refused(unplaced, code, now);
        }
        let known_at_start = self.known_at_start.unwrap_or(0);
        for asked in unplaced {
            let found = answer
                .topics
                .iter()
                .filter(|topic| *topic.name.0 == *asked.partition.topic)
                .flat_map(|topic| &topic.partitions)
                .find(|partition| partition.partition_index == asked.partition.partition);
            match found.map(|partition| Code::try_from_code(partition.error_code)) {
                Some(None) => {
                    let offset = found
                        .map(|partition| partition.committed_offset)
                        .filter(|offset| *offset >= 0);
                    let added = asked.partition.partition >= known_at_start;
                    if let (Some(offset), Some(found)) = (offset, found) {
                        let text = found.metadata.as_deref().unwrap_or_default();
                        self.fetcher.committed_with(asked, offset, text);
                    }
                    self.fetcher.committed(asked, offset, added, now);
                }
                Some(Some(code)) => {
                    self.committed_refused(std::slice::from_ref(asked), code, now)?;
                }
                None => {
                    let what = Some("OffsetFetch leaves it out".into());
                    self.fetcher.not_now(asked, what, now);
                }
            }
        }
        Ok(())
    }

    fn committed_refused(
        &mut self,
        asked: &[Asked],
        code: Code,
        now: Instant,
    ) -> Result<(), Fatal> {
        for asked in asked {
            self.fetcher.not_now(asked, Some(said(code)), now);
        }
        match code {
            Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed => {
                let message = format!(
                    "OffsetFetch of group {}: {code} ({})",
                    self.options.group_id,
                    code.code()
                );
                Err(self.stop(FatalKind::NotAuthorised, message))
            }
            Code::NotCoordinator | Code::CoordinatorNotAvailable => {
                self.coordinator_failed(Failure::Code(code));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn look_up_ends(
        &mut self,
        node: i32,
        asked: &[Asked],
        events: &mut Vec<Event>,
    ) -> Result<(), Fatal> {
        let wants = |asked: &&Asked, which: OffsetReset| match asked.place {
            Place::Reset(reset) => reset == which,
            Place::OutOfRange(_) => true,
            Place::Committed | Place::At(_) => false,
        };
        let mut ends: [BTreeMap<TopicPartition, Result<i64, Code>>; 2] = Default::default();
        for (which, found) in [OffsetReset::Earliest, OffsetReset::Latest]
            .into_iter()
            .zip(&mut ends)
        {
            // The end of the log for one that fell out of it; for a newcomer the end of what it
            // may read, so that it misses nothing of a transaction that commits later.
            for (isolated, level) in [
                (false, IsolationLevel::ReadUncommitted),
                (true, self.options.isolation_level),
            ] {
                let share: Vec<&Asked> = asked
                    .iter()
                    .filter(|entry| wants(entry, which))
                    .filter(|entry| matches!(entry.place, Place::Reset(_)) == isolated)
                    .collect();
                if share.is_empty() {
                    continue;
                }
                match self.list(node, &share, which, level) {
                    Ok(listed) => found.extend(listed),
                    Err(error) => {
                        if let Some(fatal) = Fatal::of(&error) {
                            return Err(self.stop(fatal.kind, fatal.message));
                        }
                        log::debug!("ListOffsets at broker {node}: {}", chain(&error));
                        if !is_pause(&error) {
                            self.cluster.expire();
                        }
                        self.fetcher.unsent(asked, error.pause(), Instant::now());
                        return Ok(());
                    }
                }
            }
        }
        let [starts, lasts] = ends;
        for entry in asked {
            // The side that was not asked does not matter.
            let end = |found: &BTreeMap<TopicPartition, Result<i64, Code>>, which| {
                if wants(&entry, which) {
                    found
                        .get(&entry.partition)
                        .copied()
                        .unwrap_or(Err(Code::UnknownServerError))
                } else {
                    Ok(0)
                }
            };
            let both = end(&starts, OffsetReset::Earliest)
                .and_then(|start| Ok((start, end(&lasts, OffsetReset::Latest)?)));
            match both {
                Ok(both) => self.fetcher.listed(entry, both, Instant::now(), events),
                Err(code @ Code::TopicAuthorizationFailed) => {
                    let message = format!("ListOffsets of {}: {code} (29)", entry.partition);
                    return Err(self.stop(FatalKind::NotAuthorised, message));
                }
                Err(code) => {
                    self.cluster.expire();
                    let what = Some(said(code));
                    self.fetcher.not_now(entry, what, Instant::now());
                }
            }
        }
        Ok(())
    }

    fn list(
        &mut self,
        node: i32,
        asked: &[&Asked],
        which: OffsetReset,
        level: IsolationLevel,
    ) -> Result<BTreeMap<TopicPartition, Result<i64, Code>>, Error> {
        const LATEST: i64 = -1;
        const EARLIEST: i64 = -2;
        let timestamp = match which {
            OffsetReset::Earliest => EARLIEST,
            OffsetReset::Latest => LATEST,
        };
        let mut topics: BTreeMap<Arc<str>, Vec<ListOffsetsPartition>> = BTreeMap::new();
        for entry in asked {
            topics
                .entry(entry.partition.topic.clone())
                .or_default()
                .push(
                    ListOffsetsPartition::default()
                        .with_partition_index(entry.partition.partition)
                        .with_timestamp(timestamp),
                );
        }
        let topics = topics
            .into_iter()
            .map(|(topic, partitions)| {
                ListOffsetsTopic::default()
                    .with_name(topic_name(&topic))
                    .with_partitions(partitions)
            })
            .collect();
        let request = ListOffsetsRequest::default()
            // The codec's default, 0, is the number of a broker that copies the log.
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(isolation(level))
            .with_topics(topics);
        let answer = self.cluster.connection(node)?.request(&request, ANSWER)?;
        Ok(answer
            .topics
            .iter()
            .flat_map(|topic| {
                let name: Arc<str> = topic.name.0.as_str().into();
                topic.partitions.iter().map(move |partition| {
                    let result = match Code::try_from_code(partition.error_code) {
                        Some(code) => Err(code),
                        None if partition.offset < 0 => Err(Code::OffsetNotAvailable),
                        None => Ok(partition.offset),
                    };
                    (
                        TopicPartition::new(name.clone(), partition.partition_index),
                        result,
                    )
                })
            })
            .collect())
    }

    /// Sends a Fetch to each leader that owes us no answer.
    fn ask(&mut self) -> Result<(), Fatal> {
        let now = Instant::now();
        let cluster = &self.cluster;
        self.fetcher
            .note_leaders(|partition| cluster.leader(partition), now);
        let questions = self
            .fetcher
            .questions(|partition| cluster.leader(partition), now);
        for (node, asked) in questions {
            let request = self.fetcher.request(&asked);
            let sent = self
                .cluster
                .connection(node)
                .and_then(|connection| connection.send(&request));
            match sent {
                Ok(()) => self.fetcher.sent(node, asked, now),
                Err(error) => {
                    if let Some(fatal) = Fatal::of(&error) {
                        return Err(self.stop(fatal.kind, fatal.message));
                    }
                    log::debug!("Fetch to broker {node}: {}", chain(&error));
                    if !is_pause(&error) {
                        // The leader may be elsewhere.
                        self.cluster.expire();
                    }
                    self.fetcher.unsent(&asked, error.pause(), now);
                }
            }
        }
        Ok(())
    }

    /// Takes the answers that are there.
    fn collect(&mut self, events: &mut Vec<Event>) -> Result<(), Fatal> {
        if self.fetcher.is_all_paused() {
            return Ok(());
        }
        for (node, since) in self.fetcher.outstanding() {
            let now = Instant::now();
            let late =
                now.saturating_duration_since(since) > self.options.fetch_max_wait + FETCH_GRACE;
            let Some(connection) = self
                .cluster
                .existing(node)
                .filter(|connection| connection.in_flight() > 0)
            else {
                self.cluster.expire();
                self.fetcher.unanswered(node, now);
                continue;
            };
            // What has come is taken however late: records may have been held back by ourselves.
            let outcome = if connection.ready(Duration::ZERO) {
                connection.receive::<FetchRequest>(ANSWER)
            } else if late {
                Err(connection.give_up::<FetchRequest>(since.elapsed()))
            } else {
                continue;
            };
            match outcome {
                Ok(answer) => {
                    let aftermath = self.fetcher.answered(node, answer, now, events);
                    if aftermath.refresh {
                        self.cluster.expire();
                    }
                    if let Some(fatal) = aftermath.fatal {
                        return Err(self.stop(fatal.kind, fatal.message));
                    }
                }
                Err(error) => {
                    log::debug!("Fetch from broker {node}: {}", chain(&error));
                    self.cluster.expire();
                    self.fetcher.unanswered(node, now);
                }
            }
        }
        Ok(())
    }

    /// Waits for whatever is under way, for at most `slice`.
    fn wait(&mut self, slice: Duration) {
        const SHARE: Duration = Duration::from_millis(5);
        if self.entering.is_some()
            && let Ok(connection) = self.group_connection()
        {
            connection.ready(slice);
            return;
        }
        let stable = self.shared.lock().phase() == Phase::Stable;
        let nodes = self.fetcher.outstanding();
        if !stable || self.fetcher.is_all_paused() || nodes.is_empty() {
            sleep_unless(slice.min(Duration::from_millis(20)), || false);
            return;
        }
        // One broker without data must not hold up the data of another: short looks in turn.
        let share = if nodes.len() == 1 { slice } else { SHARE };
        for (node, _) in nodes {
            if let Some(connection) = self.cluster.existing(node)
                && connection.ready(share)
            {
                return;
            }
        }
    }

    /// The coordinator did not answer a question of the poll thread.
    fn coordinator_failed(&mut self, failure: Failure) {
        if let Failure::Connection(error) = &failure
            && is_pause(error)
        {
            return;
        }
        let mut group = self.shared.lock();
        if let Some(known) = group.coordinator() {
            group.coordinator_lost(known.address, &failure, Instant::now());
        }
    }

    /// One OffsetCommit; the code of each partition, `None` for success.
    fn send_commit(
        &mut self,
        identity: &Identity,
        commits: &[&Commit],
        metadata: &Metadata,
        limit: Duration,
    ) -> Result<BTreeMap<TopicPartition, Option<Code>>, Error> {
        // While the coordinator is away only we can look for it: nobody polls meanwhile.
        let step = self.shared.lock().step(Instant::now());
        if step == Step::Find {
            self.find();
        }
        if self.shared.lock().coordinator().is_none() {
            return Err(self.refusal(Code::CoordinatorNotAvailable));
        }
        let mut topics: BTreeMap<Arc<str>, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for commit in commits {
            let text = metadata.get(&commit.partition).cloned().unwrap_or_default();
            topics
                .entry(commit.partition.topic.clone())
                .or_default()
                .push(
                    OffsetCommitRequestPartition::default()
                        .with_partition_index(commit.partition.partition)
                        .with_committed_offset(commit.offset)
                        .with_committed_leader_epoch(-1)
                        .with_committed_metadata(Some(StrBytes::from_string(text))),
                );
        }
        let topics = topics
            .into_iter()
            .map(|(topic, partitions)| {
                OffsetCommitRequestTopic::default()
                    .with_name(topic_name(&topic))
                    .with_partitions(partitions)
            })
            .collect();
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id_or_member_epoch(identity.generation)
            .with_member_id(StrBytes::from_string(identity.member_id.to_string()))
            .with_group_instance_id(self.instance_id())
            .with_topics(topics);
        let sent = Instant::now();
        let outcome = self
            .group_connection()
            .and_then(|connection| connection.request(&request, limit));
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) => {
                self.coordinator_failed(Failure::Connection(error.clone()));
                return Err(error);
            }
        };
        let mut group = self.shared.lock();
        let mut codes = BTreeMap::new();
        for topic in &answer.topics {
            let name: Arc<str> = topic.name.0.as_str().into();
            for partition in &topic.partitions {
                let code = Code::try_from_code(partition.error_code);
                match code {
                    None => group.well(identity, sent, Instant::now()),
                    Some(code) => {
                        let api = OffsetCommitRequest::NAME;
                        group.refused(identity, api, code, sent, Instant::now());
                    }
                }
                codes.insert(
                    TopicPartition::new(name.clone(), partition.partition_index),
                    code,
                );
            }
        }
        drop(group);
        self.shared.wake();
        Ok(codes)
    }

    fn refusal(&self, code: Code) -> Error {
        Error::Refused {
            address: self
                .coordinator
                .as_ref()
                .map(|known| known.address.clone())
                .unwrap_or_else(|| "the group coordinator".into()),
            api: OffsetCommitRequest::NAME,
            code,
        }
    }

    fn group_id(&self) -> GroupId {
        GroupId(StrBytes::from_string(self.options.group_id.clone()))
    }

    fn instance_id(&self) -> Option<StrBytes> {
        let id = self.options.group_instance_id.clone();
        id.map(StrBytes::from_string)
    }

    fn join_request(&self, member_id: &str) -> JoinGroupRequest {
        let subscription = assignor::encode_subscription(&BTreeSet::from([self.topic.to_string()]));
        JoinGroupRequest::default()
            .with_group_id(self.group_id())
            .with_session_timeout_ms(millis(self.options.session_timeout))
            .with_rebalance_timeout_ms(millis(self.options.rebalance_timeout))
            .with_member_id(StrBytes::from_string(member_id.to_owned()))
            .with_group_instance_id(self.instance_id())
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(
                Strategy::OFFERED
                    .into_iter()
                    .map(|strategy| {
                        JoinGroupRequestProtocol::default()
                            .with_name(StrBytes::from_static_str(strategy.name()))
                            .with_metadata(subscription.clone())
                    })
                    .collect(),
            )
    }

    fn sync_request(&self, identity: &Identity, shares: &assignor::Shares) -> SyncGroupRequest {
        SyncGroupRequest::default()
            .with_group_id(self.group_id())
            .with_generation_id(identity.generation)
            .with_member_id(StrBytes::from_string(identity.member_id.to_string()))
            .with_group_instance_id(self.instance_id())
            .with_assignments(
                shares
                    .iter()
                    .map(|(member_id, share)| {
                        SyncGroupRequestAssignment::default()
                            .with_member_id(StrBytes::from_string(member_id.clone()))
                            .with_assignment(assignor::encode_assignment(share))
                    })
                    .collect(),
            )
    }
}

impl Drop for Consumer {
    /// Ends the heartbeats, so that the group does not wait for a consumer that is no more.
    fn drop(&mut self) {
        self.shared.lock().leave();
        self.shared.wake();
    }
}

/// Whether the coordinator speaks all that a member asks of it, before one of the requests fails in
/// the middle of a membership.
fn check_versions(connection: &Connection, is_static: bool) -> Result<(), Error> {
    connection.version::<OffsetFetchRequest>()?;
    // With the versions that brought static ids (KIP-345, Kafka 2.3).
    let offers = [
        (
            JoinGroupRequest::NAME,
            5,
            connection.version::<JoinGroupRequest>()?,
        ),
        (
            SyncGroupRequest::NAME,
            3,
            connection.version::<SyncGroupRequest>()?,
        ),
        (
            HeartbeatRequest::NAME,
            3,
            connection.version::<HeartbeatRequest>()?,
        ),
        (
            OffsetCommitRequest::NAME,
            7,
            connection.version::<OffsetCommitRequest>()?,
        ),
    ];
    match offers.iter().find(|(_, wanted, offered)| offered < wanted) {
        Some((api, wanted, offered)) if is_static => Err(Error::Feature {
            address: connection.address().clone(),
            feature: "static members (a group instance id)",
            api,
            wanted: *wanted,
            offered: *offered,
        }),
        _ => Ok(()),
    }
}

/// Whether a commit that was refused with this may be sent again as it is.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::RequestTimedOut
            | Code::BrokerNotAvailable
            | Code::ReplicaNotAvailable
            | Code::NetworkException
            | Code::KafkaStorageError
            | Code::UnstableOffsetCommit
            | Code::ThrottlingQuotaExceeded
            | Code::UnknownServerError
    )
}

/// Whether the question was not put because it is too early, with nothing wrong.
fn is_pause(error: &Error) -> bool {
    matches!(
        error,
        Error::Throttled { .. } | Error::Expired { .. } | Error::Connecting { .. }
    )
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
