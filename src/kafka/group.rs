//! Membership in a consumer group, as a state machine without I/O.
//!
//! ```text
//!            79, 14, 15, 16, 22, 25: again
//!              ┌───────┐
//!              ▼       │        we lead: plan
//! start ──► Joining ───┴──────────────► Syncing ──► Stable ──27, new partitions──► Draining
//!              ▲                           │          │                               │
//!              ├────────── 27, 22, 25 ─────┘          │ 22, 25, stalled: Lost         │
//!              └──────────────────────────────────────┴─── released, deadline ────────┘
//! ```
//!
//! The poll thread asks [`Group::step`] what to do, does it and reports how it went; the heartbeat
//! thread asks [`Group::beat`]. Both hold the same [`Group`] behind one lock, never over I/O, so
//! that member id, generation and coordinator change together. Every answer carries the ticket or
//! the identity of its question: one that belongs to a former membership changes nothing.
//!
//! It guarantees: a lease is live in at most one generation, but for a partition that returns in
//! the directly following one (nobody else can have had it in between).
//!
//! A static member (KIP-345) never leaves: it comes back under the same static id within its
//! session, and the coordinator gives it what it had without a rebalance.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::HeartbeatRequest;

use super::assignor::{self, Shares, Strategy, Subscriber};
use super::versions::Api;
use super::{Assigned, Code, Error, Fatal, FatalKind, Lease, TopicPartition};
use crate::backoff::Backoff;
use crate::error::chain;
use crate::outage::Outage;

mod refusal;
mod shared;
mod terms;

pub(super) use shared::Shared;
pub use terms::Phase;
pub(super) use terms::{Beat, Coordinator, Failure, Identity, Joined, Notice, Step, Ticket};

use refusal::final_failure;

/// A sync refused this often in a row means that the group is wedged on an old member of ours.
const MAX_REFUSED_SYNCS: u32 = 10;
/// Refusals to let us in that are part of a rebalance; one more is worth a word.
const USUAL_REFUSALS: u32 = 2;
/// After which it is worth looking again at what needs only time.
const MOMENT: Duration = Duration::from_millis(100);
/// Longest pause before a member joins again that was in the group for no time at all.
const MAX_REJOIN_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
enum State {
    Joining {
        outstanding: bool,
    },
    Planning {
        strategy: Strategy,
        members: Vec<Subscriber>,
    },
    Syncing {
        shares: Shares,
        outstanding: bool,
    },
    Stable,
    Draining {
        deadline: Instant,
    },
    Left,
    Stopped(Fatal),
}

/// The times that the state machine needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    pub(super) session_timeout: Duration,
    pub(super) heartbeat_interval: Duration,
    pub(super) rebalance_timeout: Duration,
}

impl Timing {
    /// How long work may go on after a rebalance was announced. The broker's clock started with
    /// the heartbeat that was due before the one that told us; the rest is for commit and join.
    fn drain(self) -> Duration {
        self.rebalance_timeout
            .saturating_sub(2 * self.heartbeat_interval)
            .saturating_sub(Duration::from_secs(5))
    }
}

/// The member. See the module.
#[derive(Debug)]
pub(super) struct Group {
    name: String,
    /// Ours alone, or [`Code::FencedInstanceId`]; `None`: a dynamic member.
    instance_id: Option<String>,
    timing: Timing,
    state: State,
    identity: Identity,
    coordinator: Option<Coordinator>,
    leads: bool,
    owned: BTreeMap<TopicPartition, Lease>,
    /// The generation that `owned` was given in; differs from the identity's while we join.
    owned_in: i32,
    ticket: u64,
    backoff: Backoff,
    not_before: Option<Instant>,
    joining_since: Instant,
    refused_syncs: u32,
    /// How often in a row we were sent back to the beginning.
    sent_back: u32,
    /// A heartbeat or commit of this generation went through.
    proven: bool,
    /// Pauses before joining again, of one membership after the other that did not prove true.
    rejoins: Backoff,
    next_beat: Instant,
    /// When that was sent which the coordinator last took from us as its member: our session runs
    /// from then on, at the least.
    heard: Instant,
    /// When the owner last polled.
    progress: Instant,
    notices: VecDeque<Notice>,
    trouble: Option<String>,
    /// What the log knows of the trouble.
    outage: Outage,
}

