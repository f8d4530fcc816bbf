//! A small honest Kafka cluster in this process, with faults on order.
//!
//! ```ignore
//! let broker = Broker::start();                        // or Broker::builder().nodes(3).start()
//! broker.create_topic("in", 3);
//! broker.append("in", 0, [NewRecord::value("a")]);
//! broker.on(ApiKey::Produce).partition("out", 0).times(2).error(6);
//! broker.on(ApiKey::Produce).handled().drop_connection();
//! /* a client at broker.bootstrap() */
//! broker.wait("commit", |b| b.committed("group", "in", 0) == Some(1));
//! ```
//!
//! All nodes share one state: a log is there whoever leads it. Every node has a listener of its
//! own on the loopback interface and a thread per connection. Answers are what Apache Kafka would
//! say, unless a hook says otherwise. All threads have ended when the value is dropped.

pub mod batch;
pub mod group;
pub mod sasl;
pub mod script;
pub mod versions;

mod api_versions;
mod connection;
mod create_topics;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_offsets;
mod log;
mod metadata;
mod offset_commit;
mod offset_fetch;
mod produce;
mod state;
mod sync_group;
mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
pub use kafka_protocol::messages::ApiKey;
use kafka_protocol::messages::ConsumerProtocolAssignment;
use kafka_protocol::protocol::{Decodable, Request};

use batch::{Batch, LogRecord, NewRecord};
use group::{CommitSeen, Phase};
use log::Partition;
use rustls::ServerConfig;
use sasl::Sasl;
use script::HookBuilder;
use state::{Node, Settings, Shared, State};
use versions::Versions;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The cluster.
pub struct Broker {
    shared: Arc<Shared>,
    threads: Mutex<Threads>,
}

#[derive(Default)]
struct Threads {
    timer: Option<JoinHandle<()>>,
    listeners: BTreeMap<i32, JoinHandle<()>>,
    /// Bound and not listening, for a node that is stopped: connecting is refused, and nobody
    /// else is given its port meanwhile.
    reserved: BTreeMap<i32, OwnedFd>,
}

/// A cluster to be.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: usize,
    settings: Settings,
}

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub node: i32,
    /// A number for the connection; no two have the same.
    pub connection: u64,
    pub api: ApiKey,
    pub version: i16,
    pub client: Option<String>,
    pub correlation_id: i32,
    /// Everything behind the request header.
    pub body: Bytes,
    pub at: Instant,
}

impl Seen {
    /// Reads the body.
    pub fn decode<Q: Request>(&self) -> Q {
        assert_eq!(self.api as i16, Q::KEY, "another kind of request");
        Q::decode(&mut self.body.clone(), self.version).unwrap()
    }
}

/// How a group stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// `Empty`, `PreparingRebalance`, `CompletingRebalance` or `Stable`.
    pub state: &'static str,
    pub generation: i32,
    pub protocol: String,
    /// Member id of the leader.
    pub leader: String,
    pub members: Vec<MemberView>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    pub id: String,
    pub client: String,
    pub instance: Option<String>,
    /// What the leader gave it, in order.
    pub assigned: Vec<(String, i32)>,
}

impl GroupView {
    /// Whether the group is stable and has that many members.
    pub fn is_stable_with(&self, members: usize) -> bool {
        self.state == "Stable" && self.members.len() == members
    }
}

impl Builder {
    /// How many nodes; their ids are 1, 2, 3…
    #[must_use]
    pub fn nodes(mut self, count: usize) -> Self {
        self.nodes = count;
        self
    }

    /// What the nodes say that they speak. Otherwise: Kafka 4.
    #[must_use]
    pub fn versions(mut self, versions: Versions) -> Self {
        self.settings.versions = versions;
        self
    }

    /// How long the first round of an empty group is held for others to come. Otherwise: not.
    #[must_use]
    pub fn initial_rebalance_delay(mut self, delay: Duration) -> Self {
        self.settings.initial_rebalance_delay = delay;
        self
    }

    /// The session timeouts that are allowed (error 26). Otherwise: 1 ms to 30 min.
    #[must_use]
    pub fn session_timeouts(mut self, least: Duration, most: Duration) -> Self {
        self.settings.session_timeouts = (least, most);
        self
    }

