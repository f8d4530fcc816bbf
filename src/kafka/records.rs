//! Record batches: the codec room. Reads and writes format 2, which brokers hold since 0.11.
//!
//! The codec crate's own module is not used: it merges headers of one name, fails on names that
//! are not text, drops the last-offset delta and inflates without a limit. Here no count and no
//! size is believed, inflating stops at [`MAX_UNPACKED`], and a batch without records still says
//! where the next one begins.

use std::io::{self, Read, Write};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::read::MultiGzDecoder;

use super::Header;
use super::options::Compression;

/// What the records of one batch may take when inflated, in bytes.
pub(super) const MAX_UNPACKED: usize = 64 << 20;
/// What records and headers of one batch may take beside their bytes. Without this bound a batch
/// of empty headers, a few KiB on the wire, would take gigabytes.
const MAX_OVERHEAD: usize = 64 << 20;
/// What a record takes beside its bytes and headers; the allocator has a share, too.
const RECORD_OVERHEAD: usize = size_of::<RawRecord>() + 64;
/// Frames that a compressed batch may be cut into. Writers make one; each costs its reader tables
/// and buffers, however little is in it.
const MAX_FRAMES: usize = 1000;
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

/// Before Java's blocks of snappy: magic, then two version numbers.
const JAVA_SNAPPY: &[u8] = b"\x82SNAPPY\0";
const JAVA_SNAPPY_HEAD: usize = 16;

fn inflate(codec: i16, packed: &[u8], limit: usize) -> Result<Vec<u8>, Fault> {
    let named = |codec, error: &dyn std::fmt::Display| Fault::Codec {
        codec,
        found: error.to_string(),
    };
    let mut out = Vec::new();
    match codec {
        1 => read_bounded(MultiGzDecoder::new(packed), &mut out, limit, "gzip")?,
        2 => unsnap(packed, &mut out, limit)?,
        3 => {
            let mut rest = packed;
            let mut frames = 0;
            while !rest.is_empty() {
                count_frame(&mut frames)?;
                let before = rest.len();
                let frame = lz4_flex::frame::FrameDecoder::new(&mut rest);
                read_bounded(frame, &mut out, limit, "lz4")?;
                if rest.len() == before {
                    return Err(named("lz4", &"no frame"));
                }
            }
        }
        4 => {
            let mut rest = packed;
            let mut frames = 0;
            while !rest.is_empty() {
                count_frame(&mut frames)?;
                let frame = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    &mut rest,
                    MAX_UNPACKED as u64,
                )
                .map_err(|error| named("zstd", &error))?;
                read_bounded(frame, &mut out, limit, "zstd")?;
            }
        }
        codec => return Err(Fault::UnknownCodec { codec }),
    }
    Ok(out)
}

fn count_frame(frames: &mut usize) -> Result<(), Fault> {
    *frames += 1;
    if *frames > MAX_FRAMES {
        return Err(Fault::Malformed("too many compressed frames"));
    }
    Ok(())
}

/// Appends what `reader` has, as long as the whole stays within bounds.
fn read_bounded(
    reader: impl Read,
    out: &mut Vec<u8>,
    limit: usize,
    codec: &'static str,
) -> Result<(), Fault> {
    let room = (limit - out.len()) as u64;
    reader
        .take(room + 1)
        .read_to_end(out)
        .map_err(|error| Fault::Codec {
            codec,
            found: error.to_string(),
        })?;
    if out.len() > limit {
        return Err(Fault::TooLarge);
    }
    Ok(())
}

/// Snappy in Java's framing or, as librdkafka writes it, bare.
fn unsnap(packed: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), Fault> {
    let Some(mut blocks) = packed
        .starts_with(JAVA_SNAPPY)
        .then(|| packed.get(JAVA_SNAPPY_HEAD..))
        .flatten()
    else {
        return unsnap_block(packed, out, limit);
    };
    while !blocks.is_empty() {
        let block = blocks
            .try_get_i32()
            .ok()
            .and_then(|length| usize::try_from(length).ok())
            .and_then(|length| blocks.split_at_checked(length));
        let Some((block, rest)) = block else {
            return Err(Fault::Codec {
                codec: "snappy",
                found: "a block beyond the end".into(),
            });
        };
        unsnap_block(block, out, limit)?;
        blocks = rest;
    }
    Ok(())
}

