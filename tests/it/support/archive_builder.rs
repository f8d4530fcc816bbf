//! Archives made in memory, byte by byte: honest ones, and ones no tar program would write.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

pub const BLOCK: usize = 512;
/// 2023-11-14T22:13:20Z.
pub const MTIME: u64 = 1_700_000_000;

/// A tar header whose every field can be wrong. [`Header::bytes`] puts the right checksum in,
/// unless one was set by hand.
#[derive(Clone)]
pub struct Header {
    bytes: [u8; BLOCK],
    sealed: bool,
}

impl Header {
    /// A POSIX header of a regular, empty file. The name may have up to 100 bytes.
    pub fn new(name: impl AsRef<[u8]>) -> Header {
        let header = Header {
            bytes: [0; BLOCK],
            sealed: false,
        };
        header
            .field(0, name.as_ref())
            .field(100, b"0000640\0")
            .field(108, b"0000000\0")
            .field(116, b"0000000\0")
            .size(0)
            .mtime(MTIME)
            .kind(b'0')
            .field(257, b"ustar\x0000")
    }

    /// With GNU's magic instead of that of POSIX.
    pub fn gnu(self) -> Header {
        self.field(257, b"ustar  \0")
    }

    /// Without a magic, as before POSIX.
    pub fn v7(self) -> Header {
        self.field(257, &[0; 8])
    }

    pub fn kind(self, kind: u8) -> Header {
        self.field(156, &[kind])
    }

    pub fn size(self, size: u64) -> Header {
        self.field(124, &octal12(size))
    }

    pub fn mtime(self, mtime: u64) -> Header {
        self.field(136, &octal12(mtime))
    }

    pub fn link_to(self, target: &str) -> Header {
        self.field(157, target.as_bytes())
    }

    pub fn prefix(self, prefix: &str) -> Header {
        self.field(345, prefix.as_bytes())
    }

