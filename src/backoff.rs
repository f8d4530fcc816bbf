//! Exponential back-off with jitter. The only room that sleeps.

use std::time::Duration;

/// A series of growing pauses.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    /// Share of a pause by which it may be shorter or longer, in percent.
    jitter: u32,
    tries: u32,
}

impl Backoff {
    /// Pauses of `first`, doubled up to `max`, each shifted by at most `jitter` percent.
    pub fn new(first: Duration, max: Duration, jitter: u32) -> Self {
        Self {
            first,
            max,
            jitter: jitter.min(100),
            tries: 0,
        }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let doubled = self
            .first
            .saturating_mul(1u32.checked_shl(self.tries.min(31)).unwrap_or(u32::MAX));
        self.tries = self.tries.saturating_add(1);
        let percent = fastrand::u32(100 - self.jitter..=100 + self.jitter);
        doubled.min(self.max).saturating_mul(percent) / 100
    }

    /// Pauses given so far.
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// Sleeps for `pause`, in slices, and ends early when `stop` says so. Returns whether it slept
/// to the end.
pub fn sleep_unless(pause: Duration, stop: impl Fn() -> bool) -> bool {
    const SLICE: Duration = Duration::from_millis(20);
    let end = std::time::Instant::now() + pause;
    loop {
        if stop() {
            return false;
        }
        let left = end.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(SLICE));
    }
}
