//! Tar streams that are put together from an input: right checksums and lengths where random
//! bytes would never have them, and anything else wrong.
//!
//! Plain, in one gzip member and in several, the outcome has to be the same.

use ccx_data_pipeline::error::Reason;

use super::Input;
use super::archive::{LIMITS, read};
use super::builder::{BLOCK, Header, Tar, gzip, octal12, pax_records, sparse_with_map};

const KINDS: &[u8] = b"00000005123467SDMVNxgXLK\0\0Z";
const KEYS: [&str; 10] = [
    "path",
    "size",
    "mtime",
    "linkpath",
    "comment",
    "GNU.sparse.major",
    "GNU.sparse.name",
    "GNU.sparse.realsize",
    "LIBARCHIVE.x",
    "",
];
const NAMES: [&[u8]; 12] = [
    b"config/id",
    b"config/version.json",
    b"a",
    b"a/b",
    b"./a//b/",
    b"/a/b/c",
    b"l/x",
    b"l",
    b"..",
    b"a/../b",
    b".",
    b"config/pod/x/logs/y.log",
];

/// An input is a row of steps that build a tar stream.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let cuts = [input.short(), input.short()];
    let mut tar = Tar::new();
    for _ in 0..100 {
        if input.is_empty() {
            break;
        }
        tar = step(tar, &mut input);
    }
    let tar = match cuts[0] % 4 {
        0 => tar.unended(),
        _ => tar.build(),
    };
    let plain = read(&tar);
    // Where the ratio is not judged, nothing depends on how the stream is packed. What sparse
    // members stand for may bring it to that all the same.
    let compare = |packed: &[u8], how: &str| {
        let packed = read(packed);
        if packed != Err(Reason::ArchiveRatio) {
            assert_eq!(plain, packed, "{how}");
        }
    };
    // Nor is what begins like gzip and with no right header the same within gzip.
    let is_plain = !tar.starts_with(b"\x1f\x8b");
    if is_plain && tar.len() < 1 << 20 && (tar.len() as u64) < LIMITS.unpacked_size {
        compare(&gzip(&tar), "plain and gzip differ");
        let mut cuts = cuts.map(|cut| cut % (tar.len() + 1));
        cuts.sort_unstable();
        let members = [&tar[..cuts[0]], &tar[cuts[0]..cuts[1]], &tar[cuts[1]..]];
        let packed = members.map(gzip).concat();
        compare(&packed, "one gzip member and several differ");
    }
}

fn step(tar: Tar, input: &mut Input<'_>) -> Tar {
    match input.byte() % 10 {
        // A member that is what it says.
        0 | 1 => {
            let name = name(input);
            let body = input.counted();
            tar.file(name, body)
        }
        // A member of any kind, with any field changed.
        2 | 3 => {
            let kind = KINDS[input.below(KINDS.len())];
            let name = name(input);
            let body = input.counted();
            let mut header = Header::new(&name[..name.len().min(100)])
                .kind(kind)
                .size(body.len() as u64);
            let flags = input.byte();
            if flags & 1 != 0 {
                header = header.gnu();
            }
            if flags & 2 != 0 {
                header = header.v7();
            }
            for _ in 0..flags >> 5 {
                let at = input.short() % BLOCK;
                header = header.field(at, &[input.byte()]);
            }
            tar.member(&header, body)
        }
        // A member whose size field says something else than what is there.
        4 => {
            let name = name(input);
            let size = number(input);
            let body = input.counted();
            let header = Header::new(&name[..name.len().min(100)]);
            tar.member(&header.field(124, &octal12(size)), body)
        }
        // PAX records of right form.
        5 => {
            let mut records = Vec::new();
            for _ in 0..input.byte() % 4 {
                let key = KEYS[input.below(KEYS.len())];
                let value = match input.byte() % 3 {
                    0 => number(input).to_string().into_bytes(),
                    1 => name(input).to_vec(),
                    _ => input.counted().to_vec(),
                };
                records.push((key, value));
            }
            let records: Vec<(&str, &[u8])> = records
                .iter()
                .map(|(key, value)| (*key, &value[..]))
                .collect();
            let kind = [b'x', b'x', b'g', b'X'][input.below(4)];
            tar.extension(kind, &pax_records(&records))
        }
        // An extension header with any body.
        6 => {
            let kind = b"xgLKXVM"[input.below(7)];
            let body = input.counted();
            tar.extension(kind, body)
        }
        // An old GNU sparse member.
        7 => {
            let name = name(input);
            let (size, tape) = (number(input), number(input));
            let mut map = Vec::new();
            for _ in 0..input.byte() % 32 {
                map.push((number(input), number(input)));
            }
            let body = input.counted();
            let name = String::from_utf8_lossy(&name[..name.len().min(30)]);
            let member = sparse_with_map(&name, size, tape, &map, body);
            tar.raw(&member.unended())
        }
        // A link, and sometimes a name below it.
        8 => {
            let kind = b"12"[input.below(2)];
            let header = Header::new("l").kind(kind).link_to("config");
            tar.member(&header, b"")
        }
        _ => {
            let bytes = input.counted();
            tar.raw(bytes)
        }
    }
}

/// A name that others meet, or one of any bytes.
fn name<'a>(input: &mut Input<'a>) -> &'a [u8] {
    let choice = usize::from(input.byte());
    match NAMES.get(choice % 24) {
        Some(name) => name,
        None => input.counted(),
    }
}

/// Small numbers, block sizes, and the ends of the range.
fn number(input: &mut Input<'_>) -> u64 {
    match input.byte() % 8 {
        0 => 0,
        1 | 2 => u64::from(input.byte()),
        3 => u64::from(input.byte()) * 512,
        4 => input.short() as u64,
        5 => LIMITS.unpacked_size - 2048 + u64::from(input.byte()) * 16,
        6 => u64::MAX - u64::from(input.byte()),
        _ => 1 << (input.byte() % 64),
    }
}
