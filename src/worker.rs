//! The poll loop: dispatch, settle, commit, pause, drain.
//!
//! One thread owns the consumer. It hands each record to a pool, learns over a channel how the
//! record ended, and commits the contiguous watermark of each partition. Nothing is committed that
//! is not acknowledged, and nothing is handed out that could not be finished. What is fetched
//! when is in `admission`, what is handed out in `dispatch`, when and what is committed in `commit`.

mod admission;
mod commit;
mod dispatch;
pub mod start;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use rayon::ThreadPool;

use crate::breaker::Probed;
use crate::crashes::Crashes;
use crate::exit::Exit;
use crate::kafka::{
    Consumer, Event, Fatal, FatalKind, Lease, Record, SkipCause, Stats, TopicPartition,
};
use crate::offsets::Offsets;
use crate::outage::Outage;
use crate::pipeline::task::{Doing, Task};
use crate::pipeline::{Burial, Fate, Pipeline};
use crate::shutdown::Shutdown;
use crate::telemetry::health::{Fault, Health, Raised};
use crate::telemetry::metrics::Metrics;

/// Longest wait for the consumer in one turn of the loop.
const POLL_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest wait for a settled record while nothing more can be handed out.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(50);

/// Time between two updates of gauges.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// Share of the shutdown time that is kept for the last commit and for leaving the group.
const FAREWELL: Duration = Duration::from_secs(3);

/// How much work is taken on at once, and how it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Records handed out and not settled.
    pub max_in_flight: usize,
    /// Time between two commits.
    pub commit_interval: Duration,
    /// From the first signal to the end of the process.
    pub shutdown_timeout: Duration,
    /// Crashes in a row at which a record is given up.
    pub max_crashes: u32,
    /// How far past its own deadline a task may be before it is taken for stuck.
    pub stuck_after: Duration,
}

/// What a task reports when it ends.
struct Settled {
    number: u64,
    fate: Fate,
}

/// A record that waits for the breaker to close.
struct Held {
    record: Arc<Record>,
    since: Instant,
}

/// A record that is handed out.
struct InFlight {
    record: Arc<Record>,
    task: Arc<Task>,
    since: Instant,
    /// Not opened: its dead letter is all that has to be done.
    condemned: bool,
    /// Its dead letter, once that waits for its topic: it has no slot any more.
    burial: Option<Box<Burial>>,
    /// Of a log that is no more: at its offset stands another record.
    outdated: bool,
    /// The process has outlived it: whatever ends the process now, it was not this record.
    outlived: bool,
    /// The work on it rests until our host lets it go on.
    rests: bool,
}

impl InFlight {
    /// Clears it of the suspicion to end the process. Who was not opened is held suspect until its
    /// dead letter stands.
    fn outlive(&mut self, crashes: &mut Crashes) {
        if !self.condemned {
            self.end(crashes, true);
            self.outlived = true;
        }
    }

    /// It is not in work any more; at its offset there may be another record that is.
    fn end(&self, crashes: &mut Crashes, cleared: bool) {
        if !self.outdated && !self.outlived {
            let record = &self.record;
            crashes.ended(&record.partition, &record.lease, record.offset, cleared);
        }
    }
}

/// Where the group is, as far as handing out records goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rebalance {
    /// No rebalance: records may be handed out.
    None,
    /// The group waits for what is in flight, until then.
    Draining(Instant),
    /// Released; the next assignment is on its way.
    Joining,
}

