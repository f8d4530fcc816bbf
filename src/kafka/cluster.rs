//! What we know of a cluster: brokers, topics, leaders, the coordinator; and the connections.
//!
//! Consumer and producer each have an object of their own and use it from one thread. Nothing
//! here loops: a call makes at most one round over the brokers, says what failed and when the
//! next attempt is worth while, and the owner decides. A round waits for nobody beyond a moment
//! where the owner has other things to do: it goes on with the next call.
//!
//! Metadata and coordinator look-ups have a connection of their own, since a Fetch or JoinGroup
//! under way would hold them up. Brokers are asked first where metadata lists them, then by the
//! bootstrap list, so that a cluster whose every address changed is found again (KIP-899). One
//! that answers is kept until what it says is of no help: a broker that is cut off from its cluster
//! goes on telling what was.
//! Log lines tell changes of a broker's state, not attempts.

mod reach;
mod round;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    FindCoordinatorRequest, MetadataRequest, MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::TopicPartition;
use super::connection::{Connection, Timeouts};
use super::error::{Code, Error};
use super::options::ClusterOptions;
use super::stats::Stats;
use super::versions::Api;
use crate::backoff::Backoff;
use crate::error::chain;
use crate::outage::Outage;
use reach::Reach;
use round::Round;

/// Shortest time between two refreshes.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);
/// Longest time between two refreshes while something is missing.
const MAX_REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// A broker that has told us what is not so for so long is asked no more while there are others.
const DOUBT: Duration = Duration::from_secs(5);

/// How long a caller waits for a connection that is being made, or for a round over the brokers.
const PATIENCE: Duration = Duration::from_millis(50);

/// Where a connection that is being made arrives.
type Dial = Receiver<Result<Connection, Error>>;

/// What a connection is for. One that waits for the group must not hold up data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Use {
    /// Fetch, ListOffsets, Produce.
    Data,
    /// JoinGroup, SyncGroup, OffsetFetch, OffsetCommit, LeaveGroup.
    Group,
    /// Questions to any broker.
    Control,
}

/// What metadata says about a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TopicState {
    /// Nobody was asked yet.
    Unknown,
    /// The broker has no answer but a code: missing, not authorised, not a valid name.
    Refused(Code),
    /// It has so many partitions.
    Known {
        /// At least 1.
        partitions: i32,
    },
}

/// The broker that keeps a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Coordinator {
    /// Its number.
    pub(super) node: i32,
    /// `HOST:PORT`.
    pub(super) address: Arc<str>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Topic {
    code: Option<Code>,
    /// `None` where brokers give none.
    id: Option<Uuid>,
    /// Leader by partition; `None` while it has none.
    leaders: BTreeMap<i32, Option<i32>>,
}

impl Topic {
    /// Whether another look is worth while.
    fn is_incomplete(&self, brokers: &BTreeMap<i32, Arc<str>>) -> bool {
        let is_led = |leader: &Option<i32>| leader.is_some_and(|node| brokers.contains_key(&node));
        self.leaders.is_empty() || !self.leaders.values().all(is_led)
    }
}

/// Whether what we are told is of help.
#[derive(Debug, Default)]
struct Trust {
    /// When we were first and last told the same although it had turned out wrong.
    in_vain: Option<(Instant, Instant)>,
}

impl Trust {
    /// Notes another answer. Whether somebody else should be asked the next time.
    fn is_lost(&mut self, helps: bool, now: Instant) -> bool {
        /// What was so long ago is another story.
        const FORGOTTEN: Duration = Duration::from_secs(30);
        let earlier = self.in_vain.take();
        if helps {
            return false;
        }
        let recent = earlier.filter(|(_, last)| now.saturating_duration_since(*last) < FORGOTTEN);
        let first = recent.map_or(now, |(first, _)| first);
        if now.saturating_duration_since(first) > DOUBT {
            return true;
        }
        self.in_vain = Some((first, now));
        false
    }
}