    /// The largest group (error 81).
    #[must_use]
    pub fn max_group_size(mut self, members: usize) -> Self {
        self.settings.max_group_size = members;
        self
    }

    /// The largest batch (error 10). Otherwise: Kafka's 1 MiB and 12 bytes.
    #[must_use]
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// Answers a batch that is there already with error 46, as old brokers may, and not with its
    /// offset.
    #[must_use]
    pub fn duplicates_are_46(mut self) -> Self {
        self.settings.duplicates_are_46 = true;
        self
    }

    /// Speaks TLS on every port.
    #[must_use]
    pub fn tls(mut self, config: Arc<ServerConfig>) -> Self {
        self.settings.tls = Some(config);
        self
    }

    /// Asks everybody who it is.
    #[must_use]
    pub fn sasl(mut self, sasl: Sasl) -> Self {
        self.settings.sasl = Some(sasl);
        self
    }

    /// Starts the nodes.
    pub fn start(self) -> Broker {
        let broker = Broker {
            shared: Arc::new(Shared::new(self.settings)),
            threads: Mutex::default(),
        };
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        for id in (1..).take(self.nodes) {
            broker.listen(id, TcpListener::bind(loopback).unwrap());
        }
        let shared = Arc::clone(&broker.shared);
        broker.threads.lock().unwrap().timer = Some(thread::spawn(move || keep_time(&shared)));
        broker
    }
}

/// Does for the groups what is due, until the end.
fn keep_time(shared: &Shared) {
    let mut state = shared.lock();
    while !state.closed {
        let now = Instant::now();
        let mut changed = false;
        for group in state.groups.values_mut() {
            changed |= group.tick(now);
        }
        if changed {
            shared.notify(&mut state);
        }
        let due = state.groups.values().filter_map(|g| g.due()).min();
        state = shared.wait(state, due);
    }
}

impl Broker {
    /// One node, Kafka 4, no initial delay.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// For anything else.
    pub fn builder() -> Builder {
        Builder {
            nodes: 1,
            settings: Settings {
                versions: Versions::kafka_4(),
                initial_rebalance_delay: Duration::ZERO,
                session_timeouts: (Duration::from_millis(1), Duration::from_secs(1800)),
                max_group_size: usize::MAX,
                max_message_bytes: 1024 * 1024 + 12,
                duplicates_are_46: false,
                tls: None,
                sasl: None,
            },
        }
    }

    // Nodes

    /// `HOST:PORT` of every node, with commas.
    pub fn bootstrap(&self) -> String {
        self.addresses().join(",")
    }

    /// `HOST:PORT` of every node, stopped ones included.
    pub fn addresses(&self) -> Vec<String> {
        let state = self.shared.lock();
        state
            .nodes
            .values()
            .map(|n| n.address.to_string())
            .collect()
    }

    /// `HOST:PORT` of one node.
    pub fn address(&self, node: i32) -> String {
        self.shared.lock().nodes[&node].address.to_string()
    }

    /// Changes what one node says that it speaks, as an upgrade does; takes effect on the
    /// connections that come.
    pub fn set_versions(&self, node: i32, versions: Versions) {
        self.node(node, |node| node.versions = Some(versions));
    }

    /// Kills a node: its port refuses, its connections break. It stays leader and coordinator of
    /// what it was; nothing is lost.
    pub fn stop(&self, node: i32) {
        let address = self.shared.update(|state| {
            let entry = state.nodes.get_mut(&node).unwrap();
            assert!(entry.running, "node {node} is stopped already");
            entry.running = false;
            entry.frozen = false;
            connection::hang_up(state, node);
            state.nodes[&node].address
        });
        // The listener's thread looks at `running` when it wakes, and this wakes it.
        drop(TcpStream::connect(address));
        let mut threads = self.threads.lock().unwrap();
        if let Some(listener) = threads.listeners.remove(&node) {
            join(listener);
        }
        threads.reserved.insert(node, reserve(address));
    }

