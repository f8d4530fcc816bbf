//! What leaves: results, recommendations for workloads and dead letters, each acknowledged by its broker before it counts.

pub mod dead_letters;
pub mod payload_tracker;
pub mod results;
pub mod workloads;

use std::sync::Arc;

use crate::kafka::Producer;

/// Version of the message formats that the aggregator expects.
const VERSION: u8 = 2;

/// The producers of a run: one for each cluster, so one when results stay on the consumer's.
pub struct Output {
    /// Topic and producer of results.
    pub results: Sink,
    /// Topic of recommendations for workloads, with the producer of results; `None` when none
    /// are made.
    pub workloads: Option<Sink>,
    /// Topic and producer of dead letters; `None` when failed records are skipped.
    pub dead_letters: Option<Sink>,
}

impl Output {
    /// Where what comes of an archive goes: every topic that has to work for records to be taken.
    pub fn of_archives(&self) -> impl Iterator<Item = &Sink> {
        std::iter::once(&self.results).chain(&self.workloads)
    }

    /// Whether one of the producers cannot send any more.
    pub fn has_ended(&self) -> bool {
        let mut sinks = self.of_archives().chain(&self.dead_letters);
        sinks.any(|sink| sink.producer.has_ended())
    }
}

/// A topic and the producer that reaches it.
#[derive(Clone)]
pub struct Sink {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// The idempotent producer of its cluster.
    pub producer: Arc<Producer>,
}

impl Sink {
    /// Why nothing is acknowledged for this topic at the moment.
    pub fn stalled(&self) -> Option<String> {
        self.producer.stalled(&self.topic)
    }
}