/// The loop and what it owns.
struct Worker {
    options: Options,
    consumer: Consumer,
    consumer_stats: Arc<Stats>,
    pipeline: Arc<Pipeline>,
    pool: ThreadPool,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    offsets: Offsets,
    /// Who is suspected of ending the process.
    crashes: Crashes,
    /// Until when a mark that could not be committed is not tried again.
    unmarked_until: Option<Instant>,
    /// Fetched, not handed out yet.
    ready: VecDeque<Arc<Record>>,
    in_flight: HashMap<u64, InFlight>,
    /// Failed while the breaker was open; the one that was tried last comes last.
    held: VecDeque<Held>,
    /// Number of the record that is tried while the breaker is open.
    probe: Option<u64>,
    next_number: u64,
    settled: (Sender<Settled>, Receiver<Settled>),
    settled_since_commit: usize,
    last_commit: Instant,
    /// How long the loop stood still for it.
    last_commit_took: Duration,
    rebalance: Rebalance,
    /// Partitions that hold a dead letter which is not accepted: nothing of them is handed out.
    blocked: HashSet<TopicPartition>,
    /// Partitions whose fetched records have to wait while those of others need not.
    behind: HashSet<TopicPartition>,
    /// Partitions that are not fetched, as the consumer was told.
    paused: HashSet<TopicPartition>,
    last_report: Instant,
    /// Since when results are not acknowledged.
    sink_stalled: Option<Instant>,
    sink_fault: Option<Raised>,
    /// Since when partitions wait that hold dead letters.
    burying_since: Option<Instant>,
    /// A partition stands still until a person acts.
    halted: Option<Raised>,
    /// Whether offsets are committed, as far as the log knows.
    uncommitted: Outage,
}

impl Worker {
    fn new(
        options: Options,
        consumer: Consumer,
        pipeline: Arc<Pipeline>,
        pool: ThreadPool,
        metrics: Arc<Metrics>,
        health: Arc<Health>,
    ) -> Self {
        Self {
            crashes: Crashes::new(options.max_crashes, options.max_in_flight),
            unmarked_until: None,
            held: VecDeque::new(),
            probe: None,
            options,
            consumer_stats: consumer.stats(),
            consumer,
            pipeline,
            pool,
            metrics,
            health,
            offsets: Offsets::default(),
            ready: VecDeque::new(),
            in_flight: HashMap::new(),
            next_number: 0,
            settled: mpsc::channel(),
            settled_since_commit: 0,
            last_commit: Instant::now(),
            last_commit_took: Duration::ZERO,
            rebalance: Rebalance::None,
            blocked: HashSet::new(),
            behind: HashSet::new(),
            paused: HashSet::new(),
            last_report: Instant::now(),
            sink_stalled: None,
            sink_fault: None,
            burying_since: None,
            halted: None,
            uncommitted: Outage::default(),
        }
    }

    /// Works until `shutdown` says so or nothing can be done any more. Always leaves the group.
    fn run(mut self, shutdown: &Shutdown) -> Exit {
        let exit = loop {
            self.health.tick();
            if let Some(exit) = self.take_settled(Duration::ZERO) {
                break exit;
            }
            if shutdown.is_requested() {
                break Exit::Done;
            }
            if let Some(exit) = self.bury_stuck() {
                break exit;
            }
            if self.pipeline.output().has_ended() {
                log::error!("the thread of a producer is gone; what was in flight is uncommitted");
                break Exit::Internal;
            }
            self.dispatch();
            self.clear_waiting();
            self.commit_when_due(self.commit_patience());
            self.end_revocation();
            let busy = self.admit();
            let timeout = if busy { Duration::ZERO } else { POLL_TIMEOUT };
            match self.consumer.poll(timeout, &|| shutdown.is_requested()) {
                Ok(events) => events.into_iter().for_each(|event| self.take_event(event)),
                Err(fatal) => break exit_of(&fatal),
            }
            self.report();
            if busy && let Some(exit) = self.take_settled(SETTLE_TIMEOUT) {
                break exit;
            }
        };
        self.finish(exit)
    }

