//! The program's own consumer in a thread of its own, reading and committing: one side of a group
//! that it shares with others.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ccx_data_pipeline::kafka::options::{ClusterOptions, ConsumerOptions};
use ccx_data_pipeline::kafka::{Commit, Consumer, Event, Metadata, Record, TopicPartition};

/// How long something that must happen may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member of a group. Drop it and it leaves.
pub struct OurMember {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

/// What a member has told.
#[derive(Debug, Default)]
pub struct Seen {
    /// What it holds now.
    pub assigned: Vec<TopicPartition>,
    /// Generation of the group that the assignment belongs to.
    pub generation: i32,
    /// In the order in which they came, duplicates included.
    pub records: Vec<Record>,
    /// Why commits were refused.
    pub refused: Vec<String>,
    stop: bool,
    end: Option<String>,
}

/// Settings for a member of a group at `bootstrap`, quick enough for a test.
pub fn options(bootstrap: &str, group: &str, topic: &str) -> ConsumerOptions {
    ConsumerOptions {
        cluster: ClusterOptions {
            bootstrap_servers: bootstrap.split(',').map(Into::into).collect(),
            client_id: "ours".into(),
            ..ClusterOptions::default()
        },
        group_id: group.into(),
        topic: topic.into(),
        // The least that Apache Kafka allows.
        session_timeout: Duration::from_secs(6),
        heartbeat_interval: Duration::from_millis(500),
        rebalance_timeout: Duration::from_secs(30),
        fetch_max_wait: Duration::from_millis(100),
        ..ConsumerOptions::default()
    }
}

impl OurMember {
    /// Joins; reads whatever it is given and commits it at once.
    pub fn start(options: ConsumerOptions) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            thread::spawn(move || consume(options, &shared))
        };
        Self {
            shared,
            thread: Some(thread),
        }
    }

    /// Waits until it is so.
    ///
    /// # Panics
    ///
    /// When it is not so in a minute, or the consumer has ended.
    pub fn wait(&self, what: &str, so: impl Fn(&Seen) -> bool) {
        let until = Instant::now() + PATIENCE;
        let mut seen = self.shared.seen.lock().unwrap();
        while !so(&seen) {
            assert!(seen.end.is_none(), "{what}: {:?}", seen.end);
            let left = until.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "in vain: {what}; holds {:?}",
                seen.assigned
            );
            seen = self.shared.changed.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// What it has told so far.
    pub fn look<T>(&self, at: impl FnOnce(&Seen) -> T) -> T {
        at(&self.shared.seen.lock().unwrap())
    }

    /// Leaves the group in order.
    pub fn leave(&mut self) {
        // Also while a test fails, when the lock may be poisoned: a second panic would hide the first.
        let seen = self.shared.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).stop = true;
        if let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
            && !thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for OurMember {
    fn drop(&mut self) {
        self.leave();
    }
}

fn consume(options: ConsumerOptions, shared: &Shared) {
    let mut consumer = Consumer::start(options);
    let stopped = || shared.seen.lock().unwrap().stop;
    let tell = |change: &mut dyn FnMut(&mut Seen)| {
        change(&mut shared.seen.lock().unwrap());
        shared.changed.notify_all();
    };
    while !stopped() {
        let events = match consumer.poll(Duration::from_secs(1), &stopped) {
            Ok(events) => events,
            Err(fatal) => {
                tell(&mut |seen| seen.end = Some(format!("{fatal:?}")));
                break;
            }
        };
        for event in events {
            match event {
                Event::Assigned {
                    generation,
                    partitions,
                } => tell(&mut |seen| {
                    seen.generation = generation;
                    seen.assigned = partitions.iter().map(|p| p.partition.clone()).collect();
                }),
                Event::Revoking { .. } => consumer.release(&[]),
                Event::Lost => tell(&mut |seen| seen.assigned.clear()),
                Event::Fetched {
                    partition,
                    lease,
                    records,
                    next,
                    ..
                } => {
                    tell(&mut |seen| seen.records.extend(records.iter().cloned()));
                    let commit = Commit {
                        partition,
                        lease,
                        offset: next,
                    };
                    for result in consumer.commit(&[commit], &Metadata::new(), PATIENCE) {
                        if let Err(error) = result.result {
                            tell(&mut |seen| seen.refused.push(error.to_string()));
                        }
                    }
                }
                Event::Skipped { .. } | Event::StartedOver { .. } | Event::Halted { .. } => {
                    let end = format!("{event:?}");
                    tell(&mut |seen| seen.end = Some(end.clone()));
                }
            }
        }
    }
    consumer.close(Duration::from_secs(5));
}
