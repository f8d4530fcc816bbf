//! Watchers are told what happens to records and cannot change it.
//!
//! Only [`crate::pipeline`] notifies them. To add one: write a file below `watchers/` and add a
//! line to the list that `worker` builds at start.

pub mod payload_tracker;
pub mod stats;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use crate::archive::ArchiveKind;
use crate::engine::RuleRun;
use crate::error::Reason;
use crate::kafka::TopicPartition;

/// The record that an event is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Where it comes from.
    pub partition: &'a TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// Request id, once the record is parsed.
    pub request_id: Option<&'a str>,
    /// Organisation, once the record is parsed.
    pub org_id: Option<u32>,
    /// Account, once the record is parsed, where it has one.
    pub account_number: Option<u32>,
    /// Kind of the archive, once it is extracted.
    pub archive: Option<ArchiveKind>,
}

/// Where in the pipeline a record failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Its value is no announcement.
    Ingress,
    /// The archive could not be fetched.
    Download,
    /// The archive could not be extracted.
    Extract,
    /// No report could be made.
    Process,
    /// The result was refused.
    Publish,
}

impl Stage {
    /// The word for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Ingress => "ingress",
            Stage::Download => "download",
            Stage::Extract => "extract",
            Stage::Process => "process",
            Stage::Publish => "publish",
        }
    }
}

/// How a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its report is acknowledged.
    Published,
    /// Its dead letter is acknowledged.
    DeadLetter(Reason),
    /// Passed over: filtered, or failed while there is no dead-letter topic.
    Skipped(Reason),
}

impl Outcome {
    /// The word for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Published => "published",
            Outcome::DeadLetter(_) => "dead_letter",
            Outcome::Skipped(_) => "skipped",
        }
    }

    /// The reason word; `none` for a published record.
    pub fn reason(self) -> &'static str {
        match self {
            Outcome::Published => "none",
            Outcome::DeadLetter(reason) | Outcome::Skipped(reason) => reason.as_str(),
        }
    }
}

/// What happened, in the order in which it can happen to one record.
#[derive(Debug)]
pub enum Event<'a> {
    /// The announcement is parsed.
    Received {
        /// Record time in milliseconds since 1970.
        record_time: Option<i64>,
    },
    /// The record is not for us, or too old.
    Filtered {
        /// `other_service` or `too_old`.
        reason: Reason,
    },
    /// The archive is here.
    Downloaded {
        /// Size of the body.
        bytes: u64,
        /// All attempts together.
        duration: Duration,
        /// Attempts, at least 1.
        attempts: u32,
    },
    /// The archive is extracted.
    Extracted {
        /// Members of every kind.
        entries: u64,
        /// Unpacked bytes.
        bytes: u64,
        /// Members that were ignored, by kind.
        ignored: &'a [(&'static str, u64)],
        /// Version of the remote configuration that the archive names.
        remote_configuration_version: Option<&'a str>,
    },
    /// The report is made.
    Processed {
        /// Every rule that ran.
        rules: &'a [RuleRun],
        /// Documents that could not be read.
        damaged_documents: u64,
        /// Since the download ended.
        duration: Duration,
    },
    /// The result is acknowledged.
    Published {
        /// Size of the result message.
        bytes: u64,
        /// From the first attempt to the acknowledgement.
        duration: Duration,
    },
    /// The record failed; a dead letter or a skip follows.
    Failed {
        /// Where.
        stage: Stage,
        /// Why.
        reason: Reason,
        /// Downloads tried.
        attempts: u32,
    },
    /// The dead letter is acknowledged.
    DeadLettered {
        /// Why it is one.
        reason: Reason,
        /// Whether only a stub could be sent.
        stub: bool,
    },
    /// A stage is tried again.
    Retried {
        /// `download`, `extract`, `publish` or `dead_letter`.
        stage: &'static str,
    },
    /// The record is done. Exactly once for each record whose offset moves on.
    Completed {
        /// How.
        outcome: Outcome,
        /// Since its task started.
        duration: Duration,
    },
}

/// Observes records.
pub trait Watcher: Send + Sync {
    /// Called on the thread of the record's task; must not block.
    fn notify(&self, subject: &Subject<'_>, event: &Event<'_>);
}

/// All watchers of a run.
#[derive(Default)]
pub struct Watchers(Vec<Box<dyn Watcher>>);

impl Watchers {
    /// Watchers in the order in which they are told.
    pub fn new(watchers: Vec<Box<dyn Watcher>>) -> Self {
        Self(watchers)
    }

    /// Tells every watcher. One that panics harms neither the record nor the others.
    pub fn notify(&self, subject: &Subject<'_>, event: &Event<'_>) {
        for watcher in &self.0 {
            if catch_unwind(AssertUnwindSafe(|| watcher.notify(subject, event))).is_err() {
                log::warn!("a watcher panicked; the record goes on");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Panics;

    impl Watcher for Panics {
        fn notify(&self, _: &Subject<'_>, _: &Event<'_>) {
            panic!("on purpose");
        }
    }

    struct Counts(Arc<AtomicUsize>);

    impl Watcher for Counts {
        fn notify(&self, _: &Subject<'_>, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn p06_a_watcher_that_panics_harms_neither_the_record_nor_the_others() {
        let told = Arc::new(AtomicUsize::new(0));
        let watchers = Watchers::new(vec![
            Box::new(Counts(Arc::clone(&told))),
            Box::new(Panics),
            Box::new(Counts(Arc::clone(&told))),
        ]);
        let subject = Subject {
            partition: &TopicPartition::new("upload", 0),
            offset: 7,
            request_id: None,
            org_id: None,
            account_number: None,
            archive: None,
        };
        let reason = Reason::TooOld;
        for times in 1..=2 {
            watchers.notify(&subject, &Event::Filtered { reason });
            assert_eq!(told.load(Ordering::SeqCst), 2 * times);
        }
    }
}
