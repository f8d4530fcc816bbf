//! `redrive`: dead letters go to the incoming topic again.
//!
//! It guarantees: a dead letter counts as done once the broker has acknowledged its copy, and only
//! then is its offset committed, so that an end at any time repeats some and loses none; what
//! arrives in the dead-letter topic while it runs is left for the next run, so that a record that
//! fails again at once does not go round in a circle.
//!
//! It reads as a member of a group of its own: two runs at once share the partitions, and neither
//! sends what the other one has.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Redrive, put, tell};
use crate::config::Config;
use crate::error::chain;
use crate::exit::Exit;
use crate::kafka::options::{ConsumerOptions, IsolationLevel, OffsetReset};
use crate::kafka::{
    Commit, Consumer, Error, Event, Fatal, FatalKind, Header, Lease, Metadata, OutgoingRecord,
    Producer, Record, SendError, TopicPartition,
};
use crate::output::dead_letters::PREFIX;
use crate::shutdown::Shutdown;

/// How long brokers may take to answer at all.
const REACH: Duration = Duration::from_secs(10);
/// How long brokers may stay away in the middle.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long nothing may come of partitions that are ours: longer than a throttled broker is left
/// alone.
const STANDSTILL: Duration = Duration::from_secs(45);
/// Dead letters that are sent at once and committed together; so many can come twice.
const CHUNK: usize = 32;
/// Time between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// Time for leaving the group.
const FAREWELL: Duration = Duration::from_secs(3);
/// Longest reason that is shown: whoever can write to the topic chooses it.
const REASON_LIMIT: usize = 64;

/// What is to be done with one dead letter.
enum Plan {
    Send {
        reason: String,
    },
    OtherReason,
    /// Without the value, which was too large.
    Stub,
    /// Without a reason: nobody of us has put it there.
    Foreign,
}

/// How a batch came to its end.
enum Batch {
    Done,
    /// As many were sent as were wanted.
    LimitReached,
    Ended(Exit),
}

/// What was done so far.
#[derive(Debug, Default)]
struct Counts {
    sent: BTreeMap<String, u64>,
    other_reasons: u64,
    stubs: u64,
    foreign: u64,
}

impl Counts {
    fn sent(&self) -> u64 {
        self.sent.values().sum()
    }
}

struct Run<'a> {
    arguments: &'a Redrive,
    shutdown: &'a Shutdown,
    incoming: Arc<str>,
    producer: Producer,
    consumer: Consumer,
    /// Ends of the partitions as they were first seen.
    ends: BTreeMap<TopicPartition, i64>,
    assigned: Option<Vec<TopicPartition>>,
    counts: Counts,
    /// When brokers last did something for us.
    well: Instant,
    /// When something last came of the dead letters.
    moved: Instant,
    told: Instant,
}

/// Sends dead letters again, and says what it did.
pub(super) fn run(arguments: &Redrive, config: &Config, shutdown: &Shutdown) -> Exit {
    let Some(topic) = &config.dead_letter_queue.topic else {
        tell("there are no dead letters: dead_letter_queue.topic is empty");
        return Exit::Configuration;
    };
    let incoming = &config.consumer.options.topic;
    let producer = Producer::start(config.dead_letter_queue.options.clone());
    for topic in [topic, incoming] {
        match producer.partitions(topic, REACH) {
            Ok(Some(_)) => {}
            Ok(None) => {
                tell(&format!("topic {topic} does not exist"));
                return Exit::Configuration;
            }
            Err(error @ Error::Refused { .. }) => {
                tell(&format!("topic {topic}: {}", chain(&error)));
                return if error.is_authorisation() {
                    Exit::NotAuthorised
                } else {
                    Exit::Configuration
                };
            }
            Err(error @ Error::Topic { .. }) => {
                tell(&chain(&error));
                return Exit::Unavailable;
            }
            Err(error) => {
                tell(&format!("no broker answers: {}", chain(&error)));
                return Exit::Unavailable;
            }
        }
    }
    let mut run = Run {
        arguments,
        shutdown,
        incoming: incoming.as_str().into(),
        producer,
        consumer: Consumer::start(reader(&config.consumer.options, topic, arguments)),
        ends: BTreeMap::new(),
        assigned: None,
        counts: Counts::default(),
        well: Instant::now(),
        moved: Instant::now(),
        told: Instant::now(),
    };
    let exit = run.work();
    let Run {
        producer,
        consumer,
        counts,
        ..
    } = run;
    consumer.close(FAREWELL);
    producer.close(FAREWELL);
    match put(&summary(&counts, arguments.dry_run)) {
        Exit::Done => exit,
        failed if exit == Exit::Done => failed,
        _ => exit,
    }
}

