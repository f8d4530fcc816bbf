//! The members of a tar stream, one after another, with everything that describes them.
//!
//! Walks the blocks itself; the layout of headers comes from the `tar` crate. That crate's own
//! iterator is not used because it reads extension headers of any size into memory, drops PAX
//! records that it cannot parse (with them a `size`, so that the body would be read as members),
//! splits PAX records at newlines although values may hold them, and expands sparse members
//! above any bound. Where tar programs disagree about what a header means, the archive is
//! refused: two readers must never see two different archives.

use std::fmt;

use tar::{GnuExtSparseHeader, GnuHeader, GnuSparseHeader, Header};

use crate::archive::extract::Error;
use crate::archive::limits::{BLOCK, CappedReader, MAX_EXTENSION};

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file, also a contiguous one and an old GNU sparse one, which is expanded.
    File,
    /// A directory.
    Directory,
    /// A directory in an incremental archive of GNU tar, with the names that it had as content.
    Listing,
    /// GNU tar's name for the whole archive.
    Label,
    /// A symbolic or hard link.
    Link,
    /// A character or block device.
    Device,
    /// A FIFO.
    Fifo,
    /// A sparse file in one of the PAX forms.
    PaxSparse,
    /// Anything else.
    Other,
}

/// A member as its headers describe it. Its name is [`Members::name`].
#[derive(Debug)]
pub(super) struct Member {
    pub(super) kind: Kind,
    /// Bytes of its content, holes included.
    pub(super) size: u64,
    /// Modification time in seconds since 1970, when it is given and not before.
    pub(super) mtime: Option<u64>,
}

/// What is wrong with a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The sum over the header is not the one it states.
    Checksum,
    /// A number is neither octal nor a positive base-256 one.
    Number,
    /// An extension header is over its limit.
    Extension,
    /// An extension header is given twice, or two of them name the same member differently.
    Repeated,
    /// An extension header has no member behind it.
    Orphan,
    /// A record of a PAX header breaks its form.
    Pax,
    /// A PAX header for the whole archive gives what only a member can have.
    Global,
    /// A member that has no content states a size.
    Body,
    /// The map of a sparse member contradicts itself or the sizes.
    Sparse,
    /// It lies below a regular file.
    BelowFile,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Checksum => "wrong header checksum",
            Fault::Number => "malformed number in the header",
            Fault::Extension => "extension header over 1 MiB",
            Fault::Repeated => "ambiguous extension headers",
            Fault::Orphan => "extension header without a member",
            Fault::Pax => "malformed PAX record",
            Fault::Global => "global PAX header that sets a name or a size",
            Fault::Body => "content where the kind has none",
            Fault::Sparse => "contradictory sparse map",
            Fault::BelowFile => "lies below a regular file",
        })
    }
}

/// One piece of a sparse member that is on tape.
#[derive(Debug, Clone, Copy)]
struct Segment {
    offset: u64,
    length: u64,
}

/// How the content of an old GNU sparse member is put together.
#[derive(Debug)]
struct Sparse {
    map: Vec<Segment>,
    next: usize,
    at: u64,
    size: u64,
}

/// Reads the members of a stream.
pub(super) struct Members<'a> {
    stream: CappedReader<'a>,
    name: Vec<u8>,
    /// Members so far; an error at a header is about the next one.
    count: u64,
    /// Bytes of the current member that are still on tape, and the padding behind them.
    content: u64,
    padding: u64,
    sparse: Option<Sparse>,
}

/// The facts of a PAX header that matter here.
#[derive(Debug, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Option<u64>>,
    sparse: bool,
}

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

