//! The dead-letter breaker: when too many records fail, the next ones wait instead of following
//! them. A state machine without I/O or clock.
//!
//! It is told how records come out and answers what a failure costs. Closed, it counts. Open, it
//! lets through one record at a time, at growing intervals, until one of them is published.
//!
//! It guarantees: a record whose failure may be the other side's is never buried while the breaker
//! is open, that which opens it included; every probe is followed by another one until it closes,
//! so that it does not stay open for ever over records that would do now.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::error::{Class, Reason};

/// Outcomes that the ratio is taken over.
const WINDOW: usize = 200;
/// Outcomes from which on the ratio counts.
const LEAST: usize = 50;
/// Time from opening to the first probe; doubled after each one that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest time between two probes.
const MAX_PAUSE: Duration = Duration::from_secs(5 * 60);

/// What opens the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Options {
    /// Share of failures among the last 200 outcomes, above 0 and up to 1; `None`: does not count.
    pub max_ratio: Option<f64>,
    /// Failures in a row, at least 1; `None`: do not count.
    pub max_consecutive: Option<u64>,
}

/// What a failure costs its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A dead letter, or a counted skip where there are none.
    Bury,
    /// Kept, to be tried again.
    Hold,
}

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probed {
    /// Published, which has closed the breaker, or failed.
    Done,
    /// Called off: it says nothing, the next one may go at once.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open {
        /// When the next probe may go; `None` while one is under way.
        probe: Option<Instant>,
        /// What comes after it.
        pause: Duration,
    },
}

