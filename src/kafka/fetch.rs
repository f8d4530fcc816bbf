//! Positions: where each partition is read next, what to ask of which broker, and what an answer
//! means. No I/O; the consumer carries the questions and answers.
//!
//! It guarantees: a position moves only by what was handed out, or by an [`Event::Skipped`] that
//! says so; it comes from batch headers, so that control batches and compacted holes are passed;
//! an answer under a former lease or position, or for a paused partition, moves nothing.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::{AbortedTransaction, PartitionData};
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;

use super::options::{ConsumerOptions, IsolationLevel, OffsetReset, OnCorruptBatch};
use super::records::{Batch, Batches, Fault, Marker, RawRecord};
use super::stats::Stats;
use super::{
    Assigned, Code, Event, Fatal, FatalKind, Header, Lease, Record, SkipCause, TopicPartition,
};
use crate::backoff::Backoff;

/// Inflated bytes that are handed out of one answer; the rest of it is asked for again. What is
/// asked for is bounded compressed, and a batch may inflate a thousandfold.
const MAX_INFLATED: usize = 64 << 20;

/// Where a partition is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Where the group committed, which has to be asked.
    Committed,
    /// At its start or behind its end, which has to be asked.
    Reset(OffsetReset),
    /// The broker does not have this offset; both ends have to be asked.
    OutOfRange(i64),
    /// At this offset.
    At(i64),
}

#[derive(Debug)]
struct Position {
    lease: Lease,
    place: Place,
    paused: bool,
    /// Stands still for good.
    halted: bool,
    /// A batch at this offset was broken once.
    suspect: Option<i64>,
    high_watermark: Option<i64>,
    not_before: Option<Instant>,
    backoff: Backoff,
    /// The code of a series of failures, which is logged once.
    trouble: Option<Code>,
    /// The committed offset that it began at, with its metadata.
    committed: Option<(i64, Arc<str>)>,
}

