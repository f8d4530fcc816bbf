//! Positions: where each partition is read next, what to ask of which broker, and what an answer
//! means. No I/O; the consumer carries the questions and answers.
//!
//! It guarantees: a position moves only by what was handed out, or by an [`Event::Skipped`] that
//! says so; it comes from batch headers, so that control batches and compacted holes are passed;
//! an answer under a former lease or position, or for a paused partition, moves nothing.

mod position;
mod unpack;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::options::{ConsumerOptions, IsolationLevel, OffsetReset, OnCorruptBatch};
use super::records::{Batches, Fault};
use super::stats::Stats;
use super::{Assigned, Code, Event, Fatal, FatalKind, Lease, SkipCause, TopicPartition};
use position::Position;
use unpack::{Aborted, record, unpack};

pub(super) use position::Place;

/// Inflated bytes that are handed out of one answer; the rest of it is asked for again. What is
/// asked for is bounded compressed, and a batch may inflate a thousandfold.
const MAX_INFLATED: usize = 64 << 20;

/// What an answer said of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// Nothing new.
    Nothing,
    /// Something to act on, which was done.
    Something,
}

/// A partition as one question named it.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) partition: TopicPartition,
    pub(super) lease: Lease,
    pub(super) place: Place,
}

#[derive(Debug)]
struct Outstanding {
    asked: Vec<Asked>,
    since: Instant,
}

/// What an answer asks of the consumer beside its events.
#[derive(Debug, Default)]
pub(super) struct Aftermath {
    /// Leaders may have moved.
    pub(super) refresh: bool,
    /// It is over.
    pub(super) fatal: Option<Fatal>,
}

/// All positions of a consumer.
#[derive(Debug)]
pub(super) struct Fetcher {
    max_wait: Duration,
    max_bytes: i32,
    max_partition_bytes: i32,
    max_inflated: usize,
    isolation: IsolationLevel,
    reset: OffsetReset,
    on_corrupt: OnCorruptBatch,
    stats: Arc<Stats>,
    positions: BTreeMap<TopicPartition, Position>,
    outstanding: BTreeMap<i32, Outstanding>,
    /// Brokers fill an answer in the order of the question, so each partition is first in turn.
    turn: usize,
    all_paused: bool,
}

impl Fetcher {
    pub(super) fn new(options: &ConsumerOptions, stats: Arc<Stats>) -> Self {
        Self {
            max_wait: options.fetch_max_wait,
            max_bytes: options.fetch_max_bytes,
            max_partition_bytes: options.max_partition_fetch_bytes,
            max_inflated: MAX_INFLATED,
            isolation: options.isolation_level,
            reset: options.auto_offset_reset,
            on_corrupt: options.on_corrupt_batch,
            stats,
            positions: BTreeMap::new(),
            outstanding: BTreeMap::new(),
            turn: 0,
            all_paused: false,
        }
    }

    /// Takes over a complete assignment. What is kept stays as it is, paused or not.
    pub(super) fn assign(&mut self, partitions: &[Assigned]) {
        let mut former = std::mem::take(&mut self.positions);
        for entry in partitions {
            let held = former
                .remove(&entry.partition)
                .filter(|held| entry.kept && held.lease == entry.lease);
            self.positions.insert(
                entry.partition.clone(),
                held.unwrap_or_else(|| Position::new(entry.lease.clone())),
            );
        }
    }

    /// Forgets all positions; questions under way are answered into the void.
    pub(super) fn clear(&mut self) {
        self.positions.clear();
    }

    /// The topic was made anew: positions count for nothing any more, nor does what stood still.
    pub(super) fn start_over(&mut self) {
        for position in self.positions.values_mut() {
            let place = match position.place {
                // It may be that of the former topic.
                Place::Committed | Place::Reset(_) => Place::Committed,
                Place::OutOfRange(_) | Place::At(_) | Place::Anew => Place::Anew,
            };
            *position = Position {
                place,
                paused: position.paused,
                ..Position::new(position.lease.clone())
            };
        }
    }

    pub(super) fn set_paused(&mut self, partitions: &[TopicPartition], paused: bool) {
        for partition in partitions {
            if let Some(position) = self.positions.get_mut(partition) {
                position.paused = paused;
            }
        }
    }

    /// What was handed out of a partition from `offset` on is asked for again.
    pub(super) fn rewind(&mut self, partition: &TopicPartition, offset: i64) {
        if let Some(position) = self.positions.get_mut(partition)
            // Of another log, or under another lease, there is nothing to be had again.
            && matches!(position.place, Place::At(_) | Place::OutOfRange(_))
        {
            position.place = Place::At(offset);
        }
    }