    /// Kills a node; what it led and coordinated goes to others that run.
    pub fn fail_over(&self, node: i32) {
        self.stop(node);
        self.shared.update(|state| {
            let others = state.nodes.iter().filter(|(_, n)| n.running);
            let others: Vec<i32> = others.map(|(id, _)| *id).collect();
            let mut next = others.iter().cycle();
            let topics = state.topics.values_mut();
            for partition in topics.flat_map(|t| &mut t.partitions) {
                if partition.leader == node {
                    partition.leader = *next.next().expect("a node that runs");
                    partition.epoch += 1;
                }
            }
            let groups: Vec<String> = state.groups.keys().cloned().collect();
            for group in groups {
                if state.coordinator(&group) == node {
                    let other = *next.next().expect("a node that runs");
                    state.coordinators.insert(group, other);
                }
            }
        });
    }

    /// Starts a stopped node again, on its old port, with all data.
    pub fn restart(&self, node: i32) {
        let address = self.shared.lock().nodes[&node].address;
        let listener = TcpListener::bind(address).unwrap();
        self.threads.lock().unwrap().reserved.remove(&node);
        self.listen(node, listener);
    }

    /// The node's machine hangs: connections stay open and new ones come about, but nothing is
    /// answered until [`Broker::thaw`].
    pub fn freeze(&self, node: i32) {
        self.node(node, |node| node.frozen = true);
    }

    /// Ends [`Broker::freeze`]; what came meanwhile is answered.
    pub fn thaw(&self, node: i32) {
        self.node(node, |node| node.frozen = false);
    }

    /// How many requests ended their connection because nobody had said who asks, or the session
    /// was over.
    pub fn unwelcome(&self) -> usize {
        self.shared.lock().unwelcome
    }

    /// Changes the only password; sessions that are open stay so.
    pub fn set_password(&self, password: &str) {
        self.shared.update(|state| {
            let sasl = state.settings.sasl.as_mut().expect("a broker with SASL");
            sasl.password = password.into();
        });
    }

    /// How many connections of a node have waited for no answer for a while.
    pub fn idle_connections(&self, node: i32) -> usize {
        let state = self.shared.lock();
        connection::idle(&state.nodes[&node]).len()
    }

    /// Closes those connections of a node that wait for no answer, as its idle limit does.
    /// Returns how many.
    pub fn drop_idle_connections(&self, node: i32) -> usize {
        self.shared
            .update(|state| connection::hang_up_idle(state, node))
    }

    /// Closes all connections of a node.
    pub fn drop_connections(&self, node: i32) {
        self.shared.update(|state| connection::hang_up(state, node));
    }

    /// How many connections a node has.
    pub fn connections(&self, node: i32) -> usize {
        self.shared.lock().nodes[&node].connections.len()
    }

    // Topics

    /// Makes a topic; its partitions are led by the nodes in turn, beginning with node 1.
    pub fn create_topic(&self, name: &str, partitions: usize) {
        self.shared.update(|state| {
            assert!(!state.topics.contains_key(name), "topic {name} exists");
            state.create_topic(name, partitions);
        });
    }

    /// Removes a topic with its data. Committed offsets stay.
    pub fn delete_topic(&self, name: &str) {
        self.shared.update(|state| _ = state.topics.remove(name));
    }

    /// Lets a topic grow to that many partitions.
    pub fn add_partitions(&self, topic: &str, total: usize) {
        self.shared.update(|state| {
            let nodes: Vec<i32> = state.nodes.keys().copied().collect();
            let topic = state.topics.get_mut(topic).expect("topic");
            for leader in nodes.into_iter().cycle().skip(topic.partitions.len()) {
                if topic.partitions.len() >= total {
                    break;
                }
                topic.partitions.push(Partition::new(leader));
            }
        });
    }

    /// How many partitions a topic has; 0: there is no such topic.
    pub fn partitions(&self, topic: &str) -> usize {
        let state = self.shared.lock();
        state.topics.get(topic).map_or(0, |t| t.partitions.len())
    }

    /// The largest batch that a topic takes (error 10).
    pub fn set_max_message_bytes(&self, topic: &str, bytes: usize) {
        self.shared.update(|state| {
            state
                .topics
                .get_mut(topic)
                .expect("topic")
                .max_message_bytes = bytes;
        });
    }