/// A cluster as one client sees it.
#[derive(Debug)]
pub(super) struct Cluster {
    options: ClusterOptions,
    stats: Arc<Stats>,
    timeouts: Timeouts,
    bootstrap: Vec<Arc<str>>,
    brokers: BTreeMap<i32, Arc<str>>,
    topics: BTreeMap<Arc<str>, Topic>,
    reach: HashMap<Arc<str>, Reach>,
    links: HashMap<(Use, Arc<str>), Connection>,
    dials: HashMap<(Use, Arc<str>), Dial>,
    control: Option<Box<Connection>>,
    round: Option<Round>,
    /// How long one call may wait for a round; `None`: until it is over.
    patience: Option<Duration>,
    /// Topics that the metadata under way was asked for.
    asked: Vec<Arc<str>>,
    coordinator: Option<Coordinator>,
    /// The one before, which was of no use.
    former_coordinator: Option<Coordinator>,
    /// In what brokers say of leaders.
    metadata_trust: Trust,
    /// In what they say of the coordinator.
    coordinator_trust: Trust,
    /// Who was of no help the last time.
    doubted: Option<Arc<str>>,
    refreshed: Option<Instant>,
    expired: bool,
    not_before: Option<Instant>,
    pacing: Backoff,
    problem: Option<Arc<str>>,
    /// What the log knows of the problem.
    outage: Outage,
}

impl Cluster {
    /// A cluster that is known by its bootstrap list alone. No I/O yet.
    pub(super) fn new(options: ClusterOptions, stats: Arc<Stats>) -> Self {
        let mut bootstrap: Vec<Arc<str>> = options
            .bootstrap_servers
            .iter()
            .map(|server| Arc::from(server.as_str()))
            .collect();
        // Many workers with the same list must not all ask the first broker.
        fastrand::shuffle(&mut bootstrap);
        if let Some(tls) = &options.security.tls {
            log::info!(cluster = options.name; "connections to the {} cluster trust {}", options.name, tls.trusts());
        }
        Self {
            options,
            stats,
            timeouts: Timeouts::default(),
            bootstrap,
            brokers: BTreeMap::new(),
            topics: BTreeMap::new(),
            reach: HashMap::new(),
            links: HashMap::new(),
            dials: HashMap::new(),
            control: None,
            round: None,
            patience: None,
            asked: Vec::new(),
            coordinator: None,
            former_coordinator: None,
            metadata_trust: Trust::default(),
            coordinator_trust: Trust::default(),
            doubted: None,
            refreshed: None,
            expired: false,
            not_before: None,
            pacing: Backoff::new(REFRESH_PAUSE, MAX_REFRESH_PAUSE, 20),
            problem: None,
            outage: Outage::default(),
        }
    }

    /// Its owner has other things to do: what takes longer than a moment is
    /// [`Error::Connecting`], and goes on with the next call.
    pub(super) fn impatient(mut self) -> Self {
        self.patience = Some(PATIENCE);
        self
    }

    /// Its settings.
    pub(super) fn options(&self) -> &ClusterOptions {
        &self.options
    }

    /// Limits for making connections.
    pub(super) fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// Includes a topic in metadata from now on.
    pub(super) fn want(&mut self, topic: &Arc<str>) {
        if !self.topics.contains_key(topic) {
            self.topics.insert(topic.clone(), Topic::default());
            self.hurry();
        }
    }

    /// Lets the next [`Cluster::refresh_if_due`] ask, because something that metadata said has
    /// turned out wrong.
    pub(super) fn expire(&mut self) {
        if !self.expired {
            self.expired = true;
            if self
                .refreshed
                .is_some_and(|at| at.elapsed() > MAX_REFRESH_PAUSE)
            {
                self.hurry();
            }
        }
    }

    fn hurry(&mut self) {
        // Not while no broker can be reached: that pause is theirs.
        if self.problem.is_none() {
            self.pacing.reset();
            self.not_before = None;
        }
    }

