//! The watcher that tells the platform's payload tracker how far each upload is.
//!
//! A courtesy that must not cost anything: statuses go through a bounded queue to a thread and a
//! producer of their own. What does not fit, or is refused, is dropped and counted; no record ever
//! waits for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::{Event, Subject, Watcher};
use crate::error::chain;
use crate::kafka::options::ProducerOptions;
use crate::kafka::{OutgoingRecord, Producer};
use crate::output::payload_tracker::{Status, Upload, render};
use crate::telemetry::metrics::Metrics;

/// Statuses that may wait, those under way included.
const QUEUE: usize = 1000;

/// Statuses that are sent at once.
const BATCH: usize = 100;

/// How long the thread may take to notice that its time is over.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// Bytes of a request id; a longer one is none that the platform gave. With [`QUEUE`] it bounds
/// the memory of the queue.
const REQUEST_ID_LIMIT: usize = 256;

/// What is said, as whom, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Topic of the statuses.
    pub topic: String,
    /// Name of this service in them.
    pub service_name: String,
    /// The producer for them.
    pub producer: ProducerOptions,
}

/// The watcher; [`start`] makes it.
pub struct PayloadTracker {
    topic: Arc<str>,
    service_name: String,
    queue: Arc<Queue>,
}

/// The thread that sends. Ends it when closed; without that it ends with the process.
pub struct Sending(Arc<Queue>);

struct Queue {
    state: Mutex<State>,
    /// Something to send, or the end.
    more: Condvar,
    ended: Condvar,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<OutgoingRecord>,
    /// Taken out to be sent, and not acknowledged yet.
    under_way: usize,
    /// Until when to go on sending.
    closing: Option<Instant>,
    ended: bool,
}

/// Starts the thread that sends.
pub fn start(options: Options, metrics: Arc<Metrics>) -> (PayloadTracker, Sending) {
    let queue = Arc::new(Queue {
        state: Mutex::default(),
        more: Condvar::new(),
        ended: Condvar::new(),
        metrics,
    });
    let watcher = PayloadTracker {
        topic: options.topic.as_str().into(),
        service_name: options.service_name,
        queue: Arc::clone(&queue),
    };
    let theirs = Arc::clone(&queue);
    let send = move || {
        // However it ends, nobody may wait for it, and nothing more is collected.
        let _ = catch_unwind(AssertUnwindSafe(|| theirs.send_all(options.producer)));
        theirs.end();
    };
    let thread = std::thread::Builder::new().name("payload-tracker".into());
    if let Err(error) = thread.spawn(send) {
        log::error!("no thread for the payload tracker, its statuses are dropped: {error}");
        queue.end();
    }
    (watcher, Sending(queue))
}

impl Watcher for PayloadTracker {
    fn notify(&self, subject: &Subject<'_>, event: &Event<'_>) {
        let (status, status_msg) = match event {
            Event::Received { .. } => (Status::Received, None),
            Event::Downloaded { .. } => (Status::Processing, None),
            Event::Published { .. } => (Status::Success, None),
            Event::Failed { reason, .. } => (Status::Error, Some(reason.as_str())),
            _ => return,
        };
        let Some(request_id) = subject.request_id else {
            return;
        };
        let upload = Upload {
            service: &self.service_name,
            request_id,
            org_id: subject.org_id,
            account_number: subject.account_number,
        };
        let date = OffsetDateTime::now_utc();
        match render(&self.topic, upload, status, status_msg, date) {
            Ok(record) if request_id.len() <= REQUEST_ID_LIMIT => self.queue.push(record),
            _ => self.queue.drop_some(1),
        }
    }
}

impl Sending {
    /// Sends what is waiting, for at most `timeout`; what is left then is dropped and counted.
    pub fn close(self, timeout: Duration) {
        let mut state = self.0.state();
        state.closing = Some(Instant::now() + timeout);
        self.0.more.notify_one();
        // The thread itself looks at the time; the margin is for its last look.
        let limit = timeout + LAST_LOOK;
        let waited = self
            .0
            .ended
            .wait_timeout_while(state, limit, |state| !state.ended);
        drop(waited);
    }
}

impl Queue {
    fn push(&self, record: OutgoingRecord) {
        let mut state = self.state();
        let full = state.waiting.len() + state.under_way >= QUEUE;
        if full || state.closing.is_some() || state.ended {
            drop(state);
            self.drop_some(1);
            return;
        }
        state.waiting.push_back(record);
        drop(state);
        self.more.notify_one();
    }