    fn take_event(&mut self, event: Event) {
        match event {
            Event::Assigned {
                generation,
                partitions,
            } => {
                self.metrics.rebalances.inc();
                self.metrics
                    .assigned_partitions
                    .set(as_gauge(partitions.len()));
                let names: Vec<String> =
                    partitions.iter().map(|a| a.partition.to_string()).collect();
                log::info!(generation = generation; "assigned: {}", names.join(", "));
                self.rebalance = Rebalance::None;
                self.forget_revoked();
                // A partition under a new lease is read unless told otherwise.
                let paused: Vec<_> = self.paused.iter().cloned().collect();
                self.consumer.pause(&paused);
            }
            Event::Revoking { deadline } => {
                log::info!(
                    "the group rebalances; {} records in flight",
                    self.in_flight.len()
                );
                self.rebalance = Rebalance::Draining(deadline);
            }
            Event::Lost => {
                log::warn!(
                    "membership lost; {} records in flight are given up",
                    self.in_flight.len()
                );
                self.rebalance = Rebalance::None;
                self.forget_revoked();
            }
            Event::Fetched {
                partition,
                lease,
                from,
                records,
                next,
            } => {
                let offsets = records.iter().map(|record| record.offset);
                self.offsets
                    .fetched(&partition, &lease, from, offsets, next);
                self.take_over(&partition, &lease, from);
                self.ready.extend(records.into_iter().map(Arc::new));
            }
            Event::Skipped {
                partition,
                lease,
                from,
                to,
                cause,
            } => {
                let cause = match cause {
                    SkipCause::OutOfRange => "out_of_range",
                    SkipCause::CorruptBatch => "corrupt_batch",
                };
                // Offsets go up when records are gone, and down when the log was cut.
                let skipped = u64::try_from(to.saturating_sub(from)).unwrap_or(0);
                self.metrics
                    .skipped_offsets
                    .with_label_values(&[cause])
                    .inc_by(skipped);
                if to < from {
                    self.start_over(&partition);
                }
                // From where it stood, so that what was passed over is committed too.
                self.offsets.fetched(&partition, &lease, from, [], to);
            }
            Event::StartedOver {
                partition,
                lease,
                at,
            } => {
                self.start_over(&partition);
                self.offsets.start_over(&partition, &lease, at);
            }
            // For as long as it does: see `report`.
            Event::Halted { .. } => {}
        }
    }

    /// The log of a partition was cut off or made anew: other records stand at offsets that were
    /// handed out. What is in work ends by itself, and settles nothing.
    fn start_over(&mut self, partition: &TopicPartition) {
        self.offsets.forget(partition);
        self.crashes.forget(partition);
        self.ready.retain(|record| record.partition != *partition);
        self.held.retain(|held| held.record.partition != *partition);
        let mut numbers = Vec::new();
        for (number, in_flight) in &mut self.in_flight {
            if in_flight.record.partition == *partition {
                in_flight.outdated = true;
                numbers.push(*number);
            }
        }
        for number in numbers {
            self.end_probe(number, &Fate::Abandoned);
        }
    }

    /// Drops what belongs to partitions that are not ours any more.
    fn forget_revoked(&mut self) {
        self.offsets.retain_live();
        self.ready.retain(|record| record.lease.is_live());
        self.held.retain(|held| held.record.lease.is_live());
    }

    /// Learns what a former owner of a partition held against its records.
    fn take_over(&mut self, partition: &TopicPartition, lease: &Lease, from: i64) {
        let committed = self.consumer.began_at(partition);
        // Elsewhere than at that offset, the records are not those that it speaks of.
        let metadata = committed.filter(|(offset, _)| *offset == from);
        let metadata = metadata.as_ref().map(|(_, text)| &**text);
        if let Some(mark) = self.crashes.begin(partition, lease, from, metadata) {
            log::warn!(
                topic = partition.topic.as_ref(),
                partition = partition.partition,
                offset = mark.offset;
                "the last owner of {partition} ended in a crash, {} in a row; \
                 records from offset {} on are handled with care",
                mark.crashes, mark.offset
            );
        }
    }

    /// Takes note of every record that ended, and waits up to `timeout` for the first of them.
    /// `Some` when the process must end.
    fn take_settled(&mut self, timeout: Duration) -> Option<Exit> {
        let mut ended = self.pursue_burials();
        let timeout = if ended.is_empty() {
            timeout
        } else {
            Duration::ZERO
        };
        ended.extend(self.settled.1.recv_timeout(timeout));
        ended.extend(self.settled.1.try_iter());
        ended
            .into_iter()
            .find_map(|Settled { number, fate }| self.take_fate(number, fate))
    }

