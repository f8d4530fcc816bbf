//! What goes to one partition: its queue, and the one batch that is built and repeated until the
//! broker has it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::backoff::Backoff;
use crate::kafka::TopicPartition;
use crate::kafka::options::Compression;
use crate::kafka::producer::{Acknowledged, Job, SendError};
use crate::kafka::records::{self, Draft, Origin};

/// Bytes of keys, values and headers in a batch of several records: well below the limit of
/// brokers (1 MiB), which counts what we cannot see before it is compressed.
const BATCH_BYTES: usize = 512 << 10;
/// Records in a batch.
const BATCH_RECORDS: usize = 1000;

/// The producer id.
#[derive(Debug)]
pub(super) enum Identity {
    /// To be asked for, not before a time.
    Wanted(Option<Instant>),
    /// Given by the broker.
    Known { id: i64, epoch: i16 },
    /// We may not have one.
    Without,
}

/// A batch, built once.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) bytes: Bytes,
    pub(super) jobs: Vec<Job>,
    pub(super) origin: Origin,
    pub(super) in_flight: bool,
    pub(super) first_sent: Option<Instant>,
}

/// What goes to one partition.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) queue: VecDeque<Job>,
    pub(super) pack: Option<Pack>,
    /// Whose sequence `sequence` belongs to.
    pub(super) owner: Option<(i64, i16)>,
    pub(super) sequence: i32,
    pub(super) retry_at: Option<Instant>,
    pub(super) backoff: Backoff,
    /// Since when metadata does not list the partition.
    pub(super) gone_since: Option<Instant>,
    /// A sequence was lost since the last acknowledgement.
    pub(super) in_doubt: bool,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            pack: None,
            owner: None,
            sequence: 0,
            retry_at: None,
            backoff: pauses(),
            gone_since: None,
            in_doubt: false,
        }
    }

    pub(super) fn has_work(&self) -> bool {
        self.pack.is_some() || !self.queue.is_empty()
    }

    /// Whether something may be sent now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| now >= at)
            && match &self.pack {
                Some(pack) => !pack.in_flight,
                None => !self.queue.is_empty(),
            }
    }

    pub(super) fn retry_later(&mut self, pause: Option<Duration>) {
        if let Some(pack) = &mut self.pack {
            pack.in_flight = false;
        }
        let pause = pause.unwrap_or_else(|| self.backoff.next_pause());
        self.retry_at = Some(Instant::now() + pause);
    }

    /// Takes a batch apart, because it must be built anew.
    pub(super) fn unpack(&mut self, alone: bool) {
        for mut job in self.pack.take().into_iter().flat_map(|p| p.jobs).rev() {
            job.alone |= alone;
            self.queue.push_front(job);
        }
    }

    /// Builds the next batch if there is none.
    pub(super) fn build(
        &mut self,
        identity: &Identity,
        compression: Compression,
    ) -> std::io::Result<()> {
        if self.pack.is_some() {
            return Ok(());
        }
        let mut jobs: Vec<Job> = Vec::new();
        let mut bytes = 0;
        while let Some(job) = self.queue.front() {
            if job.ticket.is_cancelled() {
                self.queue.pop_front();
                continue;
            }
            let together = !job.alone && bytes + job.size() <= BATCH_BYTES;
            if !jobs.is_empty() && (!together || jobs.len() == BATCH_RECORDS) {
                break;
            }
            bytes += job.size();
            let last = job.alone;
            jobs.extend(self.queue.pop_front());
            if last {
                break;
            }
        }
        if jobs.is_empty() {
            return Ok(());
        }
        let origin = match *identity {
            Identity::Known { id, epoch } => {
                if self.owner != Some((id, epoch)) {
                    self.owner = Some((id, epoch));
                    self.sequence = 0;
                }
                Origin {
                    producer_id: id,
                    epoch,
                    sequence: self.sequence,
                }
            }
            Identity::Wanted(_) | Identity::Without => Origin::NOBODY,
        };
        let drafts: Vec<Draft<'_>> = jobs
            .iter()
            .map(|job| Draft {
                timestamp: job.timestamp,
                key: job.record.key.as_deref(),
                value: job.record.value.as_deref(),
                headers: &job.record.headers,
            })
            .collect();
        match records::encode(&drafts, compression, origin) {
            Ok(bytes) => {
                self.pack = Some(Pack {
                    bytes,
                    jobs,
                    origin,
                    in_flight: false,
                    first_sent: None,
                });
                Ok(())
            }
            Err(error) => {
                for job in jobs.into_iter().rev() {
                    self.queue.push_front(job);
                }
                Err(error)
            }
        }
    }

    /// The batch is written: its first record has this offset, unless the broker does not say
    /// (-1).
    pub(super) fn acknowledge(&mut self, partition: &TopicPartition, base: i64) {
        let Some(pack) = self.pack.take() else { return };
        if pack.origin != Origin::NOBODY {
            self.sequence = advance(pack.origin.sequence, pack.jobs.len());
        }
        self.retry_at = None;
        self.backoff.reset();
        self.in_doubt = false;
        for (index, job) in (0i64..).zip(pack.jobs) {
            let offset = if base < 0 {
                -1
            } else {
                base.saturating_add(index)
            };
            job.ticket.finish(Ok(Acknowledged {
                partition: partition.clone(),
                offset,
            }));
        }
    }

    /// All that waits here ends with the same error.
    pub(super) fn fail_all(&mut self, error: &SendError) {
        self.unpack(false);
        for job in self.queue.drain(..) {
            job.ticket.finish(Err(error.clone()));
        }
    }
}

pub(super) fn pauses() -> Backoff {
    Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 20)
}

/// The sequence behind a batch. It runs from 0 to 2^31-1 and starts over.
fn advance(sequence: i32, records: usize) -> i32 {
    let next = i64::from(sequence) + i64::try_from(records).unwrap_or(0);
    i32::try_from(next & i64::from(i32::MAX)).unwrap_or(0)
}
