//! The consumer: carries out what membership ([`super::group`]) and positions ([`super::fetch`])
//! ask for, on the thread that polls it.
//!
//! It guarantees: `poll` waits for no group and no data beyond its time, since a JoinGroup or
//! Fetch stays under way over several polls; whatever passes by itself is tried again for ever;
//! commits go out only under a live lease, with the identity of its generation. It never commits
//! by itself, and never waits for name or broker on the heartbeat thread.

mod commits;
mod fetching;
mod membership;
mod positions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::GroupId;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::cluster::{self, Cluster, TopicState};
use super::connection::Connection;
use super::fetch::{Fetcher, said};
use super::group::{Failure, Group, Notice, Phase, Shared, Timing};
use super::heartbeat::{self, Heartbeat};
use super::options::ConsumerOptions;
use super::stats::Stats;
use super::{Code, Error, Event, Fatal, FatalKind, MemberState, TopicPartition};
use crate::backoff::sleep_unless;
use crate::error::chain;
use membership::Entering;

pub use commits::Metadata;

/// Time for answers that a broker gives without waiting for anybody.
const ANSWER: Duration = Duration::from_secs(10);
/// A look-up that took so long is followed by no other one before the owner has had its turn.
const SLOW: Duration = Duration::from_secs(1);
/// Longest wait on one thing without looking at the others.
const SLICE: Duration = Duration::from_millis(50);

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
    /// Those that the topic had, the present one last: it may have been deleted and made again.
    topic_ids: Vec<Uuid>,
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
        let mut cluster = Cluster::new(options.cluster.clone(), stats.clone()).impatient();
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
            topic_ids: Vec::new(),
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
    /// answer an offset look-up can hold it for some seconds more.
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

    /// Leaves these partitions out of fetching. An answer that is already under way is dropped
    /// for them, without moving their position.
    pub fn pause(&mut self, partitions: &[TopicPartition]) {
        self.fetcher.set_paused(partitions, true);
    }

    /// Fetches these partitions again. A new lease is never paused.
    pub fn resume(&mut self, partitions: &[TopicPartition]) {
        self.fetcher.set_paused(partitions, false);
    }

    /// Hands out again what was handed out of a partition from `offset` on: its owner has forgotten
    /// it. Nothing under a lease that has ended.
    pub fn rewind(&mut self, partition: &TopicPartition, offset: i64) {
        self.fetcher.rewind(partition, offset);
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

    /// A partition that stands still until a person acts, and why; see [`Event::Halted`].
    pub fn halted(&self) -> Option<(&TopicPartition, &str)> {
        self.fetcher.halted().next()
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
                self.note_topic_id();
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

    /// A topic that was deleted and made again has other records at the offsets that we know.
    fn note_topic_id(&mut self) {
        let Some(id) = self.cluster.topic_id(&self.topic) else {
            return;
        };
        // A broker that lags behind may still tell of a former one.
        if self.topic_ids.contains(&id) {
            return;
        }
        self.topic_ids.push(id);
        if self.topic_ids.len() > 1 {
            log::warn!(
                "topic {} was deleted and made again, it is read from its beginning",
                self.topic
            );
            // Whatever it has was written while we watched.
            self.known_at_start = Some(0);
            self.fetcher.start_over();
        }
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

    /// The connection to the coordinator.
    fn group_connection(&mut self) -> Result<&mut Connection, Error> {
        match &self.coordinator {
            Some(coordinator) => self.cluster.group_connection(coordinator),
            None => Err(self.refusal(Code::CoordinatorNotAvailable)),
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

    fn group_id(&self) -> GroupId {
        GroupId(StrBytes::from_string(self.options.group_id.clone()))
    }

    fn instance_id(&self) -> Option<StrBytes> {
        let id = self.options.group_instance_id.clone();
        id.map(StrBytes::from_string)
    }
}

impl Drop for Consumer {
    /// Ends the heartbeats, so that the group does not wait for a consumer that is no more.
    fn drop(&mut self) {
        self.shared.lock().leave();
        self.shared.wake();
    }
}

/// Whether the question was not put because it is too early, with nothing wrong.
fn is_pause(error: &Error) -> bool {
    matches!(
        error,
        Error::Throttled { .. } | Error::Expired { .. } | Error::Connecting { .. }
    )
}
