//! Where one partition is read next, and how it is doing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::kafka::options::OffsetReset;
use crate::kafka::{Lease, TopicPartition};
use crate::outage::Outage;

/// Where a partition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::kafka) enum Place {
    /// Where the group committed, which has to be asked.
    Committed,
    /// At its start or behind its end, which has to be asked.
    Reset(OffsetReset),
    /// The broker does not have this offset; both ends have to be asked.
    OutOfRange(i64),
    /// At the start of a log that was made anew, which has to be asked.
    Anew,
    /// At this offset.
    At(i64),
}

/// One partition under one lease.
#[derive(Debug)]
pub(super) struct Position {
    pub(super) lease: Lease,
    pub(super) place: Place,
    pub(super) paused: bool,
    /// Why it stands still for good.
    pub(super) halted: Option<String>,
    /// A batch at this offset was broken once.
    pub(super) suspect: Option<i64>,
    pub(super) high_watermark: Option<i64>,
    pub(super) not_before: Option<Instant>,
    pub(super) backoff: Backoff,
    /// What is wrong in a series of failures.
    pub(super) trouble: Option<String>,
    /// What the log knows of it.
    pub(super) outage: Outage,
    /// What the log knows of its having no leader.
    pub(super) leaderless: Outage,
    /// The committed offset that it began at, with its metadata.
    pub(super) committed: Option<(i64, Arc<str>)>,
}

impl Position {
    pub(super) fn new(lease: Lease) -> Self {
        Self {
            lease,
            place: Place::Committed,
            paused: false,
            halted: None,
            suspect: None,
            high_watermark: None,
            not_before: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 20),
            trouble: None,
            outage: Outage::default(),
            leaderless: Outage::default(),
            committed: None,
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.halted.is_none() && self.not_before.is_none_or(|at| now >= at)
    }

    pub(super) fn back_off(&mut self, now: Instant) {
        self.not_before = Some(now + self.backoff.next_pause());
    }

    pub(super) fn well(&mut self, partition: &TopicPartition, now: Instant) {
        self.not_before = None;
        self.backoff.reset();
        self.trouble = None;
        if self.outage.over(now).is_some_and(|over| over.told) {
            log::info!("{partition} is read again");
        }
    }

    /// Notes what is wrong; only its beginning and a change are worth a line.
    pub(super) fn note(&mut self, partition: &TopicPartition, what: String, now: Instant) {
        let changes = self.trouble.as_ref().is_some_and(|before| *before != what);
        if changes {
            self.outage.over(now);
        }
        if self.outage.goes_on(now) {
            log::warn!("{partition}: {what}, trying again");
        } else {
            log::debug!("{partition}: {what}");
        }
        self.trouble = Some(what);
    }
}
