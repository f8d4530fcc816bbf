//! A consumer group under the classic protocol, without I/O: members, generations, committed
//! offsets. Behaves as Apache Kafka's coordinator does, where a client can tell the difference.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Codes that the coordinator answers with.
pub(super) const ILLEGAL_GENERATION: i16 = 22;
const INCONSISTENT_PROTOCOL: i16 = 23;
pub(super) const UNKNOWN_MEMBER: i16 = 25;
pub(super) const REBALANCE: i16 = 27;
const FENCED: i16 = 82;

/// Where a group stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Empty,
    /// Waits for everybody's JoinGroup. The first round of a group only waits for the time.
    Preparing {
        until: Instant,
        initial: bool,
    },
    /// Waits for the leader's SyncGroup.
    Completing {
        until: Instant,
    },
    Stable,
}

/// What a JoinGroup asks for.
#[derive(Debug, Clone)]
pub(super) struct Join {
    pub(super) member: String,
    pub(super) instance: Option<String>,
    pub(super) client: String,
    pub(super) session: Duration,
    pub(super) rebalance: Duration,
    pub(super) protocol_type: String,
    pub(super) protocols: Vec<(String, Bytes)>,
    /// Whether the client knows MEMBER_ID_REQUIRED.
    pub(super) can_retry: bool,
    /// How long the first round of an empty group lasts.
    pub(super) initial_delay: Duration,
    pub(super) max_size: usize,
}

/// What happens to a JoinGroup.
#[derive(Debug)]
pub(super) enum Joining {
    Refused(i16),
    /// Error 79: again, with this id.
    Retry(String),
    /// Wait for [`Group::joined`] with this id and ticket.
    Wait(String, u64),
}

/// A member's part in a new generation.
#[derive(Debug, Clone)]
pub(super) struct Joined {
    pub(super) generation: i32,
    pub(super) protocol: String,
    pub(super) leader: String,
    /// Id, static id and subscription of everybody; empty but for the leader.
    pub(super) members: Vec<(String, Option<String>, Bytes)>,
}

/// What a waiting request finds.
#[derive(Debug)]
pub(super) enum Wait<T> {
    NotYet,
    Done(Result<T, i16>),
    /// A later request of the same member has taken its place.
    Replaced,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) instance: Option<String>,
    pub(super) client: String,
    pub(super) session: Duration,
    rebalance: Duration,
    protocols: Vec<(String, Bytes)>,
    /// When it is removed unless something is heard of it.
    expires: Instant,
    /// Joined before those with a higher number.
    order: u64,
    /// The JoinGroup that waits, or waited last, and whether it counts for this round.
    ticket: u64,
    rejoined: bool,
    /// Its JoinGroup has not been answered yet: it cannot be silent.
    waiting: bool,
    joined: Option<Joined>,
    syncing: bool,
    synced: Option<Result<Bytes, i16>>,
    pub(super) assignment: Bytes,
}

/// A committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) offset: i64,
    pub(super) metadata: Option<String>,
}

/// One partition of an OffsetCommit, accepted or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitSeen {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub member: String,
    pub generation: i32,
    /// 0, or why it was refused.
    pub code: i16,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) phase: Phase,
    pub(super) generation: i32,
    protocol_type: String,
    pub(super) protocol: String,
    pub(super) leader: String,
    pub(super) members: BTreeMap<String, Member>,
    /// Ids that were given out with error 79 and have not come back yet.
    pending: BTreeMap<String, Instant>,
    pub(super) committed: BTreeMap<(String, i32), Committed>,
    pub(super) commits: Vec<CommitSeen>,
    tickets: u64,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            phase: Phase::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol: String::new(),
            leader: String::new(),
            members: BTreeMap::new(),
            pending: BTreeMap::new(),
            committed: BTreeMap::new(),
            commits: Vec::new(),
            tickets: 0,
        }
    }
}

