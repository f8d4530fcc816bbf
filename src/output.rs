//! What leaves: results and dead letters, each acknowledged by its broker before it counts.

pub mod dead_letters;
pub mod results;

use std::sync::Arc;

use crate::kafka::Producer;

/// The producers of a run: one for each cluster, so one when results stay on the consumer's.
pub struct Output {
    /// Topic and producer of results.
    pub results: Sink,
    /// Topic and producer of dead letters; `None` when failed records are skipped.
    pub dead_letters: Option<Sink>,
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
