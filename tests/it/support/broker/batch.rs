//! Record batches (magic 2): written as a test wants them, and read back for its assertions.
//!
//! Deliberately not the program's own code, so that a mistake there cannot hide itself here.

use std::io::{Read, Write};

use bytes::Bytes;

/// Bytes in front of a batch that its length field does not count.
pub const PREFIX: usize = 12;
/// Bytes of a batch before its first record.
pub const HEADER: usize = 61;

const ATTRIBUTES: usize = 21;
const CONTROL: i16 = 1 << 5;
const TRANSACTIONAL: i16 = 1 << 4;
const LOG_APPEND_TIME: i16 = 1 << 3;

/// How the records of a batch are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    None,
    Gzip,
    /// With the framing that Java writes around its blocks.
    Snappy,
    /// As librdkafka writes it: one bare block.
    SnappyRaw,
    Lz4,
    Zstd,
}

impl Codec {
    fn number(self) -> i16 {
        match self {
            Codec::None => 0,
            Codec::Gzip => 1,
            Codec::Snappy | Codec::SnappyRaw => 2,
            Codec::Lz4 => 3,
            Codec::Zstd => 4,
        }
    }
}

/// A record to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewRecord {
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// Milliseconds since 1970; `None`: the batch's time.
    pub timestamp: Option<i64>,
    /// Place in the batch; `None`: behind the record before. Leave places out for holes.
    pub delta: Option<i32>,
}

impl NewRecord {
    /// A record without a key.
    pub fn value(value: impl AsRef<[u8]>) -> Self {
        Self {
            value: Some(Bytes::copy_from_slice(value.as_ref())),
            ..Self::default()
        }
    }

    /// A record with a key.
    pub fn keyed(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        Self {
            key: Some(Bytes::copy_from_slice(key.as_ref())),
            ..Self::value(value)
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl AsRef<[u8]>, value: Option<&[u8]>) -> Self {
        self.headers.push((
            Bytes::copy_from_slice(name.as_ref()),
            value.map(Bytes::copy_from_slice),
        ));
        self
    }

    /// Sets the time (milliseconds since 1970).
    #[must_use]
    pub fn at(mut self, timestamp: i64) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// Sets the place in the batch, to leave holes.
    #[must_use]
    pub fn delta(mut self, delta: i32) -> Self {
        self.delta = Some(delta);
        self
    }
}

/// A batch to be written. Its base offset is 0; the broker sets it when it appends the batch.
#[derive(Debug, Clone)]
pub struct Batch {
    records: Vec<NewRecord>,
    codec: Codec,
    flags: i16,
    timestamp: i64,
    producer: (i64, i16, i32),
    last_delta: Option<i32>,
}

impl Batch {
    /// A plain batch of these records, written now.
    pub fn of(records: impl IntoIterator<Item = NewRecord>) -> Self {
        Self {
            records: records.into_iter().collect(),
            codec: Codec::None,
            flags: 0,
            timestamp: now_ms(),
            producer: (-1, -1, -1),
            last_delta: None,
        }
    }

    /// The marker behind a transaction of this producer.
    pub fn marker(producer_id: i64, epoch: i16, commit: bool) -> Self {
        let key = NewRecord {
            key: Some(Bytes::copy_from_slice(&[0, 0, 0, u8::from(commit)])),
            value: Some(Bytes::from_static(&[0, 0, 0, 0, 0, 0])),
            ..NewRecord::default()
        };
        let mut batch = Self::of([key]).producer(producer_id, epoch, -1);
        batch.flags |= CONTROL | TRANSACTIONAL;
        batch
    }

    /// A batch that compaction emptied: it spans `offsets` offsets and holds no record.
    pub fn hole(offsets: i32) -> Self {
        Self::of([]).span(offsets)
    }

    #[must_use]
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    #[must_use]
    pub fn producer(mut self, id: i64, epoch: i16, sequence: i32) -> Self {
        self.producer = (id, epoch, sequence);
        self
    }

    /// Part of a transaction.
    #[must_use]
    pub fn transactional(mut self) -> Self {
        self.flags |= TRANSACTIONAL;
        self
    }

    /// The broker's clock counts: all records have this time (milliseconds since 1970).
    #[must_use]
    pub fn log_append_time(mut self, timestamp: i64) -> Self {
        self.flags |= LOG_APPEND_TIME;
        self.timestamp = timestamp;
        self
    }

    /// How many offsets the batch covers, when more than it has records.
    #[must_use]
    pub fn span(mut self, offsets: i32) -> Self {
        self.last_delta = Some(offsets - 1);
        self
    }