impl Position {
    fn new(lease: Lease) -> Self {
        Self {
            lease,
            place: Place::Committed,
            paused: false,
            halted: false,
            suspect: None,
            high_watermark: None,
            not_before: None,
            backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(1), 20),
            trouble: None,
            committed: None,
        }
    }

    fn is_due(&self, now: Instant) -> bool {
        !self.halted && self.not_before.is_none_or(|at| now >= at)
    }

    fn back_off(&mut self, now: Instant) {
        self.not_before = Some(now + self.backoff.next_pause());
    }

    fn well(&mut self) {
        self.not_before = None;
        self.backoff.reset();
        self.trouble = None;
    }
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

    pub(super) fn set_paused(&mut self, partitions: &[TopicPartition], paused: bool) {
        for partition in partitions {
            if let Some(position) = self.positions.get_mut(partition) {
                position.paused = paused;
            }
        }
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
            .filter(|asked| matches!(asked.place, Place::Reset(_) | Place::OutOfRange(_)))
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
    pub(super) fn committed(&mut self, asked: &Asked, offset: Option<i64>, added: bool) {
        let reset = if added {
            OffsetReset::Earliest
        } else {
            self.reset
        };
        if let Some(position) = self.asked(asked) {
            position.well();
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
                Place::Committed | Place::Reset(_) | Place::OutOfRange(_) => None,
            })
    }

    /// The ends of a partition are known.
    pub(super) fn listed(&mut self, asked: &Asked, start: i64, end: i64, events: &mut Vec<Event>) {
        let policy = self.reset;
        let stats = self.stats.clone();
        let Some(position) = self.asked(asked) else {
            return;
        };
        position.well();
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
            // The broker has it after all: a replica that lagged behind.
            position.place = Place::At(from);
            return;
        };
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
    pub(super) fn not_now(&mut self, asked: &Asked, code: Option<Code>, now: Instant) {
        if let Some(position) = self.asked(asked) {
            trouble(&asked.partition, position, code);
            position.back_off(now);
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
        for topic in response.responses {
            for data in topic.partitions {
                // Answers to what nobody asked are none.
                let Some(asked) = question.asked.iter().find(|asked| {
                    asked.partition.partition == data.partition_index
                        && *asked.partition.topic == *topic.topic.0
                }) else {
                    continue;
                };
                match Code::try_from_code(data.error_code) {
                    Some(code) => self.refused(asked, code, now, events, &mut aftermath),
                    None => self.read(asked, data, &mut budget, now, events),
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
            Code::OffsetOutOfRange => position.place = Place::OutOfRange(offset),
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
                trouble(&asked.partition, position, Some(code));
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
    ) {
        let read_committed = self.isolation == IsolationLevel::ReadCommitted;
        let Place::At(from) = asked.place else { return };
        let Some(position) = self.asked(asked) else {
            return;
        };
        if data.high_watermark >= 0 {
            position.high_watermark = Some(data.high_watermark);
        }
        if position.paused || position.halted {
            return;
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
            position.well();
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
        } else if let Some(position) = self.asked(asked) {
            position.well();
        }
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
            position.well();
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
            .filter(|position| position.lease == asked.lease && !position.halted)
        else {
            return;
        };
        position.halted = true;
        log::error!("{} stands still: {cause}", asked.partition);
        events.push(Event::Halted {
            partition: asked.partition.clone(),
            cause,
        });
    }
}

/// Which batches belong to aborted transactions, while an answer is read in order.
///
/// A broker filters nothing: it lists the transactions that were aborted, each with its first
/// offset, and the end of one is its marker in the log.
struct Aborted {
    upcoming: VecDeque<AbortedTransaction>,
    open: HashSet<i64>,
}

impl Aborted {
    fn new(mut transactions: Vec<AbortedTransaction>) -> Self {
        transactions.sort_by_key(|transaction| transaction.first_offset);
        Self {
            upcoming: transactions.into(),
            open: HashSet::new(),
        }
    }

    /// Whether readers get the records of the next batch.
    fn wants(&mut self, batch: &Batch) -> bool {
        while let Some(begun) = self
            .upcoming
            .pop_front_if(|begun| begun.first_offset < batch.next)
        {
            self.open.insert(begun.producer_id.0);
        }
        if batch.is_control() {
            // An unreadable marker ends it, too: what comes behind must not be lost.
            if !matches!(batch.marker(), Ok(Marker::Other)) {
                self.open.remove(&batch.producer_id);
            }
            return false;
        }
        !(batch.is_transactional() && self.open.contains(&batch.producer_id))
    }
}

/// The records of a batch that readers get, counted against the budget.
fn unpack(
    batch: &Batch,
    aborted: &mut Aborted,
    budget: &mut usize,
) -> Result<Vec<RawRecord>, Fault> {
    if !aborted.wants(batch) {
        return Ok(Vec::new());
    }
    let records = batch.records()?;
    let size: usize = records
        .iter()
        .map(|raw| {
            let part = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
            let headers = raw
                .headers
                .iter()
                .map(|header| size_of::<Header>() + header.name.len() + part(&header.value));
            size_of::<Record>() + part(&raw.key) + part(&raw.value) + headers.sum::<usize>()
        })
        .sum();
    *budget = budget.saturating_sub(size);
    Ok(records)
}

fn record(asked: &Asked, lease: &Lease, raw: RawRecord) -> Record {
    Record {
        partition: asked.partition.clone(),
        offset: raw.offset,
        timestamp: raw.timestamp,
        key: raw.key,
        value: raw.value,
        headers: raw.headers,
        lease: lease.clone(),
    }
}

/// Notes what is wrong with a partition; only a change is worth a line.
fn trouble(partition: &TopicPartition, position: &mut Position, code: Option<Code>) {
    if let Some(code) = code
        && position.trouble != Some(code)
    {
        log::warn!("{partition}: {code} ({}), trying again", code.code());
        position.trouble = Some(code);
    }
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
mod tests {
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::messages::ProducerId;
    use kafka_protocol::messages::fetch_response::FetchableTopicResponse;
    use proptest::prelude::{prop_assert_eq, proptest};

    use super::*;
    use crate::kafka::options::Compression;
    use crate::kafka::records::{Draft, Origin, encode};

    const TRANSACTIONAL: u8 = 0x10;
    const CONTROL: u8 = 0x20;

    /// A batch as it lies in a log.
    fn batch(base: i64, values: &[&str], producer_id: i64, flags: u8) -> Bytes {
        let drafts: Vec<Draft<'_>> = values
            .iter()
            .map(|value| Draft {
                timestamp: 0,
                key: Some(&[0, 0, 0, 0]),
                value: Some(value.as_bytes()),
                headers: &[],
            })
            .collect();
        let origin = Origin {
            producer_id,
            epoch: 0,
            sequence: 0,
        };
        let mut bytes = encode(&drafts, Compression::None, origin).unwrap().to_vec();
        bytes[..8].copy_from_slice(&base.to_be_bytes());
        bytes[22] |= flags;
        let checksum = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&checksum.to_be_bytes());
        bytes.into()
    }

    fn join(batches: &[Bytes]) -> Bytes {
        let mut all = BytesMut::new();
        batches.iter().for_each(|batch| all.put_slice(batch));
        all.freeze()
    }

    struct Test {
        fetcher: Fetcher,
        lease: Lease,
        now: Instant,
    }

    impl Test {
        /// Owns partition 0 of `t` and reads it from offset 10.
        fn new(options: &ConsumerOptions) -> Self {
            let mut fetcher = Fetcher::new(options, Arc::default());
            let lease = Lease::new();
            fetcher.assign(&[Assigned {
                partition: TopicPartition::new("t", 0),
                lease: lease.clone(),
                kept: false,
            }]);
            let now = Instant::now();
            let unplaced = fetcher.unplaced(now);
            fetcher.committed(&unplaced[0], Some(10), false);
            Self {
                fetcher,
                lease,
                now,
            }
        }

        fn place(&self) -> Place {
            self.fetcher.positions.values().next().unwrap().place
        }

        fn ask(&mut self) -> bool {
            self.now += Duration::from_secs(2);
            let mut questions = self.fetcher.questions(|_| Some(1), self.now);
            let asked = questions.remove(&1);
            let any = asked.is_some();
            if let Some(asked) = asked {
                self.fetcher.sent(1, asked, self.now);
            }
            any
        }

        fn answer(&mut self, data: PartitionData) -> Vec<Event> {
            let topic = FetchableTopicResponse::default()
                .with_topic(topic_name("t"))
                .with_partitions(vec![data]);
            let response = FetchResponse::default().with_responses(vec![topic]);
            let mut events = Vec::new();
            self.fetcher.answered(1, response, self.now, &mut events);
            events
        }

        fn fetch(&mut self, data: PartitionData) -> Vec<Event> {
            assert!(self.ask());
            self.answer(data)
        }
    }

    fn data(records: Bytes) -> PartitionData {
        PartitionData::default()
            .with_high_watermark(1000)
            .with_records(Some(records))
    }

    fn code(code: Code) -> PartitionData {
        PartitionData::default().with_error_code(code.code())
    }

    /// Where it went on and what it read.
    fn fetched(events: &[Event]) -> (i64, Vec<String>) {
        match events {
            [Event::Fetched { next, records, .. }] => {
                let value = |record: &Record| record.value.clone().unwrap();
                let text = |record| String::from_utf8(value(record).to_vec()).unwrap();
                (*next, records.iter().map(text).collect())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_lies_before_the_position_is_dropped() {
        let mut test = Test::new(&ConsumerOptions::default());
        let events = test.fetch(data(join(&[
            batch(5, &["5", "6"], -1, 0),
            batch(9, &["9", "10", "11"], -1, 0),
            batch(20, &["20"], -1, 0).slice(..40),
        ])));
        assert_eq!(
            fetched(&events),
            (12, vec!["10".to_string(), "11".to_string()])
        );
        assert_eq!(test.place(), Place::At(12));
        assert_eq!(test.fetcher.high_watermarks()[0].1, 1000);
    }

    #[test]
    fn an_answer_for_a_former_position_or_lease_moves_nothing() {
        // Paused meanwhile.
        let mut test = Test::new(&ConsumerOptions::default());
        assert!(test.ask());
        let partition = TopicPartition::new("t", 0);
        test.fetcher
            .set_paused(std::slice::from_ref(&partition), true);
        assert!(test.answer(data(batch(10, &["a"], -1, 0))).is_empty());
        assert_eq!(test.place(), Place::At(10));
        assert!(!test.ask());
        // Given away and come back meanwhile.
        test.fetcher
            .set_paused(std::slice::from_ref(&partition), false);
        assert!(test.ask());
        test.fetcher.assign(&[]);
        let entry = Assigned {
            partition,
            lease: Lease::new(),
            kept: false,
        };
        test.fetcher.assign(std::slice::from_ref(&entry));
        assert!(test.answer(data(batch(10, &["a"], -1, 0))).is_empty());
        assert_eq!(test.place(), Place::Committed);
        // Kept: what was on its way counts.
        let unplaced = test.fetcher.unplaced(test.now);
        test.fetcher.committed(&unplaced[0], Some(10), false);
        assert!(test.ask());
        test.fetcher.assign(&[Assigned {
            kept: true,
            ..entry
        }]);
        let events = test.answer(data(batch(10, &["a"], -1, 0)));
        assert_eq!(fetched(&events), (11, vec!["a".to_string()]));
    }

    #[test]
    fn answers_that_nobody_asked_for_are_none() {
        let mut test = Test::new(&ConsumerOptions::default());
        assert!(test.answer(data(batch(10, &["a"], -1, 0))).is_empty());
        let other = data(batch(10, &["a"], -1, 0)).with_partition_index(7);
        assert!(test.fetch(other).is_empty());
        assert_eq!(test.place(), Place::At(10));
        assert!(test.ask(), "and it is asked again");
    }

    #[test]
    fn m21_records_before_a_broken_batch_are_handed_out() {
        let mut test = Test::new(&ConsumerOptions {
            on_corrupt_batch: OnCorruptBatch::Skip,
            ..ConsumerOptions::default()
        });
        let mut broken = batch(11, &["x", "y"], -1, 0).to_vec();
        *broken.last_mut().unwrap() ^= 1;
        let good = batch(10, &["a"], -1, 0);
        let events = test.fetch(data(join(&[good, broken.clone().into()])));
        assert_eq!(fetched(&events), (11, vec!["a".to_string()]));
        let events = test.fetch(data(broken.into()));
        assert!(
            matches!(
                events[..],
                [Event::Skipped {
                    from: 11,
                    to: 13,
                    ..
                }]
            ),
            "{events:?}"
        );
        assert_eq!(test.place(), Place::At(13));
    }

    #[test]
    fn m21_a_broken_header_is_not_believed() {
        // The checksum is wrong, and so may be the offset that the header ends with.
        let mut broken = batch(10, &["x"], -1, 0).to_vec();
        broken[23..27].copy_from_slice(&i32::MAX.to_be_bytes());
        let mut test = Test::new(&ConsumerOptions {
            on_corrupt_batch: OnCorruptBatch::Skip,
            ..ConsumerOptions::default()
        });
        assert!(test.fetch(data(broken.clone().into())).is_empty());
        let events = test.fetch(data(broken.into()));
        assert!(
            matches!(
                events[..],
                [Event::Skipped {
                    from: 10,
                    to: 11,
                    ..
                }]
            ),
            "{events:?}"
        );
    }

    #[test]
    fn m21_old_formats_and_stubs_halt_whatever_the_policy() {
        let mut old = batch(10, &["x"], -1, 0).to_vec();
        old[16] = 1;
        let stub = batch(10, &["x"], -1, 0).slice(..30);
        for bytes in [old.into(), stub] {
            let mut test = Test::new(&ConsumerOptions {
                on_corrupt_batch: OnCorruptBatch::Skip,
                ..ConsumerOptions::default()
            });
            assert!(test.fetch(data(bytes.clone())).is_empty(), "once more");
            let events = test.fetch(data(bytes));
            assert!(matches!(events[..], [Event::Halted { .. }]), "{events:?}");
            assert!(!test.ask());
        }
    }

    #[test]
    fn an_unknown_codec_of_the_broker_halts() {
        let mut test = Test::new(&ConsumerOptions::default());
        let events = test.fetch(code(Code::UnsupportedCompressionType));
        assert!(matches!(events[..], [Event::Halted { .. }]));
    }

    #[test]
    fn aborted_transactions_end_with_their_marker() {
        let log = join(&[
            batch(10, &["gone"], 7, TRANSACTIONAL),
            batch(11, &["stays"], 8, TRANSACTIONAL),
            batch(12, &["gone"], 7, TRANSACTIONAL),
            batch(13, &["marker"], 7, TRANSACTIONAL | CONTROL),
            batch(14, &["stays too"], 7, TRANSACTIONAL),
            batch(15, &["not yet"], 9, TRANSACTIONAL),
            batch(16, &["gone"], 9, TRANSACTIONAL),
        ]);
        let aborted = [(9, 16), (7, 2)].map(|(producer, first)| {
            AbortedTransaction::default()
                .with_producer_id(ProducerId(producer))
                .with_first_offset(first)
        });
        for (level, wanted) in [
            (IsolationLevel::ReadCommitted, 3),
            (IsolationLevel::ReadUncommitted, 6),
        ] {
            let mut test = Test::new(&ConsumerOptions {
                isolation_level: level,
                ..ConsumerOptions::default()
            });
            let answer = data(log.clone()).with_aborted_transactions(Some(aborted.to_vec()));
            let (next, values) = fetched(&test.fetch(answer));
            assert_eq!((next, values.len()), (17, wanted), "{values:?}");
        }
    }

    #[test]
    fn m21_one_answer_is_bounded_when_inflated() {
        let mut test = Test::new(&ConsumerOptions::default());
        assert!(test.ask());
        test.fetcher.max_inflated = 1000;
        let large = "x".repeat(500);
        let batches = [10, 11, 12].map(|base| batch(base, &[&large], -1, 0));
        let events = test.answer(data(join(&batches)));
        assert_eq!(fetched(&events).0, 12, "the third is asked for again");
    }

    #[test]
    fn each_partition_is_first_in_turn() {
        let mut fetcher = Fetcher::new(&ConsumerOptions::default(), Arc::default());
        let assigned: Vec<Assigned> = (0..3)
            .map(|number| Assigned {
                partition: TopicPartition::new("t", number),
                lease: Lease::new(),
                kept: false,
            })
            .collect();
        fetcher.assign(&assigned);
        let now = Instant::now();
        for asked in fetcher.unplaced(now) {
            fetcher.committed(&asked, Some(0), false);
        }
        let mut firsts = Vec::new();
        for _ in 0..3 {
            let asked = fetcher.questions(|_| Some(1), now).remove(&1).unwrap();
            let request = fetcher.request(&asked);
            assert_eq!(request.topics.len(), 1);
            assert_eq!(request.topics[0].partitions.len(), 3);
            firsts.push(request.topics[0].partitions[0].partition);
        }
        assert_eq!(firsts, [0, 1, 2]);
        // Only what has a leader that owes no answer is asked.
        let asked = fetcher.questions(|p| (p.partition > 0).then_some(p.partition), now);
        fetcher.sent(1, asked[&1].clone(), now);
        let asked = fetcher.questions(|p| Some(p.partition), now);
        assert_eq!(asked.keys().copied().collect::<Vec<_>>(), [0, 2]);
        fetcher.set_all_paused(true);
        assert!(fetcher.questions(|_| Some(5), now).is_empty());
    }

    #[test]
    fn added_partitions_start_at_their_beginning() {
        for (added, reset) in [(true, OffsetReset::Earliest), (false, OffsetReset::Latest)] {
            let mut test = Test::new(&ConsumerOptions {
                auto_offset_reset: OffsetReset::Latest,
                ..ConsumerOptions::default()
            });
            test.fetcher.clear();
            test.fetcher.assign(&[Assigned {
                partition: TopicPartition::new("t", 0),
                lease: test.lease.clone(),
                kept: false,
            }]);
            let unplaced = test.fetcher.unplaced(test.now);
            test.fetcher.committed(&unplaced[0], None, added);
            assert_eq!(test.place(), Place::Reset(reset));
        }
    }

    #[test]
    fn within_the_log_after_all() {
        let mut test = Test::new(&ConsumerOptions::default());
        assert!(test.fetch(code(Code::OffsetOutOfRange)).is_empty());
        assert_eq!(test.place(), Place::OutOfRange(10));
        let unlisted = test.fetcher.unlisted(test.now);
        let mut events = Vec::new();
        test.fetcher.listed(&unlisted[0], 3, 10, &mut events);
        assert!(events.is_empty());
        assert_eq!(test.place(), Place::At(10));
    }

    proptest! {
        /// Every record comes once and in order, however the log is cut into answers.
        #[test]
        fn nothing_is_lost_or_doubled(sizes in proptest::collection::vec((0..4usize, 0..3i64), 1..12), cuts in proptest::collection::vec(1..400usize, 1..60)) {
            let mut log = Vec::new();
            let mut base = 10;
            let mut wanted = Vec::new();
            for (count, hole) in sizes {
                let values: Vec<String> = (0..count).map(|n| (base + i64::try_from(n).unwrap()).to_string()).collect();
                let texts: Vec<&str> = values.iter().map(String::as_str).collect();
                if !texts.is_empty() {
                    log.push((base, batch(base, &texts, -1, 0)));
                    base += i64::try_from(count).unwrap();
                    wanted.extend(values);
                }
                base += hole;
            }
            let mut test = Test::new(&ConsumerOptions::default());
            let mut read = Vec::new();
            let ends: Vec<i64> = log.iter().skip(1).map(|(base, _)| *base).chain([base]).collect();
            for cut in cuts.into_iter().chain(std::iter::repeat_n(4096, 20)) {
                let Place::At(at) = test.place() else { panic!() };
                let rest: Vec<Bytes> = log.iter().zip(&ends).filter(|(_, end)| **end > at).map(|((_, bytes), _)| bytes.clone()).collect();
                // A broker sends at least one whole batch.
                let all = join(&rest);
                let length = cut.max(rest.first().map_or(0, Bytes::len)).min(all.len());
                for event in test.fetch(data(all.slice(..length))) {
                    if let Event::Fetched { records, .. } = event {
                        read.extend(records.into_iter().map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()));
                    }
                }
            }
            prop_assert_eq!(read, wanted);
        }
    }
}
