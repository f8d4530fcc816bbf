//! What we know of a cluster: brokers, topics, leaders, the coordinator; and the connections.
//!
//! Consumer and producer each have an object of their own and use it from one thread. Nothing
//! here loops: a call makes at most one round over the brokers, says what failed and when the
//! next attempt is worth while, and the owner decides. Of many brokers that hang, a call waits for
//! one or two: its owner has a sign of life to give. The next call goes on with the others.
//!
//! Metadata and coordinator look-ups have a connection of their own, since a Fetch or JoinGroup
//! under way would hold them up. Brokers are asked first where metadata lists them, then by the
//! bootstrap list, so that a cluster whose every address changed is found again (KIP-899).
//! Log lines tell changes of a broker's state, not attempts.

mod reach;

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

/// Time for an answer that the broker gives from memory.
const CONTROL: Duration = Duration::from_secs(10);
/// Shortest time between two refreshes.
const REFRESH_PAUSE: Duration = Duration::from_millis(100);
/// Longest time between two refreshes while something is missing.
const MAX_REFRESH_PAUSE: Duration = Duration::from_secs(1);

/// How far into a round over the brokers another one is still asked.
const ROUND: Duration = Duration::from_secs(5);

/// How long a caller waits for a connection that is being made.
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
    control: Option<Connection>,
    coordinator: Option<Coordinator>,
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
            coordinator: None,
            refreshed: None,
            expired: false,
            not_before: None,
            pacing: Backoff::new(REFRESH_PAUSE, MAX_REFRESH_PAUSE, 20),
            problem: None,
            outage: Outage::default(),
        }
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
        let incomplete = |topic: &Topic| topic.is_incomplete(&self.brokers);
        if old || self.expired || self.topics.values().any(incomplete) {
            self.refresh()?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Asks for metadata now.
    ///
    /// # Errors
    /// As [`Cluster::refresh_if_due`].
    pub(super) fn refresh(&mut self) -> Result<(), Error> {
        let topics = self.topics.keys().map(|name| {
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
                let changed = self.take_over(&response);
                self.refreshed = Some(Instant::now());
                self.expired = false;
                if changed {
                    self.pacing.reset();
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
            Err(RecvTimeoutError::Disconnected) => Err(Error::Connect {
                address: address.clone(),
                source: Arc::new(io::Error::other("no thread to connect with")),
            }),
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
    /// [`Error::NoBroker`], or [`Error::Refused`] with the code of the answer.
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
        if let Some(code) = Code::try_from_code(response.error_code) {
            return Err(Error::Refused {
                address: self.control_address(),
                api: FindCoordinatorRequest::NAME,
                code,
            });
        }
        let found = Coordinator {
            node: response.node_id.0,
            address: address_of(&response.host, response.port).unwrap_or_default(),
        };
        log::debug!(cluster = self.options.name, group; "coordinator of {group} is at {}", found.address);
        self.coordinator = Some(found.clone());
        Ok(found)
    }

    /// Looks the coordinator up again at the next use.
    pub(super) fn forget_coordinator(&mut self) {
        self.coordinator = None;
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

    /// Puts a question to any broker: the one asked last, then each that is known, then the
    /// bootstrap list, until the time for a round is over. An answer that `check` does not like
    /// counts as none.
    ///
    /// # Errors
    /// [`Error::NoBroker`], [`Error::Throttled`], and non-transient ones.
    pub(super) fn ask<A: Api>(
        &mut self,
        request: &A,
        check: impl Fn(&A::Response) -> Result<(), String>,
    ) -> Result<A::Response, Error> {
        let mut last: Option<Error> = None;
        let mut refused: Option<Error> = None;
        let mut too_old_or_new = true;
        let mut soonest: Option<Duration> = None;
        let began = Instant::now();
        if let Some(mut connection) = self.control.take() {
            if connection.is_stale() {
                // Closed while idle: the same broker is asked again below.
            } else {
                match exchange(&mut connection, request, &check) {
                    Ok(response) => {
                        self.control = Some(connection);
                        self.answers();
                        return Ok(response);
                    }
                    // Nothing wrong with the broker, and another one would say the same.
                    Err(
                        error @ (Error::Throttled { .. }
                        | Error::Encode { .. }
                        | Error::Expired { .. }),
                    ) => {
                        self.control = Some(connection);
                        return Err(error);
                    }
                    Err(error) => {
                        self.failed(connection.address().clone(), &error);
                        last = Some(error);
                    }
                }
            }
        }
        let mut candidates: Vec<Arc<str>> = self.brokers.values().cloned().collect();
        fastrand::shuffle(&mut candidates);
        for address in &self.bootstrap {
            if !candidates.contains(address) {
                candidates.push(address.clone());
            }
        }
        // Each of those that did not answer lately may cost its whole time limit once more: they
        // come last, and last of all the one that was tried last.
        candidates.sort_by_key(|address| {
            let reach = self.reach.get(address);
            reach.map(|reach| (reach.is_away(), reach.retry_at()))
        });
        let mut left_out = Vec::new();
        for address in candidates {
            if began.elapsed() >= ROUND {
                left_out.push(address);
                continue;
            }
            let reach = self.reach.entry(address.clone()).or_insert_with(Reach::new);
            let opened = open(reach, &address, &self.options, &self.timeouts, &self.stats);
            let error = match opened {
                Ok(mut connection) => match exchange(&mut connection, request, &check) {
                    Ok(response) => {
                        self.control = Some(connection);
                        self.answers();
                        return Ok(response);
                    }
                    Err(error) => {
                        self.failed(address, &error);
                        error
                    }
                },
                Err(error) => error,
            };
            too_old_or_new &= matches!(error, Error::Version { .. });
            if let Some(left) = error.pause() {
                soonest = Some(soonest.map_or(left, |known| known.min(left)));
            }
            if matches!(error, Error::Authentication { .. }) && !error.is_transient() {
                refused = Some(error.clone());
            }
            // A cause says more than "waiting" does.
            if last.is_none() || !matches!(error, Error::Waiting { .. }) {
                last = Some(error);
            }
        }
        too_old_or_new &= left_out.is_empty();
        let mut untried = false;
        for address in &left_out {
            let reach = self.reach.get(address);
            untried |= reach.is_none_or(|reach| !reach.is_away());
            let at = reach.and_then(Reach::retry_at);
            let left = at.map_or(Duration::ZERO, |at| {
                at.saturating_duration_since(Instant::now())
            });
            soonest = Some(soonest.map_or(left, |known| known.min(left)));
        }
        // Nobody answers, and one does not want us: that does not pass.
        if let Some(error) = refused
            && !untried
        {
            self.problem = Some(chain(&error).into());
            return Err(error);
        }
        let last: Arc<str> = match last {
            // All of them answer, and none can be talked to: that does not pass.
            Some(error @ Error::Version { .. }) if too_old_or_new => return Err(error),
            Some(Error::Waiting { last, .. }) => last,
            Some(error) => chain(&error).into(),
            None => Arc::from("no address is known"),
        };
        // Not said before each of them has had its turn.
        if !untried {
            if self.outage.goes_on(Instant::now()) {
                log::warn!(cluster = self.options.name; "no broker of the cluster answers: {last}");
            }
            self.problem = Some(last.clone());
        }
        Err(Error::NoBroker {
            left: soonest.unwrap_or(REFRESH_PAUSE),
            last,
        })
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
            listed(address) || (*purpose == Use::Group && Some(address) == coordinator)
        };
        self.links.retain(|key, _| wanted(key));
        self.dials.retain(|key, _| wanted(key));
        self.reach.retain(|address, _| {
            listed(address) || self.bootstrap.contains(address) || Some(address) == coordinator
        });
    }
}

fn open(
    reach: &mut Reach,
    address: &Arc<str>,
    options: &ClusterOptions,
    timeouts: &Timeouts,
    stats: &Stats,
) -> Result<Connection, Error> {
    if let Some(waiting) = reach.waiting(address) {
        return Err(waiting);
    }
    match Connection::open(address, options, timeouts) {
        Ok(connection) => {
            reach.opened(options.name, address, stats);
            Ok(connection)
        }
        Err(error) => Err(reach.not_opened(options.name, address, error)),
    }
}

/// Connects on a thread of its own, which ends with its time limits at the latest. The name
/// look-up has none, which is the other reason for it.
fn dial(address: Arc<str>, options: &ClusterOptions, timeouts: Timeouts) -> Dial {
    let (sender, receiver) = mpsc::sync_channel(1);
    let options = options.clone();
    // Without a thread the sender is dropped here, which the receiver notices.
    let _ = thread::Builder::new()
        .name("kafka-connect".into())
        .spawn(move || {
            // Nobody listens any more when the broker has vanished meanwhile.
            let _ = sender.send(Connection::open(&address, &options, &timeouts));
        });
    receiver
}

fn exchange<A: Api>(
    connection: &mut Connection,
    request: &A,
    check: &impl Fn(&A::Response) -> Result<(), String>,
) -> Result<A::Response, Error> {
    let response = connection.request(request, CONTROL)?;
    check(&response).map_err(|found| Error::Malformed {
        address: connection.address().clone(),
        api: A::NAME,
        found,
    })?;
    Ok(response)
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