    /// Partitions that stand still for good, and why.
    pub(super) fn halted(&self) -> impl Iterator<Item = (&TopicPartition, &str)> {
        self.positions
            .iter()
            .filter_map(|(partition, position)| Some((partition, position.halted.as_deref()?)))
    }

    pub(super) fn set_all_paused(&mut self, paused: bool) {
        self.all_paused = paused;
    }

    /// Whether nothing at all is to be fetched.
    pub(super) fn is_all_paused(&self) -> bool {
        self.all_paused
    }

    /// Last known end of each partition.
    pub(super) fn high_watermarks(&self) -> Vec<(TopicPartition, i64)> {
        self.positions
            .iter()
            .filter_map(|(partition, position)| Some((partition.clone(), position.high_watermark?)))
            .collect()
    }

    /// Partitions whose committed offset has to be asked.
    pub(super) fn unplaced(&self, now: Instant) -> Vec<Asked> {
        self.due(now)
            .filter(|asked| asked.place == Place::Committed)
            .collect()
    }

    /// Partitions whose ends have to be asked.
    pub(super) fn unlisted(&self, now: Instant) -> Vec<Asked> {
        self.due(now)
            .filter(|asked| {
                matches!(
                    asked.place,
                    Place::Reset(_) | Place::OutOfRange(_) | Place::Anew
                )
            })
            .collect()
    }

    fn due(&self, now: Instant) -> impl Iterator<Item = Asked> {
        self.positions
            .iter()
            .filter(move |(_, position)| position.is_due(now))
            .map(|(partition, position)| Asked {
                partition: partition.clone(),
                lease: position.lease.clone(),
                place: position.place,
            })
    }

    /// The committed offset of a partition is known; without one it starts by the policy, or at
    /// its beginning when it was added to the topic while we watched.
    pub(super) fn committed(
        &mut self,
        asked: &Asked,
        offset: Option<i64>,
        added: bool,
        now: Instant,
    ) {
        let reset = if added {
            OffsetReset::Earliest
        } else {
            self.reset
        };
        if let Some(position) = self.asked(asked) {
            position.well(&asked.partition, now);
            match offset {
                Some(offset) => {
                    log::info!("{} continues at committed offset {offset}", asked.partition);
                    position.place = Place::At(offset);
                }
                None => position.place = Place::Reset(reset),
            }
        }
    }

    /// The committed offset of a partition came with this text.
    pub(super) fn committed_with(&mut self, asked: &Asked, offset: i64, metadata: &str) {
        if let Some(position) = self.asked(asked) {
            position.committed = Some((offset, metadata.into()));
        }
    }

    /// The committed offset that reading a partition began at, and its metadata.
    pub(super) fn began_at(&self, partition: &TopicPartition) -> Option<(i64, Arc<str>)> {
        self.positions.get(partition)?.committed.clone()
    }

    /// Where each partition is read next, as far as that is known.
    pub(super) fn positions(&self) -> impl Iterator<Item = (&TopicPartition, i64)> {
        self.positions
            .iter()
            .filter_map(|(partition, position)| match position.place {
                Place::At(offset) => Some((partition, offset)),
                Place::Committed | Place::Reset(_) | Place::OutOfRange(_) | Place::Anew => None,
            })
    }

    /// The ends of a partition are known.
    pub(super) fn listed(
        &mut self,
        asked: &Asked,
        (start, end): (i64, i64),
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let policy = self.reset;
        let stats = self.stats.clone();
        let Some(position) = self.asked(asked) else {
            return;
        };
        let from = match asked.place {
            Place::OutOfRange(from) => from,
            Place::Reset(reset) => {
                let (at, word) = match reset {
                    OffsetReset::Earliest => (start, "start"),
                    OffsetReset::Latest => (end, "end"),
                };
                log::info!(
                    "{} has no committed offset and begins at its {word}, {at}",
                    asked.partition
                );
                position.place = Place::At(at);
                position.well(&asked.partition, now);
                return;
            }
            Place::Anew => {
                position.place = Place::At(start);
                position.well(&asked.partition, now);
                events.push(Event::StartedOver {
                    partition: asked.partition.clone(),
                    lease: asked.lease.clone(),
                    at: start,
                });
                return;
            }
            Place::Committed | Place::At(_) => return,
        };
        let to = if from < start {
            log::error!(
                "{}: offset {from} is gone, {} records were removed before they were read; \
                 continuing at {start}",
                asked.partition,
                start - from
            );
            start
        } else if from > end {
            let to = match policy {
                OffsetReset::Earliest => start,
                OffsetReset::Latest => end,
            };
            log::error!(
                "{}: offset {from} lies behind the end {end}, the log was cut off or made anew; \
                 continuing at {to}",
                asked.partition
            );
            to
        } else {
            // The broker has it after all: a replica that lagged behind, maybe for ever.
            position.place = Place::At(from);
            let code = Code::OffsetOutOfRange;
            let what = format!("{code} ({}) of an offset that is there", code.code());
            position.note(&asked.partition, what, now);
            position.back_off(now);
            return;
        };
        position.well(&asked.partition, now);
        stats
            .skipped_out_of_range
            .add(u64::try_from(to.saturating_sub(from)).unwrap_or(0));
        position.place = Place::At(to);
        events.push(Event::Skipped {
            partition: asked.partition.clone(),
            lease: asked.lease.clone(),
            from,
            to,
            cause: SkipCause::OutOfRange,
        });
    }