    /// The dead letters that have come to their end since the last time.
    fn pursue_burials(&mut self) -> Vec<Settled> {
        let pipeline = &self.pipeline;
        let pursue = |(number, in_flight): (&u64, &mut InFlight)| {
            let burial = in_flight.burial.as_mut()?;
            let fate = pipeline.pursue(burial, &in_flight.task)?;
            Some(Settled {
                number: *number,
                fate,
            })
        };
        self.in_flight.iter_mut().filter_map(pursue).collect()
    }

    /// Takes note of how far a record came. `Some` when the process must end.
    fn take_fate(&mut self, number: u64, fate: Fate) -> Option<Exit> {
        self.end_probe(number, &fate);
        if let Fate::Burying(burial) = fate {
            match self.in_flight.get_mut(&number) {
                Some(in_flight) => {
                    in_flight.burial = Some(burial);
                    in_flight.outlive(&mut self.crashes);
                }
                None => burial.cancel(),
            }
            return None;
        }
        // A number that is gone was given up before; what became of it does not count.
        let ended = self.in_flight.remove(&number)?;
        let cleared = !matches!(fate, Fate::Abandoned);
        ended.end(&mut self.crashes, cleared);
        let InFlight { record, since, .. } = ended;
        match fate {
            Fate::Settled(_) | Fate::Held if ended.outdated => {}
            Fate::Settled(_) => self.settle(&record),
            Fate::Held => self.held.push_back(Held { record, since }),
            Fate::Abandoned | Fate::Burying(_) => {}
            Fate::NotAuthorised { topic } => {
                log::error!("not authorised to write to {topic}; the record stays uncommitted");
                return Some(Exit::NotAuthorised);
            }
        }
        None
    }

    /// Records that take a slot: those that wait for nothing but the dead-letter topic do not.
    fn working(&self) -> usize {
        let works = |in_flight: &&InFlight| in_flight.burial.is_none();
        self.in_flight.values().filter(works).count()
    }

    fn end_probe(&mut self, number: u64, fate: &Fate) {
        if self.probe != Some(number) {
            return;
        }
        self.probe = None;
        let how = match fate {
            Fate::Settled(_) | Fate::Held | Fate::Burying(_) => Probed::Done,
            Fate::Abandoned | Fate::NotAuthorised { .. } => Probed::Nothing,
        };
        self.pipeline.breaker().probe_ended(how, Instant::now());
    }

    fn settle(&mut self, record: &Record) {
        self.offsets
            .settle(&record.partition, &record.lease, record.offset);
        self.settled_since_commit += 1;
    }

    /// Takes a task that is long past its deadline away from its thread, which cannot be stopped:
    /// the record gets its dead letter from here, and the process ends to be started anew.
    fn bury_stuck(&mut self) -> Option<Exit> {
        let now = Instant::now();
        let after = self.options.stuck_after;
        let resumed = self.health.resumed();
        let is_stuck = |f: &InFlight| match f.task.doing() {
            Doing::Working { until } => is_overdue(now, until, resumed, after),
            Doing::Queued | Doing::Waiting | Doing::Publishing | Doing::Burying => false,
        };
        let stuck: Vec<u64> = self
            .in_flight
            .iter()
            .filter(|(_, f)| is_stuck(f))
            .map(|(n, _)| *n)
            .collect();
        if stuck.is_empty() {
            return None;
        }
        let until = now + self.options.shutdown_timeout / 2;
        for number in stuck {
            let Some(ended) = self.in_flight.remove(&number) else {
                continue;
            };
            let InFlight { record, task, .. } = ended;
            let place = format!("{} offset {}", record.partition, record.offset);
            log::error!("the task of {place} is stuck; the worker ends to be started anew");
            self.health.stuck(format!("the task of {place} is stuck"));
            task.call_off();
            let burial = Task::until(record.lease.clone(), until);
            if let Fate::Settled(_) = self.pipeline.bury_stuck(&record, &burial)
                && !ended.outdated
            {
                self.settle(&record);
            }
        }
        Some(Exit::Internal)
    }