    /// Puts these bytes at this place.
    pub fn field(mut self, at: usize, bytes: &[u8]) -> Header {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// States this checksum, whatever the right one is.
    pub fn checksum(mut self, text: &[u8; 8]) -> Header {
        self.bytes[148..156].copy_from_slice(text);
        self.sealed = true;
        self
    }

    pub fn bytes(&self) -> [u8; BLOCK] {
        let mut bytes = self.bytes;
        if !self.sealed {
            bytes[148..156].fill(b' ');
            let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
            bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        bytes
    }
}

/// A number as header fields have it: eleven octal digits and a NUL, base 256 when that is short.
pub fn octal12(number: u64) -> [u8; 12] {
    let mut field = [0; 12];
    if number < 1 << 33 {
        field[..11].copy_from_slice(format!("{number:011o}").as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&number.to_be_bytes());
    }
    field
}

/// A tar stream in the making.
#[derive(Clone, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    /// A regular file.
    pub fn file(self, name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Tar {
        let body = body.as_ref();
        self.named(name.as_ref(), |header| header.size(body.len() as u64), body)
    }

    pub fn directory(self, name: &str) -> Tar {
        self.named(name.as_bytes(), |header| header.kind(b'5'), b"")
    }

    /// A member whose name becomes a PAX path when it has over 100 bytes.
    fn named(self, name: &[u8], change: impl Fn(Header) -> Header, body: &[u8]) -> Tar {
        let tar = if name.len() > 100 {
            self.pax(&[("path", name)])
        } else {
            self
        };
        tar.member(&change(Header::new(&name[..name.len().min(100)])), body)
    }

    pub fn symlink(self, name: &str, target: &str) -> Tar {
        self.member(&Header::new(name).kind(b'2').link_to(target), b"")
    }

    /// A header and what lies behind it, padded; the header's size is not looked at.
    pub fn member(self, header: &Header, body: &[u8]) -> Tar {
        self.raw(&header.bytes()).padded(body)
    }

    /// A PAX header for the next member.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        self.extension(b'x', &pax_records(records))
    }

    /// An extension header of any kind with any body.
    pub fn extension(self, kind: u8, body: &[u8]) -> Tar {
        let header = Header::new("././@Extension")
            .kind(kind)
            .size(body.len() as u64);
        self.member(&header, body)
    }

    /// GNU's header for a long name.
    pub fn long_name(self, name: &[u8]) -> Tar {
        self.extension(b'L', &[name, b"\0"].concat())
    }

    /// Bytes with zeros up to the next block.
    pub fn padded(mut self, body: &[u8]) -> Tar {
        self.bytes.extend_from_slice(body);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }

    pub fn raw(mut self, bytes: &[u8]) -> Tar {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// The stream as it is, without blocks that end it.
    pub fn unended(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// The stream with the two zero blocks that end it.
    pub fn build(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    /// The ended stream, gzipped.
    pub fn gzip(&self) -> Vec<u8> {
        gzip(&self.build())
    }
}

/// The records of a PAX header, each with its length in front.
pub fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        // The length counts its own digits.
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        bytes.extend_from_slice(format!("{length} {key}=").as_bytes());
        bytes.extend_from_slice(value);
        bytes.push(b'\n');
    }
    bytes
}

/// One gzip member.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An archive that takes very long to inflate: two documents, then a member of 1 TiB that nobody
/// wants. It is cut after 32 GiB, which are a while of work.
pub fn endless() -> Vec<u8> {
    const PIECE: usize = 16 << 20;
    // Larger than what is collected before it is written.
    let document = format!("{{{}}}", " ".repeat(1 << 20));
    let beginning = Tar::new()
        .file("config/id", "11111111-2222-4333-8444-555555555555")
        .file("config/version.json", document)
        .member(&Header::new("filler").size(1 << 40), b"");
    let mut bytes = gzip(&beginning.unended());
    // Gzip members one after another are one stream.
    let piece = gzip(&vec![0; PIECE]);
    for _ in 0..(32_usize << 30) / PIECE {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

/// A gzip member of about as many bytes as it unpacks to.
pub fn gzip_stored(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The header of a gzip member, for streams that are put together by hand.
pub const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// An old GNU sparse member: the segments, `(offset, bytes)`, of a file of `size` bytes.
pub fn sparse(name: &str, size: u64, segments: &[(u64, &[u8])]) -> Tar {
    let tape: usize = segments.iter().map(|(_, bytes)| bytes.len()).sum();
    let map: Vec<(u64, u64)> = segments
        .iter()
        .map(|(offset, bytes)| (*offset, bytes.len() as u64))
        .collect();
    let content: Vec<u8> = segments
        .iter()
        .flat_map(|(_, bytes)| bytes.to_vec())
        .collect();
    sparse_with_map(name, size, tape as u64, &map, &content)
}

/// The same with a map and sizes that need not fit each other.
pub fn sparse_with_map(
    name: &str,
    size: u64,
    tape: u64,
    map: &[(u64, u64)],
    content: &[u8],
) -> Tar {
    let place = |header: Header, at: usize, (offset, length): (u64, u64)| {
        header
            .field(at, &octal12(offset))
            .field(at + 12, &octal12(length))
    };
    let (first, rest) = map.split_at(map.len().min(4));
    let mut header = Header::new(name)
        .gnu()
        .kind(b'S')
        .size(tape)
        .field(483, &octal12(size));
    for (index, segment) in first.iter().enumerate() {
        header = place(header, 386 + 24 * index, *segment);
    }
    if !rest.is_empty() {
        header = header.field(482, &[1]);
    }
    let mut tar = Tar::new().raw(&header.bytes());
    let blocks = rest.chunks(21).count();
    for (number, chunk) in rest.chunks(21).enumerate() {
        let mut block = vec![0; BLOCK];
        for (index, (offset, length)) in chunk.iter().enumerate() {
            block[24 * index..24 * index + 12].copy_from_slice(&octal12(*offset));
            block[24 * index + 12..24 * index + 24].copy_from_slice(&octal12(*length));
        }
        block[504] = u8::from(number + 1 < blocks);
        tar = tar.raw(&block);
    }
    tar.padded(content)
}