impl<'a> Members<'a> {
    pub(super) fn new(stream: CappedReader<'a>) -> Members<'a> {
        Members {
            stream,
            name: Vec::new(),
            count: 0,
            content: 0,
            padding: 0,
            sparse: None,
        }
    }

    /// The current member's name, as the archive has it.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Members so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Goes to the next member, past what is left of this one; `None` behind the last.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] and [`Error::Cut`], and what the stream meets.
    pub(super) fn next(&mut self) -> Result<Option<Member>, Error> {
        self.skip()?;
        let mut pax: Option<Pax> = None;
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link = false;
        loop {
            let header = match self.stream.block()? {
                // A zero block ends the archive, whatever follows: GNU tar reads it like that.
                Some(block) if block.iter().any(|byte| *byte != 0) => {
                    let mut header = Header::new_old();
                    header.as_mut_bytes().copy_from_slice(block);
                    header
                }
                _ if pax.is_some() || long_name.is_some() || long_link => {
                    return Err(self.corrupt(Fault::Orphan));
                }
                _ => return Ok(None),
            };
            if !checksum_matches(header.as_bytes()) {
                return Err(self.corrupt(Fault::Checksum));
            }
            let size = number(&header.as_old().size);
            let size = size.ok_or_else(|| self.corrupt(Fault::Number))?;
            match kind_byte(&header) {
                b'g' => {
                    let records = self.extension(size)?;
                    let global = parse_pax(&records).ok_or_else(|| self.corrupt(Fault::Pax))?;
                    if global.path.is_some() || global.size.is_some() || global.sparse {
                        return Err(self.corrupt(Fault::Global));
                    }
                }
                b'x' | b'X' => {
                    let records = self.extension(size)?;
                    let local = parse_pax(&records).ok_or_else(|| self.corrupt(Fault::Pax))?;
                    if pax.replace(local).is_some() {
                        return Err(self.corrupt(Fault::Repeated));
                    }
                }
                b'L' => {
                    let mut name = self.extension(size)?;
                    name.truncate(until_nul(&name).len());
                    if long_name.replace(name).is_some() {
                        return Err(self.corrupt(Fault::Repeated));
                    }
                }
                b'K' => {
                    self.extension(size)?;
                    if long_link {
                        return Err(self.corrupt(Fault::Repeated));
                    }
                    long_link = true;
                }
                _ => return self.member(&header, size, pax.unwrap_or_default(), long_name),
            }
        }
    }

    /// The next piece of the current member's content, holes included; `None` behind the last.
    ///
    /// # Errors
    ///
    /// [`Error::Cut`] when the stream ends within it, and what the stream meets.
    pub(super) fn chunk(&mut self) -> Result<Option<&[u8]>, Error> {
        let mut limit = self.content;
        if let Some(sparse) = &mut self.sparse {
            let segment = sparse.map.get(sparse.next).copied();
            let hole_until = segment.map_or(sparse.size, |segment| segment.offset);
            if sparse.at < hole_until {
                let zeros = usize::try_from(hole_until - sparse.at).unwrap_or(usize::MAX);
                let zeros = ZEROS.get(..zeros).unwrap_or(&ZEROS);
                sparse.at += zeros.len() as u64;
                return Ok(Some(zeros));
            }
            limit = segment.map_or(0, |segment| segment.offset + segment.length - sparse.at);
        }
        if limit == 0 {
            return Ok(None);
        }
        let chunk = self.stream.take(limit)?;
        if chunk.is_empty() {
            return Err(Error::Cut);
        }
        let length = chunk.len() as u64;
        self.content -= length;
        if let Some(sparse) = &mut self.sparse {
            sparse.at += length;
            if length == limit {
                sparse.next += 1;
            }
        }
        Ok(Some(chunk))
    }

    /// Reads what lies behind the last member, to the end of the stream, so that every checksum
    /// is seen. Gives the number of bytes that the whole stream had.
    ///
    /// # Errors
    ///
    /// What the stream meets.
    pub(super) fn finish(&mut self) -> Result<u64, Error> {
        while !self.stream.take(u64::MAX)?.is_empty() {}
        Ok(self.stream.unpacked())
    }

    pub(super) fn corrupt(&self, fault: Fault) -> Error {
        Error::Corrupt {
            member: self.count + 1,
            fault,
        }
    }

    /// Passes what is left of the current member on tape.
    fn skip(&mut self) -> Result<(), Error> {
        self.sparse = None;
        let mut left = self.content.saturating_add(self.padding);
        self.content = 0;
        self.padding = 0;
        while left > 0 {
            let taken = self.stream.take(left)?.len() as u64;
            if taken == 0 {
                return Err(Error::Cut);
            }
            left -= taken;
        }
        Ok(())
    }

    /// The whole body of an extension header. Memory follows what is there, not what is claimed.
    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > MAX_EXTENSION {
            return Err(self.corrupt(Fault::Extension));
        }
        self.expect_content(size);
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk()? {
            body.extend_from_slice(chunk);
        }
        self.skip()?;
        Ok(body)
    }