    /// A question about a partition went wrong: later again.
    pub(super) fn not_now(&mut self, asked: &Asked, what: Option<String>, now: Instant) {
        if let Some(position) = self.asked(asked) {
            if let Some(what) = what {
                position.note(&asked.partition, what, now);
            }
            position.back_off(now);
        }
    }

    /// Says which partitions have nobody to be asked of, once that lasts.
    pub(super) fn note_leaders(
        &mut self,
        leader: impl Fn(&TopicPartition) -> Option<i32>,
        now: Instant,
    ) {
        for (partition, position) in &mut self.positions {
            if leader(partition).is_some() {
                if position.leaderless.over(now).is_some_and(|over| over.told) {
                    log::info!("{partition} has a leader again");
                }
            } else if position.leaderless.lasts(now) {
                log::warn!("{partition} has no leader, or does not exist: it is not read");
            }
        }
    }

    /// The position that a question was about, unless it has moved on.
    fn asked(&mut self, asked: &Asked) -> Option<&mut Position> {
        self.positions
            .get_mut(&asked.partition)
            .filter(|position| position.lease == asked.lease && position.place == asked.place)
    }

    /// Whether a broker still owes an answer.
    pub(super) fn is_outstanding(&self, node: i32) -> bool {
        self.outstanding.contains_key(&node)
    }

    /// Brokers that owe an answer, and since when.
    pub(super) fn outstanding(&self) -> Vec<(i32, Instant)> {
        self.outstanding
            .iter()
            .map(|(node, question)| (*node, question.since))
            .collect()
    }

    /// The questions to put now: one for each leader that owes no answer.
    pub(super) fn questions(
        &mut self,
        leader: impl Fn(&TopicPartition) -> Option<i32>,
        now: Instant,
    ) -> BTreeMap<i32, Vec<Asked>> {
        let mut questions: BTreeMap<i32, Vec<Asked>> = BTreeMap::new();
        if self.all_paused {
            return questions;
        }
        let ready: Vec<Asked> = self
            .positions
            .iter()
            .filter(|(_, position)| !position.paused && position.is_due(now))
            .filter(|(_, position)| matches!(position.place, Place::At(_)))
            .map(|(partition, position)| Asked {
                partition: partition.clone(),
                lease: position.lease.clone(),
                place: position.place,
            })
            .collect();
        let first = self.turn.checked_rem(ready.len()).unwrap_or(0);
        let (behind, ahead) = ready.split_at(first);
        for asked in ahead.iter().chain(behind) {
            if let Some(node) = leader(&asked.partition)
                && !self.is_outstanding(node)
            {
                questions.entry(node).or_default().push(asked.clone());
            }
        }
        if !questions.is_empty() {
            self.turn = self.turn.wrapping_add(1);
        }
        questions
    }