    fn send_all(&self, options: ProducerOptions) {
        let producer = Producer::start(options);
        while let Some(batch) = self.next_batch() {
            let given_up = || {
                let closing = self.state().closing;
                closing.is_some_and(|until| Instant::now() >= until)
            };
            let results = producer.send_all(batch, &given_up);
            let refused = results.iter().filter_map(|result| result.as_ref().err());
            if let Some(error) = refused.clone().next() {
                log::debug!("statuses for the payload tracker dropped: {}", chain(error));
            }
            self.drop_some(refused.count());
            self.state().under_way = 0;
        }
    }

    /// Waits for something to send; `None` at the end.
    fn next_batch(&self) -> Option<Vec<OutgoingRecord>> {
        let state = self.state();
        let mut state = self
            .more
            .wait_while(state, |s| s.waiting.is_empty() && s.closing.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let over = state.closing.is_some_and(|until| Instant::now() >= until);
        if state.waiting.is_empty() || over {
            return None;
        }
        let count = state.waiting.len().min(BATCH);
        state.under_way = count;
        Some(state.waiting.drain(..count).collect())
    }

    /// Nothing is sent any more.
    fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        let left = state.waiting.len() + state.under_way;
        state.waiting.clear();
        state.under_way = 0;
        drop(state);
        self.drop_some(left);
        self.ended.notify_all();
    }

    fn drop_some(&self, count: usize) {
        self.metrics.payload_tracker_dropped.inc_by(count as u64);
    }

    /// Every change is whole before anything can panic, so a poisoned lock is fine.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use crate::kafka::TopicPartition;
    use crate::kafka::options::{ClusterOptions, Compression};
    use crate::watchers::Stage;

    /// A tracker whose brokers are not there: nobody listens on port 1.
    fn tracker() -> (PayloadTracker, Sending, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new("1", "c", "r", &[]).unwrap());
        let options = Options {
            topic: "statuses".into(),
            service_name: "us".into(),
            producer: ProducerOptions {
                cluster: ClusterOptions {
                    bootstrap_servers: vec!["127.0.0.1:1".into()],
                    ..ClusterOptions::default()
                },
                compression: Compression::None,
            },
        };
        let (tracker, sending) = start(options, Arc::clone(&metrics));
        (tracker, sending, metrics)
    }

    fn fail(tracker: &PayloadTracker, request_id: Option<&str>) {
        let subject = Subject {
            partition: &TopicPartition::new("in", 0),
            offset: 1,
            request_id,
            org_id: Some(7),
            account_number: None,
            archive: None,
        };
        let event = Event::Failed {
            stage: Stage::Download,
            reason: Reason::NotFound,
            attempts: 2,
        };
        tracker.notify(&subject, &event);
    }

    #[test]
    fn k22_the_queue_is_bounded_and_what_is_dropped_is_counted() {
        let (tracker, sending, metrics) = tracker();
        for _ in 0..QUEUE + 7 {
            fail(&tracker, Some("r"));
        }
        assert_eq!(metrics.payload_tracker_dropped.get(), 7);
        // Nobody will ever acknowledge them, and nobody waits for that.
        let began = Instant::now();
        sending.close(Duration::from_millis(50));
        assert!(began.elapsed() < Duration::from_secs(30));
        // The thread may be late on a busy machine, and counts all the same.
        let end = Instant::now() + Duration::from_secs(60);
        while !tracker.queue.state().ended {
            assert!(Instant::now() < end, "the thread goes on");
            std::thread::yield_now();
        }
        while metrics.payload_tracker_dropped.get() < QUEUE as u64 + 7 {
            assert!(Instant::now() < end, "not all are counted");
            std::thread::yield_now();
        }
        fail(&tracker, Some("too late"));
        assert_eq!(metrics.payload_tracker_dropped.get(), QUEUE as u64 + 8);
    }

    #[test]
    fn m08_without_a_request_id_nothing_is_said() {
        let (tracker, sending, metrics) = tracker();
        fail(&tracker, None);
        assert!(tracker.queue.state().waiting.is_empty());
        assert_eq!(metrics.payload_tracker_dropped.get(), 0);
        fail(&tracker, Some(&"r".repeat(REQUEST_ID_LIMIT + 1)));
        assert_eq!(metrics.payload_tracker_dropped.get(), 1);
        sending.close(Duration::ZERO);
    }
}