/// The breaker of a worker.
#[derive(Debug)]
pub struct Breaker {
    options: Options,
    state: State,
    /// The last outcomes, oldest first: why a record failed, or that it did not.
    outcomes: VecDeque<Option<Reason>>,
    consecutive: u64,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            state: State::Closed,
            outcomes: VecDeque::new(),
            consecutive: 0,
        }
    }

    /// Whether records wait.
    pub fn is_open(&self) -> bool {
        self.state != State::Closed
    }

    /// A result was published. Whether that closes the breaker.
    pub fn published(&mut self) -> bool {
        if self.is_open() {
            // What went before says nothing of the time from now on.
            *self = Self::new(self.options);
            return true;
        }
        self.count(None);
        false
    }

    /// A record failed. What becomes of it, and why the breaker opens if this opens it.
    pub fn failed(&mut self, reason: Reason, now: Instant) -> (Verdict, Option<String>) {
        self.count(Some(reason));
        let mut opens = None;
        if !self.is_open() {
            opens = self.trips();
            if opens.is_some() {
                self.state = State::Open {
                    probe: Some(now + FIRST_PAUSE),
                    pause: FIRST_PAUSE * 2,
                };
            }
        }
        let verdict = match (self.state, reason.class()) {
            (State::Open { .. }, Class::Remote) => Verdict::Hold,
            _ => Verdict::Bury,
        };
        (verdict, opens)
    }

    /// Whether a probe may go now.
    pub fn probe_is_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Open { probe: Some(at), .. } if now >= at)
    }

    /// A probe goes; the next one waits for [`Breaker::probe_ended`].
    pub fn probe_began(&mut self) {
        if let State::Open { probe, .. } = &mut self.state {
            *probe = None;
        }
    }

    /// A probe came to its end. Does nothing when it has closed the breaker.
    pub fn probe_ended(&mut self, how: Probed, now: Instant) {
        let State::Open { probe, pause } = &mut self.state else {
            return;
        };
        match how {
            Probed::Nothing => *probe = Some(now),
            Probed::Done => {
                *probe = Some(now + *pause);
                *pause = (*pause * 2).min(MAX_PAUSE);
            }
        }
    }

    fn count(&mut self, outcome: Option<Reason>) {
        self.consecutive = match outcome {
            Some(_) => self.consecutive.saturating_add(1),
            None => 0,
        };
        if self.outcomes.len() == WINDOW {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(outcome);
    }

    fn failures(&self) -> usize {
        self.outcomes.iter().flatten().count()
    }

    /// What is over its limit, on one line.
    fn trips(&self) -> Option<String> {
        let (failed, all) = (self.failures(), self.outcomes.len());
        if let Some(limit) = self.options.max_consecutive
            && self.consecutive >= limit
        {
            return Some(format!(
                "{} records in a row failed: {}",
                self.consecutive,
                self.reasons()
            ));
        }
        let limit = self.options.max_ratio?;
        // Both far below 2^52, where fractions are exact.
        let over = all >= LEAST && failed as f64 >= limit * all as f64;
        over.then(|| {
            format!(
                "{failed} of the last {all} records failed: {}",
                self.reasons()
            )
        })
    }

    /// How often each reason is among the last outcomes, most frequent first.
    fn reasons(&self) -> String {
        let mut counts: BTreeMap<Reason, usize> = BTreeMap::new();
        for reason in self.outcomes.iter().flatten() {
            *counts.entry(*reason).or_default() += 1;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let mut line = String::new();
        for (reason, count) in counts {
            let comma = if line.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(line, "{comma}{count} {}", reason.as_str());
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: Options = Options {
        max_ratio: Some(0.5),
        max_consecutive: Some(20),
    };

    fn open(reason: Reason, now: Instant) -> Breaker {
        let mut breaker = Breaker::new(Options {
            max_consecutive: Some(1),
            max_ratio: None,
        });
        assert!(breaker.failed(reason, now).1.is_some());
        breaker
    }

    #[test]
    fn m17_a_run_of_failures_opens_it_and_says_which() {
        let (mut breaker, now) = (Breaker::new(BOTH), Instant::now());
        for _ in 0..18 {
            let answer = breaker.failed(Reason::DownloadFailed, now);
            assert_eq!(answer, (Verdict::Bury, None));
        }
        assert_eq!(breaker.failed(Reason::NotFound, now).1, None);
        assert!(!breaker.is_open());
        let (verdict, why) = breaker.failed(Reason::DownloadFailed, now);
        assert_eq!(verdict, Verdict::Hold, "the one that opens it is held");
        let why = why.expect("opened");
        assert_eq!(
            why,
            "20 records in a row failed: 19 download_failed, 1 not_found"
        );
        assert_eq!(
            breaker.failed(Reason::NotFound, now),
            (Verdict::Bury, None),
            "the record's own fault; and it is open already"
        );
    }

    #[test]
    fn m17_half_of_the_last_outcomes_opens_it_from_fifty_on() {
        let (mut breaker, now) = (Breaker::new(BOTH), Instant::now());
        for n in 0..48 {
            assert!(!breaker.published());
            assert_eq!(breaker.failed(Reason::NotFound, now).1.is_some(), n == 24);
            if n == 24 {
                break;
            }
        }
        assert!(breaker.is_open());
    }

    #[test]
    fn m17_old_outcomes_fall_out_of_the_ratio() {
        let (mut breaker, now) = (Breaker::new(BOTH), Instant::now());
        for _ in 0..1000 {
            breaker.published();
        }
        let mut failures = 0;
        // Two of three fail: never 20 in a row.
        while !breaker.is_open() {
            breaker.failed(Reason::NotFound, now);
            breaker.failed(Reason::NotFound, now);
            failures += 2;
            if !breaker.is_open() {
                breaker.published();
            }
            assert!(failures < 200);
        }
        assert!((95..=105).contains(&failures), "{failures}");
    }

    #[test]
    fn m17_probes_come_later_and_later_until_a_result_closes_it() {
        let mut now = Instant::now();
        let mut breaker = open(Reason::Tls, now);
        let mut pauses = Vec::new();
        for _ in 0..7 {
            let from = now;
            assert!(!breaker.probe_is_due(now));
            while !breaker.probe_is_due(now) {
                now += Duration::from_secs(1);
            }
            pauses.push((now - from).as_secs());
            breaker.probe_began();
            assert!(!breaker.probe_is_due(now + MAX_PAUSE), "one at a time");
            assert_eq!(breaker.failed(Reason::Tls, now).0, Verdict::Hold);
            breaker.probe_ended(Probed::Done, now);
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 300, 300]);
        assert!(breaker.published());
        breaker.probe_ended(Probed::Done, now);
        assert!(!breaker.is_open() && !breaker.probe_is_due(now + MAX_PAUSE));
        assert!(!breaker.published(), "said once");
    }

    #[test]
    fn m17_a_probe_that_was_called_off_is_followed_at_once() {
        let now = Instant::now();
        let mut breaker = open(Reason::Tls, now);
        breaker.probe_began();
        breaker.probe_ended(Probed::Nothing, now);
        assert!(breaker.probe_is_due(now));
    }

    #[test]
    fn m17_off_is_off() {
        let (mut breaker, now) = (Breaker::new(Options::default()), Instant::now());
        for _ in 0..1000 {
            let answer = breaker.failed(Reason::DownloadFailed, now);
            assert_eq!(answer, (Verdict::Bury, None));
        }
    }

    proptest! {
        /// Against a model that counts everything anew.
        #[test]
        fn m17_it_opens_exactly_at_its_limits(
            outcomes in prop::collection::vec(prop::bool::weighted(0.4), 0..600),
            consecutive in prop::option::of(1u64..30),
            ratio in prop::option::of(0.01f64..=1.0),
        ) {
            let options = Options { max_ratio: ratio, max_consecutive: consecutive };
            let (mut breaker, now) = (Breaker::new(options), Instant::now());
            for (n, failed) in outcomes.iter().enumerate() {
                let so_far = &outcomes[..=n];
                let window = &so_far[so_far.len().saturating_sub(WINDOW)..];
                let share = window.iter().filter(|f| **f).count();
                let row = so_far.iter().rev().take_while(|f| **f).count();
                let model = *failed
                    && (consecutive.is_some_and(|limit| row as u64 >= limit)
                        || ratio.is_some_and(|limit| {
                            window.len() >= LEAST && share as f64 >= limit * window.len() as f64
                        }));
                if *failed {
                    let (verdict, why) = breaker.failed(Reason::DownloadFailed, now);
                    prop_assert_eq!(why.is_some(), model);
                    prop_assert_eq!(verdict == Verdict::Hold, model);
                } else {
                    prop_assert!(!breaker.published());
                }
                prop_assert_eq!(breaker.is_open(), model);
                if model {
                    break;
                }
            }
        }

        /// Whatever happens: an open breaker has a probe due in the end, or one under way; only a
        /// published result closes it.
        #[test]
        fn m17_it_never_stays_open_without_a_probe(
            steps in prop::collection::vec((0u8..5, 0u64..400), 0..200),
        ) {
            let mut now = Instant::now();
            let mut breaker = open(Reason::Tls, now);
            let mut under_way = false;
            for (step, seconds) in steps {
                now += Duration::from_secs(seconds);
                let was_open = breaker.is_open();
                let due = breaker.probe_is_due(now);
                match step {
                    0 => { breaker.failed(Reason::NotFound, now); }
                    1 => { breaker.published(); under_way = false; }
                    2 if due => { breaker.probe_began(); under_way = true; }
                    3 if under_way => { breaker.probe_ended(Probed::Done, now); under_way = false; }
                    4 if under_way => { breaker.probe_ended(Probed::Nothing, now); under_way = false; }
                    _ => {}
                }
                prop_assert!(!was_open || breaker.is_open() || step == 1);
                if breaker.is_open() && !under_way {
                    prop_assert!(breaker.probe_is_due(now + MAX_PAUSE));
                }
            }
        }
    }
}
