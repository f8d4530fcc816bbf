//! Settings of the client. Plain values, already checked; the configuration makes them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::secret::Secret;

/// How a cluster is reached. Consumer and publisher each have their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterOptions {
    /// What logs and metrics call this cluster: `consumer` or `publisher`.
    pub name: &'static str,
    /// `HOST:PORT` of brokers to ask first; at least one.
    pub bootstrap_servers: Vec<String>,
    /// Name that brokers log for us.
    pub client_id: String,
    /// Longest time between two refreshes of the metadata.
    pub metadata_max_age: Duration,
    /// How each connection is protected.
    pub security: Security,
}

/// How the connections to a cluster are protected. By default not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// TLS with the brokers; `None`: plain TCP.
    pub tls: Option<Tls>,
    /// Who we say we are; `None`: nobody, or whom the TLS certificate names.
    pub sasl: Option<Sasl>,
}

/// TLS settings, ready to use. Two are equal when they are the same ones.
#[derive(Clone)]
pub struct Tls(Arc<crate::tls::Client>);

impl Tls {
    /// Takes settings over.
    pub fn new(client: crate::tls::Client) -> Self {
        Self(Arc::new(client))
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        self.0.config.clone()
    }

    pub(super) fn trusts(&self) -> &str {
        &self.0.trusts
    }
}

/// A key may be in it: only what a log line has.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0.trusts).finish()
    }
}

impl PartialEq for Tls {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Tls {}

/// A name and password for SASL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sasl {
    /// How the password is proven.
    pub mechanism: Mechanism,
    /// Not empty.
    pub username: String,
    /// Not empty.
    pub password: Secret,
}

/// How a password is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// By handing it over.
    Plain,
    /// By challenge and response, with SHA-256.
    ScramSha256,
    /// By challenge and response, with SHA-512.
    ScramSha512,
}

impl Mechanism {
    /// The name that brokers know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            name: "consumer",
            bootstrap_servers: vec!["localhost:9092".into()],
            client_id: "ccx-data-pipeline".into(),
            metadata_max_age: Duration::from_secs(300),
            security: Security::default(),
        }
    }
}

/// Where a partition without a committed offset starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetReset {
    /// At the oldest record that the broker still has.
    Earliest,
    /// Behind the newest record.
    Latest,
}

/// Which records of transactions are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsolationLevel {
    /// Only those of committed transactions.
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// What happens to a batch whose checksum or compression stays broken when fetched again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnCorruptBatch {
    /// The partition stands still until a person acts.
    Pause,
    /// The batch is passed over and its offsets are counted.
    Skip,
}

/// Settings of a group member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerOptions {
    /// The cluster.
    pub cluster: ClusterOptions,
    /// Consumer group.
    pub group_id: String,
    /// Static id, which no other live member may have; `None`: a dynamic member.
    pub group_instance_id: Option<String>,
    /// Topic to subscribe to.
    pub topic: String,
    /// A member that is silent for longer is removed from the group (Kafka's `session.timeout.ms`).
    pub session_timeout: Duration,
    /// Time between two heartbeats.
    pub heartbeat_interval: Duration,
    /// How long a rebalance waits for each member (Kafka's `max.poll.interval.ms` in JoinGroup).
    pub rebalance_timeout: Duration,
    /// Start of partitions without a committed offset.
    pub auto_offset_reset: OffsetReset,
    /// Transactions.
    pub isolation_level: IsolationLevel,
    /// How long the broker may hold a fetch that finds no data.
    pub fetch_max_wait: Duration,
    /// Bytes that one fetch may bring.
    pub fetch_max_bytes: i32,
    /// Bytes that one fetch may bring of one partition.
    pub max_partition_fetch_bytes: i32,
    /// Broken batches.
    pub on_corrupt_batch: OnCorruptBatch,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self {
            cluster: ClusterOptions::default(),
            group_id: "ccx_data_pipeline_app".into(),
            group_instance_id: None,
            topic: "platform.upload.announce".into(),
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            rebalance_timeout: Duration::from_secs(60),
            auto_offset_reset: OffsetReset::Earliest,
            isolation_level: IsolationLevel::ReadCommitted,
            fetch_max_wait: Duration::from_millis(500),
            fetch_max_bytes: 8 << 20,
            max_partition_fetch_bytes: 1 << 20,
            on_corrupt_batch: OnCorruptBatch::Pause,
        }
    }
}

/// Compression of produced batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not compressed.
    None,
    /// gzip.
    Gzip,
    /// Snappy in Java's framing.
    Snappy,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Settings of a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerOptions {
    /// The cluster.
    pub cluster: ClusterOptions,
    /// Compression of what is sent.
    pub compression: Compression,
}
