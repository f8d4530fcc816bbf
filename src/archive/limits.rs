//! How much of an archive is read, and the reader that holds those bounds while it inflates.
//!
//! Everything behind the body goes through `CappedReader`: the bounds hold on the inflated
//! stream, below the tar format, so no header in the archive can make anybody read or keep more.
//! This is the only room that builds a gzip decoder.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

use crate::archive::extract::Error;
use crate::archive::members;

/// Bounds for one archive. A bound means "up to and including".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Inflated bytes, tar headers and padding included, and what sparse members stand for.
    pub unpacked_size: u64,
    /// Bytes of one document. A larger one is not written and counts as damaged.
    pub document_size: u64,
    /// Members of every kind.
    pub entries: u64,
    /// Inflated bytes for one compressed byte, from [`RATIO_FROM`] on.
    pub ratio: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            unpacked_size: 512 << 20,
            document_size: 16 << 20,
            entries: 100_000,
            ratio: 500,
        }
    }
}

/// Inflated bytes from which on the ratio is judged: a small archive of zeros harms nobody.
pub const RATIO_FROM: u64 = 1 << 20;
/// Bytes of one extension header (PAX records, GNU long names), and of one sparse map on tape.
pub const MAX_EXTENSION: u64 = 1 << 20;
/// Bytes of a canonical member name.
pub const MAX_NAME: usize = 4096;
/// Bytes of one component of a name.
pub const MAX_COMPONENT: usize = 255;
/// Components of a name.
pub const MAX_DEPTH: usize = 64;
/// Bytes of the names of all wanted documents together, which are kept in memory.
pub const MAX_KEPT_NAMES: usize = 8 << 20;

/// Why work on an archive ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// The archive's deadline is spent.
    Deadline,
    /// Nobody waits for the result any more: the lease is lost or the drain ends.
    Cancelled,
}

/// Size of a tar block, in which the format counts.
pub(super) const BLOCK: usize = 512;

const INPUT: usize = 64 << 10;
// Each call of the decoder ends with a copy of its 32 KiB window: a large buffer makes that rare.
const OUTPUT: usize = 128 << 10;

enum State {
    /// Not compressed.
    Plain,
    /// Within a gzip member.
    Member(Box<Decompress>),
    /// Behind a gzip member whose checksum and length were right.
    Between,
    /// Behind the last member, in zero padding.
    Padding,
    /// Nothing is left.
    End,
}

/// The inflated stream, handed out as slices of its own buffer.
pub(super) struct CappedReader<'a> {
    body: &'a mut dyn Read,
    limits: &'a Limits,
    interrupted: &'a dyn Fn() -> Option<Interrupt>,
    state: State,
    input: Vec<u8>,
    input_at: usize,
    input_end: usize,
    /// The body has no more bytes.
    drained: bool,
    output: Vec<u8>,
    at: usize,
    end: usize,
    compressed: u64,
    unpacked: u64,
    /// What sparse members stand for beyond their bytes on tape.
    logical: u64,
}

impl<'a> CappedReader<'a> {
    /// Looks at the first bytes and gets ready to read what they announce.
    ///
    /// # Errors
    ///
    /// [`Error::Empty`], [`Error::NotAnArchive`], [`Error::Unsupported`] from the first bytes,
    /// also from those within gzip; and whatever reading them meets.
    pub(super) fn open(
        body: &'a mut dyn Read,
        limits: &'a Limits,
        interrupted: &'a dyn Fn() -> Option<Interrupt>,
    ) -> Result<Self, Error> {
        let mut reader = CappedReader {
            body,
            limits,
            interrupted,
            state: State::Plain,
            input: vec![0; INPUT],
            input_at: 0,
            input_end: 0,
            drained: false,
            output: vec![0; OUTPUT],
            at: 0,
            end: 0,
            compressed: 0,
            unpacked: 0,
            logical: 0,
        };
        while reader.input_end < BLOCK && reader.read_input()? {}
        let first = reader.input.get(..reader.input_end).unwrap_or_default();
        if first.starts_with(b"\x1f\x8b") && !members::is_header(first) {
            reader.state = State::Member(Box::new(gzip_decoder()));
            let inner = reader.peek(BLOCK)?;
            match container(inner) {
                Some(_) if inner.starts_with(b"\x1f\x8b") => {
                    return Err(Error::Unsupported {
                        container: "gzip in gzip",
                    });
                }
                Some(container) => return Err(Error::Unsupported { container }),
                None => known(inner)?,
            }
        } else {
            match container(first) {
                Some(container) => return Err(Error::Unsupported { container }),
                None => known(first)?,
            }
        }
        Ok(reader)
    }