    /// The Fetch that asks this. A plain one outside of incremental sessions (KIP-227): those
    /// save bytes for thousands of partitions and add state that can be lost.
    pub(super) fn request(&self, asked: &[Asked]) -> FetchRequest {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for entry in asked {
            let Place::At(offset) = entry.place else {
                continue;
            };
            let partition = FetchPartition::default()
                .with_partition(entry.partition.partition)
                .with_fetch_offset(offset)
                .with_partition_max_bytes(self.max_partition_bytes);
            // Only neighbours are joined, so that the order stays.
            match topics.last_mut() {
                Some(topic) if *topic.topic.0 == *entry.partition.topic => {
                    topic.partitions.push(partition);
                }
                _ => topics.push(
                    FetchTopic::default()
                        .with_topic(topic_name(&entry.partition.topic))
                        .with_partitions(vec![partition]),
                ),
            }
        }
        FetchRequest::default()
            .with_max_wait_ms(i32::try_from(self.max_wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(self.max_bytes)
            .with_isolation_level(isolation(self.isolation))
            .with_topics(topics)
    }

    /// A question was sent.
    pub(super) fn sent(&mut self, node: i32, asked: Vec<Asked>, now: Instant) {
        self.outstanding
            .insert(node, Outstanding { asked, since: now });
    }

    /// A broker cannot be asked at the moment: its partitions wait as long as it takes, where that
    /// is known.
    pub(super) fn unsent(&mut self, asked: &[Asked], pause: Option<Duration>, now: Instant) {
        for entry in asked {
            if let Some(position) = self.asked(entry) {
                match pause {
                    Some(pause) => position.not_before = Some(now + pause),
                    None => position.back_off(now),
                }
            }
        }
    }

    /// The connection broke before the answer.
    pub(super) fn unanswered(&mut self, node: i32, now: Instant) {
        if let Some(question) = self.outstanding.remove(&node) {
            self.unsent(&question.asked, None, now);
        }
    }

    /// A broker answered.
    pub(super) fn answered(
        &mut self,
        node: i32,
        response: FetchResponse,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Aftermath {
        let mut aftermath = Aftermath::default();
        let Some(question) = self.outstanding.remove(&node) else {
            return aftermath;
        };
        if let Some(code) = Code::try_from_code(response.error_code) {
            for asked in &question.asked {
                self.refused(asked, code, now, events, &mut aftermath);
            }
            return aftermath;
        }
        let mut budget = self.max_inflated;
        let mut silent: Vec<&Asked> = question.asked.iter().collect();
        let mut idle: Vec<&Asked> = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                // Answers to what nobody asked are none.
                let Some(at) = silent.iter().position(|asked| {
                    asked.partition.partition == data.partition_index
                        && *asked.partition.topic == *topic.topic.0
                }) else {
                    continue;
                };
                let asked = silent.swap_remove(at);
                let said = match Code::try_from_code(data.error_code) {
                    Some(code) => {
                        self.refused(asked, code, now, events, &mut aftermath);
                        Said::Something
                    }
                    None => self.read(asked, data, &mut budget, now, events),
                };
                if said == Said::Nothing {
                    idle.push(asked);
                }
            }
        }
        for asked in &silent {
            self.not_now(asked, Some("Fetch leaves it out".into()), now);
        }
        // A broker with no data holds the question for `max_wait`. One that does not must not be
        // asked as fast as it answers.
        let waited = now.saturating_duration_since(question.since);
        let nothing = idle.len() + silent.len() == question.asked.len();
        let hasty = nothing && waited < self.max_wait / 2;
        for asked in idle {
            if let Some(position) = self.asked(asked) {
                if hasty {
                    position.back_off(now);
                } else {
                    position.well(&asked.partition, now);
                }
            }
        }
        aftermath
    }

    fn refused(
        &mut self,
        asked: &Asked,
        code: Code,
        now: Instant,
        events: &mut Vec<Event>,
        aftermath: &mut Aftermath,
    ) {
        let Place::At(offset) = asked.place else {
            return;
        };
        let Some(position) = self.asked(asked) else {
            return;
        };
        match code {
            Code::OffsetOutOfRange => {
                position.place = Place::OutOfRange(offset);
                // Maybe it is another topic of the same name.
                aftermath.refresh = true;
            }
            Code::CorruptMessage => {
                let to = offset.checked_add(1);
                self.broken(asked, offset, to, &code.to_string(), now, events);
            }
            Code::UnsupportedCompressionType => {
                self.halt(
                    asked,
                    format!(
                        "{code} ({}): in our version of Fetch the broker does not give out this \
                         compression; zstd asks for Kafka 2.1 or newer",
                        code.code()
                    ),
                    events,
                );
            }
            Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
                aftermath.fatal = Some(Fatal::new(
                    FatalKind::NotAuthorised,
                    format!("Fetch of {}: {code} ({})", asked.partition, code.code()),
                ));
            }
            _ => {
                position.note(&asked.partition, said(code), now);
                position.back_off(now);
                aftermath.refresh = true;
            }
        }
    }