    fn expect_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn member(
        &mut self,
        header: &Header,
        ustar_size: u64,
        pax: Pax,
        long_name: Option<Vec<u8>>,
    ) -> Result<Option<Member>, Error> {
        self.name = match (long_name, pax.path) {
            // GNU tar takes the PAX name, others the long one.
            (Some(_), Some(_)) => return Err(self.corrupt(Fault::Repeated)),
            (Some(name), None) | (None, Some(name)) => name,
            (None, None) => header.path_bytes().into_owned(),
        };
        let mut size = pax.size.unwrap_or(ustar_size);
        let mut sparse = None;
        let kind = match kind_byte(header) {
            // Before POSIX a directory was a file with a slash behind its name.
            0 if size == 0 && self.name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' if pax.sparse => Kind::PaxSparse,
            0 | b'0' | b'7' => Kind::File,
            // Old programs state the size of the file that is linked to; nothing is on tape.
            b'1' if pax.size.is_none() => {
                size = 0;
                Kind::Link
            }
            b'1' | b'2' => Kind::Link,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'D' => Kind::Listing,
            b'V' => Kind::Label,
            b'S' => {
                let gnu = header
                    .as_gnu()
                    .filter(|_| pax.size.is_none() && !pax.sparse);
                let gnu = gnu.ok_or_else(|| self.corrupt(Fault::Sparse))?;
                sparse = Some(self.sparse_map(gnu, size)?);
                Kind::File
            }
            _ => Kind::Other,
        };
        match kind {
            Kind::Link | Kind::Device | Kind::Directory | Kind::Fifo if size > 0 => {
                return Err(self.corrupt(Fault::Body));
            }
            _ => {}
        }
        self.expect_content(size);
        let logical = sparse.as_ref().map_or(size, |sparse| sparse.size);
        self.stream.add_logical(logical.saturating_sub(size))?;
        self.sparse = sparse;
        self.count += 1;
        let mtime = pax.mtime.unwrap_or_else(|| number(&header.as_old().mtime));
        Ok(Some(Member {
            kind,
            size: logical,
            mtime,
        }))
    }

    /// The map of an old GNU sparse member, from its header and the blocks behind it.
    fn sparse_map(&mut self, gnu: &GnuHeader, on_tape: u64) -> Result<Sparse, Error> {
        let wrong = self.corrupt(Fault::Sparse);
        let Some(size) = number(&gnu.realsize) else {
            return Err(wrong);
        };
        let mut map = Vec::new();
        if !add_segments(&mut map, &gnu.sparse) {
            return Err(wrong);
        }
        let mut more = gnu.isextended[0] != 0;
        let mut blocks = 0;
        while more {
            blocks += BLOCK as u64;
            if blocks > MAX_EXTENSION {
                return Err(self.corrupt(Fault::Extension));
            }
            let mut extension = GnuExtSparseHeader::new();
            let block = self.stream.block()?.ok_or(Error::Cut)?;
            extension.as_mut_bytes().copy_from_slice(block);
            if !add_segments(&mut map, &extension.sparse) {
                return Err(wrong);
            }
            more = extension.isextended[0] != 0;
        }
        let last = map
            .last()
            .map_or(0, |segment| segment.offset + segment.length);
        let listed: u64 = map.iter().map(|segment| segment.length).sum();
        if last > size || listed != on_tape {
            return Err(wrong);
        }
        Ok(Sparse {
            map,
            next: 0,
            at: 0,
            size,
        })
    }
}

/// Adds the segments of one header to a map; `false` when they are out of order, overlap, or are
/// cut where a block is not full, which tar programs read differently.
fn add_segments(map: &mut Vec<Segment>, found: &[GnuSparseHeader]) -> bool {
    for segment in found {
        // An unused place has no digits at all.
        if segment.offset[0] == 0 || segment.numbytes[0] == 0 {
            continue;
        }
        let (Some(offset), Some(length)) = (number(&segment.offset), number(&segment.numbytes))
        else {
            return false;
        };
        let (last, full) = map.last().map_or((0, true), |last| {
            (
                last.offset + last.length,
                last.length.is_multiple_of(BLOCK as u64),
            )
        });
        if offset < last || offset.checked_add(length).is_none() {
            return false;
        }
        // A last one without content marks the end of a file that ends in a hole.
        if length > 0 {
            if !full {
                return false;
            }
            map.push(Segment { offset, length });
        }
    }
    true
}