    /// Inflated bytes so far.
    pub(super) fn unpacked(&self) -> u64 {
        self.unpacked
    }

    /// Bytes that are there without reading on; reads on when there are none. Empty: the end.
    pub(super) fn fill(&mut self) -> Result<&[u8], Error> {
        self.peek(1)
    }

    /// The next `wanted` bytes (at most a block), fewer only at the end. Takes nothing.
    pub(super) fn peek(&mut self, wanted: usize) -> Result<&[u8], Error> {
        while self.end - self.at < wanted && self.read_on()? {}
        Ok(self.output.get(self.at..self.end).unwrap_or_default())
    }

    /// Takes up to `limit` bytes that are there, after reading on when there are none.
    pub(super) fn take(&mut self, limit: u64) -> Result<&[u8], Error> {
        let there = self.fill()?.len();
        let taken = usize::try_from(limit).unwrap_or(usize::MAX).min(there);
        let from = self.at;
        self.at += taken;
        Ok(self.output.get(from..self.at).unwrap_or_default())
    }

    /// Takes one tar block; `None` at the end of the stream. Zeros that do not fill a block are
    /// padding there, as they are behind the last gzip member.
    ///
    /// # Errors
    ///
    /// [`Error::Cut`] when the stream ends within the block.
    pub(super) fn block(&mut self) -> Result<Option<&[u8; BLOCK]>, Error> {
        let there = self.peek(BLOCK)?;
        if there.len() < BLOCK {
            let padding = there.iter().all(|byte| *byte == 0);
            return if padding { Ok(None) } else { Err(Error::Cut) };
        }
        self.at += BLOCK;
        Ok(self
            .output
            .get(self.at - BLOCK..)
            .and_then(|rest| rest.first_chunk()))
    }

    /// Counts `bytes` that a member stands for without being on tape.
    ///
    /// # Errors
    ///
    /// As for bytes that were inflated: [`Error::TooLarge`], [`Error::Ratio`].
    pub(super) fn add_logical(&mut self, bytes: u64) -> Result<(), Error> {
        self.logical = self.logical.saturating_add(bytes);
        self.judge()
    }

    fn judge(&self) -> Result<(), Error> {
        let total = self.unpacked.saturating_add(self.logical);
        if total > self.limits.unpacked_size {
            return Err(Error::TooLarge {
                limit: self.limits.unpacked_size,
            });
        }
        if total >= RATIO_FROM && total > self.compressed.saturating_mul(self.limits.ratio) {
            return Err(Error::Ratio {
                limit: self.limits.ratio,
            });
        }
        Ok(())
    }

