//! Sends records and waits until every in-sync replica has them.
//!
//! Callers block in [`Producer::send`]; one thread does all I/O. What waits for a partition goes
//! out as one batch, so that batches grow by themselves when the broker is slow and a lone record
//! is not held back. Each partition has one batch under way. A batch is built once and sent again
//! unchanged, with the producer id and sequence that let the broker drop a repetition: a record
//! that was written but whose acknowledgement was lost does not stand twice.
//!
//! No error of a broker or network ends [`Producer::send`]; it keeps trying until the caller
//! cancels. Only what concerns the record itself, or a permission, is returned.

mod partitioner;
mod sender;

use std::collections::HashMap;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use super::error::{Code, Error};
use super::options::ProducerOptions;
use super::stats::Stats;
use super::{Acknowledged, OutgoingRecord};

/// Largest record that is tried at all, in bytes. A broker closes the connection on a request
/// that is over its socket limit (100 MiB by default) without saying why.
const MAX_RECORD: usize = 64 << 20;
/// How often a waiting caller looks whether it is cancelled.
const LOOK: Duration = Duration::from_millis(50);

/// Why a record was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Over the limit of the broker or topic (codes 10 and 18), or of this client.
    #[error("a record of {size} bytes is too large for topic {topic}")]
    RecordTooLarge {
        /// Where it should have gone.
        topic: Arc<str>,
        /// Key, value and headers, in bytes.
        size: usize,
    },
    /// The broker finds the record itself invalid (code 87).
    #[error("topic {topic} does not take this record")]
    InvalidRecord {
        /// Where it should have gone.
        topic: Arc<str>,
    },
    /// We may not write to the topic (code 29).
    #[error("not authorised to write to topic {topic}")]
    NotAuthorised {
        /// Where it should have gone.
        topic: Arc<str>,
    },
    /// A code that trying again does not help against.
    #[error("topic {topic} refused the record: {code} ({})", code.code())]
    Refused {
        /// Where it should have gone.
        topic: Arc<str>,
        /// What the broker said.
        code: Code,
    },
    /// The caller gave up. Whether the record stands in the topic is unknown.
    #[error("given up before it was acknowledged")]
    Cancelled,
    /// The producer was closed, or its thread has died.
    #[error("the producer is closed")]
    Closed,
}

/// What became of a record, shared between its caller and the I/O thread.
#[derive(Debug, Default)]
struct Ticket {
    fate: Mutex<Fate>,
    decided: Condvar,
}

#[derive(Debug, Default)]
enum Fate {
    #[default]
    Open,
    Cancelled,
    Done(Result<Acknowledged, SendError>),
}

impl Ticket {
    fn finish(&self, outcome: Result<Acknowledged, SendError>) {
        let mut fate = lock(&self.fate);
        if matches!(*fate, Fate::Open) {
            *fate = Fate::Done(outcome);
            self.decided.notify_one();
        }
    }

    fn is_cancelled(&self) -> bool {
        matches!(*lock(&self.fate), Fate::Cancelled)
    }
}

/// A record that is on its way while its sender does something else. Dropped, it goes on all the
/// same.
#[derive(Debug)]
pub struct Pending {
    ticket: Arc<Ticket>,
    shared: Arc<Shared>,
}

impl Pending {
    /// What became of it; `None` as long as that is open. Waits for it for at most `patience`.
    pub fn outcome(&self, patience: Duration) -> Option<Result<Acknowledged, SendError>> {
        let fate = lock(&self.ticket.fate);
        let (fate, _) = self
            .ticket
            .decided
            .wait_timeout_while(fate, patience, |fate| matches!(fate, Fate::Open))
            .unwrap_or_else(PoisonError::into_inner);
        match &*fate {
            Fate::Done(outcome) => Some(outcome.clone()),
            Fate::Cancelled => Some(Err(SendError::Cancelled)),
            Fate::Open if lock(&self.shared.inbox).finished => Some(Err(SendError::Closed)),
            Fate::Open => None,
        }
    }

    /// Gives it up; see [`Producer::send`].
    pub fn cancel(&self) {
        let mut fate = lock(&self.ticket.fate);
        if matches!(*fate, Fate::Open) {
            *fate = Fate::Cancelled;
        }
    }
}

/// A record on its way.
#[derive(Debug)]
struct Job {
    record: OutgoingRecord,
    timestamp: i64,
    /// Sent in a batch that was refused for one of its records: not to be batched again.
    alone: bool,
    ticket: Arc<Ticket>,
}