/// Whether this block is a tar header beyond doubt.
pub(super) fn is_header(first: &[u8]) -> bool {
    first.first_chunk().is_some_and(checksum_matches)
}

/// Whether these first bytes are those of a tar header, one with a wrong bit included: that is a
/// damaged archive, while anything else was never one.
pub(super) fn resembles_header(first: &[u8]) -> bool {
    if first.get(257..262) == Some(b"ustar") {
        return true;
    }
    let Some(block) = first.first_chunk::<BLOCK>() else {
        return false;
    };
    // One flipped bit moves the sum by at most 128.
    stated_checksum(block).is_some_and(|stated| stated.abs_diff(sum(block)) <= 128)
}

fn kind_byte(header: &Header) -> u8 {
    header.as_old().linkflag[0]
}

fn stated_checksum(block: &[u8; BLOCK]) -> Option<u64> {
    let field = block.get(148..156)?;
    // An empty field is no checksum, and no sum is zero.
    number(field).filter(|stated| *stated > 0)
}

fn checksum_matches(block: &[u8; BLOCK]) -> bool {
    // Old programs on machines with signed characters summed up other numbers; where no byte is
    // above 127 both are the same.
    stated_checksum(block).is_some_and(|stated| {
        stated == sum(block) || i64::try_from(stated) == Ok(signed_sum(block))
    })
}

/// Sum of the bytes of a header, with blanks for the field that holds it.
fn sum(block: &[u8; BLOCK]) -> u64 {
    let field: u64 = block[148..156].iter().map(|byte| u64::from(*byte)).sum();
    let all: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    all - field + 8 * u64::from(b' ')
}

fn signed_sum(block: &[u8; BLOCK]) -> i64 {
    let (before, rest) = block.split_at(148);
    let bytes = before.iter().chain(rest.iter().skip(8));
    bytes.map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * i64::from(b' ')
}

/// A number of a header: octal digits between blanks and NULs, or base 256 behind a set bit.
/// An empty field is zero. `None` for a negative one, one beyond 64 bits, and anything else.
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        if first & 0x40 != 0 {
            return None;
        }
        return rest
            .iter()
            .try_fold(u64::from(first & 0x3f), |value, byte| {
                Some(value.checked_mul(256)? | u64::from(*byte))
            });
    }
    let digits = field.trim_ascii_start();
    let end = digits
        .iter()
        .position(|byte| !(b'0'..=b'7').contains(byte))
        .unwrap_or(digits.len());
    let (digits, rest) = digits.split_at(end);
    if rest.iter().any(|byte| !matches!(byte, b' ' | 0)) {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| {
        value.checked_mul(8)?.checked_add(u64::from(digit - b'0'))
    })
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// Reads the records of a PAX header, `<length> <key>=<value>\n`, where the length counts the
/// whole record. `None` when one of them breaks the form.
fn parse_pax(mut records: &[u8]) -> Option<Pax> {
    let mut pax = Pax::default();
    while !records.is_empty() {
        let blank = records.iter().position(|byte| *byte == b' ')?;
        let length = usize::try_from(decimal(records.get(..blank)?)?).ok()?;
        let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
        records = records.get(length..)?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (record.get(..equals)?, record.get(equals + 1..)?);
        match key {
            b"" => return None,
            b"size" => pax.size = Some(decimal(value)?),
            b"path" => {
                if value.is_empty() || value.contains(&0) {
                    return None;
                }
                pax.path = Some(value.to_vec());
            }
            b"mtime" => pax.mtime = Some(seconds(value)?),
            _ if key.starts_with(b"GNU.sparse.") => pax.sparse = true,
            _ => {}
        }
    }
    Some(pax)
}

/// Digits only: no sign, no blanks.
fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        byte.is_ascii_digit().then_some(())?;
        value.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

/// A PAX time, whole seconds of it; the inner `None` is a time before 1970.
fn seconds(text: &[u8]) -> Option<Option<u64>> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let mut parts = text.splitn(2, |byte| *byte == b'.');
    let whole = decimal(parts.next()?)?;
    if parts
        .next()
        .is_some_and(|fraction| !fraction.iter().all(u8::is_ascii_digit))
    {
        return None;
    }
    Some((!negative).then_some(whole))
}