/// A member of the group that remembers how far dead letters were sent again.
fn reader(worker: &ConsumerOptions, topic: &str, arguments: &Redrive) -> ConsumerOptions {
    let mut group_id = format!("{}-redrive", worker.group_id);
    if let Some(reason) = arguments.reason {
        // Writing to a String cannot fail.
        let _ = write!(group_id, "-{}", reason.as_str());
    }
    ConsumerOptions {
        group_id,
        // It comes and goes, and two at once are none too many.
        group_instance_id: None,
        topic: topic.to_owned(),
        auto_offset_reset: OffsetReset::Earliest,
        // The end of the topic is the end of all records, whosever transaction is open.
        isolation_level: IsolationLevel::ReadUncommitted,
        ..worker.clone()
    }
}

impl Run<'_> {
    fn work(&mut self) -> Exit {
        loop {
            if self.shutdown.is_requested() {
                tell("ends here; the rest is left for the next run");
                return Exit::Done;
            }
            let shutdown = self.shutdown;
            let polled = self
                .consumer
                .poll(Duration::from_millis(500), &|| shutdown.is_requested());
            let events = match polled {
                Ok(events) => events,
                Err(fatal) => return exit_of(&fatal),
            };
            // Before the first records of a partition are looked at, and never again.
            for (partition, end) in self.consumer.lag() {
                self.ends.entry(partition).or_insert(end);
            }
            for event in events {
                match self.take_event(event) {
                    Batch::Done => {}
                    Batch::LimitReached => return Exit::Done,
                    Batch::Ended(exit) => return exit,
                }
                self.moved = Instant::now();
            }
            if self.is_done() {
                return Exit::Done;
            }
            if let Some(exit) = self.lose_patience() {
                return exit;
            }
            self.tell_progress();
        }
    }

    fn take_event(&mut self, event: Event) -> Batch {
        self.well = Instant::now();
        match event {
            Event::Assigned { partitions, .. } => {
                let assigned = partitions.into_iter().map(|entry| entry.partition);
                self.assigned = Some(assigned.collect());
            }
            // Whatever was sent is committed.
            Event::Revoking { .. } => {
                self.assigned = None;
                self.consumer.release(&[]);
            }
            Event::Lost => self.assigned = None,
            Event::Fetched {
                partition,
                lease,
                records,
                ..
            } => {
                let end = self.ends.get(&partition).copied().unwrap_or(i64::MAX);
                let records: Vec<Record> = records
                    .into_iter()
                    .take_while(|record| record.offset < end)
                    .collect();
                for chunk in records.chunks(CHUNK) {
                    // Another run may have the partition by now, and sends the rest.
                    if !lease.is_live() {
                        break;
                    }
                    match self.take_chunk(&partition, &lease, chunk) {
                        Batch::Done => self.tell_progress(),
                        end => return end,
                    }
                    if self.shutdown.is_requested() {
                        return Batch::Done;
                    }
                }
                // Then having read to the end is not having sent and committed: what is left, and
                // whose it is, the next assignment tells.
                if !lease.is_live() {
                    self.assigned = None;
                }
            }
            Event::Skipped { .. } => {}
            Event::StartedOver { partition, .. } => _ = self.ends.remove(&partition),
            Event::Halted { partition, cause } => {
                tell(&format!("{partition} cannot be read on: {cause}"));
                return Batch::Ended(Exit::Failure);
            }
        }
        Batch::Done
    }

    /// Sends what is wanted of some records and commits behind them.
    fn take_chunk(&mut self, partition: &TopicPartition, lease: &Lease, chunk: &[Record]) -> Batch {
        let room = self
            .arguments
            .limit
            .map_or(u64::MAX, |limit| limit.saturating_sub(self.counts.sent()));
        let mut plans = Vec::new();
        let mut sends = 0;
        for record in chunk {
            let plan = self.plan(record);
            if matches!(plan, Plan::Send { .. }) {
                if sends == room {
                    break;
                }
                sends += 1;
            }
            plans.push((record, plan));
        }
        let reached = self.arguments.limit.is_some() && sends == room;
        let failures = if self.arguments.dry_run {
            let lines = plans.iter().filter_map(|(record, plan)| match plan {
                Plan::Send { reason } => Some(format!(
                    "{}\t{}\t{}\t{reason}\n",
                    partition.topic, partition.partition, record.offset
                )),
                Plan::OtherReason | Plan::Stub | Plan::Foreign => None,
            });
            let exit = put(&lines.collect::<String>());
            if exit != Exit::Done {
                return Batch::Ended(exit);
            }
            BTreeMap::new()
        } else {
            self.send(&plans)
        };

        // Only what stands before the first failure is behind us.
        let mut done = None;
        for (record, plan) in plans {
            if failures.contains_key(&record.offset) {
                break;
            }
            done = Some(record.offset);
            match plan {
                Plan::Send { reason } => *self.counts.sent.entry(reason).or_default() += 1,
                Plan::OtherReason => self.counts.other_reasons += 1,
                Plan::Stub => self.counts.stubs += 1,
                Plan::Foreign => self.counts.foreign += 1,
            }
        }
        if let Some(done) = done.filter(|_| !self.arguments.dry_run) {
            let commit = Commit {
                partition: partition.clone(),
                lease: lease.clone(),
                offset: done + 1,
            };
            for answer in self.consumer.commit(&[commit], &Metadata::new(), PATIENCE) {
                if let Err(error) = answer.result {
                    tell(&format!(
                        "what was sent of {partition} is not committed and will be sent again: {}",
                        chain(&error)
                    ));
                }
            }
        }
        match failures.into_iter().next() {
            Some((offset, error)) => Batch::Ended(give_up(partition, offset, &error)),
            None if reached => Batch::LimitReached,
            None => Batch::Done,
        }
    }

    fn plan(&self, record: &Record) -> Plan {
        let find = |name: &str| {
            record.headers.iter().rfind(|header| {
                header.name.strip_prefix(PREFIX.as_bytes()) == Some(name.as_bytes())
            })
        };
        if find("stub").is_some() {
            return Plan::Stub;
        }
        let Some(reason) = find("reason").and_then(|header| header.value.as_deref()) else {
            return Plan::Foreign;
        };
        let wanted = self.arguments.reason.map(|reason| reason.as_str());
        if wanted.is_some_and(|wanted| wanted.as_bytes() != reason) {
            return Plan::OtherReason;
        }
        let reason = String::from_utf8_lossy(reason);
        let shown = reason.chars().filter(|c| !c.is_control());
        Plan::Send {
            reason: shown.take(REASON_LIMIT).collect(),
        }
    }

    /// Sends all at once and waits for all. What failed, by offset.
    fn send(&mut self, plans: &[(&Record, Plan)]) -> BTreeMap<i64, SendError> {
        let began = Instant::now();
        let wanted: Vec<&Record> = plans
            .iter()
            .filter(|(_, plan)| matches!(plan, Plan::Send { .. }))
            .map(|(record, _)| *record)
            .collect();
        let letters = wanted.iter().map(|record| original(record, &self.incoming));
        let outcomes = self
            .producer
            .send_all(letters, &|| began.elapsed() > PATIENCE);
        let failures = wanted
            .iter()
            .zip(outcomes)
            .filter_map(|(record, outcome)| Some((record.offset, outcome.err()?)))
            .collect();
        self.well = Instant::now();
        failures
    }

    /// Whether every partition of ours is read up to the end that it had.
    fn is_done(&self) -> bool {
        let Some(assigned) = &self.assigned else {
            return false;
        };
        if assigned.is_empty() {
            tell("another redrive has all partitions of the dead letters");
            return true;
        }
        self.unread(assigned).next().is_none()
    }

    /// Those partitions that are not read up to the end that they had.
    fn unread<'a>(
        &'a self,
        assigned: &'a [TopicPartition],
    ) -> impl Iterator<Item = &'a TopicPartition> {
        let positions: BTreeMap<_, _> = self.consumer.positions().into_iter().collect();
        assigned.iter().filter(move |partition| {
            let (position, end) = (positions.get(partition), self.ends.get(partition));
            position.zip(end).is_none_or(|(at, end)| at < end)
        })
    }

    fn lose_patience(&mut self) -> Option<Exit> {
        if let Some(assigned) = &self.assigned
            && self.moved.elapsed() > STANDSTILL
        {
            let unread: Vec<_> = self.unread(assigned).map(ToString::to_string).collect();
            tell(&format!(
                "nothing is to be read of {} for {STANDSTILL:?}; the rest is left for the next run",
                unread.join(", ")
            ));
            return Some(Exit::Unavailable);
        }
        match self.consumer.state().trouble {
            None => self.well = Instant::now(),
            Some(trouble) if self.well.elapsed() > PATIENCE => {
                tell(&trouble);
                return Some(Exit::Unavailable);
            }
            Some(_) => {}
        }
        None
    }

    fn tell_progress(&mut self) {
        if self.told.elapsed() < PROGRESS {
            return;
        }
        self.told = Instant::now();
        let sent = self.counts.sent();
        tell(&format!("{sent} dead letters sent again so far"));
    }
}

