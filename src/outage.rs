//! When an outage is worth a line in the log.
//!
//! What comes and goes many times a minute is told once: its first outage, and each later one that
//! lasts. Otherwise a broker that takes connections and answers nonsense writes two lines for
//! every attempt.

use std::time::{Duration, Instant};

/// Time after a line during which short outages have none.
const CALM: Duration = Duration::from_secs(60);
/// An outage of so long always has one.
const LASTING: Duration = Duration::from_secs(5);

/// Whether something is out, and what the log knows of it.
#[derive(Debug, Default)]
pub struct Outage {
    since: Option<Instant>,
    told: bool,
    last_told: Option<Instant>,
}

/// An outage that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Over {
    /// How long.
    pub lasted: Duration,
    /// Its beginning has a line in the log.
    pub told: bool,
}

impl Outage {
    /// It is out, just now or still. Whether that is to be told.
    pub fn goes_on(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let calm = self
            .last_told
            .is_none_or(|at| now.saturating_duration_since(at) > CALM);
        let tells = !self.told && (calm || now.saturating_duration_since(since) > LASTING);
        if tells {
            self.told = true;
            self.last_told = Some(now);
        }
        tells
    }

    /// It is out, and that is usual for a moment. Whether it has lasted and is to be told.
    pub fn lasts(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        now.saturating_duration_since(since) > LASTING && self.goes_on(now)
    }

    /// It works. `Some` when it did not before.
    pub fn over(&mut self, now: Instant) -> Option<Over> {
        let since = self.since.take()?;
        Some(Over {
            lasted: now.saturating_duration_since(since),
            told: std::mem::take(&mut self.told),
        })
    }

    /// Since when it is out.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flaps_is_told_once_a_minute_and_what_lasts_always() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(outage.over(start), None);
        assert!(outage.goes_on(at(0)));
        assert!(!outage.goes_on(at(500)), "still the same one");
        assert_eq!(outage.since(), Some(start));
        let told = |over: Option<Over>| over.map(|over| over.told);
        assert_eq!(told(outage.over(at(1_000))), Some(true));
        for second in 2..50 {
            assert!(!outage.goes_on(at(second * 1_000)));
            assert_eq!(told(outage.over(at(second * 1_000 + 900))), Some(false));
        }
        assert!(!outage.goes_on(at(50_000)));
        assert!(outage.goes_on(at(55_001)), "this one lasts");
        let over = outage.over(at(56_000)).unwrap();
        assert_eq!((over.lasted, over.told), (Duration::from_secs(6), true));
        assert!(outage.goes_on(at(120_000)), "a minute later");
    }

    #[test]
    fn what_is_usual_for_a_moment_is_told_when_it_lasts() {
        let (mut outage, start) = (Outage::default(), Instant::now());
        assert!(!outage.lasts(start));
        assert!(!outage.lasts(start + LASTING));
        assert!(outage.lasts(start + LASTING + Duration::from_millis(1)));
        assert!(!outage.lasts(start + 2 * LASTING), "once");
    }
}