impl Group {
    /// A member that has not joined yet.
    pub(super) fn new(
        name: impl Into<String>,
        instance_id: Option<String>,
        timing: Timing,
        now: Instant,
    ) -> Self {
        Self {
            name: name.into(),
            instance_id,
            timing,
            state: State::Joining { outstanding: false },
            identity: Identity {
                generation: -1,
                member_id: "".into(),
            },
            coordinator: None,
            leads: false,
            owned: BTreeMap::new(),
            owned_in: -1,
            ticket: 0,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 20),
            not_before: None,
            joining_since: now,
            refused_syncs: 0,
            sent_back: 0,
            proven: false,
            rejoins: Backoff::new(Duration::from_millis(100), MAX_REJOIN_PAUSE, 20),
            next_beat: now,
            heard: now,
            progress: now,
            notices: VecDeque::new(),
            trouble: None,
            outage: Outage::default(),
        }
    }

    /// What the poll thread has to do. `Join` and `Sync` are given out once and must be answered,
    /// with success or failure.
    pub(super) fn step(&mut self, now: Instant) -> Step {
        self.expire(now);
        match &self.state {
            State::Stopped(fatal) => return Step::Stop(fatal.clone()),
            State::Left => return Step::Await,
            State::Joining { .. } | State::Planning { .. } | State::Syncing { .. }
                if self.refused_syncs >= MAX_REFUSED_SYNCS
                    || now.saturating_duration_since(self.joining_since)
                        > 2 * self.timing.rebalance_timeout =>
            {
                return self.abandon(now);
            }
            _ => {}
        }
        if let Some(until) = self.not_before {
            if now < until {
                // A member goes on fetching while it looks for its coordinator.
                return match self.state {
                    State::Stable | State::Draining { .. } => Step::Run,
                    _ => Step::Pause(until),
                };
            }
            self.not_before = None;
        }
        if self.coordinator.is_none() {
            return Step::Find;
        }
        let ticket = Ticket(self.ticket);
        match &mut self.state {
            State::Joining { outstanding: true }
            | State::Syncing {
                outstanding: true, ..
            } => Step::Await,
            State::Joining { outstanding } => {
                *outstanding = true;
                Step::Join {
                    ticket,
                    member_id: self.identity.member_id.clone(),
                }
            }
            State::Planning { strategy, members } => Step::Plan {
                ticket,
                strategy: *strategy,
                members: members.clone(),
            },
            State::Syncing {
                shares,
                outstanding,
            } => {
                *outstanding = true;
                Step::Sync {
                    ticket,
                    identity: self.identity.clone(),
                    // Kept, in case it cannot be sent at once.
                    shares: shares.clone(),
                }
            }
            State::Stable | State::Draining { .. } => Step::Run,
            State::Left => Step::Await,
            State::Stopped(fatal) => Step::Stop(fatal.clone()),
        }
    }

    /// The coordinator was found and reached.
    ///
    /// That is no reason to hurry: it may say at once that it is not the one.
    pub(super) fn found(&mut self, coordinator: Coordinator) {
        self.coordinator = Some(coordinator);
    }

    /// The coordinator is found, and the connection to it is still being made.
    pub(super) fn connecting(&mut self, now: Instant) {
        self.not_before = Some(now + MOMENT);
    }

    /// The coordinator could not be found or reached.
    pub(super) fn not_found(&mut self, failure: &Failure, now: Instant) {
        if !self.stop_if_final("FindCoordinator", failure) {
            self.note_trouble("cannot reach the group coordinator", failure, now);
            // Time without a broker says nothing about the group.
            self.joining_since = now;
            self.back_off(now);
        }
    }

    /// JoinGroup was answered.
    pub(super) fn joined(&mut self, ticket: Ticket, answer: Joined, now: Instant) {
        if !self.is_current(ticket) || !matches!(self.state, State::Joining { .. }) {
            return;
        }
        let strategy = match answer.check() {
            Ok(strategy) => strategy,
            Err(found) => {
                self.tell(format!("JoinGroup makes no sense: {found}"), now);
                return self.retry(now);
            }
        };
        self.identity = answer.identity;
        self.leads = answer.leads;
        self.ticket += 1;
        // While the group does not get further than this it is one of many attempts.
        let level = if self.trouble.is_none() && self.refused_syncs == 0 {
            log::Level::Info
        } else {
            log::Level::Debug
        };
        log::log!(
            level,
            "group {}: joined generation {} as {}{}",
            self.name,
            self.identity.generation,
            self.identity.member_id,
            if answer.leads { ", leading" } else { "" }
        );
        self.state = if answer.leads {
            let members = answer
                .members
                .into_iter()
                .map(|(member_id, instance_id, subscription)| Subscriber {
                    topics: assignor::decode_subscription(&subscription).unwrap_or_else(|| {
                        log::warn!(
                            "group {}: subscription of {member_id} is not readable, it gets nothing",
                            self.name
                        );
                        Vec::new()
                    }),
                    member_id,
                    instance_id,
                })
                .collect();
            State::Planning { strategy, members }
        } else {
            State::Syncing {
                shares: Shares::new(),
                outstanding: false,
            }
        };
    }

    /// The coordinator wants newcomers to come back with an id of its choice (KIP-394).
    pub(super) fn member_id_required(&mut self, ticket: Ticket, member_id: Arc<str>, now: Instant) {
        if self.is_current(ticket) && matches!(self.state, State::Joining { .. }) {
            let came_with_one = !self.identity.member_id.is_empty();
            self.identity.member_id = member_id;
            self.restart_join();
            if came_with_one {
                self.sent_back("JoinGroup", Code::MemberIdRequired, now);
                self.back_off(now);
            }
        }
    }

    /// JoinGroup failed.
    pub(super) fn join_failed(&mut self, ticket: Ticket, failure: &Failure, now: Instant) {
        if self.is_current(ticket) && matches!(self.state, State::Joining { .. }) {
            self.entry_failed("JoinGroup", failure, now);
        }
    }

    /// The leader's plan is made.
    pub(super) fn planned(&mut self, ticket: Ticket, shares: Shares) {
        if self.is_current(ticket) && matches!(self.state, State::Planning { .. }) {
            self.ticket += 1;
            self.state = State::Syncing {
                shares,
                outstanding: false,
            };
        }
    }

    /// The leader has no metadata to plan with; it asks again.
    pub(super) fn plan_failed(&mut self, ticket: Ticket, failure: &Failure, now: Instant) {
        if self.is_current(ticket) && matches!(self.state, State::Planning { .. }) {
            if let Failure::Connection(Error::Connecting { .. }) = failure {
                return self.postpone(now);
            }
            self.note_trouble("cannot look up the topics of the group", failure, now);
            self.back_off(now);
        }
    }

    /// SyncGroup was answered: we are in.
    pub(super) fn synced(&mut self, ticket: Ticket, assignment: &[u8], now: Instant) {
        if !self.is_current(ticket) || !matches!(self.state, State::Syncing { .. }) {
            return;
        }
        let Some(partitions) = assignor::decode_assignment(assignment) else {
            // The leader is not of our kind. Nobody else has these partitions, but nobody can say
            // which they are.
            self.tell("the leader's assignment is not readable".into(), now);
            return self.retry(now);
        };
        let generation = self.identity.generation;
        let follows = self.owned_in.checked_add(1) == Some(generation);
        let mut former = std::mem::take(&mut self.owned);
        let assigned: Vec<Assigned> = partitions
            .into_iter()
            .map(|partition| {
                let held = if follows {
                    former.remove(&partition).filter(Lease::is_live)
                } else {
                    None
                };
                Assigned {
                    kept: held.is_some(),
                    lease: held.unwrap_or_default(),
                    partition,
                }
            })
            .collect();
        self.owned = assigned
            .iter()
            .map(|entry| (entry.partition.clone(), entry.lease.clone()))
            .collect();
        // What is left went to others, or may have been theirs for a while.
        for lease in former.into_values() {
            lease.revoke();
        }
        log::info!(
            "group {}: generation {} assigns {} to {}",
            self.name,
            generation,
            list(assigned.iter().map(|entry| &entry.partition)),
            self.identity.member_id
        );
        self.owned_in = generation;
        self.refused_syncs = 0;
        self.sent_back = 0;
        self.proven = false;
        self.backoff.reset();
        self.trouble = None;
        self.outage.over(now);
        self.ticket += 1;
        self.next_beat = now + self.timing.heartbeat_interval;
        self.heard = now;
        self.progress = now;
        self.state = State::Stable;
        self.notices.push_back(Notice::Assigned {
            generation,
            partitions: assigned,
        });
    }

    /// SyncGroup failed.
    pub(super) fn sync_failed(&mut self, ticket: Ticket, failure: &Failure, now: Instant) {
        if self.is_current(ticket) && matches!(self.state, State::Syncing { .. }) {
            if let Failure::Code(Code::RebalanceInProgress) = failure {
                // Someone joined meanwhile: normal once or twice, not for ever.
                self.refused_syncs += 1;
                self.restart_join();
                if self.refused_syncs > 2 {
                    self.back_off(now);
                }
            } else {
                self.entry_failed("SyncGroup", failure, now);
            }
        }
    }

    /// The connection to the coordinator broke, or it is the coordinator no more. The membership
    /// stays: the next heartbeat or commit tells whether we are still in. While we join, it is the
    /// connection that we join on that counts, not that of a late heartbeat.
    pub(super) fn coordinator_lost(
        &mut self,
        address: SocketAddr,
        failure: &Failure,
        now: Instant,
    ) {
        let known = self.coordinator.as_ref().map(|known| known.address);
        if self.is_member() && known == Some(address) {
            self.coordinator = None;
            self.note_trouble("lost the group coordinator", failure, now);
            self.back_off(now);
        }
    }

    /// A heartbeat or commit under this identity, which `api` names and which was sent at `sent`,
    /// was refused with `code`.
    pub(super) fn refused(
        &mut self,
        identity: &Identity,
        api: &'static str,
        code: Code,
        sent: Instant,
        now: Instant,
    ) {
        if *identity != self.identity || !self.is_member() {
            return;
        }
        match code {
            Code::RebalanceInProgress => {
                self.heard = self.heard.max(sent);
                self.drain("the group rebalances", now);
            }
            Code::IllegalGeneration => self.lose("its generation is over", now),
            Code::UnknownMemberId => {
                self.lose("the group no longer knows it", now);
                self.identity.member_id = "".into();
            }
            // What brokers say to members of the newer protocol, whose groups may be ours too.
            Code::FencedMemberEpoch | Code::StaleMemberEpoch => {
                self.lose("its epoch is over", now);
                self.identity.member_id = "".into();
            }
            Code::NotCoordinator | Code::CoordinatorNotAvailable => {
                if let Some(address) = self.coordinator.as_ref().map(|known| known.address) {
                    self.coordinator_lost(address, &Failure::Code(code), now);
                }
            }
            _ => {
                let failure = Failure::Code(code);
                // Of commits their owner is told, each partition for itself.
                if !self.stop_if_final(api, &failure) && api == HeartbeatRequest::NAME {
                    self.note_trouble("heartbeats are refused", &failure, now);
                }
            }
        }
    }

    /// The leader saw other numbers of partitions than it dealt out.
    pub(super) fn partitions_changed(&mut self, now: Instant) {
        self.drain("partitions were added or removed", now);
    }

    /// Work is finished and committed, but for that of `abandoned`, which is given up: rejoin.
    /// Nothing unless it is draining.
    ///
    /// The other leases stay live until the next assignment: no other member can have their
    /// partitions before, and those that come back at once live on.
    pub(super) fn release(&mut self, abandoned: &[TopicPartition], now: Instant) {
        if let State::Draining { .. } = self.state {
            for lease in abandoned.iter().filter_map(|name| self.owned.get(name)) {
                lease.revoke();
            }
            self.join(now);
        }
    }

    /// Leaves: all leases end. Returns the member id to leave with, if there is one. A static
    /// member has none: it stays for its session, so that a restart moves no partition.
    pub(super) fn leave(&mut self) -> Option<Arc<str>> {
        self.drop_leases();
        self.state = State::Left;
        self.ticket += 1;
        let member_id = std::mem::replace(&mut self.identity.member_id, "".into());
        self.identity.generation = -1;
        Some(member_id).filter(|id| !id.is_empty() && self.instance_id.is_none())
    }

    /// Stops for good, from outside the protocol.
    pub(super) fn stop(&mut self, fatal: Fatal) {
        self.drop_leases();
        self.ticket += 1;
        self.state = State::Stopped(fatal);
    }

    /// The owner polls: its loop is alive.
    pub(super) fn progress(&mut self, now: Instant) {
        self.progress = now;
    }

    /// What the heartbeat thread has to do. `Send` and `Leave` are given out once.
    pub(super) fn beat(&mut self, now: Instant) -> Beat {
        // Not left to the poll thread alone: its owner may be busy with just that work.
        self.expire(now);
        let stalled = self.progress + self.timing.rebalance_timeout;
        let mut look_again = stalled.min(self.heard + self.timing.session_timeout);
        match self.state {
            State::Left | State::Stopped(_) => return Beat::End,
            // While the coordinator holds our JoinGroup or SyncGroup it expects no heartbeats.
            State::Joining { .. } | State::Planning { .. } | State::Syncing { .. } => {
                return Beat::Idle;
            }
            State::Draining { deadline } => look_again = look_again.min(deadline),
            State::Stable => {}
        }
        if now >= stalled {
            // Heartbeats of a hung process would keep its partitions for ever.
            log::error!(
                "group {}: not polled for {:?}, {} leaves the group",
                self.name,
                self.timing.rebalance_timeout,
                self.identity.member_id
            );
            let member_id = std::mem::replace(&mut self.identity.member_id, "".into());
            self.lose("it has stalled", now);
            return match self.coordinator.clone() {
                Some(coordinator) if self.instance_id.is_none() => Beat::Leave {
                    member_id,
                    coordinator,
                },
                // Without heartbeats the session of a static member runs out, as Java's does.
                _ => Beat::Idle,
            };
        }
        let Some(coordinator) = self.coordinator.clone() else {
            return Beat::Wait(look_again);
        };
        if now < self.next_beat {
            return Beat::Wait(self.next_beat.min(look_again));
        }
        self.next_beat = now + self.timing.heartbeat_interval;
        Beat::Send {
            identity: self.identity.clone(),
            coordinator,
        }
    }

    /// Takes the next notice to the owner.
    pub(super) fn notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// The identity to commit with, while commits have a chance.
    pub(super) fn committer(&self) -> Option<Identity> {
        self.is_member().then(|| self.identity.clone())
    }

    /// The lease of a partition that is ours.
    pub(super) fn lease(&self, partition: &TopicPartition) -> Option<&Lease> {
        self.owned.get(partition)
    }

    /// The coordinator, where known.
    pub(super) fn coordinator(&self) -> Option<Coordinator> {
        self.coordinator.clone()
    }

    /// Whether the assignment is ours to make.
    pub(super) fn leads(&self) -> bool {
        self.leads
    }

    /// Where the member stands.
    pub(super) fn phase(&self) -> Phase {
        match self.state {
            State::Joining { .. } | State::Planning { .. } | State::Syncing { .. } => {
                Phase::Joining
            }
            State::Stable => Phase::Stable,
            State::Draining { .. } => Phase::Draining,
            State::Left | State::Stopped(_) => Phase::Stopped,
        }
    }

    /// The generation, −1 outside the group.
    pub(super) fn generation(&self) -> i32 {
        self.identity.generation
    }

    /// The last failure of a series that has not ended, on one line.
    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// A heartbeat or commit under this identity, sent at `sent`, went through: the group works,
    /// again after [`Group::coordinator_lost`].
    pub(super) fn well(&mut self, identity: &Identity, sent: Instant, now: Instant) {
        if *identity != self.identity {
            return;
        }
        self.heard = self.heard.max(sent);
        self.proven = true;
        self.rejoins.reset();
        if self.trouble.take().is_some() {
            if self.outage.over(now).is_some_and(|over| over.told) {
                log::info!("group {}: the coordinator answers again", self.name);
            }
            self.backoff.reset();
        }
    }

    fn is_member(&self) -> bool {
        matches!(self.state, State::Stable | State::Draining { .. })
    }

    fn is_current(&self, ticket: Ticket) -> bool {
        ticket.0 == self.ticket
    }

    /// JoinGroup or SyncGroup failed: the common rows of the table.
    fn entry_failed(&mut self, api: &'static str, failure: &Failure, now: Instant) {
        if self.stop_if_final(api, failure) {
            return;
        }
        match failure {
            Failure::Code(code @ (Code::UnknownMemberId | Code::IllegalGeneration)) => {
                self.identity = Identity {
                    generation: -1,
                    member_id: "".into(),
                };
                // Whoever the group knew, it is not the one that had these.
                self.lose_owned();
                self.sent_back(api, *code, now);
            }
            Failure::Code(code @ Code::RebalanceInProgress) => self.sent_back(api, *code, now),
            // Nothing is wrong yet, and it has not been asked: what we are stays true.
            Failure::Connection(
                Error::Connecting { .. } | Error::Throttled { .. } | Error::Expired { .. },
            ) => return self.postpone(now),
            Failure::Code(Code::NotCoordinator | Code::CoordinatorNotAvailable)
            | Failure::Connection(_) => {
                self.note_trouble("lost the group coordinator", failure, now);
                self.coordinator = None;
            }
            Failure::Code(_) => self.note_trouble(&format!("{api} is refused"), failure, now),
        }
        self.retry(now);
    }

    /// The group does not let us in as we are: usual while others join, but not for ever.
    fn sent_back(&mut self, api: &'static str, code: Code, now: Instant) {
        self.sent_back = self.sent_back.saturating_add(1);
        if self.sent_back > USUAL_REFUSALS {
            self.note_trouble(&format!("{api} is refused"), &Failure::Code(code), now);
        }
    }

    /// The question could not be put yet: the same one again in a moment.
    fn postpone(&mut self, now: Instant) {
        if let State::Joining { outstanding } | State::Syncing { outstanding, .. } = &mut self.state
        {
            *outstanding = false;
        }
        self.not_before = Some(now + MOMENT);
    }

    fn retry(&mut self, now: Instant) {
        self.restart_join();
        self.back_off(now);
    }

    /// Joins anew as whoever we are; what is outstanding counts no more.
    fn restart_join(&mut self) {
        self.ticket += 1;
        self.state = State::Joining { outstanding: false };
    }

    /// Out of membership, into joining.
    fn join(&mut self, now: Instant) {
        self.joining_since = now;
        self.refused_syncs = 0;
        self.leads = false;
        self.restart_join();
        // Who is thrown out again as soon as it is in must not come back at once for ever.
        if !std::mem::replace(&mut self.proven, false) {
            self.not_before = Some(now + self.rejoins.next_pause());
        }
    }

    fn drain(&mut self, why: &str, now: Instant) {
        let State::Stable = self.state else { return };
        log::info!(
            "group {}: {why}; {} of generation {} gives back {}",
            self.name,
            self.identity.member_id,
            self.identity.generation,
            list(self.owned.keys())
        );
        if self.owned.is_empty() {
            return self.join(now);
        }
        let deadline = now + self.timing.drain();
        self.state = State::Draining { deadline };
        self.notices.push_back(Notice::Revoking { deadline });
    }

    /// Ends the leases at the drain deadline, and with the session: whoever the coordinator has
    /// not heard of for that long has lost its partitions to others, be it told or not.
    fn expire(&mut self, now: Instant) {
        if self.is_member() && now >= self.heard + self.timing.session_timeout {
            let why = format!(
                "the coordinator has not answered for {:?}",
                self.timing.session_timeout
            );
            return self.lose(&why, now);
        }
        if let State::Draining { deadline } = self.state
            && now >= deadline
        {
            log::warn!(
                "group {}: drain deadline passed, unfinished work of generation {} is given up",
                self.name,
                self.identity.generation
            );
            self.drop_leases();
            self.notices.push_back(Notice::Lost);
            self.join(now);
        }
    }

    fn lose(&mut self, why: &str, now: Instant) {
        log::warn!(
            "group {}: membership in generation {} lost, {why}; had {}",
            self.name,
            self.identity.generation,
            list(self.owned.keys())
        );
        self.identity.generation = -1;
        self.drop_leases();
        self.notices.push_back(Notice::Lost);
        self.join(now);
    }

    /// Ends leases that were kept through a rejoin which now turns out to be no rejoin.
    fn lose_owned(&mut self) {
        if !self.owned.is_empty() {
            self.drop_leases();
            self.notices.push_back(Notice::Lost);
        }
    }

    fn drop_leases(&mut self) {
        for lease in std::mem::take(&mut self.owned).into_values() {
            lease.revoke();
        }
        self.owned_in = -1;
    }

    fn abandon(&mut self, now: Instant) -> Step {
        let waited = now.saturating_duration_since(self.joining_since);
        self.tell(
            format!("no assignment after {waited:.1?}, starting afresh as a new member"),
            now,
        );
        let member_id = std::mem::replace(&mut self.identity.member_id, "".into());
        self.identity.generation = -1;
        self.lose_owned();
        self.join(now);
        Step::Abandon { member_id }
    }

    fn back_off(&mut self, now: Instant) {
        self.not_before = Some(now + self.backoff.next_pause());
    }

    /// Notes what is wrong; only the first of a series is worth a line.
    fn note_trouble(&mut self, what: &str, failure: &Failure, now: Instant) {
        let line = match failure {
            Failure::Code(code) => format!("{what}: {code} ({})", code.code()),
            Failure::Connection(error) => format!("{what}: {}", chain(error)),
        };
        self.tell(line, now);
    }

    fn tell(&mut self, line: String, now: Instant) {
        if self.outage.goes_on(now) {
            log::warn!("group {}: {line}", self.name);
        } else {
            log::debug!("group {}: {line}", self.name);
        }
        self.trouble = Some(line);
    }

    fn stop_if_final(&mut self, api: &'static str, failure: &Failure) -> bool {
        let Some(mut fatal) = final_failure(api, &self.name, failure) else {
            return false;
        };
        if let (FatalKind::Fenced, Some(id)) = (fatal.kind, &self.instance_id) {
            fatal.message = format!("{}: {id}", fatal.message);
        }
        self.stop(fatal);
        true
    }
}

/// Partitions in a log line.
fn list<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> String {
    let names: Vec<String> = partitions.map(ToString::to_string).collect();
    if names.is_empty() {
        "no partition".into()
    } else {
        names.join(" ")
    }
}

#[cfg(test)]
mod tests;
