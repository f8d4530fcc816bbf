//! What is known of a record so far, and its one log line.

use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use crate::archive::ArchiveKind;
use crate::error::Reason;
use crate::kafka::Record;
use crate::output::dead_letters::Failure;
use crate::watchers::{Outcome, Subject};

/// What is known of a record so far, for watchers and for its log line.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) record: Arc<Record>,
    pub(super) request_id: Option<String>,
    pub(super) org_id: Option<u32>,
    pub(super) account_number: Option<u32>,
    pub(super) cluster: Option<Uuid>,
    pub(super) archive: Option<ArchiveKind>,
    pub(super) attempts: u32,
    pub(super) started: Instant,
}

impl Known {
    pub(super) fn new(record: &Arc<Record>) -> Self {
        Self {
            record: Arc::clone(record),
            request_id: None,
            org_id: None,
            account_number: None,
            cluster: None,
            archive: None,
            attempts: 0,
            started: Instant::now(),
        }
    }

    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            partition: &self.record.partition,
            offset: self.record.offset,
            request_id: self.request_id.as_deref(),
            org_id: self.org_id,
            account_number: self.account_number,
            archive: self.archive,
        }
    }

    pub(super) fn failure(&self, reason: Reason, message: String) -> Failure {
        Failure {
            reason,
            message,
            attempts: self.attempts,
        }
    }

    /// The one line of a settled record.
    pub(super) fn log(&self, level: log::Level, outcome: Outcome, message: &str) {
        let traceparent = self
            .record
            .headers
            .iter()
            .rfind(|h| h.name == "traceparent");
        let traceparent = traceparent.and_then(|h| h.value.as_deref());
        log::log!(
            level,
            topic = self.record.partition.topic.as_ref(),
            partition = self.record.partition.partition,
            offset = self.record.offset,
            request_id = self.request_id,
            org_id = self.org_id,
            cluster_id = self.cluster.map(|id| id.to_string()),
            outcome = outcome.as_str(),
            reason = outcome.reason(),
            attempts = self.attempts,
            duration = self.started.elapsed().as_secs_f64(),
            traceparent = traceparent.map(String::from_utf8_lossy).as_deref();
            "{message}"
        );
    }
}