impl Job {
    fn size(&self) -> usize {
        size(&self.record)
    }
}

fn size(record: &OutgoingRecord) -> usize {
    let length = |bytes: &Option<bytes::Bytes>| bytes.as_ref().map_or(0, bytes::Bytes::len);
    let headers: usize = record
        .headers
        .iter()
        .map(|header| header.name.len() + length(&header.value))
        .sum();
    length(&record.key) + length(&record.value) + headers
}

/// Somebody wants to know how many partitions a topic has.
#[derive(Debug)]
struct Question {
    topic: Arc<str>,
    asked: Instant,
    deadline: Instant,
    reply: SyncSender<Result<Option<usize>, Error>>,
}

/// What callers leave for the I/O thread.
#[derive(Debug, Default)]
struct Inbox {
    jobs: Vec<Job>,
    questions: Vec<Question>,
    /// Until when to finish what is there.
    closing: Option<Instant>,
    /// Whether the I/O thread has ended.
    finished: bool,
}

#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    /// Something for the I/O thread to see.
    arrived: Condvar,
    /// The I/O thread has ended.
    ended: Condvar,
    stalls: Mutex<HashMap<Arc<str>, String>>,
    stats: Arc<Stats>,
}

/// A panic of one thread must not take the others with it: what a lock guards here is never left
/// half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends records to one cluster. Shared by any number of threads.
#[derive(Debug)]
pub struct Producer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Producer {
    /// Makes a producer. It connects when it is first used and keeps trying for ever.
    pub fn start(options: ProducerOptions) -> Self {
        let shared = Arc::new(Shared {
            inbox: Mutex::default(),
            arrived: Condvar::new(),
            ended: Condvar::new(),
            stalls: Mutex::default(),
            stats: Arc::default(),
        });
        let theirs = shared.clone();
        let thread = thread::Builder::new()
            .name(format!("kafka-{}", options.cluster.name))
            .spawn(move || {
                // Runs also when the thread dies of a panic: nobody must wait for it then.
                let _end = End(theirs.clone());
                sender::Sender::new(theirs, options).run();
            });
        let thread = thread
            .inspect_err(|error| {
                log::error!("no thread for the producer: {error}");
                lock(&shared.inbox).finished = true;
            })
            .ok();
        Self { shared, thread }
    }

