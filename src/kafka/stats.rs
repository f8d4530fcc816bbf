//! Counters of a client. Its owner reads them; the client itself never does.

use std::sync::atomic::{AtomicU64, Ordering};

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn increment(&self) {
        self.add(1);
    }

    /// `n` more.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a consumer or producer has counted since its start.
#[derive(Debug, Default)]
pub struct Stats {
    /// Connections opened again to a broker that had been lost.
    pub reconnects: Counter,
    /// New producer ids after the first: a record may stand twice in its topic.
    pub producer_resets: Counter,
    /// Produce requests sent again.
    pub produce_retries: Counter,
    /// Assignments taken over from the group.
    pub rebalances: Counter,
    /// Commits that the coordinator accepted.
    pub commits_ok: Counter,
    /// Commits asked again.
    pub commits_retried: Counter,
    /// Commits given up.
    pub commits_failed: Counter,
    /// Offsets passed over because the broker no longer has them.
    pub skipped_out_of_range: Counter,
    /// Offsets passed over because their batch is broken.
    pub skipped_corrupt_batch: Counter,
}