/// The record as it was before it became a dead letter.
fn original(record: &Record, incoming: &Arc<str>) -> OutgoingRecord {
    let own = |header: &&Header| !header.name.starts_with(PREFIX.as_bytes());
    OutgoingRecord {
        topic: Arc::clone(incoming),
        partition: None,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.iter().filter(own).cloned().collect(),
    }
}

/// The end of a run whose next dead letter cannot be sent.
fn give_up(partition: &TopicPartition, offset: i64, error: &SendError) -> Exit {
    let place = format!("dead letter {partition} offset {offset}");
    let why = chain(error);
    match error {
        SendError::Cancelled | SendError::Closed => {
            tell(&format!("{place}: not acknowledged within {PATIENCE:?}"));
            Exit::Unavailable
        }
        SendError::NotAuthorised { .. } => {
            tell(&format!("{place}: {why}"));
            Exit::NotAuthorised
        }
        SendError::RecordTooLarge { .. }
        | SendError::InvalidRecord { .. }
        | SendError::Refused { .. } => {
            tell(&format!(
                "{place} cannot be sent, the run ends before it: {why}"
            ));
            Exit::Failure
        }
    }
}

fn exit_of(fatal: &Fatal) -> Exit {
    tell(&fatal.message);
    match fatal.kind {
        FatalKind::NotAuthorised => Exit::NotAuthorised,
        FatalKind::Fenced => Exit::Fenced,
        FatalKind::Configuration => Exit::Configuration,
        FatalKind::Internal => Exit::Internal,
    }
}

