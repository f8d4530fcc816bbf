//! What the state machine and its two threads say to each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::kafka::assignor::{Shares, Strategy, Subscriber};
use crate::kafka::{Assigned, Code, Error, Fatal};

/// What the coordinator knows us by. It checks both with every heartbeat and commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) struct Identity {
    pub(in crate::kafka) generation: i32,
    pub(in crate::kafka) member_id: Arc<str>,
}

/// The broker that manages the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) struct Coordinator {
    /// `HOST:PORT` as the cluster advertises it.
    pub(in crate::kafka) name: Arc<str>,
    /// Where the poll thread reached it, so that the heartbeat thread needs no name server.
    pub(in crate::kafka) address: SocketAddr,
}

/// Names one question to the coordinator; its answer counts only while it is the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kafka) struct Ticket(pub(super) u64);

/// What the poll thread has to do next.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::kafka) enum Step {
    /// Find the coordinator and connect to it.
    Find,
    /// Send JoinGroup with this member id, which is empty for a newcomer.
    Join { ticket: Ticket, member_id: Arc<str> },
    /// We lead: look up the partitions of all these topics and hand in a plan.
    Plan {
        ticket: Ticket,
        strategy: Strategy,
        members: Vec<Subscriber>,
    },
    /// Send SyncGroup; the shares are empty unless we lead.
    Sync {
        ticket: Ticket,
        identity: Identity,
        shares: Shares,
    },
    /// An answer is outstanding.
    Await,
    /// Back off.
    Pause(Instant),
    /// Member of the group: fetch (or, draining, do not) and commit.
    Run,
    /// Joining leads nowhere: drop what is outstanding and leave as this member.
    Abandon { member_id: Arc<str> },
    /// It is over.
    Stop(Fatal),
}

/// What the heartbeat thread has to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) enum Beat {
    /// Nothing before this time.
    Wait(Instant),
    /// Nothing before something changes.
    Idle,
    /// Send a heartbeat.
    Send {
        identity: Identity,
        coordinator: Coordinator,
    },
    /// The poll thread has stalled and the membership is given up: send LeaveGroup.
    Leave {
        member_id: Arc<str>,
        coordinator: Coordinator,
    },
    /// The member has left; the thread may end.
    End,
}

/// What the owner of the consumer must be told, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::kafka) enum Notice {
    /// The complete new assignment.
    Assigned {
        generation: i32,
        partitions: Vec<Assigned>,
    },
    /// The group rebalances: finish by then.
    Revoking { deadline: Instant },
    /// All leases are dead.
    Lost,
}

/// How a question failed.
#[derive(Debug, Clone)]
pub(in crate::kafka) enum Failure {
    /// The coordinator answered with an error.
    Code(Code),
    /// No usable answer; the connection is gone.
    Connection(Error),
}

/// A JoinGroup answer without error.
#[derive(Debug, Clone)]
pub(in crate::kafka) struct Joined {
    pub(in crate::kafka) identity: Identity,
    /// Name of the chosen strategy.
    pub(in crate::kafka) protocol: String,
    pub(in crate::kafka) leads: bool,
    /// All members, when we lead: member id, static id, subscription.
    pub(in crate::kafka) members: Vec<(String, Option<String>, Bytes)>,
}

impl Joined {
    /// The chosen strategy, or what cannot be true of the answer. A generation below 0 is that of
    /// somebody outside of every group, whose commits nothing fences.
    pub(super) fn check(&self) -> Result<Strategy, String> {
        let strategy = Strategy::from_name(&self.protocol);
        let strategy = strategy
            .ok_or_else(|| format!("assignor {:?}, which we do not offer", self.protocol))?;
        let Identity {
            generation,
            member_id,
        } = &self.identity;
        if *generation < 0 {
            return Err(format!("generation {generation}"));
        }
        if member_id.is_empty() {
            return Err("no member id".into());
        }
        if self.leads && !self.members.iter().any(|(id, ..)| **id == **member_id) {
            return Err(format!("we lead, and {member_id} is no member"));
        }
        Ok(strategy)
    }
}

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// On the way into the group; owns nothing to fetch.
    Joining,
    /// In the group with a valid assignment, maybe an empty one.
    Stable,
    /// In the group, which rebalances: work is finished, nothing is fetched.
    Draining,
    /// Has left, or may not be a member.
    Stopped,
}