    /// Who leads a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> i32 {
        self.partition(topic, partition, |p| p.leader)
    }

    /// Gives a partition another leader and the next leader epoch.
    pub fn move_leader(&self, topic: &str, partition: i32, node: i32) {
        self.partition(topic, partition, |p| {
            p.leader = node;
            p.epoch += 1;
        });
    }

    /// Appends one plain batch of records; returns the offset of its first.
    pub fn append(
        &self,
        topic: &str,
        partition: i32,
        records: impl IntoIterator<Item = NewRecord>,
    ) -> i64 {
        self.append_batch(topic, partition, &Batch::of(records))
    }

    /// Appends a batch, holes included; returns its base offset.
    pub fn append_batch(&self, topic: &str, partition: i32, batch: &Batch) -> i64 {
        let bytes = batch.encode();
        let header = batch::BatchHeader::parse(&bytes).unwrap();
        self.append_raw(topic, partition, &bytes, i64::from(header.last_delta) + 1)
    }

    /// Appends bytes that cover `offsets` offsets, whatever they are: corrupt, of an old format.
    /// Only the base offset and the leader epoch are set. Returns the base offset.
    pub fn append_raw(&self, topic: &str, partition: i32, bytes: &[u8], offsets: i64) -> i64 {
        self.partition(topic, partition, |p| p.append(bytes, offsets))
    }

    /// Removes what lies before `offset`, as retention does.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        self.partition(topic, partition, |p| p.delete_before(offset));
    }

    /// Cuts the log off at `offset`, as an unclean election does.
    pub fn truncate(&self, topic: &str, partition: i32, offset: i64) {
        self.partition(topic, partition, |p| p.truncate(offset));
    }

    /// Forgets the sequences of idempotent producers.
    pub fn forget_producers(&self, topic: &str, partition: i32) {
        self.partition(topic, partition, Partition::forget_producers);
    }

    /// Where open transactions begin; `None`: none is open. Counts under `read_committed`.
    pub fn set_last_stable(&self, topic: &str, partition: i32, offset: Option<i64>) {
        self.partition(topic, partition, |p| p.stable = offset);
    }

    /// The aborted transactions that Fetch tells of: producer id and first offset of each.
    pub fn set_aborted(&self, topic: &str, partition: i32, aborted: &[(i64, i64)]) {
        self.partition(topic, partition, |p| p.aborted = aborted.to_vec());
    }

    /// First offset, and the one behind the last.
    pub fn ends(&self, topic: &str, partition: i32) -> (i64, i64) {
        self.partition(topic, partition, |p| (p.start, p.end))
    }

    /// What lies in a log, decoded; what cannot be is left out, markers are not.
    pub fn records(&self, topic: &str, partition: i32) -> Vec<LogRecord> {
        self.partition(topic, partition, |p| p.records())
    }

    /// What lies in all logs of a topic, partition by partition.
    pub fn all_records(&self, topic: &str) -> Vec<LogRecord> {
        let all = (0..self.partitions(topic) as i32).flat_map(|p| self.records(topic, p));
        all.collect()
    }

    // Groups

    /// Gives a group another coordinator. Its members and offsets go along.
    pub fn move_coordinator(&self, group: &str, node: i32) {
        self.shared.update(|state| {
            state.coordinators.insert(group.into(), node);
            if let Some(group) = state.groups.get_mut(group) {
                group.refresh(Instant::now());
            }
        });
    }

    /// The coordinator of a group, whether the group exists or not.
    pub fn coordinator(&self, group: &str) -> i32 {
        self.shared.lock().coordinator(group)
    }

    /// How a group stands; one that nobody joined is empty.
    pub fn group(&self, group: &str) -> GroupView {
        let state = self.shared.lock();
        let none = group::Group::default();
        let group = state.groups.get(group).unwrap_or(&none);
        let members = group.members.iter();
        GroupView {
            state: match group.phase {
                Phase::Empty => "Empty",
                Phase::Preparing { .. } => "PreparingRebalance",
                Phase::Completing { .. } => "CompletingRebalance",
                Phase::Stable => "Stable",
            },
            generation: group.generation,
            protocol: group.protocol.clone(),
            leader: group.leader.clone(),
            members: members
                .map(|(id, member)| MemberView {
                    id: id.clone(),
                    client: member.client.clone(),
                    instance: member.instance.clone(),
                    assigned: assigned(&member.assignment),
                })
                .collect(),
        }
    }

    /// Removes a member, as its silence would. It learns of it by error 25.
    pub fn kick(&self, group: &str, member: &str) {
        self.shared.update(|state| {
            let group = state.groups.get_mut(group).expect("group");
            assert!(group.remove(member, Instant::now()), "no member {member}");
        });
    }

    /// Begins a rebalance for no reason.
    pub fn rebalance(&self, group: &str) {
        self.shared.update(|state| {
            let group = state.groups.get_mut(group).expect("group");
            group.prepare(Instant::now(), None);
        });
    }

    /// What a group has committed for a partition.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let state = self.shared.lock();
        let found = state
            .groups
            .get(group)?
            .committed
            .get(&(topic.into(), partition))?;
        Some(found.offset)
    }

    /// Sets what a group has committed.
    pub fn set_committed(&self, group: &str, topic: &str, partition: i32, offset: i64) {
        self.shared.update(|state| {
            let group = state.groups.entry(group.into()).or_default();
            let metadata = None;
            let committed = group::Committed { offset, metadata };
            group.committed.insert((topic.into(), partition), committed);
        });
    }

    /// The metadata that a group has committed with the offset of a partition.
    pub fn committed_metadata(&self, group: &str, topic: &str, partition: i32) -> Option<String> {
        let state = self.shared.lock();
        let committed = &state.groups.get(group)?.committed;
        let found = committed.get(&(topic.into(), partition))?;
        found.metadata.clone()
    }

    /// Sets what a group has committed, with metadata.
    pub fn set_committed_with(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
        offset: i64,
        metadata: &str,
    ) {
        self.shared.update(|state| {
            let group = state.groups.entry(group.into()).or_default();
            let metadata = Some(metadata.into());
            let committed = group::Committed { offset, metadata };
            group.committed.insert((topic.into(), partition), committed);
        });
    }

    /// Forgets all that a group has committed.
    pub fn delete_committed(&self, group: &str) {
        self.shared.update(|state| {
            if let Some(group) = state.groups.get_mut(group) {
                group.committed.clear();
            }
        });
    }

    /// Every attempt of a group to commit, in order, refused ones included.
    pub fn commits(&self, group: &str) -> Vec<CommitSeen> {
        let state = self.shared.lock();
        state
            .groups
            .get(group)
            .map(|g| g.commits.clone())
            .unwrap_or_default()
    }

    // Script

    /// Begins a hook for requests of this kind. Hooks are asked in the order in which they were
    /// set, and one that is used up steps aside: two in a row are for two requests in a row.
    pub fn on(&self, api: ApiKey) -> HookBuilder<'_> {
        let id = self.shared.lock().fresh();
        HookBuilder::new(self, id, api)
    }

    /// What was throttled and followed by a request within the pause, on the same connection. For
    /// clients that have one request at a time under way on it: another one may have left before.
    pub fn hasty(&self) -> Vec<ApiKey> {
        self.shared.lock().hasty.clone()
    }

    /// Removes all hooks.
    pub fn clear_hooks(&self) {
        self.shared.update(|state| state.hooks.clear());
    }

    /// All requests so far, in the order in which they came.
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.lock().seen.clone()
    }

    /// All requests of one kind so far.
    pub fn requests_of(&self, api: ApiKey) -> Vec<Seen> {
        let state = self.shared.lock();
        state
            .seen
            .iter()
            .filter(|s| s.api == api)
            .cloned()
            .collect()
    }

    /// How many requests of one kind have come.
    pub fn count(&self, api: ApiKey) -> usize {
        self.shared
            .lock()
            .seen
            .iter()
            .filter(|s| s.api == api)
            .count()
    }

    /// Waits until it is so, looking again after every change.
    ///
    /// # Panics
    ///
    /// When it is not so in [`PATIENCE`]; says what was waited for.
    pub fn wait(&self, what: &str, so: impl Fn(&Self) -> bool) {
        self.wait_for(PATIENCE, what, so);
    }

    /// The same for what takes longer than [`PATIENCE`] by its nature.
    pub fn wait_for(&self, patience: Duration, what: &str, so: impl Fn(&Self) -> bool) {
        let until = Instant::now() + patience;
        loop {
            let seen = self.shared.changes();
            if so(self) {
                return;
            }
            // Changes that go on for ever, such as heartbeats, are no reason to wait for ever.
            if Instant::now() >= until || !self.shared.wait_change(seen, until) {
                let groups: Vec<String> = self.shared.lock().groups.keys().cloned().collect();
                let groups = groups.iter().map(|g| (g, self.group(g)));
                let groups: Vec<_> = groups.collect();
                let tail = self.requests();
                let tail = tail.iter().rev().take(12);
                let tail = tail.map(|s| format!("{:?} v{} at {}", s.api, s.version, s.node));
                let tail: Vec<String> = tail.collect();
                panic!("in vain: {what}; groups {groups:#?}; last requests {tail:#?}");
            }
        }
    }

    fn listen(&self, id: i32, listener: TcpListener) {
        let address = listener.local_addr().unwrap();
        self.shared.update(|state| {
            let versions = state.nodes.get(&id).and_then(|n| n.versions.clone());
            let node = Node {
                address,
                versions,
                running: true,
                frozen: false,
                connections: BTreeMap::new(),
                quiet: BTreeMap::new(),
            };
            state.nodes.insert(id, node);
        });
        let thread = connection::listen(Arc::clone(&self.shared), id, listener);
        self.threads.lock().unwrap().listeners.insert(id, thread);
    }

    fn node(&self, id: i32, change: impl FnOnce(&mut Node)) {
        let change = |state: &mut State| change(state.nodes.get_mut(&id).expect("node"));
        self.shared.update(change);
    }

    fn partition<T>(&self, topic: &str, index: i32, f: impl FnOnce(&mut Partition) -> T) -> T {
        self.shared.update(|state| {
            let found = state.partition_mut(topic, index);
            f(found.unwrap_or_else(|| panic!("no partition {topic}-{index}")))
        })
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let running: Vec<(i32, SocketAddr)> = self.shared.update(|state| {
            state.closed = true;
            let running = state.nodes.iter_mut().filter(|(_, n)| n.running);
            let running = running.map(|(id, n)| {
                n.running = false;
                (*id, n.address)
            });
            let running: Vec<_> = running.collect();
            for (id, _) in &running {
                connection::hang_up(state, *id);
            }
            running
        });
        for (_, address) in running {
            drop(TcpStream::connect(address));
        }
        let threads = std::mem::take(self.threads.get_mut().unwrap());
        for thread in threads.listeners.into_values().chain(threads.timer) {
            join(thread);
        }
    }
}

