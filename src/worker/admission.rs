//! What is fetched, and when: while something can be done with what comes.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::{Rebalance, Worker};
use crate::kafka::{Record, TopicPartition};
use crate::output::Sink;
use crate::pipeline::task::Doing;
use crate::telemetry::health::Fault;

/// Open records of one partition at which fetching it pauses, so that one slow record cannot make
/// the list of finished ones behind it grow without end.
pub(super) const OPEN_LIMIT: usize = 10_000;

/// Dead letters that may wait for their topic, in relation to the records that may be in work.
const BURIALS: usize = 16;

/// Bytes of records that wait at which no partition is fetched, and those behind dead letters are
/// given back: each fetch may bring a megabyte, and more of it compressed.
pub(super) const WAITING_BYTES: usize = 16 << 20;

/// How long results and dead letters may stay unacknowledged before that is called a fault.
const SINK_PATIENCE: Duration = Duration::from_secs(1);

impl Worker {
    /// Decides what is fetched. Returns whether a record that ends is waited for, rather than one
    /// that comes.
    pub(super) fn admit(&mut self) -> bool {
        let output = self.pipeline.output();
        let stalled = |sink: &Sink| {
            let cause = sink.stalled()?;
            Some(format!("{} takes no results: {cause}", sink.topic))
        };
        match output.of_archives().find_map(stalled) {
            Some(cause) => {
                let since = *self.sink_stalled.get_or_insert_with(Instant::now);
                // A leader that moves is no fault yet.
                if since.elapsed() >= SINK_PATIENCE && self.sink_fault.is_none() {
                    self.sink_fault = Some(self.health.raise(Fault::Sink, cause));
                }
            }
            None => (self.sink_stalled, self.sink_fault) = (None, None),
        }
        self.pause_partitions();
        self.give_back();
        let saturated = self.is_saturated();
        let breaker_waits = {
            let breaker = self.pipeline.breaker();
            // Nothing is held that could be tried: then one new record is.
            breaker.is_open() && !(breaker.probe_is_due(Instant::now()) && self.held.is_empty())
        };
        let held = saturated
            || breaker_waits
            || self.sink_stalled.is_some()
            || self.health.has(Fault::Sink)
            || self.health.has(Fault::Host)
            || self.rebalance != Rebalance::None;
        if held {
            self.consumer.pause_all();
        } else {
            self.consumer.resume_all();
        }
        let suspects_wait = !self.behind.is_subset(&self.blocked);
        saturated || suspects_wait || matches!(self.rebalance, Rebalance::Draining(_))
    }

    /// Whether nothing more can be taken on at the moment.
    pub(super) fn is_saturated(&self) -> bool {
        let taken = self.working() + self.held.len();
        let buried = self.in_flight.len() - self.working();
        // What is fetched of a partition that waits is no reason to fetch nothing of the others.
        let backlog = self
            .ready
            .iter()
            .any(|record| !self.behind.contains(&record.partition));
        backlog
            || self.waiting_bytes() > WAITING_BYTES
            || taken >= self.options.max_in_flight
            || buried >= BURIALS * self.options.max_in_flight
    }

    fn waiting_bytes(&self) -> usize {
        self.ready.iter().map(|record| record.size()).sum()
    }

    /// Behind a dead letter that is not accepted records may wait for hours. When they are too
    /// many to be kept they are fetched again later, so that the other partitions are read.
    fn give_back(&mut self) {
        if self.waiting_bytes() <= WAITING_BYTES {
            return;
        }
        for partition in &self.blocked {
            let of_it = |record: &Record| record.partition == *partition;
            let waiting = self.ready.iter().filter(|record| of_it(record));
            let waiting: HashSet<i64> = waiting.map(|record| record.offset).collect();
            let waits = |offset| waiting.contains(&offset);
            if let Some(first) = self.offsets.give_back(partition, waits) {
                self.ready
                    .retain(|record| !of_it(record) || record.offset < first);
                self.consumer.rewind(partition, first);
            }
        }
    }

    /// Fetches nothing of partitions that hold a dead letter which is not accepted, whose records
    /// wait, or that have too many open. Of the last kind what is here is handed out: a fetch may
    /// bring more small records than may be open, and without them the number would never fall.
    fn pause_partitions(&mut self) {
        let output = self.pipeline.output();
        let dead_letters = output.dead_letters.as_ref();
        let stalled = dead_letters.and_then(Sink::stalled);
        let burying: HashSet<TopicPartition> = self
            .in_flight
            .values()
            .filter(|f| match f.task.doing() {
                Doing::Burying => stalled.is_some() || f.burial.is_some(),
                Doing::Queued | Doing::Working { .. } | Doing::Waiting | Doing::Publishing => false,
            })
            .map(|f| f.record.partition.clone())
            .collect();
        self.burying_since =
            (!burying.is_empty()).then(|| self.burying_since.unwrap_or_else(Instant::now));
        let lasts = self
            .burying_since
            .is_some_and(|since| since.elapsed() >= SINK_PATIENCE);
        let waits = dead_letters.filter(|_| lasts).map(|sink| {
            let cause = stalled.as_deref().unwrap_or("it refuses them");
            format!("partitions wait for topic {}: {cause}", sink.topic)
        });
        self.health.dead_letters(waits);
        let full = self
            .offsets
            .unfinished()
            .into_iter()
            .filter(|p| self.offsets.open(p) > OPEN_LIMIT);
        let wanted: HashSet<TopicPartition> = full
            .chain(burying.iter().chain(&self.behind).cloned())
            .collect();
        self.blocked = burying;
        if wanted == self.paused {
            return;
        }
        let resume: Vec<_> = self.paused.difference(&wanted).cloned().collect();
        let pause: Vec<_> = wanted.difference(&self.paused).cloned().collect();
        self.consumer.resume(&resume);
        self.consumer.pause(&pause);
        self.paused = wanted;
    }
}
