//! A cluster of several real nodes, of which some may be away: every request goes to whoever can
//! answer it now, and again until it is answered.

use std::collections::BTreeMap;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use kafka_protocol::messages::alter_partition_reassignments_request::{
    ReassignablePartition, ReassignableTopic,
};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::*;

use super::broker::batch::{self, Batch, BatchHeader, LogRecord, NewRecord};
use super::own_broker::OwnBroker;
use super::raw_client::{self as raw, RawClient, text, topic_name};
use super::real::fresh;
use super::stage::{Ledger, Stage};

/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(240);
/// Records in a batch that [`RealCluster::load`] writes.
const BATCH: usize = 100;

/// Three nodes; topics have three replicas, of which two must follow.
pub struct RealCluster {
    own: OwnBroker,
}

impl RealCluster {
    /// Starts the nodes.
    pub fn start(kind: &str) -> Self {
        Self {
            own: OwnBroker::start(kind, 3),
        }
    }

    /// `HOST:PORT` of every node, with commas.
    pub fn bootstrap(&self) -> &str {
        self.own.bootstrap()
    }

    /// Stops one node in order.
    pub fn stop(&mut self, node: i32) {
        self.own.order(&format!("stop {node}"));
    }

    /// SIGKILL to one node.
    pub fn kill(&mut self, node: i32) {
        self.own.order(&format!("kill {node}"));
    }

    /// Starts a node again that was stopped or killed.
    pub fn restart(&mut self, node: i32) {
        self.own.order(&format!("start {node}"));
    }

    /// A stage whose topics lie here.
    pub fn stage(&self, partitions: i32) -> Stage {
        let mut stage = Stage::new(self.bootstrap(), 0, |_, _| {});
        stage.incoming = self.create_topic("incoming", partitions);
        stage.outgoing = self.create_topic("results", 2);
        stage.dead_letters = self.create_topic("dlq", 1);
        stage
    }

