//! What the poll loop and the task of a record tell each other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::kafka::Lease;

/// What a task is doing, as the poll loop sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Waits for a thread.
    Queued,
    /// Works; must be done with it at the given time.
    Working {
        /// End of the stage's own deadline.
        until: Instant,
    },
    /// Waits for our host, without a deadline.
    Waiting,
    /// Waits for the topics of results, without a deadline.
    Publishing,
    /// Waits for the dead-letter topic, without a deadline.
    Burying,
}

/// One record's task. The loop can call it off; the task says what it is doing.
#[derive(Debug)]
pub struct Task {
    lease: Lease,
    /// When it calls itself off.
    until: Option<Instant>,
    called_off: AtomicBool,
    /// Goes although the breaker is open.
    probe: bool,
    doing: Mutex<Doing>,
}

impl Task {
    /// A task for a record of this lease.
    pub fn new(lease: Lease) -> Self {
        Self {
            lease,
            until: None,
            called_off: AtomicBool::new(false),
            probe: false,
            doing: Mutex::new(Doing::Queued),
        }
    }

    /// A task that calls itself off at `until`.
    pub fn until(lease: Lease, until: Instant) -> Self {
        Self {
            until: Some(until),
            ..Self::new(lease)
        }
    }

    /// A task that goes although the breaker is open, to see whether it may close.
    pub fn probe(lease: Lease) -> Self {
        Self {
            probe: true,
            ..Self::new(lease)
        }
    }

    /// Whether it goes although the breaker is open.
    pub fn is_probe(&self) -> bool {
        self.probe
    }

    /// Whether nothing that others can see may be done for the record any more.
    pub fn is_cancelled(&self) -> bool {
        self.called_off.load(Ordering::Acquire)
            || !self.lease.is_live()
            || self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// Calls the task off.
    pub fn call_off(&self) {
        self.called_off.store(true, Ordering::Release);
    }

    /// Says what the task does from now on.
    pub(super) fn enter(&self, doing: Doing) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner) = doing;
    }

    /// Says that a stage with a deadline of its own begins.
    pub(super) fn work_for(&self, limit: Duration) -> Instant {
        let until = Instant::now() + limit;
        self.enter(Doing::Working { until });
        until
    }

    /// What the task is doing.
    pub fn doing(&self) -> Doing {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
