//! The I/O thread of the producer.
//!
//! A record goes from the inbox to its topic's queue until the number of partitions is known,
//! then to a lane, one for each partition, and from there in a batch to the leader. Only this
//! thread touches any of it.

mod lane;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    InitProducerIdRequest, MetadataRequest, ProduceRequest, ProduceResponse, ProducerId, TopicName,
};
use kafka_protocol::protocol::StrBytes;

use super::partitioner;
use super::{Job, Question, SendError, Shared, lock};
use crate::backoff::Backoff;
use crate::error::chain;
use crate::kafka::TopicPartition;
use crate::kafka::cluster::{Cluster, TopicState};
use crate::kafka::error::{Code, Error, ends_a_topic, passes};
use crate::kafka::options::{Compression, ProducerOptions};
use crate::kafka::records::Origin;
use crate::kafka::versions::Api;
use lane::{Identity, Lane, pauses};

/// For which the broker waits for its replicas.
const REPLICAS: Duration = Duration::from_secs(30);
/// After which an answer is not expected any more.
const ANSWER: Duration = Duration::from_secs(40);
/// For which a batch that nobody waits for is still repeated.
const DELIVERY: Duration = Duration::from_secs(120);
/// After which a partition that is not listed any more does not come back.
const GONE: Duration = Duration::from_secs(5);
/// Bytes of batches in a request.
const REQUEST_BYTES: usize = 4 << 20;
/// Wait for an answer before the inbox is looked at again.
const GLANCE: Duration = Duration::from_millis(2);
/// Wait for the inbox while something is to be tried again.
const TICK: Duration = Duration::from_millis(20);

/// A request whose answer is to come.
#[derive(Debug)]
struct Request {
    partitions: Vec<TopicPartition>,
    sent: Instant,
}