    /// Asks for metadata when it is too old, expired or incomplete, and at most once per 100 ms,
    /// slowing down to once a second while nothing changes. Whether it was asked.
    ///
    /// # Errors
    /// [`Error::NoBroker`], and non-transient ones. What was known stays known.
    pub(super) fn refresh_if_due(&mut self) -> Result<bool, Error> {
        let now = Instant::now();
        if self.not_before.is_some_and(|at| now < at) {
            return Ok(false);
        }
        let old = self
            .refreshed
            .is_none_or(|at| at.elapsed() >= self.options.metadata_max_age);
        if !(old || self.is_wrong()) {
            return Ok(false);
        }
        match self.refresh() {
            Ok(()) => Ok(true),
            Err(Error::Connecting { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether metadata has turned out wrong, or leaves out what we want to know.
    fn is_wrong(&self) -> bool {
        let incomplete = |topic: &Topic| topic.is_incomplete(&self.brokers);
        self.expired || self.topics.values().any(incomplete)
    }

    /// Asks for metadata now.
    ///
    /// # Errors
    /// As [`Cluster::refresh_if_due`], and [`Error::Connecting`].
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        let wanted: Vec<Arc<str>> = self.topics.keys().cloned().collect();
        let is_asked = |round: &Round| round.key == MetadataRequest::KEY;
        if !self.round.as_ref().is_some_and(is_asked) {
            self.asked.clone_from(&wanted);
        }
        let topics = wanted.iter().map(|name| {
            MetadataRequestTopic::default()
                .with_name(Some(TopicName(StrBytes::from_string(name.to_string()))))
        });
        let request = MetadataRequest::default()
            .with_topics(Some(topics.collect()))
            // Topics are made by people.
            .with_allow_auto_topic_creation(false);
        let outcome = self.ask(&request, |response| {
            (!addresses(response).is_empty())
                .then_some(())
                .ok_or_else(|| "metadata without brokers".to_string())
        });
        let pause = match outcome {
            Ok(response) => {
                let was_right = !self.is_wrong();
                let changed = self.take_over(&response);
                let now = Instant::now();
                if self.metadata_trust.is_lost(was_right || changed, now) {
                    self.turn_away();
                }
                self.refreshed = Some(now);
                self.expired = false;
                if changed {
                    self.pacing.reset();
                }
                // It was asked for before somebody wanted one more.
                if self.asked != wanted {
                    return self.refresh();
                }
                self.pacing.next_pause()
            }
            Err(error) => {
                let pause = error.pause().unwrap_or(REFRESH_PAUSE);
                self.not_before = Some(Instant::now() + pause);
                return Err(error);
            }
        };
        self.not_before = Some(Instant::now() + pause);
        Ok(())
    }

    /// What metadata says about a topic that was wanted.
    pub(super) fn topic(&self, name: &str) -> TopicState {
        match self.topics.get(name) {
            None => TopicState::Unknown,
            Some(topic) => match (topic.code, i32::try_from(topic.leaders.len())) {
                (_, Ok(partitions @ 1..)) => TopicState::Known { partitions },
                (Some(code), _) => TopicState::Refused(code),
                (None, _) => TopicState::Unknown,
            },
        }
    }

    /// The id that metadata gives a topic, another one each time that it is made.
    pub(super) fn topic_id(&self, name: &str) -> Option<Uuid> {
        self.topics.get(name)?.id
    }

    /// The broker that leads a partition; `None` while it has no leader, or none that is listed,
    /// or is not known.
    pub(super) fn leader(&self, partition: &TopicPartition) -> Option<i32> {
        let leaders = &self.topics.get(&partition.topic)?.leaders;
        leaders
            .get(&partition.partition)?
            .filter(|node| self.brokers.contains_key(node))
    }

    /// Brokers and their `HOST:PORT`.
    pub(super) fn brokers(&self) -> impl Iterator<Item = (i32, &Arc<str>)> {
        self.brokers.iter().map(|(node, address)| (*node, address))
    }

    /// When metadata was last brought up to date.
    pub(super) fn refreshed(&self) -> Option<Instant> {
        self.refreshed
    }

    /// Why no broker could be asked the last time; `None` when one could.
    pub(super) fn problem(&self) -> Option<&Arc<str>> {
        self.problem.as_ref()
    }

    /// The connection for data to a broker, made anew where needed. May have answers to come.
    ///
    /// # Errors
    /// [`Error::Waiting`] within the pause after a failed attempt, [`Error::Connecting`] while
    /// it takes longer than a moment, [`Error::UnknownBroker`], and
    /// those of [`Connection::open`].
    pub(super) fn connection(&mut self, node: i32) -> Result<&mut Connection, Error> {
        let address = self
            .brokers
            .get(&node)
            .cloned()
            .ok_or(Error::UnknownBroker { node })?;
        self.link(Use::Data, address)
    }

    /// The connection for the group to its coordinator, made anew where needed.
    ///
    /// # Errors
    /// As [`Cluster::connection`].
    pub(super) fn group_connection(
        &mut self,
        coordinator: &Coordinator,
    ) -> Result<&mut Connection, Error> {
        self.link(Use::Group, coordinator.address.clone())
    }

    /// The data connection to a broker if there is one that works, without making it.
    pub(super) fn existing(&mut self, node: i32) -> Option<&mut Connection> {
        let address = self.brokers.get(&node)?.clone();
        self.links
            .get_mut(&(Use::Data, address))
            .filter(|connection| !connection.is_dead())
    }

    fn link(&mut self, purpose: Use, address: Arc<str>) -> Result<&mut Connection, Error> {
        let key = (purpose, address.clone());
        if let Some(old) = self.links.get_mut(&key) {
            if let Some(cause) = old.cause_of_death() {
                let reach = self.reach.entry(address.clone()).or_insert_with(Reach::new);
                reach.failed(self.options.name, &address, cause);
                self.links.remove(&key);
            } else if old.is_stale() {
                // Brokers close what is idle. No loss, no line in the log.
                self.links.remove(&key);
            }
        }
        let place = match self.links.entry(key.clone()) {
            Entry::Occupied(link) => return Ok(link.into_mut()),
            Entry::Vacant(place) => place,
        };
        let reach = self.reach.entry(address.clone()).or_insert_with(Reach::new);
        // A moment is enough for a healthy broker; for one that does not answer, others must
        // not wait.
        let (dial, patience) = match self.dials.entry(key) {
            Entry::Occupied(dial) => (dial, Duration::ZERO),
            Entry::Vacant(place) => {
                if let Some(waiting) = reach.waiting(&address) {
                    return Err(waiting);
                }
                let dial = dial(address.clone(), &self.options, self.timeouts);
                (place.insert_entry(dial), PATIENCE)
            }
        };
        let outcome = match dial.get().recv_timeout(patience) {
            Err(RecvTimeoutError::Timeout) => {
                return Err(Error::Connecting { address });
            }
            Err(RecvTimeoutError::Disconnected) => Err(unconnected(&address, DIED)),
            Ok(outcome) => outcome,
        };
        dial.remove();
        match outcome {
            Ok(connection) => {
                reach.opened(self.options.name, &address, &self.stats);
                Ok(place.insert(connection))
            }
            Err(error) => Err(reach.not_opened(self.options.name, &address, error)),
        }
    }

    /// The broker that keeps a group: the one found last, or the one that brokers name now.
    ///
    /// # Errors
    /// [`Error::NoBroker`], [`Error::Connecting`], or [`Error::Refused`] with the code of the
    /// answer.
    pub(super) fn coordinator(&mut self, group: &str) -> Result<Coordinator, Error> {
        if let Some(known) = &self.coordinator {
            return Ok(known.clone());
        }
        let request = FindCoordinatorRequest::default()
            .with_key(StrBytes::from_string(group.to_owned()))
            .with_key_type(0);
        let response = self.ask(&request, |response| {
            if response.error_code != 0 {
                return Ok(());
            }
            address_of(&response.host, response.port)
                .map(drop)
                .ok_or_else(|| "a coordinator without address".to_string())
        })?;
        let answer = match Code::try_from_code(response.error_code) {
            Some(code) => Err(Error::Refused {
                address: self.control_address(),
                api: FindCoordinatorRequest::NAME,
                code,
            }),
            None => Ok(Coordinator {
                node: response.node_id.0,
                address: address_of(&response.host, response.port).unwrap_or_default(),
            }),
        };
        let helps = matches!(&answer, Ok(found) if self.former_coordinator.as_ref() != Some(found));
        if self.coordinator_trust.is_lost(helps, Instant::now()) {
            self.turn_away();
        }
        let found = answer?;
        log::debug!(cluster = self.options.name, group; "coordinator of {group} is at {}", found.address);
        self.coordinator = Some(found.clone());
        Ok(found)
    }

    /// Looks the coordinator up again at the next use.
    pub(super) fn forget_coordinator(&mut self) {
        if let Some(known) = self.coordinator.take() {
            self.former_coordinator = Some(known);
        }
    }

    /// Asks another broker the next time, where there is one.
    fn turn_away(&mut self) {
        let mut known = self.brokers.values().chain(&self.bootstrap);
        let Some(connection) = &self.control else {
            return;
        };
        let address = connection.address().clone();
        if known.any(|other| *other != address) {
            log::debug!(cluster = self.options.name; "what {address} tells is of no help, asking another broker");
            self.control = None;
            self.doubted = Some(address);
        }
    }

    /// The error for a request that the broker asked last does not speak; `None` when it does, or
    /// nobody was asked yet.
    pub(super) fn lacks<A: Api>(&self) -> Option<Error> {
        self.control.as_ref()?.version::<A>().err()
    }

    fn control_address(&self) -> Arc<str> {
        self.control
            .as_ref()
            .map(|connection| connection.address().clone())
            .unwrap_or_default()
    }

    /// Takes a topic out of metadata again.
    pub(super) fn forget(&mut self, topic: &str) {
        self.topics.remove(topic);
    }

    fn answers(&mut self) {
        self.problem = None;
        self.outage.over(Instant::now());
    }

    fn failed(&mut self, address: Arc<str>, error: &Error) {
        let reach = self.reach.entry(address.clone()).or_insert_with(Reach::new);
        reach.failed(self.options.name, &address, &chain(error));
    }

    /// Takes an answer over; whether it says anything new.
    fn take_over(&mut self, response: &MetadataResponse) -> bool {
        let brokers = addresses(response);
        let mut changed = brokers != self.brokers;
        self.brokers = brokers;
        for answer in &response.topics {
            let Some(topic) = answer
                .name
                .as_ref()
                .and_then(|name| self.topics.get_mut(name.as_str()))
            else {
                continue;
            };
            let leaders: BTreeMap<i32, Option<i32>> = answer
                .partitions
                .iter()
                .filter(|partition| partition.partition_index >= 0)
                .map(|partition| {
                    let leader = partition.leader_id.0;
                    (partition.partition_index, (leader >= 0).then_some(leader))
                })
                .collect();
            let fresh = Topic {
                code: Code::try_from_code(answer.error_code),
                id: Some(answer.topic_id).filter(|id| !id.is_nil()),
                leaders,
            };
            if fresh != *topic {
                changed = true;
                *topic = fresh;
            }
        }
        if changed {
            self.forget_vanished();
        }
        changed
    }

    /// Ends connections to addresses that no broker has any more, and forgets how well they were
    /// reached.
    fn forget_vanished(&mut self) {
        let listed = |address: &Arc<str>| self.brokers.values().any(|known| known == address);
        let coordinator = self.coordinator.as_ref().map(|known| &known.address);
        let wanted = |(purpose, address): &(Use, Arc<str>)| {
            listed(address)
                || match purpose {
                    Use::Data => false,
                    Use::Group => Some(address) == coordinator,
                    Use::Control => self.bootstrap.contains(address),
                }
        };
        self.links.retain(|key, _| wanted(key));
        self.dials.retain(|key, _| wanted(key));
        self.reach.retain(|address, _| {
            listed(address) || self.bootstrap.contains(address) || Some(address) == coordinator
        });
    }
}

/// Connects on a thread of its own, which ends with its time limits at the latest. The name
/// look-up has none, which is the other reason for it.
fn dial(address: Arc<str>, options: &ClusterOptions, timeouts: Timeouts) -> Dial {
    let (sender, receiver) = mpsc::sync_channel(1);
    let theirs = (sender.clone(), address.clone(), options.clone());
    let spawned = thread::Builder::new()
        .name("kafka-connect".into())
        .spawn(move || {
            let (sender, address, options) = theirs;
            // Nobody listens any more when the broker has vanished meanwhile.
            let _ = sender.send(Connection::open(&address, &options, &timeouts));
        });
    if let Err(error) = spawned {
        log::debug!("no thread to connect to {address} with: {error}");
        // To be waited for is better than never to be reached.
        let _ = sender.send(Connection::open(&address, options, &timeouts));
    }
    receiver
}

const DIED: &str = "the attempt died";

fn unconnected(address: &Arc<str>, why: &'static str) -> Error {
    Error::Connect {
        address: address.clone(),
        source: Arc::new(io::Error::other(why)),
    }
}

/// Brokers of an answer that have an address.
fn addresses(response: &MetadataResponse) -> BTreeMap<i32, Arc<str>> {
    response
        .brokers
        .iter()
        .filter_map(|broker| Some((broker.node_id.0, address_of(&broker.host, broker.port)?)))
        .collect()
}

fn address_of(host: &str, port: i32) -> Option<Arc<str>> {
    let port = u16::try_from(port).ok().filter(|port| *port > 0)?;
    if host.is_empty() {
        return None;
    }
    // A bare IPv6 address would run into its port.
    Some(if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}").into()
    } else {
        format!("{host}:{port}").into()
    })
}

#[cfg(test)]
mod tests {
    use kafka_protocol::messages::BrokerId;
    use kafka_protocol::messages::metadata_response::{
        MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
    };

