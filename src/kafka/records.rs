//! Record batches: the codec room. Reads and writes format 2, which brokers hold since 0.11.
//!
//! The codec crate's own module is not used: it merges headers of one name, fails on names that
//! are not text, drops the last-offset delta and inflates without a limit. Here no count and no
//! size is believed, inflating stops at [`MAX_UNPACKED`], and a batch without records still says
//! where the next one begins.

mod compression;

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use self::compression::{deflate, inflate};
use super::Header;
use super::options::Compression;

/// What the records of one batch may take when inflated, in bytes.
pub(super) const MAX_UNPACKED: usize = 64 << 20;
/// What records and headers of one batch may take beside their bytes. Without this bound a batch
/// of empty headers, a few KiB on the wire, would take gigabytes.
const MAX_OVERHEAD: usize = 64 << 20;
/// What a record takes beside its bytes and headers; the allocator has a share, too.
const RECORD_OVERHEAD: usize = size_of::<RawRecord>() + 64;
/// Base offset and length.
const PREFIX: usize = 12;
/// Everything before the records.
const HEAD: usize = 61;
/// Where the checksum begins to count.
const CHECKED: usize = 21;

const CODEC: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// Why a batch cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// Written in a format from before Kafka 0.11.
    #[error(
        "records in format {magic}, from before Kafka 0.11, are not read: rewrite the topic with \
         message format 2"
    )]
    OldFormat {
        /// 0 or 1.
        magic: i8,
    },
    /// A format that does not exist yet.
    #[error("unknown record format {magic}")]
    UnknownFormat {
        /// The number.
        magic: i8,
    },
    /// The bytes are not those that were written.
    #[error("wrong checksum")]
    Checksum,
    /// A compression that does not exist yet.
    #[error("unknown compression {codec}")]
    UnknownCodec {
        /// The number.
        codec: i16,
    },
    /// The compressed stream is damaged.
    #[error("{codec} stream is damaged: {found}")]
    Codec {
        /// Name of the compression.
        codec: &'static str,
        /// What its decoder says.
        found: String,
    },
    /// It inflates to more than [`MAX_UNPACKED`].
    #[error("inflates to more than {} MiB", MAX_UNPACKED >> 20)]
    TooLarge,
    /// Lengths, counts or offsets that contradict each other.
    #[error("malformed: {0}")]
    Malformed(&'static str),
}

/// A batch that cannot be read, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Corrupt {
    /// Its first offset.
    pub(super) base: i64,
    /// The offset behind it, as far as its header can be trusted.
    pub(super) next: Option<i64>,
    /// What is wrong.
    pub(super) fault: Fault,
}

/// The end of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// Its records count.
    Commit,
    /// Its records never were.
    Abort,
    /// Something newer; concerns no reader.
    Other,
}

/// A record of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RawRecord {
    /// Its offset.
    pub(super) offset: i64,
    /// Milliseconds since 1970, `None` for none (-1).
    pub(super) timestamp: Option<i64>,
    /// Null and empty differ.
    pub(super) key: Option<Bytes>,
    /// Null and empty differ.
    pub(super) value: Option<Bytes>,
    /// In order, duplicates kept.
    pub(super) headers: Vec<Header>,
}

/// A batch whose checksum is right and whose records are still packed.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    /// Offset of its first record, if that is still there.
    pub(super) base: i64,
    /// Offset behind its last one, also where compaction has removed that.
    pub(super) next: i64,
    /// Who wrote it; -1: nobody in particular.
    pub(super) producer_id: i64,
    attributes: i16,
    first_timestamp: i64,
    max_timestamp: i64,
    count: usize,
    packed: Bytes,
}

/// Batches of a fetch answer, in order.
#[derive(Debug, Clone)]
pub(super) struct Batches(Bytes);

impl Batches {
    /// Takes the records of one partition of a fetch answer.
    pub(super) fn new(records: Bytes) -> Self {
        Self(records)
    }

    /// Bytes not yet read. Left over at the end: a batch that the answer cuts off, which is
    /// normal behind others. With nothing before it the broker sent less than one batch.
    pub(super) fn rest(&self) -> usize {
        self.0.len()
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        let base = self.0.get(..8)?.get_i64();
        let length = self.0.get(8..PREFIX)?.get_i32();
        let Ok(length) = usize::try_from(length) else {
            // Nothing tells where the next batch begins.
            self.0.clear();
            return Some(Err(Corrupt {
                base,
                next: None,
                fault: Fault::Malformed("negative batch length"),
            }));
        };
        let end = length.checked_add(PREFIX)?;
        if end > self.0.len() {
            return None;
        }
        let bytes = self.0.split_to(end);
        Some(parse(base, &bytes))
    }
}