fn unsnap_block(block: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), Fault> {
    let damaged = |error: snap::Error| Fault::Codec {
        codec: "snappy",
        found: error.to_string(),
    };
    let start = out.len();
    let size = snap::raw::decompress_len(block).map_err(damaged)?;
    if size > limit - start {
        return Err(Fault::TooLarge);
    }
    // The stream cannot hold more than 64 bytes for each 2 of its own: a size beyond that is a
    // lie that would cost memory before it is found out.
    if size > block.len().saturating_mul(64) {
        return Err(Fault::Malformed("snappy announces more than it can hold"));
    }
    out.resize(start + size, 0);
    let written = snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(damaged)?;
    out.truncate(start + written);
    Ok(())
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

fn deflate(compression: Compression, plain: BytesMut) -> io::Result<(i16, Bytes)> {
    /// What Java puts into one block.
    const SNAPPY_BLOCK: usize = 32 << 10;
    Ok(match compression {
        Compression::None => (0, plain.freeze()),
        Compression::Gzip => {
            let mut gzip =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&plain)?;
            (1, gzip.finish()?.into())
        }
        Compression::Snappy => {
            let mut framed = BytesMut::from(JAVA_SNAPPY);
            framed.put_i32(1);
            framed.put_i32(1);
            let mut encoder = snap::raw::Encoder::new();
            for block in plain.chunks(SNAPPY_BLOCK) {
                let packed = encoder.compress_vec(block).map_err(io::Error::other)?;
                framed.put_i32(i32::try_from(packed.len()).map_err(io::Error::other)?);
                framed.extend_from_slice(&packed);
            }
            (2, framed.freeze())
        }
        Compression::Lz4 => {
            // Java reads independent blocks only.
            let info = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut lz4 = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            lz4.write_all(&plain)?;
            (3, lz4.finish().map_err(io::Error::other)?.into())
        }
        Compression::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            (
                4,
                ruzstd::encoding::compress_to_vec(&plain[..], level).into(),
            )
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODECS: [Compression; 5] = [
        Compression::None,
        Compression::Gzip,
        Compression::Snappy,
        Compression::Lz4,
        Compression::Zstd,
    ];

    fn draft(record: &RawRecord) -> Draft<'_> {
        Draft {
            timestamp: record.timestamp.unwrap_or(-1),
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
        }
    }

    fn record(offset: i64, value: Option<&[u8]>) -> RawRecord {
        RawRecord {
            offset,
            timestamp: Some(1_600_000_000_000 + offset),
            key: None,
            value: value.map(Bytes::copy_from_slice),
            headers: Vec::new(),
        }
    }

    fn batch(records: &[RawRecord], codec: Compression) -> Bytes {
        let drafts: Vec<_> = records.iter().map(draft).collect();
        encode(&drafts, codec, Origin::NOBODY).unwrap()
    }

    /// Changes bytes of a batch and makes its checksum right again.
    fn altered(bytes: &Bytes, change: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut bytes = BytesMut::from(&bytes[..]);
        change(&mut bytes);
        let checksum = crc32c::crc32c(&bytes[CHECKED..]);
        bytes[17..CHECKED].copy_from_slice(&checksum.to_be_bytes());
        bytes.freeze()
    }

    fn only(bytes: Bytes) -> Result<Batch, Corrupt> {
        let mut batches = Batches::new(bytes);
        let batch = batches.next().unwrap();
        assert!(batches.next().is_none());
        batch
    }

    /// Replaces the records of a batch by another stream of a codec.
    fn packed(codec: i16, stream: &[u8]) -> Batch {
        let bytes = batch(&[record(0, None)], Compression::None);
        let bytes = altered(&bytes, |bytes| {
            bytes.truncate(HEAD);
            bytes.extend_from_slice(stream);
            let length = i32::try_from(bytes.len() - PREFIX).unwrap();
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[21..23].copy_from_slice(&codec.to_be_bytes());
        });
        only(bytes).unwrap()
    }

    /// Written out by hand from the format's description, not by our encoder.
    #[test]
    fn reads_a_batch_written_by_hand() {
        let records = [
            // length 17, attributes, time +0, offset +0, key "k", value "v", one header n: null
            26u8, 0, 0, 0, 2, b'k', 2, b'v', 2, 2, b'n', 1, 0, 0,
        ];
        let mut body = vec![0, 0]; // attributes
        body.extend(3i32.to_be_bytes()); // last offset delta: records 1 to 3 are gone
        body.extend(1000i64.to_be_bytes());
        body.extend(2000i64.to_be_bytes());
        body.extend((-1i64).to_be_bytes());
        body.extend((-1i16).to_be_bytes());
        body.extend((-1i32).to_be_bytes());
        body.extend(1i32.to_be_bytes());
        body.extend(records);
        let mut bytes = Vec::new();
        bytes.extend(40i64.to_be_bytes());
        bytes.extend(i32::try_from(body.len() + 9).unwrap().to_be_bytes());
        bytes.extend(7i32.to_be_bytes());
        bytes.push(2);
        bytes.extend(crc32c::crc32c(&body).to_be_bytes());
        bytes.extend(&body);
        let batch = only(bytes.into()).unwrap();
        assert_eq!((batch.base, batch.next), (40, 44));
        assert!(!batch.is_control() && !batch.is_transactional());
        let records = batch.records().unwrap();
        assert_eq!(
            records,
            [RawRecord {
                offset: 40,
                timestamp: Some(1000),
                key: Some(Bytes::from_static(b"k")),
                value: Some(Bytes::from_static(b"v")),
                headers: vec![Header {
                    name: Bytes::from_static(b"n"),
                    value: None,
                }],
            }]
        );
    }

    #[test]
    fn a_cut_last_batch_is_the_end() {
        let whole = batch(&[record(0, Some(b"one"))], Compression::None);
        for cut in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes.extend_from_slice(&whole[..cut]);
            let mut batches = Batches::new(bytes.into());
            assert!(batches.next().unwrap().is_ok());
            assert!(batches.next().is_none());
            assert_eq!(batches.rest(), cut);
        }
    }

    #[test]
    fn m21_a_flipped_bit_is_found_and_the_next_batch_still_read() {
        let whole = batch(&[record(0, Some(b"one"))], Compression::None);
        for place in 17..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[place] ^= 1;
            bytes.extend_from_slice(&whole);
            let mut batches = Batches::new(bytes.into());
            let corrupt = batches.next().unwrap().unwrap_err();
            assert_eq!(corrupt.fault, Fault::Checksum);
            assert!(batches.next().unwrap().is_ok());
        }
    }

    #[test]
    fn old_formats_are_refused_by_name() {
        let mut bytes = batch(&[record(0, None)], Compression::None).to_vec();
        bytes[16] = 1;
        let corrupt = only(bytes.into()).unwrap_err();
        assert_eq!(corrupt.fault, Fault::OldFormat { magic: 1 });
        assert!(corrupt.fault.to_string().contains("message format 2"));
    }

    #[test]
    fn an_empty_batch_still_moves_on() {
        let bytes = batch(&[record(0, Some(b"x"))], Compression::Gzip);
        let bytes = altered(&bytes, |bytes| {
            bytes.truncate(HEAD);
            let length = i32::try_from(HEAD - PREFIX).unwrap();
            bytes[8..12].copy_from_slice(&length.to_be_bytes());
            bytes[23..27].copy_from_slice(&9i32.to_be_bytes());
            bytes[57..61].copy_from_slice(&0i32.to_be_bytes());
        });
        let batch = only(bytes).unwrap();
        assert_eq!(batch.next, 10);
        assert_eq!(batch.records(), Ok(Vec::new()));
    }

    #[test]
    fn log_append_time_is_the_batchs_own() {
        let records = [record(0, None), record(1, None)];
        let bytes = altered(&batch(&records, Compression::None), |bytes| {
            bytes[22] |= 0x08;
            bytes[35..43].copy_from_slice(&77i64.to_be_bytes());
        });
        let records = only(bytes).unwrap().records().unwrap();
        assert!(records.iter().all(|record| record.timestamp == Some(77)));
    }

    #[test]
    fn control_batches_tell_how_a_transaction_ended() {
        for (kind, marker) in [(0, Marker::Abort), (1, Marker::Commit), (2, Marker::Other)] {
            let mut mark = record(0, Some(&[0, 0, 0, 0, 0, 0]));
            mark.key = Some(Bytes::copy_from_slice(&[0, 0, 0, kind]));
            let bytes = altered(&batch(&[mark], Compression::None), |bytes| {
                bytes[22] |= 0x30;
                bytes[43..51].copy_from_slice(&5i64.to_be_bytes());
            });
            let batch = only(bytes).unwrap();
            assert!(batch.is_control() && batch.is_transactional());
            assert_eq!(batch.producer_id, 5);
            assert_eq!(batch.marker(), Ok(marker));
        }
    }

    #[test]
    fn m21_counts_are_not_believed() {
        let whole = batch(&[record(0, Some(b"x"))], Compression::None);
        let many = altered(&whole, |bytes| {
            bytes[57..61].copy_from_slice(&i32::MAX.to_be_bytes());
        });
        assert!(only(many).unwrap().records().is_err());
        let negative = altered(&whole, |bytes| bytes[57] = 0xff);
        assert!(only(negative).is_err());
        // One record that announces 2^62 headers.
        let mut stream = BytesMut::new();
        let mut one = BytesMut::from(&[0, 0, 0, 1, 1][..]);
        put_varint(&mut one, 1 << 62);
        put_length(&mut stream, one.len());
        stream.extend_from_slice(&one);
        assert_eq!(
            packed(0, &stream).records(),
            Err(Fault::Malformed("more headers than bytes"))
        );
    }

    #[test]
    fn m21_bombs_end_at_the_limit() {
        const LIMIT: usize = 100_000;
        for codec in CODECS {
            for size in [LIMIT - 1, LIMIT, LIMIT + 1, 50 * LIMIT] {
                let (number, stream) = deflate(codec, BytesMut::zeroed(size)).unwrap();
                if number == 0 {
                    continue;
                }
                match inflate(number, &stream, LIMIT) {
                    Ok(out) => assert_eq!(out.len(), size),
                    Err(fault) => {
                        assert_eq!(fault, Fault::TooLarge, "{codec:?}");
                        assert!(size > LIMIT);
                    }
                }
            }
        }
        // Bare snappy that announces 2^32-1 bytes, and one that lies within the limit.
        let stream = [0xff, 0xff, 0xff, 0xff, 0x0f, 0];
        assert_eq!(packed(2, &stream).records(), Err(Fault::TooLarge));
        let stream = [0x80, 0x80, 0x80, 0x10, 0];
        assert!(packed(2, &stream).records().is_err());
    }

    #[test]
    fn reads_bare_snappy_and_streams_of_several_parts() {
        let record = record(0, Some(&[7; 1000]));
        let drafts = [draft(&record)];
        let plain = encode(&drafts, Compression::None, Origin::NOBODY).unwrap();
        let plain = &plain[HEAD..];
        let bare = snap::raw::Encoder::new().compress_vec(plain).unwrap();
        assert_eq!(packed(2, &bare).records().unwrap()[0].value, record.value);
        for codec in [Compression::Gzip, Compression::Lz4, Compression::Zstd] {
            let (front, back) = plain.split_at(500);
            let (number, front) = deflate(codec, front.into()).unwrap();
            let (_, back) = deflate(codec, back.into()).unwrap();
            let stream = [&front[..], &back[..]].concat();
            let read = packed(number, &stream).records();
            assert_eq!(read.unwrap()[0].value, record.value, "{codec:?}");
        }
    }

    /// A few KiB on the wire inflate to records whose bytes are within the limit; what they take
    /// in memory beside their bytes is many times that.
    #[test]
    fn m21_empty_headers_and_records_are_bounded_too() {
        const COUNT: usize = MAX_OVERHEAD / size_of::<Header>();
        for (headers, fits) in [(COUNT / 2, true), (COUNT + 1, false)] {
            let mut one = BytesMut::from(&[0, 0, 0, 1, 1][..]);
            put_length(&mut one, headers);
            one.resize(one.len() + 2 * headers, 0);
            let mut stream = BytesMut::new();
            put_length(&mut stream, one.len());
            stream.extend_from_slice(&one);
            let (codec, stream) = deflate(Compression::Gzip, stream).unwrap();
            assert!(stream.len() < 10_000);
            match packed(codec, &stream).records() {
                Ok(records) => assert!(fits && records[0].headers.len() == headers),
                Err(fault) => assert!(!fits && fault == Fault::TooLarge, "{fault}"),
            }
        }

        let most = MAX_OVERHEAD / RECORD_OVERHEAD;
        for (count, fits) in [(most, true), (most + 1, false)] {
            // length 6, attributes, time, offset, null key, null value, no headers
            let stream = BytesMut::from(&[12, 0, 0, 0, 1, 1, 0].repeat(count)[..]);
            let (codec, stream) = deflate(Compression::Gzip, stream).unwrap();
            let bytes = altered(&batch(&[record(0, None)], Compression::None), |bytes| {
                bytes.truncate(HEAD);
                bytes.extend_from_slice(&stream);
                let length = i32::try_from(bytes.len() - PREFIX).unwrap();
                bytes[8..12].copy_from_slice(&length.to_be_bytes());
                bytes[21..23].copy_from_slice(&codec.to_be_bytes());
                bytes[57..61].copy_from_slice(&i32::try_from(count).unwrap().to_be_bytes());
            });
            match only(bytes).unwrap().records() {
                Ok(records) => assert!(fits && records.len() == count),
                Err(fault) => assert!(!fits && fault == Fault::TooLarge, "{fault}"),
            }
        }
    }

    #[test]
    fn m21_frames_of_a_codec_are_counted() {
        for codec in [Compression::Lz4, Compression::Zstd] {
            let (number, frame) = deflate(codec, BytesMut::from(&[7; 3][..])).unwrap();
            let most = frame.repeat(MAX_FRAMES);
            assert_eq!(
                inflate(number, &most, MAX_UNPACKED).unwrap(),
                [7; 3].repeat(MAX_FRAMES)
            );
            let over = frame.repeat(MAX_FRAMES + 1);
            let fault = inflate(number, &over, MAX_UNPACKED).unwrap_err();
            assert_eq!(fault, Fault::Malformed("too many compressed frames"));
        }
    }

    fn bytes() -> impl Strategy<Value = Option<Bytes>> {
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from))
    }

    prop_compose! {
        fn any_record()(
            timestamp in 0i64..2_000_000_000_000,
            key in bytes(),
            value in bytes(),
            headers in proptest::collection::vec((bytes(), bytes()), 0..4),
        ) -> RawRecord {
            RawRecord {
                offset: 0,
                timestamp: Some(timestamp),
                key,
                value,
                headers: headers
                    .into_iter()
                    .map(|(name, value)| Header { name: name.unwrap_or_default(), value })
                    .collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            mut records in proptest::collection::vec(any_record(), 1..20),
            base in 0i64..1_000_000,
        ) {
            for (offset, record) in (base..).zip(&mut records) {
                record.offset = offset;
            }
            for codec in CODECS {
                let mut bytes = batch(&records, codec).to_vec();
                bytes[..8].copy_from_slice(&base.to_be_bytes());
                let batch = only(bytes.into()).unwrap();
                prop_assert_eq!(batch.next, base + i64::try_from(records.len()).unwrap());
                prop_assert_eq!(batch.records().unwrap(), records.clone());
            }
        }

        #[test]
        fn no_damage_makes_it_panic(
            records in proptest::collection::vec(any_record(), 1..5),
            codec in 0usize..5,
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5),
        ) {
            let bytes = altered(&batch(&records, CODECS[codec]), |bytes| {
                for (place, byte) in damage {
                    // Behind the length, the format and the checksum.
                    let place = CHECKED + place.index(bytes.len() - CHECKED);
                    bytes[place] = byte;
                }
            });
            for batch in Batches::new(bytes).flatten() {
                let _ = batch.records();
                let _ = batch.marker();
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), codec in 0i16..8) {
            for batch in Batches::new(bytes.clone().into()).flatten() {
                let _ = batch.records();
            }
            let _ = packed(codec, &bytes).records();
        }

        #[test]
        fn numbers_survive(value in any::<i64>()) {
            let mut bytes = BytesMut::new();
            put_varint(&mut bytes, value);
            prop_assert_eq!(varint(&mut &bytes[..]), Ok(value));
        }
    }
}
