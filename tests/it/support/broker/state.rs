//! What all nodes of the cluster share, under one lock; every change of it wakes all who wait.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kafka_protocol::messages::{ApiKey, TopicName};
use kafka_protocol::protocol::StrBytes;
use rustls::ServerConfig;
use uuid::Uuid;

use super::Seen;
use super::group::Group;
use super::log::Partition;
use super::sasl::Sasl;
use super::script::Hook;
use super::versions::Versions;

/// How the cluster behaves; see [`super::Builder`].
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) versions: Versions,
    pub(super) initial_rebalance_delay: Duration,
    pub(super) session_timeouts: (Duration, Duration),
    pub(super) max_group_size: usize,
    pub(super) max_message_bytes: usize,
    pub(super) duplicates_are_46: bool,
    pub(super) tls: Option<Arc<ServerConfig>>,
    pub(super) sasl: Option<Sasl>,
}

/// One listener with its connections.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) address: SocketAddr,
    /// Own ranges, while a rolling upgrade is under way.
    pub(super) versions: Option<Versions>,
    pub(super) running: bool,
    /// Reads nothing and answers nothing, but keeps its connections.
    pub(super) frozen: bool,
    pub(super) connections: BTreeMap<u64, TcpStream>,
    /// Connections that wait for no answer, and since when.
    pub(super) quiet: BTreeMap<u64, Instant>,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) id: Uuid,
    pub(super) partitions: Vec<Partition>,
    /// -1: whatever the producer chose.
    pub(super) max_message_bytes: usize,
}

pub(super) struct State {
    pub(super) closed: bool,
    changes: u64,
    next_id: u64,
    pub(super) settings: Settings,
    pub(super) nodes: BTreeMap<i32, Node>,
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) coordinators: BTreeMap<String, i32>,
    pub(super) hooks: Vec<Hook>,
    pub(super) seen: Vec<Seen>,
    /// Requests of those who had not said who they are, or whose session was over.
    pub(super) unwelcome: usize,
    /// Throttled answers behind which the client did not wait.
    pub(super) hasty: Vec<ApiKey>,
}

/// The state behind its lock.
pub(super) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    pub(super) fn new(settings: Settings) -> Self {
        let state = State {
            closed: false,
            changes: 0,
            next_id: 0,
            settings,
            nodes: BTreeMap::new(),
            topics: BTreeMap::new(),
            groups: BTreeMap::new(),
            coordinators: BTreeMap::new(),
            hooks: Vec::new(),
            seen: Vec::new(),
            unwelcome: 0,
            hasty: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Changes the state and wakes all who wait for a change.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = change(&mut state);
        state.changes += 1;
        self.changed.notify_all();
        result
    }

    /// Tells the others of a change that was made under `state`.
    pub(super) fn notify(&self, state: &mut State) {
        state.changes += 1;
        self.changed.notify_all();
    }

    /// Lets go of the lock until something changes, or until then.
    pub(super) fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, State> {
        match until {
            None => self.changed.wait(state).unwrap(),
            Some(until) => {
                let left = until.saturating_duration_since(Instant::now());
                self.changed.wait_timeout(state, left).unwrap().0
            }
        }
    }

    /// How often the state has changed.
    pub(super) fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Waits until it has changed since `seen`; `false`: it has not until then.
    pub(super) fn wait_change(&self, seen: u64, until: Instant) -> bool {
        let mut state = self.lock();
        while state.changes == seen {
            if Instant::now() >= until {
                return false;
            }
            state = self.wait(state, Some(until));
        }
        true
    }
}

impl State {
    /// A number that was not given before.
    pub(super) fn fresh(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn partition(&self, topic: &str, partition: i32) -> Option<&Partition> {
        let index = usize::try_from(partition).ok()?;
        self.topics.get(topic)?.partitions.get(index)
    }

    pub(super) fn partition_mut(&mut self, topic: &str, partition: i32) -> Option<&mut Partition> {
        let index = usize::try_from(partition).ok()?;
        self.topics.get_mut(topic)?.partitions.get_mut(index)
    }

    /// The code with which `node` refuses to serve this partition: 3 or 6.
    pub(super) fn not_served(&self, node: i32, topic: &str, partition: i32) -> Option<i16> {
        match self.partition(topic, partition) {
            None => Some(3),
            Some(found) if found.leader != node => Some(6),
            Some(_) => None,
        }
    }

    /// The name of a topic that a request gives by name or, in newer versions, by id.
    pub(super) fn topic_name(&self, name: &TopicName, id: Uuid) -> String {
        if !name.is_empty() || id.is_nil() {
            return name.to_string();
        }
        let found = self.topics.iter().find(|(_, t)| t.id == id);
        found.map(|(name, _)| name.clone()).unwrap_or_default()
    }

    pub(super) fn create_topic(&mut self, name: &str, partitions: usize) {
        let nodes: Vec<i32> = self.nodes.keys().copied().collect();
        let id = Uuid::from_u128(u128::from(self.fresh()) | (0x4cc8 << 64));
        let leaders = nodes.into_iter().cycle().take(partitions);
        let topic = Topic {
            id,
            partitions: leaders.map(Partition::new).collect(),
            max_message_bytes: self.settings.max_message_bytes,
        };
        self.topics.insert(name.into(), topic);
    }

    /// The node that coordinates a group, running or not.
    pub(super) fn coordinator(&self, group: &str) -> i32 {
        if let Some(node) = self.coordinators.get(group) {
            return *node;
        }
        let sum: usize = group.bytes().map(usize::from).sum();
        let nodes: Vec<i32> = self.nodes.keys().copied().collect();
        nodes[sum % nodes.len()]
    }

    pub(super) fn versions(&self, node: i32) -> &Versions {
        let own = self.nodes.get(&node).and_then(|n| n.versions.as_ref());
        own.unwrap_or(&self.settings.versions)
    }
}

/// Text as the codec wants it.
pub(super) fn text(value: impl Into<String>) -> StrBytes {
    StrBytes::from_string(value.into())
}