    /// Takes the records of one partition out of an answer.
    fn read(
        &mut self,
        asked: &Asked,
        data: PartitionData,
        budget: &mut usize,
        now: Instant,
        events: &mut Vec<Event>,
    ) -> Said {
        let read_committed = self.isolation == IsolationLevel::ReadCommitted;
        let Place::At(from) = asked.place else {
            return Said::Something;
        };
        let Some(position) = self.asked(asked) else {
            return Said::Something;
        };
        if data.high_watermark >= 0 {
            position.high_watermark = Some(data.high_watermark);
        }
        if position.paused || position.halted.is_some() {
            return Said::Something;
        }
        let lease = position.lease.clone();
        let mut aborted = Aborted::new(
            data.aborted_transactions
                .filter(|_| read_committed)
                .unwrap_or_default(),
        );
        let mut next = from;
        let mut records = Vec::new();
        let mut broken = None;
        let mut batches = Batches::new(data.records.unwrap_or_default());
        let mut any = false;
        while *budget > 0
            && let Some(batch) = batches.next()
        {
            any = true;
            match batch {
                // A broker may begin with batches before the position.
                Ok(batch) if batch.next <= from => {}
                Ok(batch) => match unpack(&batch, &mut aborted, budget) {
                    Ok(unpacked) => {
                        records.extend(
                            unpacked
                                .into_iter()
                                .filter(|raw| raw.offset >= next)
                                .map(|raw| record(asked, &lease, raw)),
                        );
                        next = next.max(batch.next);
                    }
                    Err(fault) => broken = Some((Some(batch.next), fault)),
                },
                // Its offsets are part of what may be broken: believed where they make sense.
                Err(corrupt) => broken = Some((corrupt.next, corrupt.fault)),
            }
            if broken.is_some() {
                break;
            }
        }
        if !any && batches.rest() > 0 {
            let fault = Fault::Malformed("the answer ends within its first batch");
            broken = Some((None, fault));
        }
        if next > from {
            position.place = Place::At(next);
            position.well(&asked.partition, now);
            events.push(Event::Fetched {
                partition: asked.partition.clone(),
                lease,
                from,
                records,
                next,
            });
        }
        if let Some((behind, fault)) = broken {
            let to = match fault {
                // Not damage but a topic that we cannot read: nothing to pass over.
                Fault::OldFormat { .. } => None,
                _ if !any => None,
                _ => {
                    let plausible = next + 1..=data.high_watermark.max(next + 1);
                    behind
                        .filter(|to| plausible.contains(to))
                        .or(Some(next + 1))
                }
            };
            self.broken(asked, next, to, &fault.to_string(), now, events);
        } else if next == from {
            return Said::Nothing;
        }
        Said::Something
    }

    /// A batch at `from` cannot be read: asked for once more, then passed over up to `to`, where
    /// that is known and wished, or stood still at.
    fn broken(
        &mut self,
        asked: &Asked,
        from: i64,
        to: Option<i64>,
        cause: &str,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let to = to.filter(|_| self.on_corrupt == OnCorruptBatch::Skip);
        let stats = self.stats.clone();
        let Some(position) = self
            .positions
            .get_mut(&asked.partition)
            .filter(|position| position.lease == asked.lease)
        else {
            return;
        };
        if position.suspect != Some(from) {
            log::warn!(
                "{}: broken batch at offset {from}, asking again: {cause}",
                asked.partition
            );
            position.suspect = Some(from);
            position.back_off(now);
        } else if let Some(to) = to {
            log::error!(
                "{}: broken batch, offsets {from} to {} are passed over: {cause}",
                asked.partition,
                to - 1
            );
            stats
                .skipped_corrupt_batch
                .add(u64::try_from(to.saturating_sub(from)).unwrap_or(0));
            position.place = Place::At(to);
            position.suspect = None;
            position.well(&asked.partition, now);
            events.push(Event::Skipped {
                partition: asked.partition.clone(),
                lease: asked.lease.clone(),
                from,
                to,
                cause: SkipCause::CorruptBatch,
            });
        } else {
            self.halt(
                asked,
                format!("broken batch at offset {from}: {cause}"),
                events,
            );
        }
    }

    fn halt(&mut self, asked: &Asked, cause: String, events: &mut Vec<Event>) {
        let Some(position) = self
            .positions
            .get_mut(&asked.partition)
            .filter(|position| position.lease == asked.lease && position.halted.is_none())
        else {
            return;
        };
        position.halted = Some(cause.clone());
        log::error!("{} stands still: {cause}", asked.partition);
        events.push(Event::Halted {
            partition: asked.partition.clone(),
            cause,
        });
    }
}

/// A code as it is told.
pub(super) fn said(code: Code) -> String {
    format!("{code} ({})", code.code())
}

/// A topic's name as the codec wants it.
pub(super) fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

/// The level as requests write it.
pub(super) fn isolation(level: IsolationLevel) -> i8 {
    match level {
        IsolationLevel::ReadUncommitted => 0,
        IsolationLevel::ReadCommitted => 1,
    }
}

#[cfg(test)]
mod tests;