    /// While results are not acknowledged or our host is at fault, records that wait for that are
    /// in nobody's work: should the process be killed now, and again later, none of them has ended
    /// it. Those whose results wait are cleared; without a fault they end soon, and it would be one
    /// commit more for each of them. Those that wait for our host are worked on again, maybe to the
    /// process's end, so they are only not to blame for now.
    fn clear_waiting(&mut self) {
        let results_wait = self.sink_fault.is_some() || self.health.has(Fault::Sink);
        let mut goes_on = false;
        for in_flight in self.in_flight.values_mut() {
            let doing = in_flight.task.doing();
            if doing == Doing::Publishing && results_wait {
                in_flight.outlive(&mut self.crashes);
            }
            let rests = doing == Doing::Waiting;
            if rests != in_flight.rests && !in_flight.outdated {
                in_flight.rests = rests;
                goes_on |= !rests && matches!(doing, Doing::Working { .. });
                let record = &in_flight.record;
                self.crashes
                    .rest(&record.partition, &record.lease, record.offset, rests);
            }
        }
        if goes_on && self.last_commit.elapsed() >= self.last_commit_took {
            // Its mark has to stand again before it is too late.
            self.commit_once(self.commit_patience());
        }
    }

    /// Lets the rebalance go on once nothing is in flight, or the time for it is over.
    fn end_revocation(&mut self) {
        let Rebalance::Draining(deadline) = self.rebalance else {
            return;
        };
        // A topic that takes no dead letters is not waited for: others would wait with us.
        if self.working() > 0 && Instant::now() < deadline {
            return;
        }
        let given_up = std::mem::take(&mut self.in_flight);
        if !given_up.is_empty() {
            log::warn!(
                "{} records were not done in time for the rebalance; they come again",
                given_up.len()
            );
        }
        let mut abandoned = HashSet::new();
        for (number, in_flight) in given_up {
            in_flight.task.call_off();
            if let Some(burial) = in_flight.burial {
                burial.cancel();
            }
            abandoned.insert(in_flight.record.partition.clone());
            self.end_probe(number, &Fate::Abandoned);
        }
        // Those that wait for the breaker would not be done in any time.
        let held = self
            .held
            .drain(..)
            .map(|held| held.record.partition.clone());
        abandoned.extend(held);
        self.crashes.end_all();
        self.commit_at_last(self.commit_patience());
        self.consumer
            .release(&abandoned.into_iter().collect::<Vec<_>>());
        self.rebalance = Rebalance::Joining;
    }

    /// Gauges, the client's own counts, and the readiness that only the loop knows.
    fn report(&mut self) {
        if self.last_report.elapsed() < REPORT_INTERVAL {
            return;
        }
        self.last_report = Instant::now();
        let m = &self.metrics;
        start::report_client_stats(m, &self.consumer_stats, self.pipeline.output());
        let taken = self.in_flight.len() + self.held.len();
        m.in_flight_records.set(as_gauge(taken));
        m.breaker_open
            .set(i64::from(self.pipeline.breaker().is_open()));
        m.in_flight_bytes
            .set(i64::try_from(self.pipeline.reserved_bytes()).unwrap_or(i64::MAX));
        m.paused_partitions.set(as_gauge(self.paused.len()));
        let since = self.in_flight.values().map(|f| f.since);
        let oldest = since.chain(self.held.iter().map(|h| h.since)).min();
        m.oldest_unfinished_seconds
            .set(oldest.map_or(0.0, |since| since.elapsed().as_secs_f64()));
        m.lag.reset();
        let committed: HashMap<&TopicPartition, i64> = self.offsets.acknowledged().collect();
        for (partition, high_watermark) in self.consumer.lag() {
            if let Some(committed) = committed.get(&partition) {
                let labels = [partition.topic.as_ref(), &partition.partition.to_string()];
                m.lag
                    .with_label_values(&labels)
                    .set((high_watermark - committed).max(0));
            }
        }
        for fault in Fault::ALL {
            let raised = if self.health.has(fault) { 1.0 } else { 0.0 };
            m.fault.with_label_values(&[fault.as_str()]).set(raised);
        }
        self.health.membership(self.consumer.state().not_ready());
        self.halted = match (self.consumer.halted(), self.halted.take()) {
            (Some((partition, cause)), None) => {
                let cause = format!("{partition} stands still: {cause}");
                Some(self.health.raise(Fault::InputTopic, cause))
            }
            (halted, raised) => halted.and(raised),
        };
    }