    /// Asks again and again, until there is an answer.
    ///
    /// # Panics
    ///
    /// When there is none in some minutes.
    #[allow(
        clippy::disallowed_methods,
        reason = "the pace of asking, not a synchronisation"
    )]
    pub fn wait_some<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = ask() {
                return found;
            }
            assert!(Instant::now() < until, "in vain: {what}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Asks again and again until it is so.
    pub fn wait(&self, what: &str, mut so: impl FnMut() -> bool) {
        self.wait_some(what, || so().then_some(()));
    }

    /// An answer from any node that the test is content with.
    fn ask<Q: kafka_protocol::protocol::Request, T>(
        &self,
        request: &Q,
        version: i16,
        content: impl Fn(Q::Response) -> Option<T>,
    ) -> T {
        self.wait_some(std::any::type_name::<Q>(), || {
            self.bootstrap().split(',').find_map(|address| {
                let mut client = RawClient::try_connect(address).ok()?;
                content(client.try_call(request, version).ok()?)
            })
        })
    }

    /// What the cluster says of a topic, and where its nodes are.
    fn describe(&self, topic: &str) -> (MetadataResponseTopic, BTreeMap<i32, String>) {
        self.ask(&raw::metadata(&[topic]), 8, |mut answer| {
            let brokers = answer.brokers.iter();
            let brokers = brokers.map(|b| (b.node_id.0, format!("{}:{}", &*b.host, b.port)));
            let brokers: BTreeMap<i32, String> = brokers.collect();
            let topic = answer.topics.pop()?;
            (topic.error_code == 0).then_some((topic, brokers))
        })
    }

    /// Who leads a partition.
    pub fn leader(&self, topic: &str, partition: i32) -> i32 {
        self.wait_some("a leader", || {
            let (topic, _) = self.describe(topic);
            let found = topic
                .partitions
                .iter()
                .find(|p| p.partition_index == partition)?;
            Some(found.leader_id.0).filter(|leader| *leader >= 0)
        })
    }

    /// Waits until every replica of these topics follows.
    pub fn wait_replicated(&self, topics: &[&str]) {
        for topic in topics.iter().chain(&["__consumer_offsets"]) {
            self.wait("all replicas follow", || {
                let (topic, _) = self.describe(topic);
                let mut partitions = topic.partitions.iter();
                partitions.all(|p| p.isr_nodes.len() == 3 && p.leader_id.0 >= 0)
            });
        }
    }

    /// An answer of the leader of a partition that the test is content with.
    fn at_leader<T>(
        &self,
        topic: &str,
        partition: i32,
        mut question: impl FnMut(&mut RawClient) -> io::Result<Option<T>>,
    ) -> T {
        self.wait_some("an answer of the leader", || {
            let (found, brokers) = self.describe(topic);
            let found = found
                .partitions
                .iter()
                .find(|p| p.partition_index == partition)?;
            let address = brokers.get(&found.leader_id.0)?;
            let mut client = RawClient::try_connect(address).ok()?;
            question(&mut client).ok().flatten()
        })
    }

    /// Makes a topic with a fresh name and waits until all its replicas follow.
    pub fn create_topic(&self, prefix: &str, partitions: i32) -> String {
        let name = fresh(prefix);
        let mut request = raw::create_topic(&name, partitions);
        request.topics[0].replication_factor = 3;
        self.ask(&request, 4, |answer| {
            // 36: it is there, since an answer was lost.
            [0, 36].contains(&answer.topics[0].error_code).then_some(())
        });
        self.wait("the topic is whole", || {
            let (topic, _) = self.describe(&name);
            let whole = topic.partitions.iter().all(|p| p.isr_nodes.len() == 3);
            topic.partitions.len() == partitions as usize && whole
        });
        name
    }

    /// Lets a topic grow.
    pub fn add_partitions(&self, topic: &str, total: i32) {
        let mut grown = CreatePartitionsTopic::default();
        grown.name = topic_name(topic);
        grown.count = total;
        // Of the cluster's choice: an empty list would be one of ours.
        grown.assignments = None;
        let mut request = CreatePartitionsRequest::default();
        request.topics = vec![grown];
        request.timeout_ms = 10_000;
        self.ask(&request, 1, |answer| {
            // 37: it has them, since an answer was lost.
            [0, 37]
                .contains(&answer.results[0].error_code)
                .then_some(())
        });
        self.wait("it has grown", || {
            self.describe(topic).0.partitions.len() == total as usize
        });
    }

    /// Removes what lies before `offset`, as retention does.
    pub fn delete_before(&self, topic: &str, partition: i32, offset: i64) {
        let mut part = DeleteRecordsPartition::default();
        part.partition_index = partition;
        part.offset = offset;
        let mut of = DeleteRecordsTopic::default();
        of.name = topic_name(topic);
        of.partitions = vec![part];
        let mut request = DeleteRecordsRequest::default();
        request.topics = vec![of];
        request.timeout_ms = 10_000;
        self.at_leader(topic, partition, |client| {
            let answer = client.try_call(&request, 1)?;
            Ok((answer.topics[0].partitions[0].error_code == 0).then_some(()))
        });
    }

    /// Gives a partition another leader, as a person does who puts it first among its replicas.
    pub fn move_leader(&self, topic: &str, partition: i32, to: i32) {
        let order: Vec<i32> = [to, to % 3 + 1, (to + 1) % 3 + 1].into();
        let mut part = ReassignablePartition::default();
        part.partition_index = partition;
        part.replicas = Some(order.into_iter().map(BrokerId).collect());
        let mut of = ReassignableTopic::default();
        of.name = topic_name(topic);
        of.partitions = vec![part];
        let mut request = AlterPartitionReassignmentsRequest::default();
        request.topics = vec![of];
        request.timeout_ms = 10_000;
        self.ask(&request, 0, |answer| (answer.error_code == 0).then_some(()));
        let mut chosen = TopicPartitions::default();
        chosen.topic = topic_name(topic);
        chosen.partitions = vec![partition];
        let mut elect = ElectLeadersRequest::default();
        elect.topic_partitions = Some(vec![chosen]);
        elect.timeout_ms = 10_000;
        self.wait("the leader has moved", || {
            self.ask(&elect, 1, |_| Some(()));
            self.leader(topic, partition) == to
        });
    }

    /// Writes records to the partitions of a topic in turn. A batch whose acknowledgement is lost
    /// is written again: such copies are told by the ledger from ours, since each has its offset.
    pub fn load(&self, topic: &str, records: Vec<NewRecord>) {
        let partitions = self.describe(topic).0.partitions.len();
        let mut shares: Vec<Vec<NewRecord>> = vec![Vec::new(); partitions];
        for (n, record) in records.into_iter().enumerate() {
            shares[n % partitions].push(record);
        }
        for (partition, share) in (0..).zip(&shares) {
            for some in share.chunks(BATCH) {
                let batch = Batch::of(some.iter().cloned()).encode();
                self.at_leader(topic, partition, |client| {
                    let request = raw::produce(topic, partition, batch.clone());
                    let done = raw::produced(client.try_call(&request, 8)?);
                    Ok((done.error_code == 0).then_some(()))
                });
            }
        }
    }

    /// First offset of a partition, and the one behind the last.
    pub fn ends(&self, topic: &str, partition: i32) -> (i64, i64) {
        self.at_leader(topic, partition, |client| {
            let mut end = |time| -> io::Result<(i16, i64)> {
                let answer = client.try_call(&raw::list_offsets(topic, partition, time), 5)?;
                let found = &answer.topics[0].partitions[0];
                Ok((found.error_code, found.offset))
            };
            let (first, last) = (end(-2)?, end(-1)?);
            Ok((first.0 == 0 && last.0 == 0).then_some((first.1, last.1)))
        })
    }

    /// Everything that lies in a topic now.
    pub fn read_all(&self, topic: &str) -> Vec<LogRecord> {
        let mut all = Vec::new();
        for partition in 0..self.describe(topic).0.partitions.len() as i32 {
            let (mut next, end) = self.ends(topic, partition);
            while next < end {
                let bytes = self.at_leader(topic, partition, |client| {
                    let request = raw::fetch(topic, partition, next, 1 << 20);
                    let data = raw::fetched(client.try_call(&request, 11)?);
                    Ok((data.error_code == 0).then(|| data.records.unwrap_or_default()))
                });
                let mut bytes = &bytes[..];
                while let Ok(header) = BatchHeader::parse(bytes) {
                    let records = batch::decode(&bytes[..header.size]).unwrap().into_iter();
                    all.extend(records.filter(|r| r.offset >= next && !r.control));
                    next = header.base + i64::from(header.last_delta) + 1;
                    bytes = &bytes[header.size..];
                }
            }
        }
        all
    }

    /// What a group has committed for each partition of a topic.
    pub fn committed(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let mut wanted = OffsetFetchRequestTopic::default();
        wanted.name = topic_name(topic);
        wanted.partition_indexes = (0..self.describe(topic).0.partitions.len() as i32).collect();
        let mut request = OffsetFetchRequest::default();
        request.group_id = GroupId(text(group));
        request.topics = Some(vec![wanted]);
        let found = self.wait_some("the coordinator's answer", || {
            let at = self.ask(&raw::find_coordinator(group), 2, |answer| {
                let address = format!("{}:{}", &*answer.host, answer.port);
                (answer.error_code == 0).then_some(address)
            });
            let answer = RawClient::try_connect(&at)
                .ok()?
                .try_call(&request, 5)
                .ok()?;
            (answer.error_code == 0).then_some(answer)
        });
        let partitions = found.topics.iter().flat_map(|topic| &topic.partitions);
        let known = partitions.filter(|p| p.committed_offset >= 0);
        known
            .map(|p| (p.partition_index, p.committed_offset))
            .collect()
    }

    /// Waits until a group has committed all that there is.
    pub fn wait_for_no_lag(&self, stage: &Stage) {
        self.wait("everything is committed", || {
            let committed = self.committed(&stage.group, &stage.incoming);
            let partitions = self.describe(&stage.incoming).0.partitions.len() as i32;
            (0..partitions).all(|partition| {
                let (start, end) = self.ends(&stage.incoming, partition);
                committed.get(&partition).copied().unwrap_or(start) == end
            })
        });
    }

    /// How many results there are.
    pub fn published(&self, stage: &Stage) -> usize {
        (0..2)
            .map(|p| self.ends(&stage.outgoing, p).1 as usize)
            .sum()
    }

    /// What became of the records so far.
    pub fn ledger(&self, stage: &Stage) -> Ledger {
        Ledger::new(
            self.read_all(&stage.outgoing),
            self.read_all(&stage.dead_letters),
        )
    }

    /// Records that were written more than once by [`RealCluster::load`]: the inputs that are
    /// there, less those that differ.
    pub fn loaded_twice(&self, stage: &Stage) -> usize {
        let all = self.read_all(&stage.incoming);
        let mut keys: Vec<_> = all.iter().map(|record| record.key.clone()).collect();
        keys.sort();
        keys.dedup();
        all.len() - keys.len()
    }
}