    /// Puts more bytes behind those that are there; `false` at the end of the stream.
    fn read_on(&mut self) -> Result<bool, Error> {
        // What is left is less than a block, or nobody would read on: this copy is small.
        self.output.copy_within(self.at..self.end, 0);
        self.end -= self.at;
        self.at = 0;
        let before = self.end;
        loop {
            if let Some(interrupt) = (self.interrupted)() {
                return Err(Error::Interrupted(interrupt));
            }
            // Members without content, padding and empty deflate blocks go round here without
            // making output, so the question above is asked for them as well.
            if self.input_at == self.input_end && !self.drained {
                self.read_input()?;
            }
            let input = self
                .input
                .get(self.input_at..self.input_end)
                .unwrap_or_default();
            let output = self.output.get_mut(self.end..).unwrap_or_default();
            let mut taken = 0;
            match &mut self.state {
                State::End => return Ok(false),
                State::Plain => {
                    taken = input.len().min(output.len());
                    if let (Some(to), Some(from)) = (output.get_mut(..taken), input.get(..taken)) {
                        to.copy_from_slice(from);
                    }
                    self.end += taken;
                    if input.is_empty() {
                        self.state = State::End;
                    }
                }
                State::Between => match input.first() {
                    None => self.state = State::End,
                    Some(0) => self.state = State::Padding,
                    Some(0x1f) => self.state = State::Member(Box::new(gzip_decoder())),
                    Some(_) => return Err(Error::TrailingBytes),
                },
                State::Padding => {
                    if input.iter().any(|byte| *byte != 0) {
                        return Err(Error::TrailingBytes);
                    }
                    if input.is_empty() {
                        self.state = State::End;
                    }
                    taken = input.len();
                }
                State::Member(decoder) => {
                    let (was_in, was_out) = (decoder.total_in(), decoder.total_out());
                    let status = decoder
                        .decompress(input, output, FlushDecompress::None)
                        .map_err(Error::Gzip)?;
                    // Both are at most the lengths of the slices.
                    taken = to_len(decoder.total_in() - was_in);
                    let made = to_len(decoder.total_out() - was_out);
                    self.end += made;
                    if matches!(status, Status::StreamEnd) {
                        self.state = State::Between;
                    } else if made == 0 && taken == 0 {
                        // There was room for output, so what lacks is input.
                        return Err(Error::Cut);
                    }
                }
            }
            self.input_at += taken;
            self.compressed += taken as u64;
            if self.end > before {
                self.unpacked += (self.end - before) as u64;
                self.judge()?;
                return Ok(true);
            }
        }
    }

    /// Reads a piece of the body behind the input that is there; `false` at its end.
    fn read_input(&mut self) -> Result<bool, Error> {
        if self.input_at == self.input_end {
            self.input_at = 0;
            self.input_end = 0;
        }
        let free = self.input.get_mut(self.input_end..).unwrap_or_default();
        let got = loop {
            match self.body.read(free) {
                Ok(got) => break got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        };
        self.input_end += got;
        self.drained = got == 0;
        Ok(got > 0)
    }
}

/// A decoder that reads header and trailer of one gzip member and checks CRC and length.
fn gzip_decoder() -> Decompress {
    Decompress::new_gzip(15)
}

fn to_len(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// The kind of container that these first bytes announce, when it is one that is not read here.
/// gzip is among them: the caller has looked for the one that is allowed.
fn container(first: &[u8]) -> Option<&'static str> {
    const MAGIC: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"PK\x05\x06", "zip"),
        (b"PK\x07\x08", "zip"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"Rar!\x1a\x07", "rar"),
        (b"\x1f\x9d", "compress"),
        (b"\x1f\xa0", "compress"),
        (b"LZIP", "lzip"),
        (b"\x5d\0\0", "lzma"),
        (b"\x89LZO\0\r\n\x1a\n", "lzop"),
        (b"\x02\x21\x4c\x18", "lz4"),
        (b"\xff\x06\0\0sNaPpY", "snappy"),
        (b"070701", "cpio"),
        (b"070702", "cpio"),
        (b"070707", "cpio"),
        (b"!<arch>\n", "ar"),
        (b"MSCF\0\0\0\0", "cab"),
        (b"xar!", "xar"),
    ];
    // A tar header begins with a name, which may look like any of these.
    if members::is_header(first) {
        return None;
    }
    if let [b'B', b'Z', b'h', b'1'..=b'9', magic @ ..] = first
        && (magic.starts_with(b"1AY&SY") || magic.starts_with(b"\x17\x72\x45\x38\x50\x90"))
    {
        return Some("bzip2");
    }
    // What zstd readers skip may stand before the first frame.
    if let [0x50..=0x5f, magic @ ..] = first
        && magic.starts_with(b"\x2a\x4d\x18")
    {
        return Some("zstd");
    }
    MAGIC
        .iter()
        .find(|(magic, _)| first.starts_with(magic))
        .map(|(_, name)| *name)
}

/// Whether these first bytes can be those of a tar archive, damaged or not.
fn known(first: &[u8]) -> Result<(), Error> {
    if first.is_empty() {
        return Err(Error::Empty);
    }
    let zero_block = first
        .get(..BLOCK)
        .is_some_and(|block| block.iter().all(|byte| *byte == 0));
    if zero_block || members::resembles_header(first) {
        Ok(())
    } else {
        Err(Error::NotAnArchive)
    }
}