impl Group {
    /// Takes a JoinGroup in. `fresh` makes an id for a new member.
    pub(super) fn join(&mut self, join: Join, fresh: u64, now: Instant) -> Joining {
        if !self.suits(&join) {
            return Joining::Refused(INCONSISTENT_PROTOCOL);
        }
        if join.member.is_empty() {
            if self.members.len() + self.pending.len() >= join.max_size {
                return Joining::Refused(81);
            }
            let id = format!("{}-{fresh:08x}", join.client);
            if let Some(instance) = &join.instance {
                if let Some(old) = self.holder(instance) {
                    return self.replace(&old, id, join, now);
                }
            } else if join.can_retry {
                self.pending.insert(id.clone(), now + join.session);
                return Joining::Retry(id);
            }
            return self.enter(id, join, now);
        }
        if let Some(code) = self.fenced(&join.member, join.instance.as_deref()) {
            return Joining::Refused(code);
        }
        if self.pending.remove(&join.member).is_some() {
            let id = join.member.clone();
            return self.enter(id, join, now);
        }
        let Some(member) = self.members.get(&join.member) else {
            return Joining::Refused(UNKNOWN_MEMBER);
        };
        let same = member.protocols == join.protocols;
        let id = join.member.clone();
        let leads = id == self.leader;
        match self.phase {
            Phase::Completing { .. } if same => self.current(&id, now),
            Phase::Stable if same && !leads => self.current(&id, now),
            Phase::Preparing { .. } => self.rejoin(&id, join, now),
            _ => {
                self.prepare(now, None);
                self.rejoin(&id, join, now)
            }
        }
    }

    /// Whether the newcomer speaks something that everybody else does.
    fn suits(&self, join: &Join) -> bool {
        if join.protocols.is_empty() || join.protocol_type.is_empty() {
            return false;
        }
        let others = || self.members.iter().filter(|(id, _)| **id != join.member);
        let all = |name: &str| others().all(|(_, m)| m.protocols.iter().any(|(n, _)| n == name));
        others().next().is_none()
            || (self.protocol_type == join.protocol_type
                && join.protocols.iter().any(|(name, _)| all(name)))
    }

    fn enter(&mut self, id: String, join: Join, now: Instant) -> Joining {
        self.protocol_type.clone_from(&join.protocol_type);
        self.tickets += 1;
        let member = Member {
            instance: join.instance.clone(),
            client: join.client.clone(),
            session: join.session,
            rebalance: join.rebalance,
            protocols: join.protocols.clone(),
            expires: now + join.session,
            order: self.tickets,
            ticket: 0,
            rejoined: false,
            waiting: false,
            joined: None,
            syncing: false,
            synced: None,
            assignment: Bytes::new(),
        };
        self.members.insert(id.clone(), member);
        match &mut self.phase {
            Phase::Preparing {
                until,
                initial: true,
            } => {
                *until = (*until).max(now + join.initial_delay.min(join.rebalance));
            }
            Phase::Preparing { .. } => {}
            Phase::Empty => self.prepare(now, Some(join.initial_delay)),
            Phase::Completing { .. } | Phase::Stable => self.prepare(now, None),
        }
        self.rejoin(&id, join, now)
    }

    /// A static member that came back under a new id: the old one is fenced.
    fn replace(&mut self, old: &str, id: String, join: Join, now: Instant) -> Joining {
        let Some(member) = self.members.remove(old) else {
            return Joining::Refused(UNKNOWN_MEMBER);
        };
        let same = member.protocols == join.protocols;
        self.members.insert(id.clone(), member);
        if self.leader == old {
            self.leader.clone_from(&id);
        }
        if same && self.phase == Phase::Stable {
            let joining = self.current(&id, now);
            // Below version 9 a leader that comes back is told of the old leader, itself, and so
            // plans nothing anew.
            let part = self.members.get_mut(&id).and_then(|m| m.joined.as_mut());
            if let Some(part) = part.filter(|part| part.leader == id) {
                part.leader = old.into();
                part.members.clear();
            }
            return joining;
        }
        if !matches!(self.phase, Phase::Preparing { .. }) {
            self.prepare(now, None);
        }
        self.rejoin(&id, join, now)
    }

    fn rejoin(&mut self, id: &str, join: Join, now: Instant) -> Joining {
        self.tickets += 1;
        let ticket = self.tickets;
        if let Some(member) = self.members.get_mut(id) {
            member.protocols = join.protocols;
            member.session = join.session;
            member.rebalance = join.rebalance;
            member.expires = now + join.session;
            member.ticket = ticket;
            member.rejoined = true;
            member.waiting = true;
            member.joined = None;
        }
        self.try_complete(now);
        Joining::Wait(id.into(), ticket)
    }

    /// Answers with the generation that is there already.
    fn current(&mut self, id: &str, now: Instant) -> Joining {
        self.tickets += 1;
        let ticket = self.tickets;
        let joined = self.part_of(id);
        if let Some(member) = self.members.get_mut(id) {
            member.ticket = ticket;
            member.expires = now + member.session;
            member.joined = Some(joined);
        }
        Joining::Wait(id.into(), ticket)
    }