fn parse(base: i64, bytes: &Bytes) -> Result<Batch, Corrupt> {
    let corrupt = |next, fault| Corrupt { base, next, fault };
    // The magic number lies in the same place in every format.
    match bytes.get(16).map(|byte| byte.cast_signed()) {
        None => return Err(corrupt(None, Fault::Malformed("short batch"))),
        Some(magic @ 0..=1) => return Err(corrupt(None, Fault::OldFormat { magic })),
        Some(2) => {}
        Some(magic) => return Err(corrupt(None, Fault::UnknownFormat { magic })),
    }
    if bytes.len() < HEAD {
        return Err(corrupt(None, Fault::Malformed("short batch")));
    }
    let mut head = &bytes[17..HEAD];
    let checksum = head.get_u32();
    let attributes = head.get_i16();
    let last_delta = head.get_i32();
    let first_timestamp = head.get_i64();
    let max_timestamp = head.get_i64();
    let producer_id = head.get_i64();
    let _epoch = head.get_i16();
    let _sequence = head.get_i32();
    let count = head.get_i32();
    let next = (base >= 0 && last_delta >= 0)
        .then(|| base.checked_add(i64::from(last_delta) + 1))
        .flatten();
    if crc32c::crc32c(&bytes[CHECKED..]) != checksum {
        return Err(corrupt(next, Fault::Checksum));
    }
    let (Some(next), Ok(count)) = (next, usize::try_from(count)) else {
        return Err(corrupt(next, Fault::Malformed("negative offset or count")));
    };
    Ok(Batch {
        base,
        next,
        producer_id,
        attributes,
        first_timestamp,
        max_timestamp,
        count,
        packed: bytes.slice(HEAD..),
    })
}

impl Batch {
    /// Whether it belongs to a transaction.
    pub(super) fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it holds a mark of the broker and no records for readers.
    pub(super) fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// What a control batch says.
    ///
    /// # Errors
    /// As [`Batch::records`].
    pub(super) fn marker(&self) -> Result<Marker, Fault> {
        let records = self.records()?;
        let key = records.first().and_then(|record| record.key.as_deref());
        Ok(match key {
            // Version, then kind.
            Some([_, _, 0, 0, ..]) => Marker::Abort,
            Some([_, _, 0, 1, ..]) => Marker::Commit,
            _ => Marker::Other,
        })
    }

    /// Unpacks its records. Each has memory of its own, so keeping one keeps nothing else.
    ///
    /// # Errors
    /// A damaged or oversized stream, or lengths that contradict each other.
    pub(super) fn records(&self) -> Result<Vec<RawRecord>, Fault> {
        // Compaction may leave a batch of which only the header is true.
        if self.count == 0 {
            return Ok(Vec::new());
        }
        let unpacked;
        let mut bytes: &[u8] = match self.attributes & CODEC {
            0 => &self.packed,
            codec => {
                unpacked = inflate(codec, &self.packed, MAX_UNPACKED)?;
                &unpacked
            }
        };
        // A record takes at least 7 bytes; one is enough to bound the memory.
        if self.count > bytes.len() {
            return Err(Fault::Malformed("more records than bytes"));
        }
        let mut records = Vec::new();
        let mut room = MAX_OVERHEAD;
        for _ in 0..self.count {
            spend(&mut room, RECORD_OVERHEAD)?;
            let record = take(&mut bytes)?.ok_or(Fault::Malformed("record without length"))?;
            records.push(self.record(Bytes::copy_from_slice(record), &mut room)?);
        }
        Ok(records)
    }

    fn record(&self, raw: Bytes, room: &mut usize) -> Result<RawRecord, Fault> {
        let mut bytes = &raw[..];
        bytes
            .try_get_i8()
            .map_err(|_| Fault::Malformed("empty record"))?;
        let timestamp_delta = varint(&mut bytes)?;
        let offset_delta = varint(&mut bytes)?;
        let offset = self
            .base
            .checked_add(offset_delta)
            .filter(|offset| (self.base..self.next).contains(offset))
            .ok_or(Fault::Malformed("record outside of its batch"))?;
        let key = take(&mut bytes)?.map(|key| raw.slice_ref(key));
        let value = take(&mut bytes)?.map(|value| raw.slice_ref(value));
        let count = varint(&mut bytes)?;
        let count = usize::try_from(count).map_err(|_| Fault::Malformed("header count"))?;
        if count > bytes.len() {
            return Err(Fault::Malformed("more headers than bytes"));
        }
        spend(room, count * size_of::<Header>())?;
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let name = take(&mut bytes)?.ok_or(Fault::Malformed("header without name"))?;
            headers.push(Header {
                name: raw.slice_ref(name),
                value: take(&mut bytes)?.map(|value| raw.slice_ref(value)),
            });
        }
        let timestamp = if self.attributes & LOG_APPEND_TIME != 0 {
            self.max_timestamp
        } else {
            self.first_timestamp.wrapping_add(timestamp_delta)
        };
        Ok(RawRecord {
            offset,
            timestamp: (timestamp != -1).then_some(timestamp),
            key,
            value,
            headers,
        })
    }
}

