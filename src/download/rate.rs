//! The minimum rate of a body.

use std::time::{Duration, Instant};

/// Over how long the rate is taken. A short stall is no reason to give up.
pub(super) const WINDOW: Duration = Duration::from_secs(10);

/// Counts the bytes of one window after the other.
#[derive(Debug)]
pub(super) struct Rate {
    /// Bytes per second; 0 switches the rule off.
    min: u64,
    since: Instant,
    received: u64,
}

impl Rate {
    pub(super) fn new(min: u64, now: Instant) -> Self {
        Self {
            min,
            since: now,
            received: 0,
        }
    }

    /// Adds bytes. `Err` holds those of the window that is over and was too slow.
    pub(super) fn add(&mut self, bytes: u64, now: Instant) -> Result<(), u64> {
        self.received = self.received.saturating_add(bytes);
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < WINDOW {
            return Ok(());
        }
        let received = std::mem::take(&mut self.received);
        self.since = now;
        // Compared as bytes × milliseconds, so that nothing is rounded away.
        let wanted = u128::from(self.min) * elapsed.as_millis();
        if u128::from(received) * 1000 < wanted {
            Err(received)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(seconds since the start, bytes)` and whether the last of them ends the download.
    fn run(min: u64, steps: &[(u64, u64)]) -> Result<(), u64> {
        let start = Instant::now();
        let mut rate = Rate::new(min, start);
        let mut last = Ok(());
        for (at, bytes) in steps {
            assert_eq!(last, Ok(()), "ended early");
            last = rate.add(*bytes, start + Duration::from_secs(*at));
        }
        last
    }

    #[test]
    fn u14_minimum_rate() {
        assert_eq!(run(100, &[(9, 0)]), Ok(()), "not before the window is over");
        assert_eq!(run(100, &[(9, 999), (10, 0)]), Err(999));
        assert_eq!(run(100, &[(9, 999), (10, 1)]), Ok(()));
        assert_eq!(
            run(100, &[(1, 1_000_000), (10, 0), (20, 0)]),
            Err(0),
            "an early burst is no credit"
        );
        assert_eq!(run(100, &[(10, 1000), (20, 1000), (30, 1000)]), Ok(()));
        assert_eq!(
            run(100, &[(40, 3_999)]),
            Err(3_999),
            "a long read counts in full"
        );
        assert_eq!(run(0, &[(10, 0), (20, 0)]), Ok(()), "off");
    }
}