    use super::*;

    fn text(s: &str) -> StrBytes {
        StrBytes::from_string(s.to_owned())
    }

    fn cluster(bootstrap: &[&str]) -> Cluster {
        let options = ClusterOptions {
            bootstrap_servers: bootstrap.iter().map(ToString::to_string).collect(),
            ..ClusterOptions::default()
        };
        Cluster::new(options, Arc::default())
    }

    fn metadata(brokers: &[(i32, &str, i32)], code: i16, leaders: &[i32]) -> MetadataResponse {
        let partitions = (0..).zip(leaders).map(|(index, leader)| {
            MetadataResponsePartition::default()
                .with_partition_index(index)
                .with_leader_id(BrokerId(*leader))
        });
        MetadataResponse::default()
            .with_brokers(
                brokers
                    .iter()
                    .map(|(node, host, port)| {
                        MetadataResponseBroker::default()
                            .with_node_id(BrokerId(*node))
                            .with_host(text(host))
                            .with_port(*port)
                    })
                    .collect(),
            )
            .with_topics(vec![
                MetadataResponseTopic::default()
                    .with_error_code(code)
                    .with_name(Some(TopicName(text("in"))))
                    .with_partitions(partitions.collect()),
            ])
    }

    #[test]
    fn knows_what_metadata_says() {
        let mut cluster = cluster(&["first:9092"]);
        assert_eq!(cluster.topic("in"), TopicState::Unknown);
        cluster.want(&Arc::from("in"));
        let brokers = [(1, "a", 9092), (2, "::1", 9093), (3, "nowhere", 0)];
        assert!(cluster.take_over(&metadata(&brokers, 0, &[2, -1])));
        assert_eq!(cluster.topic("in"), TopicState::Known { partitions: 2 });
        assert_eq!(cluster.leader(&TopicPartition::new("in", 0)), Some(2));
        assert_eq!(cluster.leader(&TopicPartition::new("in", 1)), None);
        assert_eq!(cluster.leader(&TopicPartition::new("in", 2)), None);
        assert_eq!(cluster.leader(&TopicPartition::new("out", 0)), None);
        let listed: Vec<_> = cluster.brokers().map(|(n, a)| (n, a.to_string())).collect();
        assert_eq!(listed, [(1, "a:9092".into()), (2, "[::1]:9093".into())]);
        // The same again is no news; a missing topic is.
        assert!(!cluster.take_over(&metadata(&brokers, 0, &[2, -1])));
        assert!(cluster.take_over(&metadata(&brokers, 3, &[])));
        assert_eq!(
            cluster.topic("in"),
            TopicState::Refused(Code::UnknownTopicOrPartition)
        );
    }

