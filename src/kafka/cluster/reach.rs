//! How well one address is reached: when the next attempt is worth while, and what the log is told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::error::chain;
use crate::kafka::error::Error;
use crate::kafka::stats::Stats;
use crate::outage::Outage;

/// How well one address is reached.
#[derive(Debug)]
pub(super) struct Reach {
    backoff: Backoff,
    retry_at: Option<Instant>,
    outage: Outage,
    attempts: u32,
    opened: Option<Instant>,
    last: Arc<str>,
    /// How often in a row it has refused our credentials.
    refusals: u32,
}

impl Reach {
    pub(super) fn new() -> Self {
        Self {
            backoff: Self::quick(),
            retry_at: None,
            outage: Outage::default(),
            attempts: 0,
            opened: None,
            last: Arc::from(""),
            refusals: 0,
        }
    }

    fn quick() -> Backoff {
        Backoff::new(Duration::from_millis(50), Duration::from_secs(1), 20)
    }

    /// Whether the last attempt failed.
    pub(super) fn is_away(&self) -> bool {
        self.outage.since().is_some()
    }

    /// When the next attempt is worth while; `None` for at once.
    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Rest of the pause before the next attempt.
    pub(super) fn waiting(&self, address: &Arc<str>) -> Option<Error> {
        let left = self.retry_at?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then(|| Error::Waiting {
            address: address.clone(),
            left,
            last: self.last.clone(),
        })
    }

    /// An attempt to connect failed. Counts refused credentials.
    pub(super) fn not_opened(&mut self, cluster: &str, address: &str, mut error: Error) -> Error {
        /// A broker that has just started may not know its users yet.
        const REFUSED: Duration = Duration::from_millis(500);
        if let Error::Authentication { tries, .. } = &mut error {
            self.refusals = self.refusals.saturating_add(1);
            *tries = self.refusals;
        }
        self.failed(cluster, address, &chain(&error));
        if self.refusals > 0 {
            let later = Instant::now() + REFUSED;
            self.retry_at = self.retry_at.map(|at| at.max(later));
        }
        error
    }

    pub(super) fn failed(&mut self, cluster: &str, address: &str, cause: &str) {
        /// A connection that lived so long was a good one.
        const GOOD: Duration = Duration::from_secs(1);
        /// A broker away for so long is asked less often.
        const LONG: Duration = Duration::from_secs(60);
        if self.opened.take().is_some_and(|at| at.elapsed() > GOOD) {
            self.backoff = Self::quick();
        }
        self.attempts = self.attempts.saturating_add(1);
        self.last = cause.into();
        let now = Instant::now();
        if self.outage.goes_on(now) {
            log::warn!(cluster, broker = address; "lost broker at {address}: {cause}");
        } else {
            log::debug!(cluster, broker = address; "broker at {address}: {cause}");
        }
        let is_long = self.outage.since().is_some_and(|at| at.elapsed() > LONG);
        let pause = if is_long {
            Backoff::new(Duration::from_secs(10), Duration::from_secs(10), 20).next_pause()
        } else {
            self.backoff.next_pause()
        };
        self.retry_at = Some(now + pause);
    }

    pub(super) fn opened(&mut self, cluster: &str, address: &str, stats: &Stats) {
        self.retry_at = None;
        self.refusals = 0;
        let now = Instant::now();
        self.opened = Some(now);
        if let Some(over) = self.outage.over(now) {
            stats.reconnects.increment();
            // It may be there and of no use: what was not told as lost is not told as back.
            let level = if over.told {
                log::Level::Info
            } else {
                log::Level::Debug
            };
            log::log!(
                level,
                cluster, broker = address, attempts = self.attempts;
                "broker at {address} is back after {:.1} s", over.lasted.as_secs_f64()
            );
        }
        self.attempts = 0;
    }
}
