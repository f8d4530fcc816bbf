//! The time of day that the age of records is measured by.

use std::time::Instant;

use time::OffsetDateTime;

/// The wall clock, read once and carried on by the monotonic one: a clock that jumps later must
/// not make a backlog too old.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    wall: OffsetDateTime,
    at: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            wall: OffsetDateTime::now_utc(),
            at: Instant::now(),
        }
    }

    /// Milliseconds since 1970.
    pub(super) fn now_ms(self) -> i128 {
        let start = self.wall.unix_timestamp_nanos() / 1_000_000;
        start + i128::try_from(self.at.elapsed().as_millis()).unwrap_or(i128::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m12_p13_a_wall_clock_that_jumps_makes_no_record_too_old() {
        for days in [-1, 1] {
            // The wall clock was elsewhere when it was read, and has jumped to the present since.
            let clock = Clock {
                wall: OffsetDateTime::now_utc() + time::Duration::days(days),
                at: Instant::now(),
            };
            let start = clock.wall.unix_timestamp_nanos() / 1_000_000;
            let hour = 3_600_000;
            assert!((start..start + hour).contains(&clock.now_ms()), "{days}");
        }
    }
}