/// Ends with the thread, and fails the test when the thread did.
fn join(thread: JoinHandle<()>) {
    if let Err(panic) = thread.join()
        && !thread::panicking()
    {
        std::panic::resume_unwind(panic);
    }
}

/// Binds a port without listening on it.
fn reserve(address: SocketAddr) -> OwnedFd {
    use rustix::net::{AddressFamily, SocketType, bind, socket, sockopt};
    let held = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    sockopt::set_socket_reuseaddr(&held, true).unwrap();
    // A program that another test is just starting has a copy of the listener until it runs.
    let until = Instant::now() + PATIENCE;
    while let Err(error) = bind(&held, &address) {
        assert!(Instant::now() < until, "port of {address}: {error}");
        thread::yield_now();
    }
    held
}

/// Reads an assignment; what is no assignment is none.
fn assigned(bytes: &Bytes) -> Vec<(String, i32)> {
    let mut bytes = bytes.clone();
    if bytes.len() < 2 {
        return Vec::new();
    }
    let version = bytes.get_i16().clamp(0, 3);
    let Ok(assignment) = ConsumerProtocolAssignment::decode(&mut bytes, version) else {
        return Vec::new();
    };
    let topics = assignment.assigned_partitions.into_iter();
    let all = topics.flat_map(|topic| {
        let name = topic.topic.to_string();
        topic.partitions.into_iter().map(move |p| (name.clone(), p))
    });
    all.collect()
}