    /// Drains within the shutdown time, commits, leaves.
    fn finish(mut self, exit: Exit) -> Exit {
        let began = Instant::now();
        let farewell = FAREWELL.min(self.options.shutdown_timeout / 4);
        let deadline = began + self.options.shutdown_timeout.saturating_sub(farewell);
        self.ready.clear();
        self.consumer.pause_all();
        log::info!("drains {} records in flight", self.in_flight.len());
        let mut exit = exit;
        while !self.in_flight.is_empty() && Instant::now() < deadline {
            self.health.tick();
            if let Some(worse) = self.take_settled(SETTLE_TIMEOUT) {
                exit = worse;
            }
            self.commit_when_due(deadline.saturating_duration_since(Instant::now()));
            // Membership matters while records end: heartbeats alone would not follow a rebalance.
            match self.consumer.poll(Duration::ZERO, &|| false) {
                Ok(events) => {
                    for event in events {
                        if matches!(event, Event::Lost) {
                            self.take_event(event);
                        }
                    }
                }
                Err(fatal) => {
                    exit = exit_of(&fatal);
                    break;
                }
            }
        }
        // Whoever takes over need not think that this was a crash.
        self.crashes.end_all();
        let left = deadline.saturating_duration_since(Instant::now());
        self.commit_at_last(left.max(farewell / 2));
        let uncommitted = self.offsets.watermarks().filter(|(_, moved)| *moved);
        let uncommitted: Vec<String> = uncommitted.map(|(w, _)| w.partition.to_string()).collect();
        if !uncommitted.is_empty() {
            log::warn!(
                "the last offsets of {} could not be committed; records of before come again",
                uncommitted.join(", ")
            );
        }
        if !self.held.is_empty() {
            log::warn!(
                "{} records wait for the breaker; they are uncommitted and come again",
                self.held.len()
            );
        }
        if !self.in_flight.is_empty() {
            log::warn!(
                "{} records were not done within {:?}; they are uncommitted and come again",
                self.in_flight.len(),
                self.options.shutdown_timeout
            );
            for in_flight in self.in_flight.values() {
                in_flight.task.call_off();
            }
            if exit == Exit::Done {
                exit = Exit::DrainExceeded;
            }
        }
        self.consumer.close(farewell / 2);
        log::info!(
            "left the group after {:.1} s",
            began.elapsed().as_secs_f64()
        );
        exit
    }
}

fn exit_of(fatal: &Fatal) -> Exit {
    log::error!("{}", fatal.message);
    match fatal.kind {
        FatalKind::NotAuthorised => Exit::NotAuthorised,
        FatalKind::Fenced => Exit::Fenced,
        FatalKind::Configuration => Exit::Configuration,
        FatalKind::Internal => Exit::Internal,
    }
}

/// Whether a task is long past its deadline. Deadlines run on while the process is stopped as a
/// whole, and tasks do not: from its resumption on they have the time again.
fn is_overdue(now: Instant, until: Instant, resumed: Option<Instant>, after: Duration) -> bool {
    now > resumed.map_or(until, |resumed| resumed.max(until)) + after
}

fn as_gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
