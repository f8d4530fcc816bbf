//! Commits: the watermark of each partition, and what the crash-loop guard says beside it.

use std::time::{Duration, Instant};

use super::{Rebalance, Worker};
use crate::error::chain;
use crate::kafka::{Code, Commit, CommitResult, Consumer, Metadata};

/// Settled records after which a commit does not wait for its interval.
const COMMIT_AFTER: usize = 500;

/// Longest wait for the answer to a commit, but for the last one before the end.
const COMMIT_PATIENCE: Duration = Duration::from_secs(5);

impl Worker {
    /// A signal that comes during a commit must not wait for it for long.
    pub(super) fn commit_patience(&self) -> Duration {
        COMMIT_PATIENCE.min(self.options.shutdown_timeout / 4)
    }

    /// One try: the next one is due in a moment, and records are read meanwhile.
    pub(super) fn commit_when_due(&mut self, limit: Duration) {
        let since = self.last_commit.elapsed();
        // Commits that are not answered take half of the loop's time at most.
        let due = since >= self.last_commit_took
            && (since >= self.options.commit_interval || self.settled_since_commit >= COMMIT_AFTER);
        if due {
            self.commit_once(limit);
        }
    }

    pub(super) fn commit_once(&mut self, limit: Duration) {
        self.commit(|consumer, commits, metadata| consumer.commit_once(commits, metadata, limit));
    }

    /// The last one of an assignment: what it does not bring through is done again by others.
    pub(super) fn commit_at_last(&mut self, limit: Duration) {
        self.commit(|consumer, commits, metadata| consumer.commit(commits, metadata, limit));
    }

    fn commit(
        &mut self,
        send: impl FnOnce(&mut Consumer, &[Commit], &Metadata) -> Vec<CommitResult>,
    ) {
        // Between two assignments the broker takes no commits, and nothing is settled.
        if self.rebalance == Rebalance::Joining {
            return;
        }
        self.settled_since_commit = 0;
        let mut due = Vec::new();
        let mut metadata = Metadata::new();
        for (watermark, moved) in self.offsets.watermarks() {
            let (partition, lease) = (&watermark.partition, &watermark.lease);
            let (mark, differs) = self.crashes.mark(partition, lease, watermark.offset);
            if moved || differs {
                metadata.extend(mark.map(|mark| (partition.clone(), mark.to_string())));
                due.push((watermark, mark));
            }
        }
        if due.is_empty() {
            self.last_commit = Instant::now();
            self.last_commit_took = Duration::ZERO;
            return;
        }
        let mut commits = Vec::new();
        for (w, mark) in &due {
            self.crashes.committed(&w.partition, &w.lease, *mark, false);
            commits.push(Commit {
                partition: w.partition.clone(),
                lease: w.lease.clone(),
                offset: w.offset,
            });
        }
        let began = Instant::now();
        let mut refused: Option<(String, bool)> = None;
        for answer in send(&mut self.consumer, &commits, &metadata) {
            let result = match &answer.result {
                Ok(()) => {
                    let committed = due.iter().find(|(w, _)| w.partition == answer.partition);
                    if let Some((w, mark)) = committed {
                        self.offsets.committed(w);
                        self.crashes.committed(&w.partition, &w.lease, *mark, true);
                    }
                    "ok"
                }
                Err(error) => {
                    let what = format!("commit of {}: {}", answer.partition, chain(error));
                    log::debug!("{what}");
                    if error.code() == Some(Code::OffsetMetadataTooLarge) && self.crashes.unmark() {
                        log::warn!(
                            "the brokers do not take what is committed beside the offsets \
                             (offset.metadata.max.bytes): crash loops are not recognised"
                        );
                    }
                    let passes = error.is_transient();
                    let (line, all_pass) = refused.take().unwrap_or((what, true));
                    refused = Some((line, all_pass && passes));
                    if passes {
                        self.metrics.retries.with_label_values(&["commit"]).inc();
                        "retried"
                    } else {
                        "failed"
                    }
                }
            };
            self.metrics.commits.with_label_values(&[result]).inc();
        }
        self.note_commits(refused);
        // Not from its beginning: one that takes long must leave time for records in between.
        self.last_commit = Instant::now();
        self.last_commit_took = began.elapsed();
    }

    /// Says that offsets cannot be committed, once for all partitions: `refused` is the first
    /// refusal, and whether all of them may pass by themselves.
    fn note_commits(&mut self, refused: Option<(String, bool)>) {
        let now = Instant::now();
        match refused {
            Some((line, passes)) => {
                let tells = if passes {
                    self.uncommitted.lasts(now)
                } else {
                    self.uncommitted.goes_on(now)
                };
                if tells {
                    log::warn!("offsets are not committed, which is tried again: {line}");
                }
            }
            None => {
                if let Some(over) = self.uncommitted.over(now).filter(|over| over.told) {
                    let lasted = over.lasted.as_secs_f64();
                    log::info!("offsets are committed again after {lasted:.1} s");
                }
            }
        }
    }
}