pub(super) struct Sender {
    shared: Arc<Shared>,
    cluster: Cluster,
    compression: Compression,
    identity: Identity,
    identity_pauses: Backoff,
    had_identity: bool,
    /// Records whose topic is not known yet.
    homeless: BTreeMap<Arc<str>, VecDeque<Job>>,
    lanes: BTreeMap<TopicPartition, Lane>,
    /// Under way, by broker.
    requests: BTreeMap<i32, VecDeque<Request>>,
    questions: Vec<Question>,
    /// What the brokers answer that does not pass by itself.
    refused: Option<Error>,
    /// Which partition gets the next record without a key.
    turns: HashMap<Arc<str>, i32>,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, options: ProducerOptions) -> Self {
        let cluster = Cluster::new(options.cluster, shared.stats.clone()).impatient();
        Self {
            shared,
            cluster,
            compression: options.compression,
            identity: Identity::Wanted(None),
            identity_pauses: pauses(),
            had_identity: false,
            homeless: BTreeMap::new(),
            lanes: BTreeMap::new(),
            requests: BTreeMap::new(),
            questions: Vec::new(),
            refused: None,
            turns: HashMap::new(),
        }
    }

    pub(super) fn run(mut self) {
        loop {
            let closing = self.take_inbox();
            self.forget_cancelled();
            self.end_idle_stalls();
            let idle = !self.has_work();
            if closing.is_some_and(|deadline| idle || Instant::now() >= deadline) {
                break;
            }
            if idle && self.questions.is_empty() {
                continue;
            }
            self.look_around();
            self.answer_questions();
            self.settle_in();
            self.identify();
            self.reap();
            self.dispatch();
            self.collect();
            self.end_idle_stalls();
        }
        for lane in self.lanes.values_mut() {
            lane.fail_all(&SendError::Closed);
        }
        for job in self.homeless.values_mut().flat_map(|jobs| jobs.drain(..)) {
            job.ticket.finish(Err(SendError::Closed));
        }
    }

    fn has_work(&self) -> bool {
        self.homeless.values().any(|jobs| !jobs.is_empty())
            || self.lanes.values().any(Lane::has_work)
    }

    /// Takes what callers have left and, with nothing else to do, waits for it.
    fn take_inbox(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.lanes.values().any(|lane| lane.is_due(now));
        let patience = if !self.requests.is_empty() {
            // The wait is for answers then.
            None
        } else if due || self.has_work() || !self.questions.is_empty() {
            Some(TICK)
        } else {
            Some(Duration::MAX)
        };
        let shared = self.shared.clone();
        let mut inbox = lock(&shared.inbox);
        if let Some(patience) = patience {
            let empty = |inbox: &super::Inbox| {
                inbox.jobs.is_empty() && inbox.questions.is_empty() && inbox.closing.is_none()
            };
            if patience == Duration::MAX {
                while empty(&inbox) {
                    inbox = shared
                        .arrived
                        .wait(inbox)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            } else if empty(&inbox) || inbox.closing.is_some() {
                inbox = shared
                    .arrived
                    .wait_timeout(inbox, patience)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        }
        for job in inbox.jobs.drain(..) {
            self.homeless
                .entry(job.record.topic.clone())
                .or_default()
                .push_back(job);
        }
        self.questions.append(&mut inbox.questions);
        inbox.closing
    }

    /// Drops what nobody waits for: at once when it was never sent, after the delivery time when
    /// it was.
    fn forget_cancelled(&mut self) {
        for jobs in self.homeless.values_mut() {
            jobs.retain(|job| !job.ticket.is_cancelled());
        }
        let mut abandoned = Vec::new();
        for lane in self.lanes.values_mut() {
            lane.queue.retain(|job| !job.ticket.is_cancelled());
            let Some(pack) = lane.pack.take_if(|pack| {
                !pack.in_flight
                    && pack.first_sent.is_none_or(|at| at.elapsed() > DELIVERY)
                    && pack.jobs.iter().all(|job| job.ticket.is_cancelled())
            }) else {
                continue;
            };
            // Written or not, nobody knows, and so the next sequence is unknown too.
            if pack.first_sent.is_some() {
                abandoned.push(pack.origin);
            }
        }
        for origin in abandoned {
            self.renew(origin);
        }
    }

    /// Keeps metadata of the topics in use up to date.
    fn look_around(&mut self) {
        for topic in self.homeless.keys() {
            self.cluster.want(topic);
        }
        for question in &self.questions {
            self.cluster.want(&question.topic);
        }
        match self.cluster.refresh_if_due() {
            Ok(false) => {}
            Ok(true) => self.refused = self.cluster.lacks::<ProduceRequest>(),
            Err(error) => {
                let reason = chain(&error);
                for topic in self.busy_topics() {
                    self.stall(&topic, &reason);
                }
                if error.is_transient() {
                    return;
                }
                if let Error::Authentication { .. } = error {
                    self.fail_all();
                }
                self.refused = Some(error);
            }
        }
    }

    /// Nobody may write any more: the brokers do not know us.
    fn fail_all(&mut self) {
        let error = |topic: &Arc<str>| SendError::NotAuthorised {
            topic: topic.clone(),
        };
        for (topic, jobs) in &mut self.homeless {
            for job in jobs.drain(..) {
                job.ticket.finish(Err(error(topic)));
            }
        }
        let mut in_doubt = Vec::new();
        for (partition, lane) in &mut self.lanes {
            if lane.pack.as_ref().is_none_or(|pack| !pack.in_flight) {
                // Written or not, nobody knows, and so the next sequence is unknown too.
                let sent = lane.pack.as_ref().filter(|pack| pack.first_sent.is_some());
                in_doubt.extend(sent.map(|pack| pack.origin));
                lane.fail_all(&error(&partition.topic));
            }
        }
        for origin in in_doubt {
            self.renew(origin);
        }
    }

    fn busy_topics(&self) -> Vec<Arc<str>> {
        let homeless = self.homeless.iter().filter(|(_, jobs)| !jobs.is_empty());
        let lanes = self.lanes.iter().filter(|(_, lane)| lane.has_work());
        homeless
            .map(|(topic, _)| topic.clone())
            .chain(lanes.map(|(partition, _)| partition.topic.clone()))
            .collect()
    }

    fn answer_questions(&mut self) {
        for question in std::mem::take(&mut self.questions) {
            let fresh = self
                .cluster
                .refreshed()
                .is_some_and(|at| at > question.asked);
            let answer = match self.cluster.topic(&question.topic) {
                _ if self.refused.is_some() => self.refused.clone().map(Err),
                TopicState::Known { partitions } => Some(Ok(usize::try_from(partitions).ok())),
                TopicState::Refused(Code::UnknownTopicOrPartition) if fresh => Some(Ok(None)),
                TopicState::Refused(code) if fresh && ends_a_topic(code) => {
                    Some(Err(Error::Refused {
                        address: "the cluster".into(),
                        api: MetadataRequest::NAME,
                        code,
                    }))
                }
                state if Instant::now() >= question.deadline => {
                    Some(Err(self.unanswered(&question, fresh, state)))
                }
                TopicState::Unknown | TopicState::Refused(_) => None,
            };
            match answer {
                Some(answer) => {
                    // A topic that nobody writes to is not asked for again and again.
                    if !matches!(answer, Ok(Some(_)))
                        && !self.homeless.contains_key(&question.topic)
                    {
                        self.cluster.forget(&question.topic);
                    }
                    // Who asked may have gone.
                    let _ = question.reply.try_send(answer);
                }
                None => self.questions.push(question),
            }
        }
    }

    /// Why a question has no answer in its time.
    fn unanswered(&self, question: &Question, fresh: bool, state: TopicState) -> Error {
        let found = match state {
            TopicState::Refused(code) => said(code),
            _ => "metadata does not tell of it".into(),
        };
        match self.cluster.problem() {
            None if fresh => Error::Topic {
                topic: question.topic.clone(),
                found,
            },
            problem => Error::NoBroker {
                left: Duration::ZERO,
                last: problem
                    .cloned()
                    .unwrap_or_else(|| "no answer in time".into()),
            },
        }
    }

    /// Gives records whose topic is known a partition.
    fn settle_in(&mut self) {
        let mut homeless = std::mem::take(&mut self.homeless);
        homeless.retain(|_, jobs| !jobs.is_empty());
        homeless.retain(|topic, jobs| {
            let partitions = match self.cluster.topic(topic) {
                TopicState::Known { partitions } => partitions,
                TopicState::Unknown => return true,
                TopicState::Refused(code) if !ends_a_topic(code) => {
                    self.stall(topic, &metadata_says(topic, code));
                    return true;
                }
                TopicState::Refused(code) => {
                    for job in jobs.drain(..) {
                        job.ticket.finish(Err(final_refusal(topic, code)));
                    }
                    return false;
                }
            };
            for job in jobs.drain(..) {
                let partition = match (job.record.partition, &job.record.key) {
                    (Some(partition), _) => partition,
                    (None, Some(key)) => partitioner::partition(key, partitions),
                    (None, None) => {
                        let turn = self.turns.entry(topic.clone()).or_insert(0);
                        *turn = (*turn + 1) % partitions;
                        *turn
                    }
                };
                self.lanes
                    .entry(TopicPartition::new(topic.clone(), partition))
                    .or_insert_with(Lane::new)
                    .queue
                    .push_back(job);
            }
            false
        });
        self.homeless = homeless;
    }

    /// Asks for a producer id when one is needed.
    fn identify(&mut self) {
        let Identity::Wanted(not_before) = self.identity else {
            return;
        };
        let needed = self
            .lanes
            .values()
            .any(|lane| lane.pack.is_none() && !lane.queue.is_empty());
        if !needed || not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            // Of transactions, which we have none of; brokers want a number.
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let answer = self.cluster.ask(&request, |_| Ok(()));
        let problem = match answer {
            Ok(answer) => match Code::try_from_code(answer.error_code) {
                None if answer.producer_id.0 >= 0 => {
                    if self.had_identity {
                        self.shared.stats.producer_resets.increment();
                    }
                    self.had_identity = true;
                    self.identity_pauses.reset();
                    self.identity = Identity::Known {
                        id: answer.producer_id.0,
                        epoch: answer.producer_epoch,
                    };
                    return;
                }
                Some(
                    code @ (Code::ClusterAuthorizationFailed
                    | Code::TransactionalIdAuthorizationFailed
                    | Code::UnsupportedVersion),
                ) => return self.go_without(&code.to_string()),
                Some(code) => format!("no producer id: {code}"),
                None => "no producer id: the broker gave a negative one".into(),
            },
            Err(error @ Error::Version { .. }) => return self.go_without(&chain(&error)),
            // Asked for, and not answered yet.
            Err(Error::Connecting { .. }) => return,
            Err(error) => chain(&error),
        };
        for topic in self.busy_topics() {
            self.stall(&topic, &problem);
        }
        self.identity = Identity::Wanted(Some(Instant::now() + self.identity_pauses.next_pause()));
    }

    fn go_without(&mut self, cause: &str) {
        log::warn!(
            "producing without idempotence: a record may stand twice after a broken connection \
             ({cause})"
        );
        self.identity = Identity::Without;
    }

    /// Wants a new producer id in place of the one of a batch.
    fn renew(&mut self, origin: Origin) {
        let current = matches!(self.identity, Identity::Known { id, epoch }
            if (id, epoch) == (origin.producer_id, origin.epoch));
        if current {
            self.identity = Identity::Wanted(None);
        }
    }

    /// Fails requests whose connection is gone, also when there is already another one.
    fn reap(&mut self) {
        let nodes: Vec<i32> = self.requests.keys().copied().collect();
        for node in nodes {
            let expected = self.requests.get(&node).map_or(0, VecDeque::len);
            let alive = self
                .cluster
                .existing(node)
                .is_some_and(|connection| connection.in_flight() == expected);
            if !alive {
                self.lose(node, "the connection to the leader was lost");
            }
        }
    }

    /// All requests under way to a broker are in doubt: to be sent again unchanged.
    fn lose(&mut self, node: i32, reason: &str) {
        self.cluster.expire();
        let requests = self.requests.remove(&node).unwrap_or_default();
        for partition in requests.into_iter().flat_map(|request| request.partitions) {
            self.stall(&partition.topic, reason);
            if let Some(lane) = self.lanes.get_mut(&partition) {
                lane.retry_later(None);
            }
        }
    }

    /// Sends what is due, one request to each leader.
    fn dispatch(&mut self) {
        let now = Instant::now();
        let due: Vec<TopicPartition> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.is_due(now))
            .map(|(partition, _)| partition.clone())
            .collect();
        let mut by_leader: BTreeMap<i32, Vec<TopicPartition>> = BTreeMap::new();
        for partition in due {
            match self.cluster.leader(&partition) {
                Some(node) => by_leader.entry(node).or_default().push(partition),
                None => self.leaderless(&partition),
            }
        }
        for (node, partitions) in by_leader {
            self.send_to(node, partitions);
        }
    }

    fn leaderless(&mut self, partition: &TopicPartition) {
        let reason = match self.cluster.topic(&partition.topic) {
            TopicState::Refused(code) if ends_a_topic(code) => {
                if let Some(lane) = self.lanes.get_mut(partition) {
                    lane.fail_all(&final_refusal(&partition.topic, code));
                }
                return;
            }
            TopicState::Refused(code) => metadata_says(&partition.topic, code),
            TopicState::Known { partitions } if partition.partition >= partitions => {
                self.move_out(partition);
                format!(
                    "topic {} has no partition {}",
                    partition.topic, partition.partition
                )
            }
            TopicState::Known { .. } | TopicState::Unknown => {
                format!("partition {partition} has no leader")
            }
        };
        self.cluster.want(&partition.topic);
        self.cluster.expire();
        self.stall(&partition.topic, &reason);
        if let Some(lane) = self.lanes.get_mut(partition) {
            lane.retry_later(None);
        }
    }

    /// The topic was made anew with fewer partitions: records that did not ask for this one find
    /// another. What may have been written went with the old topic, unless a broker is just late
    /// to hear of a topic that has grown.
    fn move_out(&mut self, partition: &TopicPartition) {
        let Some(lane) = self.lanes.get_mut(partition) else {
            return;
        };
        let since = *lane.gone_since.get_or_insert_with(Instant::now);
        let sent = lane.pack.as_ref().filter(|pack| pack.first_sent.is_some());
        let sent = sent.map(|pack| pack.origin);
        if sent.is_some() && since.elapsed() < GONE {
            return;
        }
        lane.unpack(false);
        let (bound, free): (VecDeque<Job>, VecDeque<Job>) = lane
            .queue
            .drain(..)
            .partition(|job| job.record.partition.is_some());
        lane.queue = bound;
        let homeless = self.homeless.entry(partition.topic.clone()).or_default();
        homeless.extend(free);
        if let Some(origin) = sent {
            self.renew(origin);
        }
    }

    fn send_to(&mut self, node: i32, partitions: Vec<TopicPartition>) {
        for partition in &partitions {
            if let Some(lane) = self.lanes.get_mut(partition) {
                lane.gone_since = None;
            }
        }
        let connection = match self.cluster.connection(node) {
            Ok(connection) => connection,
            Err(error) => return self.not_sent(&partitions, &error),
        };
        let may_build = !matches!(self.identity, Identity::Wanted(_));
        let mut topics: Vec<TopicProduceData> = Vec::new();
        let mut sent = Vec::new();
        let mut bytes = 0;
        for partition in partitions {
            let Some(lane) = self.lanes.get_mut(&partition) else {
                continue;
            };
            if may_build && let Err(error) = lane.build(&self.identity, self.compression) {
                log::error!("cannot write a batch for {partition}: {error}");
                lane.retry_later(None);
            }
            let Some(pack) = &lane.pack else { continue };
            if !sent.is_empty() && bytes + pack.bytes.len() > REQUEST_BYTES {
                break;
            }
            bytes += pack.bytes.len();
            let data = PartitionProduceData::default()
                .with_index(partition.partition)
                .with_records(Some(pack.bytes.clone()));
            // Lanes are sorted, so a topic's partitions follow each other.
            match topics.last_mut() {
                Some(topic) if topic.name.as_str() == &*partition.topic => {
                    topic.partition_data.push(data);
                }
                _ => topics.push(
                    TopicProduceData::default()
                        .with_name(TopicName(StrBytes::from_string(
                            partition.topic.to_string(),
                        )))
                        .with_partition_data(vec![data]),
                ),
            }
            sent.push(partition);
        }
        if sent.is_empty() {
            return;
        }
        let request = ProduceRequest::default()
            .with_transactional_id(None)
            .with_acks(-1)
            .with_timeout_ms(i32::try_from(REPLICAS.as_millis()).unwrap_or(i32::MAX))
            .with_topic_data(topics);
        let outcome = connection.send(&request);
        let dead = connection.is_dead();
        let now = Instant::now();
        // Nothing has left where the connection is still good. A broken one may have carried all
        // of it, which is then in doubt like an unanswered request.
        if let (Err(error), false) = (&outcome, dead) {
            return self.not_sent(&sent, error);
        }
        for partition in &sent {
            let lane = self.lanes.get_mut(partition);
            if let Some(pack) = lane.and_then(|lane| lane.pack.as_mut()) {
                if pack.first_sent.is_some() {
                    self.shared.stats.produce_retries.increment();
                }
                pack.first_sent.get_or_insert(now);
                pack.in_flight = true;
            }
        }
        self.requests.entry(node).or_default().push_back(Request {
            partitions: sent,
            sent: now,
        });
        if let Err(error) = outcome {
            self.lose(node, &chain(&error));
        }
    }

    /// Nothing of it has left.
    fn not_sent(&mut self, partitions: &[TopicPartition], error: &Error) {
        // A connection that is just being made, or made anew, is no trouble yet.
        let pause = error.pause();
        if pause.is_none() {
            self.cluster.expire();
        }
        for partition in partitions {
            if !matches!(error, Error::Connecting { .. } | Error::Expired { .. }) {
                self.stall(&partition.topic, &chain(error));
            }
            if let Some(lane) = self.lanes.get_mut(partition) {
                lane.retry_later(pause);
            }
        }
    }

    /// Takes the answers that are there; waits a moment when there are none.
    fn collect(&mut self) {
        let nodes: Vec<i32> = self.requests.keys().copied().collect();
        for node in nodes {
            let mut wait = GLANCE;
            while let Some(request) = self.requests.get(&node).and_then(VecDeque::front) {
                let sent = request.sent;
                let Some(connection) = self.cluster.existing(node) else {
                    self.lose(node, "the connection to the leader was lost");
                    break;
                };
                let outcome = connection.answer::<ProduceRequest>(wait, sent, ANSWER);
                wait = Duration::ZERO;
                let Some(outcome) = outcome else { break };
                match outcome {
                    Ok(response) => {
                        let request = self.requests.get_mut(&node).and_then(VecDeque::pop_front);
                        if let Some(request) = request {
                            self.take_answer(&request, &response);
                        }
                    }
                    Err(error) => {
                        self.lose(node, &chain(&error));
                        break;
                    }
                }
            }
            self.requests.retain(|_, open| !open.is_empty());
        }
    }

    fn take_answer(&mut self, request: &Request, response: &ProduceResponse) {
        let mut answers = HashMap::new();
        for topic in &response.responses {
            for answer in &topic.partition_responses {
                answers.insert((topic.name.as_str(), answer.index), answer);
            }
        }
        for partition in &request.partitions {
            match answers.get(&(&*partition.topic, partition.partition)) {
                Some(answer) => self.take_partition(partition, answer),
                None => self.retry(partition, "the broker's answer leaves it out", None),
            }
        }
    }

    /// What becomes of one partition's batch.
    fn take_partition(&mut self, partition: &TopicPartition, answer: &PartitionProduceResponse) {
        let Some(lane) = self.lanes.get_mut(partition) else {
            return;
        };
        let Some(origin) = lane.pack.as_ref().map(|pack| pack.origin) else {
            return;
        };
        let Some(code) = Code::try_from_code(answer.error_code) else {
            flows(&self.shared, &partition.topic);
            return lane.acknowledge(partition, answer.base_offset);
        };
        match code {
            // Written by an earlier attempt; its offset is forgotten.
            Code::DuplicateSequenceNumber => {
                flows(&self.shared, &partition.topic);
                lane.acknowledge(partition, -1);
            }
            Code::MessageTooLarge | Code::RecordListTooLarge | Code::InvalidRecord => {
                let named: Vec<i32> = answer.record_errors.iter().map(|e| e.batch_index).collect();
                self.refuse(partition, code, &named);
            }
            Code::OutOfOrderSequenceNumber
            | Code::InvalidProducerEpoch
            | Code::UnknownProducerId
            | Code::ProducerFenced
            | Code::InvalidProducerIdMapping => {
                lane.unpack(false);
                // Once for a series, however often it is refused until a record is acknowledged.
                let first = !std::mem::replace(&mut lane.in_doubt, true);
                let level = if first {
                    log::Level::Warn
                } else {
                    log::Level::Debug
                };
                log::log!(
                    level,
                    "new producer id after {code} on {partition}: a record may stand twice"
                );
                self.renew(origin);
                self.retry(partition, &says(code), None);
            }
            // Writing with a producer id needs a permission on older brokers.
            Code::ClusterAuthorizationFailed if origin != Origin::NOBODY => {
                lane.unpack(false);
                self.go_without(&code.to_string());
            }
            Code::UnsupportedCompressionType if self.compression != Compression::None => {
                lane.unpack(false);
                log::warn!("{partition} does not take this compression: sending without");
                self.compression = Compression::None;
            }
            // Asking for the leader again costs little, and several of these mean that it is
            // elsewhere.
            code if passes(code) => {
                self.cluster.expire();
                self.retry(partition, &says(code), None);
            }
            code => {
                // Who waits for the records decides what that costs, and says it.
                log::debug!("{partition} refuses records: {}", said(code));
                let error = final_refusal(&partition.topic, code);
                let pack = lane.pack.take();
                for job in pack.into_iter().flat_map(|pack| pack.jobs) {
                    job.ticket.finish(Err(error.clone()));
                }
            }
        }
    }

    /// A batch was refused for its content. The records that the broker names fail, or the only
    /// one; otherwise each is tried alone. Nothing was written, so no sequence is used up.
    fn refuse(&mut self, partition: &TopicPartition, code: Code, named: &[i32]) {
        let Some(lane) = self.lanes.get_mut(partition) else {
            return;
        };
        lane.retry_at = None;
        let jobs = lane.pack.take().map(|pack| pack.jobs).unwrap_or_default();
        let count = jobs.len();
        let named: Vec<usize> = named
            .iter()
            .filter_map(|index| usize::try_from(*index).ok())
            .filter(|index| *index < count)
            .collect();
        for (index, mut job) in jobs.into_iter().enumerate().rev() {
            if count == 1 || named.contains(&index) {
                let topic = partition.topic.clone();
                let error = if code == Code::InvalidRecord {
                    SendError::InvalidRecord { topic }
                } else {
                    SendError::RecordTooLarge {
                        topic,
                        size: job.size(),
                    }
                };
                job.ticket.finish(Err(error));
            } else {
                job.alone |= named.is_empty();
                lane.queue.push_front(job);
            }
        }
    }

    fn retry(&mut self, partition: &TopicPartition, reason: &str, pause: Option<Duration>) {
        self.stall(&partition.topic, reason);
        if let Some(lane) = self.lanes.get_mut(partition) {
            lane.retry_later(pause);
        }
    }

    /// Ends the stalls of topics for which nothing waits any more: given up, or refused for its
    /// content. Only the next record can tell how its topic is, and who holds records back while
    /// there is a stall would never send one.
    fn end_idle_stalls(&self) {
        let mut stalls = lock(&self.shared.stalls);
        if !stalls.is_empty() {
            let busy = self.busy_topics();
            stalls.retain(|topic, _| busy.contains(topic));
        }
    }

    fn stall(&self, topic: &Arc<str>, reason: &str) {
        let before = lock(&self.shared.stalls).insert(topic.clone(), reason.to_owned());
        if before.is_none() {
            log::warn!(topic; "nothing is acknowledged for topic {topic}: {reason}");
        }
    }
}

/// Ends a stall. Before the record's caller hears of it, so that it finds none.
fn flows(shared: &Shared, topic: &Arc<str>) {
    if lock(&shared.stalls).remove(topic).is_some() {
        log::info!(topic; "topic {topic} takes records again");
    }
}

fn said(code: Code) -> String {
    format!("{code} ({})", code.code())
}

fn says(code: Code) -> String {
    format!("the broker answers {}", said(code))
}

fn metadata_says(topic: &str, code: Code) -> String {
    if code == Code::UnknownTopicOrPartition {
        format!("topic {topic} does not exist")
    } else {
        format!("topic {topic} is not available: {}", said(code))
    }
}

fn final_refusal(topic: &Arc<str>, code: Code) -> SendError {
    let topic = topic.clone();
    if code == Code::TopicAuthorizationFailed {
        SendError::NotAuthorised { topic }
    } else {
        SendError::Refused { topic, code }
    }
}