    /// The bytes as a producer sends them.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        let mut delta = -1;
        let first = self.records.iter().filter_map(|r| r.timestamp).min();
        let first = first.unwrap_or(self.timestamp).min(self.timestamp);
        let mut latest = self.timestamp;
        for record in &self.records {
            delta = record.delta.unwrap_or(delta + 1);
            let timestamp = record.timestamp.unwrap_or(self.timestamp);
            latest = latest.max(timestamp);
            put_record(&mut body, record, delta, timestamp - first);
        }
        if self.records.iter().all(|r| r.timestamp.is_some())
            && self.flags & LOG_APPEND_TIME == 0
            && let Some(last) = self.records.iter().filter_map(|r| r.timestamp).max()
        {
            latest = last;
        }
        let body = pack(self.codec, &body);
        let mut batch = Vec::with_capacity(HEADER + body.len());
        batch.extend(0_i64.to_be_bytes());
        batch.extend(((HEADER - PREFIX + body.len()) as i32).to_be_bytes());
        batch.extend((-1_i32).to_be_bytes());
        batch.push(2);
        batch.extend([0; 4]);
        batch.extend((self.flags | self.codec.number()).to_be_bytes());
        batch.extend(self.last_delta.unwrap_or(delta).to_be_bytes());
        batch.extend(first.to_be_bytes());
        batch.extend(latest.to_be_bytes());
        batch.extend(self.producer.0.to_be_bytes());
        batch.extend(self.producer.1.to_be_bytes());
        batch.extend(self.producer.2.to_be_bytes());
        batch.extend((self.records.len() as i32).to_be_bytes());
        batch.extend(body);
        seal(&mut batch);
        batch
    }
}

/// A message as brokers before 0.11 kept it (magic 1), which nobody reads any more.
pub fn magic_1(value: &[u8]) -> Vec<u8> {
    let mut tail = vec![1, 0];
    tail.extend(now_ms().to_be_bytes());
    tail.extend((-1_i32).to_be_bytes());
    tail.extend((value.len() as i32).to_be_bytes());
    tail.extend(value);
    let mut crc = flate2::Crc::new();
    crc.update(&tail);
    let mut message = 0_i64.to_be_bytes().to_vec();
    message.extend((4 + tail.len() as i32).to_be_bytes());
    message.extend(crc.sum().to_be_bytes());
    message.extend(tail);
    message
}

/// Writes the checksum that belongs to the bytes behind it.
pub fn seal(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[ATTRIBUTES..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// What stands in front of the records of a batch.
#[derive(Debug, Clone, Copy)]
pub struct BatchHeader {
    pub base: i64,
    /// Length of the whole batch, prefix included.
    pub size: usize,
    pub epoch: i32,
    pub magic: u8,
    pub crc: u32,
    pub attributes: i16,
    pub last_delta: i32,
    pub first_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub sequence: i32,
    pub count: i32,
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut at = Cursor(bytes);
        let base = at.i64()?;
        let length = at.i32()?;
        let size = PREFIX + usize::try_from(length).map_err(|_| "negative batch length")?;
        let header = Self {
            base,
            size,
            epoch: at.i32()?,
            magic: at.take(1)?[0],
            crc: at.i32()? as u32,
            attributes: at.i16()?,
            last_delta: at.i32()?,
            first_timestamp: at.i64()?,
            max_timestamp: at.i64()?,
            producer_id: at.i64()?,
            producer_epoch: at.i16()?,
            sequence: at.i32()?,
            count: at.i32()?,
        };
        if size < HEADER || bytes.len() < size {
            return Err("batch is cut".into());
        }
        Ok(header)
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// The number of the codec, 0 to 4.
    pub fn codec(&self) -> i16 {
        self.attributes & 7
    }
}

/// A record as it lies in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// Written by the broker itself: a transaction marker.
    pub control: bool,
    /// The number of the codec of its batch, 0 to 4.
    pub codec: i16,
    pub producer_id: i64,
}

impl LogRecord {
    /// The value as text; empty when there is none.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }

    /// The first header of that name, as text.
    pub fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(n, _)| n == name.as_bytes())?;
        Some(String::from_utf8_lossy(found.1.as_deref().unwrap_or_default()).into_owned())
    }
}

/// Reads one whole batch, checksum included.
pub fn decode(bytes: &[u8]) -> Result<Vec<LogRecord>, String> {
    let header = BatchHeader::parse(bytes)?;
    if header.magic != 2 {
        return Err(format!("magic {}", header.magic));
    }
    if crc32c::crc32c(&bytes[ATTRIBUTES..header.size]) != header.crc {
        return Err("checksum does not match".into());
    }
    let body = unpack(header.codec(), &bytes[HEADER..header.size])?;
    let mut at = Cursor(&body);
    let mut records = Vec::new();
    for _ in 0..header.count {
        let length = at.varint()?;
        let mut record = Cursor(at.take(usize::try_from(length).map_err(|_| "record length")?)?);
        record.take(1)?;
        let time = record.varint()?;
        let delta = record.varint()?;
        let key = record.bytes()?;
        let value = record.bytes()?;
        let mut headers = Vec::new();
        for _ in 0..record.varint()? {
            let name = record.bytes()?.ok_or("header without a name")?;
            headers.push((name, record.bytes()?));
        }
        if !record.0.is_empty() {
            return Err("bytes behind a record".into());
        }
        records.push(LogRecord {
            offset: header.base + delta,
            timestamp: match header.attributes & LOG_APPEND_TIME {
                0 => header.first_timestamp + time,
                _ => header.max_timestamp,
            },
            key,
            value,
            headers,
            control: header.is_control(),
            codec: header.codec(),
            producer_id: header.producer_id,
        });
    }
    if !at.0.is_empty() {
        return Err("bytes behind the last record".into());
    }
    Ok(records)
}

