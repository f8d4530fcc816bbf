//! A blocking Kafka client: a consumer that is a real member of a consumer group, and an
//! idempotent producer. Pure Rust, no async runtime, brokers from Kafka 2.1 to 4.x.
//!
//! This file is the whole face of the client. The worker needs little of Kafka (poll, commit,
//! pause, resume, release, close; send), and what stands here is all that it may use. The client
//! has never heard of archives, reports or rules.

mod assignor;
mod cluster;
mod connection;
mod consumer;
mod error;
mod fetch;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod group;
mod heartbeat;
pub mod options;
mod probe;
mod producer;
mod records;
mod sasl;
mod stats;
mod stream;
mod versions;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;

pub use consumer::{Consumer, Metadata};
pub use error::{Code, Error};
pub use group::Phase;
pub use probe::{Finding, ProbeLine, probe};
pub use producer::{Pending, Producer, SendError};
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

impl Record {
    /// Bytes of its key, value and headers.
    pub fn size(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter();
        let headers = headers.map(|header| header.name.len() + length(&header.value));
        length(&self.key) + length(&self.value) + headers.sum::<usize>()
    }
}

/// A record to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutgoingRecord {
    /// Where to.
    pub topic: Arc<str>,
    /// Which partition; `None`: by the key as Java's clients do, without a key in turn.
    pub partition: Option<i32>,
    /// Key; null and empty differ.
    pub key: Option<Bytes>,
    /// Value; null and empty differ.
    pub value: Option<Bytes>,
    /// Headers in their order, duplicates kept.
    pub headers: Vec<Header>,
}

/// A record that every in-sync replica holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledged {
    /// Where it is.
    pub partition: TopicPartition,
    /// Its offset there; -1 when the broker only says that it already has it.
    pub offset: i64,
}

/// What a consumer has to tell its owner, in the order in which it happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The complete new assignment; what is not in it is no longer ours.
    Assigned {
        /// Generation of the group that it belongs to.
        generation: i32,
        /// What we read now.
        partitions: Vec<Assigned>,
    },
    /// The group rebalances: hand out no further record, finish or give up what is in work,
    /// commit, then `release`.
    ///
    /// Leases stay live meanwhile, and on until the next assignment but for those that are given
    /// up. At the deadline the consumer ends them all and says [`Event::Lost`].
    Revoking {
        /// When the consumer stops waiting.
        deadline: Instant,
    },
    /// All leases are dead and nothing of them can be committed; the consumer joins again.
    Lost,
    /// Records of one partition, in order.
    Fetched {
        /// Where they come from.
        partition: TopicPartition,
        /// Under which assignment they were fetched.
        lease: Lease,
        /// Where fetching began.
        from: i64,
        /// The records; empty when only control batches or holes stood there.
        records: Vec<Record>,
        /// Where fetching goes on, holes and control batches included. Once all of these are
        /// settled, this is what to commit.
        next: i64,
    },
    /// Offsets that were passed over without being read.
    Skipped {
        /// Of which partition.
        partition: TopicPartition,
        /// Under which assignment.
        lease: Lease,
        /// Where fetching stood.
        from: i64,
        /// Where it goes on; before `from` when the log was cut off or made anew.
        to: i64,
        /// Why.
        cause: SkipCause,
    },
    /// The topic was deleted and made again: other records stand at the offsets that were handed
    /// out, and reading begins at the start.
    StartedOver {
        /// Which partition.
        partition: TopicPartition,
        /// Under which assignment.
        lease: Lease,
        /// Where it begins.
        at: i64,
    },
    /// The partition stands still until a person acts.
    Halted {
        /// Which.
        partition: TopicPartition,
        /// Why, on one line.
        cause: String,
    },
}

/// A partition that the group gave us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assigned {
    /// Which.
    pub partition: TopicPartition,
    /// The right to work on it.
    pub lease: Lease,
    /// It came back in the directly following generation: lease, position and window stay.
    pub kept: bool,
}

/// Why offsets were passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SkipCause {
    /// The broker has no record at this offset: retention removed it, or the log is another one.
    OutOfRange,
    /// A batch stayed broken when fetched again.
    CorruptBatch,
}

/// The next offset to read of one partition.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Which.
    pub partition: TopicPartition,
    /// The lease that its records were read under.
    pub lease: Lease,
    /// All records before it are settled.
    pub offset: i64,
}

/// What became of a [`Commit`].
#[derive(Debug, Clone)]
pub struct CommitResult {
    /// Which partition.
    pub partition: TopicPartition,
    /// The offset that was to be committed.
    pub offset: i64,
    /// An error means: not committed, as far as is known.
    pub result: Result<(), Error>,
}

/// A consumer that cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fatal {
    /// Who has to act.
    pub kind: FatalKind,
    /// What happened, on one line, without secrets.
    pub message: String,
}

impl Fatal {
    fn new(kind: FatalKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// What an error costs that no retry mends; `None` for all others, and for codes, which mean
    /// different things to different requests.
    fn of(error: &Error) -> Option<Self> {
        let kind = match error {
            Error::Authentication { .. } if !error.is_transient() => FatalKind::NotAuthorised,
            Error::Version { .. } | Error::Feature { .. } => FatalKind::Configuration,
            Error::Encode { .. } => FatalKind::Internal,
            _ => return None,
        };
        Some(Self::new(kind, crate::error::chain(error)))
    }
}

/// Why a consumer cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FatalKind {
    /// The brokers refuse our credentials, or us a group or topic.
    NotAuthorised,
    /// Another member uses our static id.
    Fenced,
    /// Settings of ours and of the brokers or the group do not go together.
    Configuration,
    /// An invariant of ours is broken.
    Internal,
}

/// How a consumer is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberState {
    /// Where it stands in the group.
    pub phase: Phase,
    /// Generation of the group, -1 outside of it.
    pub generation: i32,
    /// Whether the topic exists, as far as is known.
    pub topic_known: bool,
    /// What is wrong at the moment, on one line.
    pub trouble: Option<String>,
}

impl MemberState {
    /// Why no records can come at the moment, on one line; `None` when they can.
    pub fn not_ready(&self) -> Option<String> {
        if let Some(trouble) = &self.trouble {
            return Some(trouble.clone());
        }
        match self.phase {
            Phase::Stable if self.topic_known => None,
            Phase::Stable => Some("the incoming topic is not known yet".to_owned()),
            Phase::Joining => Some("joining the group".to_owned()),
            Phase::Draining => Some("the group rebalances".to_owned()),
            Phase::Stopped => Some("not a member of the group".to_owned()),
        }
    }
}
