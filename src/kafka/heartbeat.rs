//! The thread that keeps the membership alive.
//!
//! It has a connection of its own, because a broker answers the requests of one connection in
//! order and a JoinGroup or commit must not hold heartbeats up. It looks up no name (a name server
//! may hang longer than the membership lasts) but goes where the poll thread reached the
//! coordinator, and holds no lock over I/O. What it must do and what an answer means is decided by
//! [`super::group`]. Its end before the member has left is noticed by the poll thread and fatal.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kafka_protocol::messages::{GroupId, HeartbeatRequest, LeaveGroupRequest};
use kafka_protocol::protocol::StrBytes;

use super::connection::{Connection, Timeouts};
use super::group::{Beat, Coordinator, Failure, Identity, Shared};
use super::options::{ClusterOptions, ConsumerOptions};
use super::versions::Api;
use super::{Code, Error};

/// Time for leaving. Nobody waits for more.
pub(super) const LEAVE: Duration = Duration::from_secs(2);

/// The running thread.
#[derive(Debug)]
pub(super) struct Heartbeat {
    thread: JoinHandle<()>,
}

impl Heartbeat {
    /// Starts it.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub(super) fn start(shared: Arc<Shared>, options: &ConsumerOptions) -> io::Result<Self> {
        // A silent broker costs at most a third of the time after which we count as dead.
        let patience = options.session_timeout / 3;
        let mut pulse = Pulse {
            group_id: options.group_id.clone(),
            instance_id: options.group_instance_id.clone(),
            cluster: options.cluster.clone(),
            patience,
            timeouts: Timeouts {
                connect: Timeouts::default().connect.min(patience),
                setup: patience,
            },
            connection: None,
        };
        let thread = std::thread::Builder::new()
            .name("kafka-heartbeat".into())
            .spawn(move || pulse.run(&shared))?;
        Ok(Self { thread })
    }

    /// Whether it has ended, in whatever way.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

struct Pulse {
    group_id: String,
    instance_id: Option<String>,
    cluster: ClusterOptions,
    patience: Duration,
    timeouts: Timeouts,
    connection: Option<Connection>,
}

impl Pulse {
    fn run(&mut self, shared: &Shared) {
        loop {
            match next(shared) {
                Beat::Send {
                    identity,
                    coordinator,
                } => {
                    let sent = Instant::now();
                    let outcome = self.beat(&identity, &coordinator);
                    let now = Instant::now();
                    let mut group = shared.lock();
                    match outcome {
                        Ok(None) => group.well(&identity, sent, now),
                        Ok(Some(code)) => {
                            group.refused(&identity, HeartbeatRequest::NAME, code, sent, now);
                        }
                        // The pause is the broker's wish, and shorter than any session.
                        Err(Error::Throttled { .. } | Error::Expired { .. }) => {}
                        Err(error) => {
                            self.connection = None;
                            let failure = Failure::Connection(error);
                            group.coordinator_lost(coordinator.address, &failure, now);
                        }
                    }
                }
                Beat::Leave {
                    member_id,
                    coordinator,
                } => leave(
                    &self.cluster,
                    &self.group_id,
                    &member_id,
                    &coordinator,
                    LEAVE,
                ),
                Beat::End => return,
                Beat::Wait(_) | Beat::Idle => {}
            }
        }
    }

    fn beat(
        &mut self,
        identity: &Identity,
        coordinator: &Coordinator,
    ) -> Result<Option<Code>, Error> {
        let usable = |open: &mut Connection| open.peer() == coordinator.address && !open.is_stale();
        let connection = match self.connection.take_if(|open| usable(open)) {
            Some(open) => self.connection.insert(open),
            None => self.connection.insert(Connection::open_at(
                &coordinator.name,
                coordinator.address,
                &self.cluster,
                &self.timeouts,
            )?),
        };
        let request = HeartbeatRequest::default()
            .with_group_id(GroupId(StrBytes::from_string(self.group_id.clone())))
            .with_generation_id(identity.generation)
            .with_member_id(StrBytes::from_string(identity.member_id.to_string()))
            .with_group_instance_id(self.instance_id.clone().map(StrBytes::from_string));
        let answer = connection.request(&request, self.patience)?;
        Ok(Code::try_from_code(answer.error_code))
    }
}

/// Waits until there is something to do.
fn next(shared: &Shared) -> Beat {
    let mut group = shared.lock();
    loop {
        let until = match group.beat(Instant::now()) {
            Beat::Wait(until) => Some(until),
            Beat::Idle => None,
            due => return due,
        };
        group = shared.wait(group, until);
    }
}

/// Tells the coordinator that a dynamic member goes. Whether it heard is not known afterwards: the
/// session runs out on its own.
pub(super) fn leave(
    cluster: &ClusterOptions,
    group_id: &str,
    member_id: &str,
    coordinator: &Coordinator,
    limit: Duration,
) {
    // A connection of its own: the one for the group may hold a JoinGroup that waits.
    let limit = limit.min(LEAVE) / 2;
    let timeouts = Timeouts {
        connect: limit,
        setup: limit,
    };
    let request = LeaveGroupRequest::default()
        .with_group_id(GroupId(StrBytes::from_string(group_id.to_owned())))
        .with_member_id(StrBytes::from_string(member_id.to_owned()));
    let outcome = Connection::open_at(&coordinator.name, coordinator.address, cluster, &timeouts)
        .and_then(|mut connection| connection.request(&request, limit));
    match outcome.map(|answer| Code::try_from_code(answer.error_code)) {
        Ok(None) => log::info!("group {group_id}: {member_id} has left"),
        Ok(Some(code)) => log::info!("group {group_id}: {member_id} has left already ({code})"),
        Err(error) => log::warn!(
            "group {group_id}: {member_id} could not say that it leaves: {}",
            crate::error::chain(&error)
        ),
    }
}
