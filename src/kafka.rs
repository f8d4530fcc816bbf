//! A blocking Kafka client: a consumer that is a real member of a consumer group, and an
//! idempotent producer. Pure Rust, no async runtime, brokers from Kafka 2.1 to 4.x.
//!
//! This file is the whole face of the client. The worker needs little of Kafka (poll, commit,
//! pause, resume, release, close; send), and what stands here is all that it may use. The client
//! has never heard of archives, reports or rules.

mod cluster;
mod assignor;
mod connection;
mod error;
pub mod options;
mod records;
mod stats;
mod versions;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

pub use error::{Code, Error};
pub use stats::{Counter, Stats};

/// One partition of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Number of the partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

/// Kafka's own spelling, `topic-3`.
impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A record header. Names may repeat and need not be text; order is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Name, as bytes: brokers do not check that it is UTF-8.
    pub name: Bytes,
    /// Value; null and empty differ.
    pub value: Option<Bytes>,
}

/// The right to work on the records of a partition, given with an assignment.
///
/// It ends when the partition is revoked or the membership is lost; a partition that comes back
/// later has a new lease. Two leases are equal when they are the same one.
#[derive(Debug, Clone, Default)]
pub struct Lease(Arc<AtomicBool>);

impl Lease {
    /// A lease that is valid until [`Lease::revoke`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the partition is still ours. Ask before anything that others can see.
    pub fn is_live(&self) -> bool {
        !self.0.load(Ordering::Acquire)
    }

    /// Ends the lease for all who hold it.
    pub fn revoke(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl PartialEq for Lease {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Lease {}

/// A record as the broker holds it.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it comes from.
    pub partition: TopicPartition,
    /// Its offset in that partition.
    pub offset: i64,
    /// Milliseconds since 1970; `None` when the record carries none (-1).
    pub timestamp: Option<i64>,
    /// Key; null and empty differ.
    pub key: Option<Bytes>,
    /// Value; null and empty differ.
    pub value: Option<Bytes>,
    /// Headers in their order, duplicates kept.
    pub headers: Vec<Header>,
    /// Under which assignment it was fetched.
    pub lease: Lease,
}
