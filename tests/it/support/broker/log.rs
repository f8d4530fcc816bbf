//! The log of one partition: batches in memory, as they came, with their offsets set.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::batch::{self, BatchHeader, LogRecord};

/// A batch in its place.
#[derive(Debug, Clone)]
struct Stored {
    base: i64,
    /// The last offset that it covers, holes included.
    last: i64,
    bytes: Bytes,
}

/// One partition: who leads it, and its log.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) leader: i32,
    pub(super) epoch: i32,
    batches: Vec<Stored>,
    pub(super) start: i64,
    pub(super) end: i64,
    /// Where open transactions begin; `None`: nothing is open.
    pub(super) stable: Option<i64>,
    /// Producer id and first offset of each aborted transaction.
    pub(super) aborted: Vec<(i64, i64)>,
    producers: HashMap<i64, ProducerState>,
}

/// What the partition remembers of an idempotent producer.
#[derive(Debug)]
struct ProducerState {
    epoch: i16,
    /// First and last sequence and base offset of the last five batches, as Kafka keeps them.
    recent: VecDeque<(i32, i32, i64)>,
}

/// What became of a produced batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Appended {
    At(i64),
    /// It was there already, from this offset on.
    Duplicate(i64),
    Refused(i16),
}

impl Partition {
    pub(super) fn new(leader: i32) -> Self {
        Self {
            leader,
            epoch: 0,
            batches: Vec::new(),
            start: 0,
            end: 0,
            stable: None,
            aborted: Vec::new(),
            producers: HashMap::new(),
        }
    }

    /// Checks and appends what one Produce request holds for this partition.
    pub(super) fn produce(&mut self, bytes: &[u8], max_bytes: usize) -> Appended {
        let mut rest = bytes;
        let mut first = None;
        if rest.is_empty() {
            return Appended::Refused(87);
        }
        while !rest.is_empty() {
            let Ok(header) = BatchHeader::parse(rest) else {
                return Appended::Refused(2);
            };
            let bytes = &rest[..header.size];
            rest = &rest[header.size..];
            match self.produce_batch(&header, bytes, max_bytes) {
                Appended::At(base) => _ = first.get_or_insert(base),
                other => return other,
            }
        }
        Appended::At(first.unwrap_or(self.end))
    }

    fn produce_batch(&mut self, header: &BatchHeader, bytes: &[u8], max: usize) -> Appended {
        if bytes.len() > max {
            return Appended::Refused(10);
        }
        if header.magic == 2 && crc32c::crc32c(&bytes[21..]) != header.crc {
            return Appended::Refused(2);
        }
        let Ok(records) = batch::decode(bytes) else {
            return Appended::Refused(87);
        };
        let contiguous = (header.base..).zip(&records).all(|(n, r)| r.offset == n);
        if records.is_empty() || !contiguous || header.last_delta != header.count - 1 {
            return Appended::Refused(87);
        }
        if header.producer_id >= 0 {
            match self.check_sequence(header) {
                Ok(()) => {}
                Err(refused) => return refused,
            }
        }
        Appended::At(self.append(bytes, i64::from(header.last_delta) + 1))
    }

    fn check_sequence(&mut self, header: &BatchHeader) -> Result<(), Appended> {
        let first = header.sequence;
        let last = wrap(first, header.last_delta);
        let end = self.end;
        let entry = self.producers.entry(header.producer_id);
        let known = matches!(entry, std::collections::hash_map::Entry::Occupied(_));
        let producer = entry.or_insert(ProducerState {
            epoch: header.producer_epoch,
            recent: VecDeque::new(),
        });
        if header.producer_epoch < producer.epoch {
            return Err(Appended::Refused(47));
        }
        let new_epoch = header.producer_epoch > producer.epoch;
        if new_epoch && first != 0 {
            return Err(Appended::Refused(45));
        }
        if new_epoch {
            producer.epoch = header.producer_epoch;
            producer.recent.clear();
        } else if known {
            let same = |seen: &&(i32, i32, i64)| (seen.0, seen.1) == (first, last);
            if let Some(seen) = producer.recent.iter().find(same) {
                return Err(Appended::Duplicate(seen.2));
            }
            let expected = producer.recent.back().map(|seen| wrap(seen.1, 1));
            if expected.is_some_and(|expected| expected != first) {
                return Err(Appended::Refused(45));
            }
        }
        producer.recent.push_back((first, last, end));
        if producer.recent.len() > 5 {
            producer.recent.pop_front();
        }
        Ok(())
    }

    /// Appends bytes that cover `offsets` offsets, whatever they are; sets what the leader sets.
    pub(super) fn append(&mut self, bytes: &[u8], offsets: i64) -> i64 {
        let base = self.end;
        let mut bytes = bytes.to_vec();
        if bytes.len() >= 17 {
            bytes[..8].copy_from_slice(&base.to_be_bytes());
            if bytes[16] == 2 {
                bytes[12..16].copy_from_slice(&self.epoch.to_be_bytes());
            }
        }
        self.end = base + offsets;
        self.batches.push(Stored {
            base,
            last: self.end - 1,
            bytes: bytes.into(),
        });
        base
    }

    /// As much of the log from `offset` on as fits: the last batch is cut at the limit, as a
    /// broker cuts its file, but the first one is whole when `whole_first`.
    pub(super) fn read(&self, offset: i64, below: i64, max: usize, whole_first: bool) -> Bytes {
        let mut out = Vec::new();
        let wanted = |b: &&Stored| b.last >= offset && b.base < below;
        for stored in self.batches.iter().filter(wanted) {
            if out.is_empty() && whole_first {
                out.extend_from_slice(&stored.bytes);
            } else {
                let room = max.saturating_sub(out.len()).min(stored.bytes.len());
                out.extend_from_slice(&stored.bytes[..room]);
            }
            if out.len() >= max {
                break;
            }
        }
        out.into()
    }

    /// The first offset whose record is not older than `timestamp`.
    pub(super) fn find(&self, timestamp: i64) -> Option<LogRecord> {
        let mut records = self.records().into_iter();
        records.find(|r| r.offset >= self.start && r.timestamp >= timestamp)
    }

    /// What can be read of the log; batches that cannot are left out.
    pub(super) fn records(&self) -> Vec<LogRecord> {
        let batches = self.batches.iter();
        let records = batches.flat_map(|b| batch::decode(&b.bytes).unwrap_or_default());
        records.filter(|r| r.offset >= self.start).collect()
    }

    /// Removes what lies before `offset`, as retention does.
    pub(super) fn delete_before(&mut self, offset: i64) {
        self.start = offset.min(self.end);
        let start = self.start;
        self.batches.retain(|b| b.last >= start);
    }

    /// Cuts the log off at `offset`, as an unclean election does. The next record gets it.
    pub(super) fn truncate(&mut self, offset: i64) {
        self.batches.retain(|b| b.last < offset);
        self.end = offset;
        self.start = self.start.min(offset);
    }

    /// Forgets idempotent producers, as retention does.
    pub(super) fn forget_producers(&mut self) {
        self.producers.clear();
    }
}

/// Sequences go from 0 to 2³¹ − 1 and begin again.
fn wrap(sequence: i32, by: i32) -> i32 {
    ((i64::from(sequence) + i64::from(by)) % (1 << 31)) as i32
}