    fn part_of(&self, id: &str) -> Joined {
        let metadata = |m: &Member| {
            let found = m.protocols.iter().find(|(name, _)| *name == self.protocol);
            found.map(|(_, bytes)| bytes.clone()).unwrap_or_default()
        };
        let everybody = self.members.iter();
        let everybody = everybody.map(|(id, m)| (id.clone(), m.instance.clone(), metadata(m)));
        Joined {
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            members: match id == self.leader {
                true => everybody.collect(),
                false => Vec::new(),
            },
        }
    }

    /// What has become of a JoinGroup that waits.
    pub(super) fn joined(&mut self, id: &str, ticket: u64) -> Wait<Joined> {
        match self.members.get_mut(id) {
            None => Wait::Done(Err(UNKNOWN_MEMBER)),
            Some(member) if member.ticket != ticket => Wait::Replaced,
            Some(member) => match member.joined.take() {
                None => Wait::NotYet,
                Some(joined) => Wait::Done(Ok(joined)),
            },
        }
    }

    /// Begins a new round; `initial`: the first one of an empty group, which lasts this long.
    pub(super) fn prepare(&mut self, now: Instant, initial: Option<Duration>) {
        for member in self.members.values_mut() {
            member.rejoined = false;
            if member.syncing {
                member.synced = Some(Err(REBALANCE));
            }
        }
        let longest = self.members.values().map(|m| m.rebalance).max();
        let time = initial.or(longest).unwrap_or_default();
        self.phase = Phase::Preparing {
            until: now + time,
            initial: initial.is_some(),
        };
    }

    fn try_complete(&mut self, now: Instant) {
        if let Phase::Preparing { until, initial } = self.phase {
            let everybody = self.members.values().all(|m| m.rejoined) && self.pending.is_empty();
            if now >= until || (everybody && !initial) {
                self.complete(now);
            }
        }
    }