/// Takes what a record or its headers need from what is left for all of them.
fn spend(room: &mut usize, size: usize) -> Result<(), Fault> {
    *room = room.checked_sub(size).ok_or(Fault::TooLarge)?;
    Ok(())
}

/// Bytes with a length before them; `None` for null (-1).
fn take<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Fault> {
    let length = varint(bytes)?;
    if length == -1 {
        return Ok(None);
    }
    let (taken, rest) = usize::try_from(length)
        .ok()
        .and_then(|length| bytes.split_at_checked(length))
        .ok_or(Fault::Malformed("a length beyond the end"))?;
    *bytes = rest;
    Ok(Some(taken))
}

/// A zigzag number of at most ten bytes.
fn varint(bytes: &mut &[u8]) -> Result<i64, Fault> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = bytes
            .try_get_u8()
            .map_err(|_| Fault::Malformed("cut off in a number"))?;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
        }
    }
    Err(Fault::Malformed("a number of more than ten bytes"))
}

fn put_varint(bytes: &mut BytesMut, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while rest >= 0x80 {
        bytes.put_u8(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    bytes.put_u8(rest.to_le_bytes()[0]);
}

/// A record to be written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Draft<'a> {
    /// Milliseconds since 1970.
    pub(super) timestamp: i64,
    /// Null and empty differ.
    pub(super) key: Option<&'a [u8]>,
    /// Null and empty differ.
    pub(super) value: Option<&'a [u8]>,
    /// In order.
    pub(super) headers: &'a [Header],
}

/// Who writes a batch and as its how-many-eth record: lets the broker drop repetitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// Given by the broker; -1 without idempotence.
    pub(super) producer_id: i64,
    /// Given by the broker; -1 without idempotence.
    pub(super) epoch: i16,
    /// Number of the first record in this partition; -1 without idempotence.
    pub(super) sequence: i32,
}

impl Origin {
    /// Of a producer without idempotence.
    pub(super) const NOBODY: Origin = Origin {
        producer_id: -1,
        epoch: -1,
        sequence: -1,
    };
}

/// Writes a batch of at least one record.
///
/// # Errors
/// When the batch is over 2 GiB or the codec fails, which it does not in memory.
pub(super) fn encode(
    records: &[Draft<'_>],
    compression: Compression,
    origin: Origin,
) -> io::Result<Bytes> {
    let too_large = |_| io::Error::other("a batch of more than 2 GiB");
    let first = records.first().map_or(0, |record| record.timestamp);
    let last = records.iter().map(|record| record.timestamp).max();
    let mut plain = BytesMut::new();
    let mut one = BytesMut::new();
    for (delta, record) in (0i64..).zip(records) {
        one.clear();
        one.put_i8(0);
        put_varint(&mut one, record.timestamp.wrapping_sub(first));
        put_varint(&mut one, delta);
        put_bytes(&mut one, record.key);
        put_bytes(&mut one, record.value);
        put_length(&mut one, record.headers.len());
        for header in record.headers {
            put_bytes(&mut one, Some(&header.name));
            put_bytes(&mut one, header.value.as_deref());
        }
        put_length(&mut plain, one.len());
        plain.extend_from_slice(&one);
    }
    let (codec, packed) = deflate(compression, plain)?;
    let count = i32::try_from(records.len()).map_err(too_large)?;
    let length = i32::try_from(HEAD - PREFIX + packed.len()).map_err(too_large)?;
    let mut batch = BytesMut::with_capacity(HEAD + packed.len());
    batch.put_i64(0);
    batch.put_i32(length);
    batch.put_i32(-1); // leader epoch: the broker's to fill
    batch.put_i8(2);
    batch.put_u32(0);
    batch.put_i16(codec);
    batch.put_i32(count - 1);
    batch.put_i64(first);
    batch.put_i64(last.unwrap_or(first));
    batch.put_i64(origin.producer_id);
    batch.put_i16(origin.epoch);
    batch.put_i32(origin.sequence);
    batch.put_i32(count);
    batch.extend_from_slice(&packed);
    let checksum = crc32c::crc32c(&batch[CHECKED..]);
    batch[17..CHECKED].copy_from_slice(&checksum.to_be_bytes());
    Ok(batch.freeze())
}

fn put_length(bytes: &mut BytesMut, length: usize) {
    // What is in memory is far below 2^63.
    put_varint(bytes, i64::try_from(length).unwrap_or(i64::MAX));
}

fn put_bytes(bytes: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        None => put_varint(bytes, -1),
        Some(value) => {
            put_length(bytes, value.len());
            bytes.extend_from_slice(value);
        }
    }
}

#[cfg(test)]
mod tests;