    /// Sends a record and waits until it is acknowledged by all in-sync replicas.
    ///
    /// A record that is cancelled before it was first sent is forgotten. One that was sent is
    /// still repeated for a while, since the next sequence number depends on its outcome.
    ///
    /// # Errors
    /// What concerns the record, a missing permission, [`SendError::Cancelled`] soon after
    /// `cancelled` says so, [`SendError::Closed`]. Everything else is retried without end.
    pub fn send(
        &self,
        record: OutgoingRecord,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Acknowledged, SendError> {
        if cancelled() {
            return Err(SendError::Cancelled);
        }
        let ticket = self.hand_over(record)?;
        self.wait_for(&ticket, cancelled)
    }

    /// Sends records and waits until each is acknowledged: one wait for all of them, and as few
    /// batches as there are partitions. The results are in the order of the records.
    ///
    /// A record that is cancelled may be sent all the same; see [`Producer::send`], also for the
    /// errors.
    pub fn send_all(
        &self,
        records: impl IntoIterator<Item = OutgoingRecord>,
        cancelled: &dyn Fn() -> bool,
    ) -> Vec<Result<Acknowledged, SendError>> {
        let tickets: Vec<_> = records.into_iter().map(|r| self.hand_over(r)).collect();
        let wait = |ticket: Result<Arc<Ticket>, _>| self.wait_for(&*ticket?, cancelled);
        tickets.into_iter().map(wait).collect()
    }

    /// Sends a record without waiting for it; see [`Producer::send`].
    pub fn begin(&self, record: OutgoingRecord) -> Pending {
        let ticket = self.hand_over(record).unwrap_or_else(|error| {
            let ticket = Arc::new(Ticket::default());
            ticket.finish(Err(error));
            ticket
        });
        Pending {
            ticket,
            shared: self.shared.clone(),
        }
    }

    /// Leaves a record for the I/O thread.
    fn hand_over(&self, record: OutgoingRecord) -> Result<Arc<Ticket>, SendError> {
        let size = size(&record);
        if size > MAX_RECORD {
            return Err(SendError::RecordTooLarge {
                topic: record.topic,
                size,
            });
        }
        let ticket = Arc::new(Ticket::default());
        {
            let mut inbox = lock(&self.shared.inbox);
            if inbox.closing.is_some() || inbox.finished {
                return Err(SendError::Closed);
            }
            inbox.jobs.push(Job {
                record,
                timestamp: now_millis(),
                alone: false,
                ticket: ticket.clone(),
            });
        }
        self.shared.arrived.notify_one();
        Ok(ticket)
    }

    fn wait_for(
        &self,
        ticket: &Ticket,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Acknowledged, SendError> {
        let mut fate = lock(&ticket.fate);
        loop {
            if let Fate::Done(outcome) = &*fate {
                return outcome.clone();
            }
            // Of many records that are given up at once, not each is waited for once more.
            let look = if cancelled() { Duration::ZERO } else { LOOK };
            let (guard, wait) = ticket
                .decided
                .wait_timeout(fate, look)
                .unwrap_or_else(PoisonError::into_inner);
            fate = guard;
            if wait.timed_out() && matches!(*fate, Fate::Open) {
                if cancelled() {
                    *fate = Fate::Cancelled;
                    return Err(SendError::Cancelled);
                }
                if lock(&self.shared.inbox).finished {
                    return Err(SendError::Closed);
                }
            }
        }
    }

    /// The number of partitions of a topic; `None` when it does not exist. Asks the brokers for
    /// at most `timeout`.
    ///
    /// # Errors
    /// [`Error::NoBroker`] when nobody answered in time, [`Error::Refused`] without permission.
    pub fn partitions(&self, topic: &str, timeout: Duration) -> Result<Option<usize>, Error> {
        let unanswered = || Error::NoBroker {
            left: Duration::ZERO,
            last: "no answer in time".into(),
        };
        let asked = Instant::now();
        let (reply, answer) = mpsc::sync_channel(1);
        {
            let mut inbox = lock(&self.shared.inbox);
            if inbox.finished {
                return Err(unanswered());
            }
            inbox.questions.push(Question {
                topic: topic.into(),
                asked,
                deadline: asked + timeout,
                reply,
            });
        }
        self.shared.arrived.notify_one();
        // The I/O thread answers in time and knows the cause; the margin is for its own waits.
        answer
            .recv_timeout(timeout + Duration::from_secs(1))
            .unwrap_or_else(|_| Err(unanswered()))
    }

    /// Why nothing is acknowledged for a topic at the moment, on one line: from the first failed
    /// attempt to the next success, or until nothing waits for the topic any more.
    pub fn stalled(&self, topic: &str) -> Option<String> {
        lock(&self.shared.stalls).get(topic).cloned()
    }

    /// Whether its thread is gone, and nothing will ever be sent: it did not start, or has died.
    pub fn has_ended(&self) -> bool {
        lock(&self.shared.inbox).finished
    }

    /// Makes its thread end, as a panic would.
    #[cfg(test)]
    pub(crate) fn end(&self) {
        lock(&self.shared.inbox)
            .closing
            .get_or_insert_with(Instant::now);
        self.shared.arrived.notify_one();
    }

    /// What it has counted.
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }

    /// Sends what is waiting, for at most `timeout`, and ends. Callers still waiting then get
    /// [`SendError::Closed`].
    pub fn close(mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut inbox = lock(&self.shared.inbox);
        inbox.closing = Some(deadline);
        self.shared.arrived.notify_one();
        while !inbox.finished {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inbox = self
                .shared
                .ended
                .wait_timeout(inbox, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let finished = inbox.finished;
        drop(inbox);
        if let Some(thread) = self.thread.take().filter(|_| finished) {
            // It has nothing left to do; how it ended was logged by itself.
            let _ = thread.join();
        }
    }
}

/// Tells the I/O thread to end without waiting for it.
impl Drop for Producer {
    fn drop(&mut self) {
        lock(&self.shared.inbox)
            .closing
            .get_or_insert_with(Instant::now);
        self.shared.arrived.notify_one();
    }
}

struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        let mut inbox = lock(&self.0.inbox);
        inbox.finished = true;
        inbox.questions.clear();
        for job in inbox.jobs.drain(..) {
            job.ticket.finish(Err(SendError::Closed));
        }
        self.0.ended.notify_all();
    }
}

fn now_millis() -> i64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(-1)
}