    #[test]
    fn who_is_of_no_help_for_long_loses_our_trust() {
        let (mut trust, start) = (Trust::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!trust.is_lost(false, at(0)));
        assert!(!trust.is_lost(false, at(5)));
        assert!(trust.is_lost(false, at(6)));
        assert!(!trust.is_lost(false, at(7)), "the next one");
        assert!(!trust.is_lost(true, at(10)));
        assert!(!trust.is_lost(false, at(14)), "it has helped");
        assert!(!trust.is_lost(false, at(60)), "another story");
    }

    #[test]
    fn k05_k06_who_was_of_no_help_is_asked_after_the_others() {
        let mut cluster = cluster(&["a:1"]);
        for (node, address) in [(1, "a:1"), (2, "b:1"), (3, "c:1")] {
            cluster.brokers.insert(node, address.into());
        }
        cluster.doubted = Some("b:1".into());
        // The others are in any order.
        for _ in 0..50 {
            assert_eq!(cluster.candidates().back().map(|last| &**last), Some("b:1"));
        }
    }

    #[test]
    fn an_unreachable_cluster_is_asked_with_pauses() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let mut cluster = cluster(&[&address]);
        let error = cluster.refresh_if_due().unwrap_err();
        assert!(error.to_string().contains(&address), "{error}");
        assert!(cluster.problem().is_some());
        // At once it is not tried again, and says so.
        assert!(!cluster.refresh_if_due().unwrap());
        let error = cluster.refresh().unwrap_err();
        assert!(error.pause().unwrap() <= Duration::from_secs(2));
        assert!(error.to_string().contains("cannot connect"), "{error}");
        let error = cluster.connection(1).unwrap_err();
        assert!(matches!(error, Error::UnknownBroker { node: 1 }));
    }
}
