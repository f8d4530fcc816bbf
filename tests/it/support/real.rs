//! Real brokers, which `scripts/test` starts and names in `CCX_TEST_BROKERS`
//! (`tansu=HOST:PORT,apache-3.9=…,apache-4=…`); `CCX_TEST_REQUIRE` names those that must be there,
//! and `CCX_TEST_SECURE` (`apache-3.9=FOLDER,…`) says how they are reached under TLS and SASL.
//!
//! What a test does to them goes through [`RawClient`], one request at a time: slow, and nothing of
//! it is the program's own client. Works on any cluster of one node, the scripted one included.

use std::collections::HashMap;
use std::env;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{
    CreateAclsRequest, DeleteTopicsRequest, GroupId, OffsetFetchRequest,
};

use super::broker::batch::{self, Batch, BatchHeader, Codec, LogRecord, NewRecord};
use super::raw_client::{self as raw, RawClient, text, topic_name};

/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// What a broker says of a partition that it does not lead, or, just started again, does not know
/// or lead yet: UNKNOWN_TOPIC_OR_PARTITION, LEADER_NOT_AVAILABLE, NOT_LEADER_OR_FOLLOWER,
/// REPLICA_NOT_AVAILABLE.
const NOT_YET: [i16; 4] = [3, 5, 6, 9];
/// Records in a batch that [`RealBroker::load`] writes.
const BATCH: usize = 500;

/// A cluster of one node.
#[derive(Debug, Clone)]
pub struct RealBroker {
    /// `tansu`, `apache-3.9`, `apache-4`.
    pub name: String,
    /// `HOST:PORT`.
    pub address: String,
}

/// What rights are about, as Kafka numbers it.
#[derive(Debug, Clone, Copy)]
pub enum Resource {
    Topic = 2,
    Group = 3,
}

/// What rights are for, as Kafka numbers it.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    Read = 3,
    Write = 4,
}

