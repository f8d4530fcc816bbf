//! A worker between Kafka and S3 that evaluates Insights rules over OpenShift archives.
//!
//! A record's way through, and the room that each step lives in:
//!
//! 1. [`worker`] polls the consumer group and hands each record to a thread pool.
//! 2. [`pipeline`] takes one record through its stages and decides what an error costs:
//! 3. [`ingress`] parses the announcement,
//! 4. [`download`] fetches the archive behind its URL,
//! 5. [`archive`] extracts it under limits and gives typed access to its documents,
//! 6. [`engine`] evaluates [`rules`] over it, [`report`] renders what they found,
//! 7. [`output`] publishes the result, or a dead letter, and waits for the acknowledgement.
//! 8. [`worker`] settles the record: [`offsets`] moves the watermark that is committed.
//!
//! Two state machines say when a record has to wait: [`breaker`], while most of them fail, and
//! [`crashes`], while one is suspected of ending the process.
//!
//! [`kafka`] is a client of its own and knows nothing of the other rooms. [`watchers`] are told
//! what happens and cannot change it; [`telemetry`] is one of them.

pub mod archive;
pub mod backoff;
pub mod breaker;
pub mod cli;
pub mod config;
pub mod content;
pub mod crashes;
pub mod download;
pub mod engine;
pub mod error;
pub mod exit;
pub mod ingress;
pub mod kafka;
pub mod logging;
pub mod offsets;
pub mod outage;
pub mod output;
pub mod pipeline;
pub mod report;
pub mod rules;
pub mod secret;
pub mod shutdown;
pub mod signed_url;
pub mod telemetry;
pub mod tls;
pub mod version;
pub mod watchers;
pub mod worker;