    fn complete(&mut self, now: Instant) {
        self.members
            .retain(|_, m| m.rejoined || m.instance.is_some());
        self.generation += 1;
        if self.members.is_empty() {
            self.phase = Phase::Empty;
            self.leader.clear();
            self.protocol.clear();
            return;
        }
        if !self.members.contains_key(&self.leader) {
            let oldest = self.members.iter().min_by_key(|(_, m)| m.order);
            self.leader = oldest.map(|(id, _)| id.clone()).unwrap_or_default();
        }
        self.protocol = self.elect();
        let longest = self.members.values().map(|m| m.rebalance).max();
        self.phase = Phase::Completing {
            until: now + longest.unwrap_or_default(),
        };
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.part_of(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.expires = now + member.session;
                member.joined = Some(joined);
                member.waiting = false;
                member.syncing = false;
                member.synced = None;
                member.assignment = Bytes::new();
            }
        }
    }

    /// The protocol that all speak and most put first.
    fn elect(&self) -> String {
        let speaks = |m: &Member, name: &str| m.protocols.iter().any(|(n, _)| n == name);
        let common = |name: &str| self.members.values().all(|m| speaks(m, name));
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let first = member.protocols.iter().find(|(name, _)| common(name));
            if let Some((name, _)) = first {
                *votes.entry(name).or_default() += 1;
            }
        }
        let winner = votes.iter().max_by_key(|(_, votes)| **votes);
        winner
            .map(|(name, _)| (*name).to_string())
            .unwrap_or_default()
    }

    /// Takes a SyncGroup in; then wait for [`Group::synced`].
    pub(super) fn sync(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        assignments: &[(String, Bytes)],
        now: Instant,
    ) -> Result<(), i16> {
        self.check(id, instance, generation)?;
        match self.phase {
            Phase::Empty => return Err(UNKNOWN_MEMBER),
            Phase::Preparing { .. } => return Err(REBALANCE),
            Phase::Completing { .. } | Phase::Stable => {}
        }
        if let Some(member) = self.members.get_mut(id) {
            member.syncing = true;
            member.synced = None;
            member.expires = now + member.session;
        }
        if matches!(self.phase, Phase::Completing { .. }) && id == self.leader {
            for (id, assignment) in assignments {
                if let Some(member) = self.members.get_mut(id) {
                    member.assignment = assignment.clone();
                }
            }
            self.phase = Phase::Stable;
        }
        Ok(())
    }

    /// What has become of a SyncGroup that waits.
    pub(super) fn synced(&mut self, id: &str, generation: i32, now: Instant) -> Wait<Bytes> {
        let stable = self.phase == Phase::Stable;
        let current = self.generation == generation;
        let Some(member) = self.members.get_mut(id) else {
            return Wait::Done(Err(UNKNOWN_MEMBER));
        };
        if let Some(synced) = member.synced.take() {
            member.syncing = false;
            return Wait::Done(synced);
        }
        if !current {
            return Wait::Done(Err(REBALANCE));
        }
        if !stable {
            return Wait::NotYet;
        }
        member.syncing = false;
        member.expires = now + member.session;
        Wait::Done(Ok(member.assignment.clone()))
    }

    /// A heartbeat: 0 or why not.
    pub(super) fn heartbeat(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now: Instant,
    ) -> Result<(), i16> {
        self.check(id, instance, generation)?;
        if let Some(member) = self.members.get_mut(id) {
            member.expires = now + member.session;
        }
        match self.phase {
            Phase::Preparing { .. } => Err(REBALANCE),
            _ => Ok(()),
        }
    }

    /// Whether this member of this generation may commit.
    pub(super) fn may_commit(
        &mut self,
        id: &str,
        instance: Option<&str>,
        generation: i32,
        now: Instant,
    ) -> Result<(), i16> {
        if generation < 0 && id.is_empty() {
            // Somebody who is no member, as administrators are: only while there are none.
            return match self.members.is_empty() {
                true => Ok(()),
                false => Err(UNKNOWN_MEMBER),
            };
        }
        self.check(id, instance, generation)?;
        if let Some(member) = self.members.get_mut(id) {
            member.expires = now + member.session;
        }
        match self.phase {
            Phase::Completing { .. } => Err(REBALANCE),
            _ => Ok(()),
        }
    }

    fn check(&self, id: &str, instance: Option<&str>, generation: i32) -> Result<(), i16> {
        if let Some(code) = self.fenced(id, instance) {
            return Err(code);
        }
        if !self.members.contains_key(id) {
            return Err(UNKNOWN_MEMBER);
        }
        if generation != self.generation {
            return Err(ILLEGAL_GENERATION);
        }
        Ok(())
    }

    /// The member that holds a static id.
    fn holder(&self, instance: &str) -> Option<String> {
        let holds = |m: &Member| m.instance.as_deref() == Some(instance);
        let found = self.members.iter().find(|(_, m)| holds(m))?;
        Some(found.0.clone())
    }

    fn fenced(&self, id: &str, instance: Option<&str>) -> Option<i16> {
        let holder = self.holder(instance?)?;
        (holder != id).then_some(FENCED)
    }

    /// Removes a member, because it leaves, is silent, or is kicked. `false`: there was none.
    pub(super) fn remove(&mut self, id: &str, now: Instant) -> bool {
        if self.pending.remove(id).is_some() {
            self.try_complete(now);
            return true;
        }
        if self.members.remove(id).is_none() {
            return false;
        }
        if self.leader == id {
            self.leader.clear();
        }
        match self.phase {
            Phase::Empty => {}
            Phase::Preparing { .. } => self.try_complete(now),
            Phase::Completing { .. } | Phase::Stable => {
                self.prepare(now, None);
                self.try_complete(now);
            }
        }
        true
    }

    /// Counts everybody's time from now, as a coordinator does that has taken the group over.
    pub(super) fn refresh(&mut self, now: Instant) {
        for member in self.members.values_mut() {
            member.expires = now + member.session;
        }
    }

    /// Does what is due. `true`: something was.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        let before = (
            self.phase,
            self.generation,
            self.members.len(),
            self.pending.len(),
        );
        self.pending.retain(|_, until| *until > now);
        // Whoever waits for an answer of ours is not silent.
        let silent = |m: &Member| m.expires <= now && !m.syncing && !m.waiting;
        let silent = self.members.iter().filter(|(_, m)| silent(m));
        let silent: Vec<String> = silent.map(|(id, _)| id.clone()).collect();
        for id in silent {
            self.remove(&id, now);
        }
        if let Phase::Completing { until } = self.phase
            && now >= until
        {
            self.members.retain(|_, m| m.syncing);
            self.prepare(now, None);
        }
        self.try_complete(now);
        before
            != (
                self.phase,
                self.generation,
                self.members.len(),
                self.pending.len(),
            )
    }

    /// When something is due next.
    pub(super) fn due(&self) -> Option<Instant> {
        let phase = match self.phase {
            Phase::Empty | Phase::Stable => None,
            Phase::Preparing { until, .. } | Phase::Completing { until } => Some(until),
        };
        let members = self.members.values().filter(|m| !m.syncing && !m.waiting);
        let members = members.map(|m| m.expires);
        let pending = self.pending.values().copied();
        phase.into_iter().chain(members).chain(pending).min()
    }
}
