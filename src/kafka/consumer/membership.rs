//! Membership on the wire: finds the coordinator, joins, deals out the partitions when we lead, takes
//! our share.
//!
//! What to do next is the state machine's to say ([`crate::kafka::group`]); here it is done without
//! waiting. A JoinGroup or SyncGroup stays under way over several polls.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, OffsetCommitRequest, OffsetFetchRequest,
    SyncGroupRequest, SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::Consumer;
use crate::kafka::assignor::{self, Strategy};
use crate::kafka::cluster::TopicState;
use crate::kafka::connection::Connection;
use crate::kafka::group::{Coordinator, Failure, Identity, Joined, Step, Ticket};
use crate::kafka::heartbeat;
use crate::kafka::versions::Api;
use crate::kafka::{Code, Error, Fatal};

/// A question to the coordinator that waits for the whole group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entering {
    ticket: Ticket,
    sent: Instant,
    syncs: bool,
}

enum Entry {
    Joined(JoinGroupResponse),
    Synced(SyncGroupResponse),
}

impl Consumer {
    /// Takes the membership as far as it goes without waiting.
    pub(super) fn drive(&mut self) -> Result<(), Fatal> {
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
    pub(super) fn find(&mut self) {
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
        let patience = self.options.rebalance_timeout + Duration::from_secs(5);
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
                let outcome = if entering.syncs {
                    connection
                        .answer::<SyncGroupRequest>(Duration::ZERO, entering.sent, patience)
                        .map(|answer| answer.map(Entry::Synced))
                } else {
                    connection
                        .answer::<JoinGroupRequest>(Duration::ZERO, entering.sent, patience)
                        .map(|answer| answer.map(Entry::Joined))
                };
                let Some(outcome) = outcome else { return false };
                outcome
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

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