/// Makes a test for each kind of broker out of a function that takes a `&RealBroker`:
/// `on_brokers! { [tansu, apache_3_9, apache_4] fn works(broker) { … } }`. A list of kinds may leave
/// some out.
#[macro_export]
macro_rules! on_brokers {
    ($($(#[doc = $doc:literal])* [$($kind:ident),+] fn $name:ident($broker:ident) $body:block)*) => {$(
        mod $name {
            #[allow(unused_imports, reason = "some bodies need nothing of it")]
            use super::*;
            $(
                #[test]
                fn $kind() {
                    if let Some(broker) = $crate::support::real::find(stringify!($kind)) {
                        check(&broker);
                    }
                }
            )+
            $(#[doc = $doc])*
            fn check($broker: &$crate::support::real::RealBroker) $body
        }
    )*};
}

/// The broker of that kind (`apache_3_9` means `apache-3.9`); `None`: it is not there and need not
/// be.
///
/// # Panics
///
/// When it must be there, and when nobody says where brokers are: then no test would test anything.
pub fn find(kind: &str) -> Option<RealBroker> {
    let list = |name: &str| env::var(name).unwrap_or_default();
    let brokers = list("CCX_TEST_BROKERS");
    assert!(
        !brokers.is_empty(),
        "CCX_TEST_BROKERS is not set: scripts/test starts brokers and sets it"
    );
    for entry in brokers.split(',') {
        let (name, address) = entry.split_once('=').expect("NAME=HOST:PORT");
        if name.replace(['-', '.'], "_") == kind {
            return Some(RealBroker::at(name, address));
        }
    }
    let required = list("CCX_TEST_REQUIRE").replace(['-', '.'], "_");
    assert!(
        !required.split(',').any(|name| name == kind),
        "CCX_TEST_REQUIRE names {kind}, CCX_TEST_BROKERS does not"
    );
    println!("{kind} is not there: not tested");
    None
}

/// A name that no other test and no other run has: `PREFIX-…`.
pub fn fresh(prefix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(
        "{prefix}-{:x}-{:x}-{next}",
        std::process::id(),
        since.as_millis()
    )
}

impl RealBroker {
    /// The broker at that address.
    pub fn at(name: &str, address: &str) -> Self {
        Self {
            name: name.into(),
            address: address.into(),
        }
    }

    /// The port of a protocol (`SSL`, `SASL_PLAINTEXT`, `SASL_SSL`), and the folder with `ca.pem`,
    /// `client.pem` and `client.key`. `scripts/broker` names the users.
    ///
    /// # Panics
    ///
    /// When nobody has said where.
    pub fn secure(&self, protocol: &str) -> (String, PathBuf) {
        let list = env::var("CCX_TEST_SECURE").unwrap_or_default();
        let folders = list.split(',').filter_map(|entry| entry.split_once('='));
        let folder = folders
            .filter(|(name, _)| *name == self.name)
            .map(|(_, folder)| PathBuf::from(folder))
            .next()
            .expect("CCX_TEST_SECURE names every Apache Kafka");
        let addresses = std::fs::read_to_string(folder.join("addresses")).unwrap();
        let addresses = addresses.lines().filter_map(|line| line.split_once(' '));
        let mut found = addresses.filter(|(name, _)| *name == protocol);
        let (_, address) = found.next().expect("a port for the protocol");
        (address.to_owned(), folder)
    }

    /// Denies `User:limited` an operation on a topic or group.
    pub fn deny(&self, resource: Resource, name: &str, operation: Operation) {
        const LITERAL: i8 = 3;
        const DENY: i8 = 2;
        let mut rule = AclCreation::default();
        rule.resource_type = resource as i8;
        rule.resource_name = text(name);
        rule.resource_pattern_type = LITERAL;
        rule.principal = text("User:limited");
        rule.host = text("*");
        rule.operation = operation as i8;
        rule.permission_type = DENY;
        let mut request = CreateAclsRequest::default();
        request.creations = vec![rule];
        let answer = self.connect().call(&request, 2);
        assert_eq!(answer.results[0].error_code, 0, "denying {name}");
    }

    /// Whether it is Apache Kafka, of whatever version.
    pub fn is_apache(&self) -> bool {
        self.name.starts_with("apache")
    }

    /// A new connection.
    pub fn connect(&self) -> RawClient {
        RawClient::connect(&self.address)
    }

    /// Makes a topic with a fresh name that begins with `prefix`, and waits until it can be used.
    pub fn create_topic(&self, prefix: &str, partitions: i32) -> String {
        let name = fresh(prefix);
        self.make_topic(&name, partitions);
        name
    }

    /// Deletes a topic and makes it again under the same name, as soon as that goes.
    pub fn make_anew(&self, topic: &str, partitions: i32) {
        let mut request = DeleteTopicsRequest::default();
        request.topic_names = vec![topic_name(topic)];
        request.timeout_ms = 10_000;
        let answer = self.connect().call(&request, 4);
        assert_eq!(answer.responses[0].error_code, 0, "deleting {topic}");
        self.make_topic(topic, partitions);
    }

    fn make_topic(&self, name: &str, partitions: i32) {
        let mut client = self.connect();
        let answer = client.call(&raw::create_topic(name, partitions), 4);
        assert_eq!(answer.topics[0].error_code, 0, "creating {name}");
        self.wait("the topic has leaders", || {
            let answer = client.call(&raw::metadata(&[name]), 8);
            let topic = &answer.topics[0];
            let led = topic.partitions.iter().all(|p| p.leader_id.0 >= 0);
            topic.error_code == 0 && topic.partitions.len() == partitions as usize && led
        });
        // What the metadata calls a leader may learn of it a little later.
        for partition in 0..partitions {
            self.wait("the leader leads", || {
                let answer = client.call(&raw::list_offsets(name, partition, -2), 5);
                answer.topics[0].partitions[0].error_code == 0
            });
        }
    }

    /// How many partitions a topic has; 0: there is no such topic.
    pub fn partitions(&self, topic: &str) -> i32 {
        let answer = self.connect().call(&raw::metadata(&[topic]), 8);
        answer.topics[0].partitions.len() as i32
    }

    /// Writes records to the partitions of a topic in turn, in batches. Returns for each partition
    /// how many it was given.
    pub fn load(&self, topic: &str, records: impl IntoIterator<Item = NewRecord>) -> Vec<usize> {
        let partitions = self.partitions(topic) as usize;
        assert_ne!(partitions, 0, "no topic {topic}");
        let mut shares: Vec<Vec<NewRecord>> = vec![Vec::new(); partitions];
        for (n, record) in records.into_iter().enumerate() {
            shares[n % partitions].push(record);
        }
        let mut client = self.connect();
        for (index, share) in (0..).zip(&shares) {
            for some in share.chunks(BATCH) {
                self.write(&mut client, topic, index, &Batch::of(some.iter().cloned()));
            }
        }
        shares.iter().map(Vec::len).collect()
    }

    /// Writes records to one partition as one batch; returns the offset of the first.
    pub fn append(
        &self,
        topic: &str,
        partition: i32,
        codec: Codec,
        records: impl IntoIterator<Item = NewRecord>,
    ) -> i64 {
        let batch = Batch::of(records).codec(codec);
        self.write(&mut self.connect(), topic, partition, &batch)
    }

    fn write(&self, client: &mut RawClient, topic: &str, partition: i32, batch: &Batch) -> i64 {
        let answer = client.call(&raw::produce(topic, partition, batch.encode()), 8);
        let done = raw::produced(answer);
        assert_eq!(done.error_code, 0, "writing to {topic}-{partition}");
        done.base_offset
    }

    /// First offset of a partition, and the one behind the last. The latter as Fetch tells it:
    /// Tansu's ListOffsets knows only where the last batch begins.
    pub fn ends(&self, topic: &str, partition: i32) -> (i64, i64) {
        let mut client = self.connect();
        let mut ends = (0, 0);
        self.wait("a leader for the partition", || {
            let answer = client.call(&raw::list_offsets(topic, partition, -2), 5);
            let first = &answer.topics[0].partitions[0];
            if NOT_YET.contains(&first.error_code) {
                return false;
            }
            assert_eq!(first.error_code, 0, "start of {topic}-{partition}");
            let mut request = raw::fetch(topic, partition, first.offset, 1 << 10);
            // Without any time to wait, Tansu's answer is empty.
            request.max_wait_ms = 100;
            let data = raw::fetched(client.call(&request, 11));
            if NOT_YET.contains(&data.error_code) {
                return false;
            }
            assert_eq!(data.error_code, 0, "end of {topic}-{partition}");
            ends = (first.offset, data.high_watermark);
            true
        });
        ends
    }

    /// Everything that lies in a topic now: partition and record, markers left out.
    pub fn read_all(&self, topic: &str) -> Vec<(i32, LogRecord)> {
        let mut client = self.connect();
        let mut all = Vec::new();
        let mut partitions = 0;
        self.wait("the topic is known", || {
            partitions = self.partitions(topic);
            partitions > 0
        });
        for partition in 0..partitions {
            let (mut next, end) = self.ends(topic, partition);
            let until = Instant::now() + PATIENCE;
            while next < end {
                assert!(
                    Instant::now() < until,
                    "reading {topic}-{partition} takes too long"
                );
                let answer = client.call(&raw::fetch(topic, partition, next, 1 << 20), 11);
                let data = raw::fetched(answer);
                assert_eq!(data.error_code, 0, "reading {topic}-{partition}");
                let mut bytes = &data.records.unwrap_or_default()[..];
                while let Ok(header) = BatchHeader::parse(bytes) {
                    let records = batch::decode(&bytes[..header.size]).unwrap().into_iter();
                    let wanted = records.filter(|r| r.offset >= next && !r.control);
                    all.extend(wanted.map(|r| (partition, r)));
                    next = header.base + i64::from(header.last_delta) + 1;
                    bytes = &bytes[header.size..];
                }
            }
        }
        all
    }

    /// What a group has committed for the partitions of a topic; those without are left out.
    pub fn committed(&self, group: &str, topic: &str) -> HashMap<i32, i64> {
        let mut client = self.connect();
        let mut wanted = OffsetFetchRequestTopic::default();
        wanted.name = topic_name(topic);
        wanted.partition_indexes = (0..self.partitions(topic)).collect();
        let mut request = OffsetFetchRequest::default();
        request.group_id = GroupId(text(group));
        request.topics = Some(vec![wanted]);
        // A broker that has just started may not know its groups yet.
        self.wait("a coordinator", || {
            client.call(&raw::find_coordinator(group), 2).error_code == 0
        });
        let mut found = HashMap::new();
        self.wait("committed offsets", || {
            let answer = client.call(&request, 5);
            for topic in &answer.topics {
                let partitions = topic.partitions.iter().filter(|p| p.committed_offset >= 0);
                found.extend(partitions.map(|p| (p.partition_index, p.committed_offset)));
            }
            answer.error_code == 0
        });
        found
    }

    /// How many records of a topic a group has not committed yet.
    pub fn lag(&self, group: &str, topic: &str) -> i64 {
        // A broker that has just started may not know its topics yet: no partitions are no lag.
        let mut partitions = 0;
        self.wait("the topic is known", || {
            partitions = self.partitions(topic);
            partitions > 0
        });
        let committed = self.committed(group, topic);
        let lags = (0..partitions).map(|partition| {
            let (start, end) = self.ends(topic, partition);
            end - committed.get(&partition).copied().unwrap_or(start)
        });
        lags.sum()
    }

    /// Asks again and again until it is so: a broker elsewhere tells nobody of its changes.
    ///
    /// # Panics
    ///
    /// When it is not so in three minutes.
    #[allow(
        clippy::disallowed_methods,
        reason = "the pace of asking, not a synchronisation"
    )]
    pub fn wait(&self, what: &str, mut so: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !so() {
            assert!(Instant::now() < until, "in vain: {what} ({})", self.name);
            thread::sleep(Duration::from_millis(50));
        }
    }
}