/// Reads a run of batches as a Fetch answer holds it; a last batch that is cut ends it.
pub fn decode_all(mut bytes: &[u8]) -> Result<Vec<LogRecord>, String> {
    let mut records = Vec::new();
    while bytes.len() >= PREFIX {
        let Ok(header) = BatchHeader::parse(bytes) else {
            break;
        };
        records.extend(decode(&bytes[..header.size])?);
        bytes = &bytes[header.size..];
    }
    Ok(records)
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_millis() as i64
}

fn put_record(out: &mut Vec<u8>, record: &NewRecord, delta: i32, time: i64) {
    let mut body = vec![0];
    put_varint(&mut body, time);
    put_varint(&mut body, i64::from(delta));
    put_bytes(&mut body, record.key.as_deref());
    put_bytes(&mut body, record.value.as_deref());
    put_varint(&mut body, record.headers.len() as i64);
    for (name, value) in &record.headers {
        put_bytes(&mut body, Some(name));
        put_bytes(&mut body, value.as_deref());
    }
    put_varint(out, body.len() as i64);
    out.extend(body);
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, bytes.len() as i64);
            out.extend(bytes);
        }
    }
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push((rest as u8) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

const SNAPPY_MAGIC: &[u8] = b"\x82SNAPPY\0";

fn pack(codec: Codec, body: &[u8]) -> Vec<u8> {
    match codec {
        Codec::None => body.to_vec(),
        Codec::Gzip => {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            packer.write_all(body).unwrap();
            packer.finish().unwrap()
        }
        Codec::SnappyRaw => snap::raw::Encoder::new().compress_vec(body).unwrap(),
        Codec::Snappy => {
            let mut out = SNAPPY_MAGIC.to_vec();
            out.extend(1_i32.to_be_bytes());
            out.extend(1_i32.to_be_bytes());
            for block in body.chunks(32 * 1024) {
                let packed = snap::raw::Encoder::new().compress_vec(block).unwrap();
                out.extend((packed.len() as i32).to_be_bytes());
                out.extend(packed);
            }
            out
        }
        Codec::Lz4 => {
            let mut packer = lz4_flex::frame::FrameEncoder::new(Vec::new());
            packer.write_all(body).unwrap();
            packer.finish().unwrap()
        }
        Codec::Zstd => {
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            ruzstd::encoding::compress_to_vec(body, level)
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the house rule is for the program; this reads what a test itself has caused"
)]
fn unpack(codec: i16, body: &[u8]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let done = match codec {
        0 => return Ok(body.to_vec()),
        1 => flate2::read::MultiGzDecoder::new(body).read_to_end(&mut out),
        2 if body.starts_with(SNAPPY_MAGIC) => {
            let mut at = Cursor(&body[16.min(body.len())..]);
            while !at.0.is_empty() {
                let length = at.i32()?;
                let block = at.take(usize::try_from(length).map_err(|e| e.to_string())?)?;
                let plain = snap::raw::Decoder::new().decompress_vec(block);
                out.extend(plain.map_err(|e| e.to_string())?);
            }
            return Ok(out);
        }
        2 => {
            let plain = snap::raw::Decoder::new().decompress_vec(body);
            return plain.map_err(|e| e.to_string());
        }
        3 => lz4_flex::frame::FrameDecoder::new(body).read_to_end(&mut out),
        4 => ruzstd::decoding::StreamingDecoder::new(body)
            .map_err(|e| e.to_string())?
            .read_to_end(&mut out),
        other => return Err(format!("codec {other}")),
    };
    done.map_err(|e| e.to_string())?;
    Ok(out)
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (head, rest) = self.0.split_at_checked(n).ok_or("cut")?;
        self.0 = rest;
        Ok(head)
    }

    fn i16(&mut self) -> Result<i16, String> {
        Ok(i16::from_be_bytes(self.take(2)?.try_into().unwrap()))
    }

    fn i32(&mut self) -> Result<i32, String> {
        Ok(i32::from_be_bytes(self.take(4)?.try_into().unwrap()))
    }

    fn i64(&mut self) -> Result<i64, String> {
        Ok(i64::from_be_bytes(self.take(8)?.try_into().unwrap()))
    }

    fn varint(&mut self) -> Result<i64, String> {
        let mut value = 0_u64;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err("varint too long".into())
    }

    fn bytes(&mut self) -> Result<Option<Bytes>, String> {
        match self.varint()? {
            -1 => Ok(None),
            n => {
                let n = usize::try_from(n).map_err(|_| "negative length")?;
                Ok(Some(Bytes::copy_from_slice(self.take(n)?)))
            }
        }
    }
}