/// What was done, by reason.
fn summary(counts: &Counts, dry_run: bool) -> String {
    let words = if dry_run {
        "would be sent again"
    } else {
        "sent again"
    };
    let mut text = format!("{words}: {}\n", counts.sent());
    // Writing to a String cannot fail.
    for (reason, count) in &counts.sent {
        let _ = writeln!(text, "  {reason}: {count}");
    }
    for (words, count) in [
        ("left, for other reasons", counts.other_reasons),
        ("left, stubs without a value", counts.stubs),
        ("left, no dead letters of this program", counts.foreign),
    ] {
        if count > 0 {
            let _ = writeln!(text, "{words}: {count}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Lease;
    use crate::output::dead_letters::{Failure, render};
    use bytes::Bytes;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Option<Bytes>> {
        prop::option::of(prop::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from))
    }

    proptest! {
        /// A dead letter and back: nothing of the record is changed, whatever its bytes.
        #[test]
        fn a_redriven_record_is_the_one_that_failed(
            key in bytes(),
            value in bytes(),
            headers in prop::collection::vec(("[a-z-]{0,8}", bytes()), 0..5),
        ) {
            let headers: Vec<Header> = headers
                .into_iter()
                .map(|(name, value)| Header { name: Bytes::from(name), value })
                .collect();
            let record = Record {
                partition: TopicPartition::new("upload", 1),
                offset: 7,
                timestamp: Some(1),
                key,
                value,
                headers,
                lease: Lease::new(),
            };
            let failure = Failure {
                reason: crate::error::Reason::NotFound,
                message: "m".into(),
                attempts: 1,
            };
            let letter = render(&"dlq".into(), "group", &record, &failure);
            let again = Record { headers: letter.headers, key: letter.key, value: letter.value, ..record.clone() };
            let sent = original(&again, &"upload".into());
            prop_assert_eq!(&sent.key, &record.key);
            prop_assert_eq!(&sent.value, &record.value);
            prop_assert_eq!(&sent.headers, &record.headers);
            prop_assert_eq!(&*sent.topic, "upload");
        }
    }

    #[test]
    fn the_summary_counts_by_reason() {
        let mut counts = Counts::default();
        counts.sent.insert("tls".into(), 2);
        counts.sent.insert("not_found".into(), 3);
        counts.stubs = 1;
        assert_eq!(
            summary(&counts, false),
            "sent again: 5\n  not_found: 3\n  tls: 2\nleft, stubs without a value: 1\n"
        );
        assert!(summary(&Counts::default(), true).starts_with("would be sent again: 0"));
    }
}
