//! Extraction against hostile archives, one case id of the fault list in each name, and against
//! GNU tar.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ccx_data_pipeline::archive::Archive;
use ccx_data_pipeline::archive::extract::{
    self, Danger, Error, Extracted, Fault, Interrupt, Limits, Wanted, extract,
};
use ccx_data_pipeline::archive::limits;
use ccx_data_pipeline::error::{Reason, chain};
use proptest::prelude::*;

use crate::support::archive_builder::{
    BLOCK, GZIP_HEADER, Header, MTIME, Tar, gzip, octal12, pax_records, sparse, sparse_with_map,
};

/// Everything is wanted; logs may be over the limit for documents.
fn everything() -> &'static Wanted {
    static WANTED: LazyLock<Wanted> =
        LazyLock::new(|| Wanted::new(&[("**/*", false), ("**/*.log", true)]).unwrap());
    &WANTED
}

fn run_with(body: &mut dyn Read, limits: &Limits, wanted: &Wanted) -> Result<Extracted, Error> {
    let dir = tempfile::tempdir().unwrap();
    let result = extract(body, limits, wanted, dir.path(), &|| None);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        0,
        "a name is left in the directory"
    );
    result
}

fn run_limited(bytes: &[u8], limits: &Limits) -> Result<Extracted, Error> {
    run_with(&mut &bytes[..], limits, everything())
}

fn run(bytes: &[u8]) -> Result<Extracted, Error> {
    run_limited(bytes, &Limits::default())
}

/// Runs the ended stream plain and gzipped: the outcome must not depend on it.
fn run_tar(tar: &Tar) -> Result<Extracted, Error> {
    let plain = run(&tar.build());
    let gzipped = run(&tar.gzip());
    match (&plain, &gzipped) {
        (Ok(plain), Ok(gzipped)) => assert_eq!(contents(plain), contents(gzipped)),
        (Err(plain), Err(gzipped)) => assert_eq!(plain.to_string(), gzipped.to_string()),
        (plain, gzipped) => panic!("plain: {plain:?}, gzipped: {gzipped:?}"),
    }
    plain
}

fn contents(extracted: &Extracted) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let read = |file: ccx_data_pipeline::archive::files::FileRef<'_>| {
        let bytes = if file.is_too_large() {
            b"(too large)".to_vec()
        } else {
            file.read().unwrap()
        };
        (file.name().to_vec(), bytes)
    };
    extracted.files.iter_sorted().map(read).collect()
}

fn names(extracted: &Extracted) -> Vec<String> {
    let names = extracted.files.iter_sorted();
    names
        .map(|file| file.name().escape_ascii().to_string())
        .collect()
}

#[track_caller]
fn assert_reason(result: Result<Extracted, Error>, reason: Reason) -> Error {
    let error = result.expect_err("the archive was accepted");
    assert_eq!(error.reason(), Some(reason), "{error:?}");
    error
}

#[track_caller]
fn assert_fault(result: Result<Extracted, Error>, expected: Fault) {
    match assert_reason(result, Reason::ArchiveCorrupt) {
        Error::Corrupt { fault, .. } => assert_eq!(fault, expected),
        error => panic!("{error:?}"),
    }
}

#[track_caller]
fn assert_danger(result: Result<Extracted, Error>, expected: Danger) {
    match assert_reason(result, Reason::ArchiveUnsafe) {
        Error::Unsafe { danger, .. } => assert_eq!(danger, expected),
        error => panic!("{error:?}"),
    }
}

fn honest() -> Tar {
    Tar::new()
        .file("config/id", "id")
        .directory("config/node")
        .file("config/node/a.json", "{}")
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(7).fill(&mut bytes);
    bytes
}

/// The same bytes again and again, without end; counts what was read.
struct Endless {
    piece: Vec<u8>,
    at: usize,
    read: u64,
}

impl Endless {
    fn new(piece: Vec<u8>) -> Endless {
        Endless {
            piece,
            at: 0,
            read: 0,
        }
    }
}

impl Read for Endless {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let rest = &self.piece[self.at..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.at = (self.at + count) % self.piece.len();
        self.read += count as u64;
        // A reader that no bound stops fails here instead of reading for ever.
        assert!(self.read < 128 << 20, "nothing stops reading");
        Ok(count)
    }
}

#[test]
fn an_honest_archive_is_read() {
    let extracted = run_tar(&honest()).unwrap();
    assert_eq!(names(&extracted), ["config/id", "config/node/a.json"]);
    assert_eq!(
        extracted.files.get("config/id").unwrap().read().unwrap(),
        b"id"
    );
    assert_eq!(extracted.entries, 3);
    assert_eq!(extracted.config_id_mtime, Some(MTIME));
    assert_eq!(extracted.bytes, honest().build().len() as u64);
    assert!(extracted.files.get("config").is_none());
    assert_eq!(extracted.ignored, extract::IgnoredMembers::default());
}

#[test]
fn a01_parent_traversal_is_refused() {
    for name in ["../evil", "a/../../evil", "a/..", "/../evil", "a/../b"] {
        assert_danger(run_tar(&honest().file(name, "x")), Danger::Parent);
        // Whatever the kind of the member, and however its name is given.
        assert_danger(run_tar(&honest().symlink(name, "t")), Danger::Parent);
        assert_danger(run_tar(&honest().directory(name)), Danger::Parent);
        let pax = honest().pax(&[("path", name.as_bytes())]).file("ok", "x");
        assert_danger(run_tar(&pax), Danger::Parent);
        assert_danger(
            run_tar(&honest().long_name(name.as_bytes()).file("ok", "x")),
            Danger::Parent,
        );
    }
    let prefixed = honest().member(&Header::new("evil").prefix(".."), b"");
    assert_danger(run_tar(&prefixed), Danger::Parent);
}

#[test]
fn a02_absolute_names_become_relative_and_are_counted() {
    let extracted = run_tar(&Tar::new().file("/config/id", "x").file("//b", "y")).unwrap();
    assert_eq!(names(&extracted), ["b", "config/id"]);
    assert_eq!(extracted.ignored.absolute, 2);
}

#[test]
fn a03_paths_through_links_are_refused() {
    for kind in [b'1', b'2'] {
        let link = honest().member(&Header::new("d/l").kind(kind).link_to(".."), b"");
        assert_danger(
            run_tar(&link.clone().file("d/l/evil", "x")),
            Danger::ThroughLink,
        );
        assert_danger(
            run_tar(&link.clone().file("./d//l/e/vil", "x")),
            Danger::ThroughLink,
        );
        // A directory in its place does not undo the link: GNU tar keeps it, others do not.
        let covered = link.clone().directory("d/l/").file("d/l/evil", "x");
        assert_danger(run_tar(&covered), Danger::ThroughLink);
        // A file in its place is one; nothing is written through the link.
        let extracted = run_tar(&link.file("d/l", "x").file("d/link", "y")).unwrap();
        assert_eq!(
            names(&extracted),
            ["config/id", "config/node/a.json", "d/l", "d/link"]
        );
        assert_eq!(extracted.ignored.links, 1);
    }
}

#[test]
fn a04_special_members_are_counted_and_left() {
    let mut tar = honest();
    for (name, kind) in [
        ("c", b'3'),
        ("b", b'4'),
        ("f", b'6'),
        ("v", b'V'),
        ("m", b'M'),
        ("q", b'?'),
    ] {
        tar = tar.member(&Header::new(name).kind(kind), b"");
    }
    // Unknown kinds may have content; it is passed over.
    tar = tar.member(&Header::new("d").kind(b'D').size(3), b"abc");
    tar = tar.member(&Header::new("contiguous").kind(b'7').size(3), b"abc");
    let extracted = run_tar(&tar).unwrap();
    assert_eq!(
        names(&extracted),
        ["config/id", "config/node/a.json", "contiguous"]
    );
    assert_eq!(extracted.entries, 11);
    let ignored = extracted.ignored;
    assert_eq!((ignored.devices, ignored.fifos, ignored.other), (2, 1, 4));
}

/// What GNU tar writes with `--label` and `--listed-incremental`.
#[test]
fn a04_labels_and_listed_directories_hide_no_member() {
    let wanted = Wanted::new(&[("config/version.json", false)]).unwrap();
    let run = |tar: &Tar| run_with(&mut &tar.gzip()[..], &Limits::default(), &wanted).unwrap();
    for label in ["weekly", "config", "config/id", "../x", "/x"] {
        for top in ["", "top/"] {
            let name = format!("{top}config/id");
            let tar = Tar::new()
                .member(&Header::new(label).kind(b'V'), b"")
                .file(&name, "x")
                .file(format!("{top}config/version.json"), "{}");
            let extracted = run(&tar);
            assert_eq!(names(&extracted), ["config/id", "config/version.json"]);
            assert_eq!(
                (extracted.ignored.other, extracted.ignored.absolute),
                (1, 0)
            );
        }
    }
    let list = b"Yid\0Yversion.json\0\0";
    let listed = |name: &str| Header::new(name).kind(b'D').size(list.len() as u64);
    let tar = Tar::new()
        .member(&listed("top/"), list)
        .member(&listed("top/config/"), list)
        .file("top/config/id", "x")
        .file("top/config/version.json", "{}");
    let extracted = run(&tar);
    assert_eq!(names(&extracted), ["config/id", "config/version.json"]);
    assert_eq!(extracted.ignored.other, 2);
}

#[test]
fn a05_modes_and_owners_are_ignored() {
    let mut tar = Tar::new();
    for (index, mode) in [b"0007777\0", b"0000000\0", b"0000777\0"]
        .iter()
        .enumerate()
    {
        let header = Header::new(format!("f{index}")).field(100, *mode).size(1);
        tar = tar.member(&header.field(108, b"garbage!"), b"x");
    }
    assert_eq!(contents(&run_tar(&tar).unwrap()).len(), 3);
}

#[test]
fn a05_documents_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let body = honest().gzip();
    let _extracted = extract(
        &mut &body[..],
        &Limits::default(),
        everything(),
        dir.path(),
        &|| None,
    )
    .unwrap();
    // The file has no name; it is found among what this process has open.
    let mut found = 0;
    for entry in fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        let Ok(target) = fs::read_link(entry.path()) else {
            continue;
        };
        if target.starts_with(dir.path()) {
            let metadata = fs::metadata(entry.path()).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            assert_eq!(metadata.nlink(), 0);
            found += 1;
        }
    }
    assert_eq!(found, i32::from(Path::new("/proc/self/fd").exists()));
}

#[test]
fn a06_a_bomb_stops_at_the_absolute_limit() {
    // Members of 1 MiB of zeros without end. The first block is the end of the archive, so this
    // is also what follows it.
    let piece = gzip(&vec![0; 1 << 20]);
    let member = piece.len() as u64;
    let mut body = Endless::new(piece);
    let limits = Limits {
        unpacked_size: 8 << 20,
        ratio: u64::MAX,
        ..Limits::default()
    };
    let error = assert_reason(
        run_with(&mut body, &limits, everything()),
        Reason::ArchiveTooLarge,
    );
    assert!(matches!(error, Error::TooLarge { limit } if limit == 8 << 20));
    assert!(
        body.read <= 9 * member + (64 << 10),
        "{} bytes were read",
        body.read
    );

    // The same in the content of a member, whose size says nothing.
    let header = Header::new("config/id").size(1 << 40).bytes();
    let zeros = gzip(&vec![0; 1 << 20]);
    let start = gzip(&header);
    let mut body = (&start[..]).chain(Endless::new(zeros));
    assert_reason(
        run_with(&mut body, &limits, everything()),
        Reason::ArchiveTooLarge,
    );
}

#[test]
fn a06_the_limit_is_up_to_and_including() {
    let body = Tar::new().file("config/id", noise(10_000)).build();
    for bytes in [body.clone(), gzip(&body)] {
        for (limit, fits) in [
            (body.len() - 1, false),
            (body.len(), true),
            (body.len() + 1, true),
        ] {
            let limits = Limits {
                unpacked_size: limit as u64,
                ..Limits::default()
            };
            let result = run_limited(&bytes, &limits);
            assert_eq!(result.is_ok(), fits, "{limit}: {result:?}");
        }
    }
}

#[test]
fn a07_a_bomb_stops_at_the_ratio() {
    let limits = Limits {
        ratio: 200,
        ..Limits::default()
    };
    let bomb = Tar::new().file("config/a.log", vec![b'x'; 4 << 20]).gzip();
    assert_reason(run_limited(&bomb, &limits), Reason::ArchiveRatio);
    // The same ratio below 1 MiB harms nobody.
    let small = Tar::new()
        .file("config/a.log", vec![b'x'; 1_000_000])
        .gzip();
    assert!(small.len() < 1_000_000 / 200);
    run_limited(&small, &limits).unwrap();
    // The ratio itself is allowed.
    let size = (4 << 20) + 3 * BLOCK as u64;
    let exact = size.div_ceil(bomb.len() as u64);
    run_limited(
        &bomb,
        &Limits {
            ratio: exact + 400,
            ..limits.clone()
        },
    )
    .unwrap();
}

#[test]
fn a08_members_are_counted_up_to_the_limit() {
    let limits = Limits {
        entries: 100,
        ..Limits::default()
    };
    let mut tar = Tar::new();
    for index in 0..99 {
        tar = tar.file(format!("f{index}"), "");
    }
    run_limited(&tar.gzip(), &limits).unwrap();
    let tar = tar.symlink("l", "t");
    assert_eq!(run_limited(&tar.gzip(), &limits).unwrap().entries, 100);
    // Members of every kind count.
    let tar = tar.directory("d");
    assert_reason(run_limited(&tar.gzip(), &limits), Reason::ArchiveEntries);
}

#[test]
fn a08_an_endless_row_of_members_ends() {
    let member = Header::new("f").bytes().to_vec();
    let mut body = Endless::new(member);
    assert_reason(
        run_with(&mut body, &Limits::default(), everything()),
        Reason::ArchiveEntries,
    );
    assert!(body.read <= 100_001 * 512 + (256 << 10));
}

#[test]
fn a08_names_in_memory_are_bounded() {
    let directory = format!("d/{}", vec!["x".repeat(250); 15].join("/"));
    let mut tar = Tar::new();
    for index in 0..2_300 {
        tar = tar.file(format!("{directory}/{index}"), "");
    }
    let error = assert_reason(run(&tar.build()), Reason::ArchiveEntries);
    assert!(matches!(
        error,
        Error::TooManyNames {
            limit: limits::MAX_KEPT_NAMES
        }
    ));
    // Names that nobody wants cost nothing.
    let wanted = Wanted::new(&[("config/version.json", false)]).unwrap();
    run_with(&mut &tar.build()[..], &Limits::default(), &wanted).unwrap();
}

#[test]
fn a09_a_claimed_size_is_not_believed() {
    for size in [8 << 30, 1 << 60, u64::MAX] {
        let tar = Tar::new().member(&Header::new("config/id").size(size), &[b'x'; 200]);
        let error = assert_reason(run(&gzip(&tar.unended())), Reason::ArchiveCorrupt);
        assert!(matches!(error, Error::Cut));
        let pax = pax_records(&[("size", size.to_string().as_bytes())]);
        let tar = Tar::new()
            .extension(b'x', &pax)
            .member(&Header::new("a"), &[b'x'; 200]);
        assert!(matches!(run(&tar.unended()), Err(Error::Cut)));
    }
    // Negative in base 256, and beyond 64 bits.
    for field in [[0xff; 12], [0x81; 12]] {
        let tar = Tar::new().member(&Header::new("a").field(124, &field), b"");
        assert_fault(run_tar(&tar), Fault::Number);
    }
    let tar = Tar::new().member(&Header::new("a").field(124, b"0000000001x\0"), b"");
    assert_fault(run_tar(&tar), Fault::Number);
}

/// A whole archive that holds one file named `smuggled`.
fn smuggled() -> Vec<u8> {
    Tar::new().file("smuggled", "evil").build()
}

#[test]
fn a10_the_pax_size_wins_over_zero() {
    let inner = smuggled();
    let tar = Tar::new()
        .pax(&[("size", inner.len().to_string().as_bytes())])
        .member(&Header::new("nested.tar"), &inner)
        .file("after", "y");
    let extracted = run_tar(&tar).unwrap();
    assert_eq!(names(&extracted), ["after", "nested.tar"]);
    assert_eq!(
        extracted.files.get("nested.tar").unwrap().read().unwrap(),
        inner
    );
}

#[test]
fn a11_the_pax_size_wins_over_another() {
    let inner = smuggled();
    for stated in [1, 512, 1024, 1 << 20] {
        let tar = Tar::new()
            .pax(&[("size", inner.len().to_string().as_bytes())])
            .member(&Header::new("nested.tar").size(stated), &inner)
            .file("after", "y");
        let extracted = run_tar(&tar).unwrap();
        assert_eq!(names(&extracted), ["after", "nested.tar"], "{stated}");
    }
    // Also when it comes before a long name, and when it is given twice: the last one counts.
    let size = inner.len().to_string();
    let tar = Tar::new()
        .pax(&[("size", b"0"), ("size", size.as_bytes())])
        .long_name(b"nested.tar")
        .member(&Header::new("x"), &inner)
        .file("after", "y");
    assert_eq!(names(&run_tar(&tar).unwrap()), ["after", "nested.tar"]);
}

#[test]
fn a11_headers_that_tar_programs_read_differently_are_refused() {
    let inner = smuggled();
    // A size for all members: some programs apply it, some do not.
    let records = pax_records(&[("size", b"1024")]);
    let tar = Tar::new()
        .extension(b'g', &records)
        .member(&Header::new("a"), &inner);
    assert_fault(run_tar(&tar), Fault::Global);
    let records = pax_records(&[("path", b"elsewhere")]);
    assert_fault(
        run_tar(&Tar::new().extension(b'g', &records).file("a", "x")),
        Fault::Global,
    );
    // Two names.
    let tar = Tar::new()
        .long_name(b"one")
        .pax(&[("path", b"two")])
        .file("three", "x");
    assert_fault(run_tar(&tar), Fault::Repeated);
    // Two headers of one kind.
    let tar = Tar::new()
        .pax(&[("path", b"one")])
        .pax(&[("path", b"two")])
        .file("three", "x");
    assert_fault(run_tar(&tar), Fault::Repeated);
    let tar = Tar::new()
        .long_name(b"one")
        .long_name(b"two")
        .file("three", "x");
    assert_fault(run_tar(&tar), Fault::Repeated);
    // Content where the kind has none: skipped by some, read as members by others.
    for kind in [b'2', b'3', b'4', b'5', b'6'] {
        let header = Header::new("a").kind(kind).size(inner.len() as u64);
        assert_fault(run_tar(&Tar::new().member(&header, &inner)), Fault::Body);
    }
    let size = inner.len().to_string();
    let tar = Tar::new().pax(&[("size", size.as_bytes())]);
    assert_fault(
        run_tar(&tar.member(&Header::new("a").kind(b'1'), &inner)),
        Fault::Body,
    );
    // A hard link of old programs states the size of its target, and all agree about that.
    let link = Header::new("l").kind(b'1').size(9).link_to("config/id");
    let extracted = run_tar(&honest().member(&link, b"").file("z", "")).unwrap();
    assert_eq!(names(&extracted), ["config/id", "config/node/a.json", "z"]);
}

#[test]
fn a12_malformed_pax_records_are_refused() {
    let malformed: &[&[u8]] = &[
        b"6 a=b\n7 path=x\n",
        b"3 a=b\n",
        b"0 a=b\n",
        b"7 a=b\n",
        b"999 a=b\n",
        b"99999999999999999999999 a=b\n",
        b" 7 a=b\n",
        b"+6 a=b\n",
        b"-6 a=b\n",
        b"a=b\n",
        b"6 a=bc",
        b"6 abc\n",
        b"5 =b\n",
        b"6 a=b\n\0\0\0",
        b"\n",
        b"9 size=\n",
        b"10 size=x\n",
        b"11 size=-1\n",
        b"11 size=+1\n",
        b"12 size=1.5\n",
        b"32 size=99999999999999999999999\n",
        b"8 path=\n",
        b"12 path=a\0b\n",
        b"11 mtime=x\n",
        b"14 mtime=1.2x\n",
    ];
    for records in malformed {
        let text = records.escape_ascii().to_string();
        for kind in [b'x', b'X', b'g'] {
            let result = run_tar(&Tar::new().extension(kind, records).file("config/id", "x"));
            match result {
                Err(Error::Corrupt {
                    fault: Fault::Pax, ..
                }) => {}
                other => panic!("{text}: {other:?}"),
            }
        }
    }
    // A record may hold newlines and blanks: the length counts, not the form.
    let tar = Tar::new().pax(&[("comment", b"a\n6 b=c\n d")]).pax(&[]);
    assert_fault(run_tar(&tar.file("a", "")), Fault::Repeated);
    let tar = Tar::new()
        .pax(&[("comment", b"9 path=x\n 9"), ("path", b"a\nb")])
        .file("c", "");
    assert_eq!(names(&run_tar(&tar).unwrap()), ["a\\nb"]);
}

#[test]
fn a13_extension_headers_are_bounded() {
    let most = limits::MAX_EXTENSION as usize;
    for kind in [b'x', b'g', b'L', b'K'] {
        let body = |length: usize| match kind {
            b'x' | b'g' => {
                let frame = pax_records(&[("comment", &vec![b'c'; length - 40])]).len();
                pax_records(&[("comment", &vec![b'c'; 2 * length - 40 - frame])])
            }
            b'L' => [b"name".as_slice(), &vec![0; length - 4]].concat(),
            _ => vec![b'n'; length],
        };
        let fits = body(most);
        assert_eq!(fits.len(), most);
        // Not gzipped: that much of one byte is over the ratio.
        run(&Tar::new().extension(kind, &fits).file("a", "x").build()).unwrap();
        let over = body(most + 1);
        assert_eq!(over.len(), most + 1);
        let result = run(&Tar::new().extension(kind, &over).file("a", "x").build());
        assert_fault(result, Fault::Extension);

        // 100 MiB announced: not a byte of it is read.
        let header = Header::new("x").kind(kind).size(100 << 20).bytes();
        let mut rest = Endless::new(vec![b'a'; 1 << 16]);
        let result = {
            let mut body = (&header[..]).chain(&mut rest);
            run_with(&mut body, &Limits::default(), everything())
        };
        assert_fault(result, Fault::Extension);
        assert!(rest.read <= 256 << 10);
    }
}

#[test]
fn a13_an_extension_header_needs_its_member() {
    let tar = honest().pax(&[("path", b"a")]);
    assert_fault(run_tar(&tar), Fault::Orphan);
    assert_fault(run(&tar.unended()), Fault::Orphan);
    assert_fault(run_tar(&honest().long_name(b"a")), Fault::Orphan);
    assert_fault(run_tar(&honest().extension(b'K', b"a")), Fault::Orphan);
    // One for the whole archive may come last.
    run_tar(&honest().extension(b'g', &pax_records(&[("comment", b"a")]))).unwrap();
}

#[test]
fn a14_long_names_are_bounded() {
    let component = "c".repeat(255);
    let name = |parts: usize| [component.as_str(); 20][..parts].join("/");
    run_tar(&Tar::new().file(name(15), "x")).unwrap();
    assert_danger(run_tar(&Tar::new().file(name(17), "x")), Danger::TooLong);
    assert_danger(
        run_tar(&Tar::new().file(format!("{component}c"), "x")),
        Danger::ComponentTooLong,
    );
    let deep = |depth: usize| format!("{}x", "d/".repeat(depth - 1));
    run_tar(&Tar::new().file(deep(64), "x")).unwrap();
    assert_danger(run_tar(&Tar::new().file(deep(65), "x")), Danger::TooDeep);
    assert_danger(run_tar(&Tar::new().directory(&deep(65))), Danger::TooDeep);
    assert_danger(
        run_tar(&Tar::new().long_name(deep(10_000).as_bytes()).file("x", "")),
        Danger::TooDeep,
    );
    // Slashes are not depth.
    let tar = Tar::new()
        .file(format!("{}x", "/".repeat(10_000)), "x")
        .file("y", "");
    assert_eq!(names(&run_tar(&tar).unwrap()), ["x", "y"]);
}

#[test]
fn a15_names_are_bytes() {
    let tar = Tar::new()
        .file(b"config/caf\xe9", "x")
        .file(b"\xff\xfe/\x80", "y");
    let extracted = run_tar(&tar).unwrap();
    assert_eq!(
        extracted
            .files
            .get(b"config/caf\xe9")
            .unwrap()
            .read()
            .unwrap(),
        b"x"
    );
    assert_eq!(
        extracted
            .files
            .get(b"\xff\xfe/\x80")
            .unwrap()
            .read()
            .unwrap(),
        b"y"
    );
}

#[test]
fn a16_control_characters_are_kept_and_never_shown_raw() {
    let tar = Tar::new().file("a\nb\x1b[31m", "x").file("c d", "");
    assert_eq!(names(&run_tar(&tar).unwrap()), ["a\\nb\\x1b[31m", "c d"]);
    let tar = Tar::new().file("\x1b]0;evil\x07\n/../x", "x");
    let error = assert_reason(run_tar(&tar), Reason::ArchiveUnsafe);
    let text = chain(&error);
    assert!(
        text.chars().all(|character| !character.is_control()),
        "{text:?}"
    );
    // And 10 KiB of them do not fill a log line.
    let error = assert_reason(
        run_tar(&Tar::new().file(" ".repeat(10 << 10), "")),
        Reason::ArchiveUnsafe,
    );
    assert!(chain(&error).len() < 300);
}

#[test]
fn a17_the_last_of_equal_names_wins() {
    let tar = Tar::new()
        .member(&Header::new("config/id").size(5).mtime(1), b"first")
        .file("config/a", "a")
        .member(&Header::new("./config//id").size(4).mtime(2), b"last");
    let extracted = run_tar(&tar).unwrap();
    assert_eq!(
        extracted.files.get("config/id").unwrap().read().unwrap(),
        b"last"
    );
    assert_eq!(extracted.config_id_mtime, Some(2));
    assert_eq!(extracted.files.len(), 2);
    assert_eq!(extracted.entries, 3);
}

#[test]
fn a17_a_later_directory_takes_the_place_of_a_file() {
    let tar = honest().directory("config/id").file("config/id/x", "y");
    let extracted = run_tar(&tar).unwrap();
    assert_eq!(names(&extracted), ["config/id/x", "config/node/a.json"]);
    assert_eq!(extracted.config_id_mtime, None);
}

#[test]
fn a18_zeros_behind_the_end_are_padding() {
    let mut gzipped = honest().gzip();
    gzipped.resize(gzipped.len() + 100_000, 0);
    run(&gzipped).unwrap();
    let mut plain = honest().build();
    plain.resize(plain.len() + 100_000, 0);
    run(&plain).unwrap();
    run(&gzip(&plain)).unwrap();
}

#[test]
fn a18_other_bytes_behind_the_last_member_are_not() {
    for rest in [
        b"x".as_slice(),
        b"\0\0x",
        b"\x1f",
        b"\x1f\x8b",
        b"\0\x1f\x8b\x08",
    ] {
        let body = [honest().gzip().as_slice(), rest].concat();
        assert_reason(run(&body), Reason::ArchiveCorrupt);
    }
    // Zeros fill a whole buffer first.
    let body = [honest().gzip(), vec![0; 200_000], vec![1]].concat();
    assert!(matches!(run(&body), Err(Error::TrailingBytes)));
}

#[test]
fn a18_what_follows_the_end_of_the_archive_is_checked_and_ignored() {
    let tar = honest().raw(&[0; 2 * BLOCK]).file("hidden", "x");
    assert_eq!(
        names(&run_tar(&tar).unwrap()),
        ["config/id", "config/node/a.json"]
    );
    // A damaged trailer is found there as well.
    let mut body = tar.gzip();
    let last = body.len() - 1;
    body[last] ^= 1;
    assert_reason(run(&body), Reason::ArchiveCorrupt);
}

#[test]
fn a19_gzip_members_are_one_stream() {
    let tar = honest().build();
    for cut in [0, 1, 511, 512, 600, 1000, tar.len()] {
        let (first, second) = tar.split_at(cut);
        let body = [gzip(first), gzip(b""), gzip(b""), gzip(second), gzip(b"")].concat();
        assert_eq!(
            contents(&run(&body).unwrap()),
            contents(&run(&tar).unwrap()),
            "{cut}"
        );
    }
    // One member for each byte.
    let body: Vec<u8> = tar.iter().flat_map(|byte| gzip(&[*byte])).collect();
    assert_eq!(
        contents(&run(&body).unwrap()),
        contents(&run(&tar).unwrap())
    );
}

#[test]
fn a20_a_gzip_stream_cut_anywhere_is_corrupt() {
    let body = honest().file("n", noise(300)).gzip();
    for length in 2..body.len() {
        assert_reason(run(&body[..length]), Reason::ArchiveCorrupt);
    }
    // Also in a later member, where everything that matters was read.
    let two = [honest().gzip(), gzip(b"more")].concat();
    for length in honest().gzip().len() + 1..two.len() {
        assert_reason(run(&two[..length]), Reason::ArchiveCorrupt);
    }
}

#[test]
fn a21_a_wrong_trailer_is_corrupt() {
    let body = honest().gzip();
    for bit in 0..64 {
        let mut body = body.clone();
        let at = body.len() - 8 + bit / 8;
        body[at] ^= 1 << (bit % 8);
        assert_reason(run(&body), Reason::ArchiveCorrupt);
        // And that of a member in the middle.
        let body = [body, gzip(b"")].concat();
        assert_reason(run(&body), Reason::ArchiveCorrupt);
    }
}

#[test]
fn a22_a_tar_stream_cut_in_a_member_is_corrupt() {
    let tar = honest().file("last", "content").unended();
    let start = tar.len() - 2 * BLOCK;
    for length in start + 1..tar.len() {
        let cut = &tar[..length];
        if length % 16 == 0 {
            assert!(matches!(run(&gzip(cut)), Err(Error::Cut)), "{length}");
        }
        assert!(matches!(run(cut), Err(Error::Cut)), "{length}");
    }
}

#[test]
fn a23_a_tar_stream_needs_no_end() {
    let expected = contents(&run(&honest().build()).unwrap());
    let tar = honest().unended();
    assert_eq!(contents(&run(&gzip(&tar)).unwrap()), expected);
    assert_eq!(contents(&run(&tar).unwrap()), expected);
    // One zero block is an end too, and so are fewer zeros: GNU tar says so.
    for zeros in [1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK - 1] {
        let tar = [tar.clone(), vec![0; zeros]].concat();
        assert_eq!(contents(&run(&tar).unwrap()), expected, "{zeros}");
        assert_eq!(contents(&run(&gzip(&tar)).unwrap()), expected, "{zeros}");
    }
    // Anything else is a header that is cut, and an extension header still needs its member.
    let cut = [tar.clone(), vec![0; 100], vec![1]].concat();
    assert!(matches!(run(&cut), Err(Error::Cut)));
    let orphan = Tar::new().pax(&[("comment", b"x")]).unended();
    let orphan = [tar, orphan, vec![0; 100]].concat();
    assert_reason(run(&orphan), Reason::ArchiveCorrupt);
}

#[test]
fn a24_what_is_no_archive_is_refused_from_its_first_bytes() {
    let error_page = format!("<?xml version=\"1.0\"?><Error>{}</Error>", "x".repeat(1000));
    let png = [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &noise(1000)].concat();
    let bodies: &[&[u8]] = &[
        b"<Error/>",
        error_page.as_bytes(),
        b"{\"a\": 1}",
        b"x",
        b"\0",
        b"\x1f",
        &[0; 511],
        &png,
        &noise(100_000),
    ];
    for body in bodies {
        let shown = body[..body.len().min(20)].escape_ascii().to_string();
        let error = run(body).expect_err(&shown);
        assert_eq!(
            error.reason(),
            Some(Reason::NotAnArchive),
            "{shown}: {error:?}"
        );
        let error = run(&gzip(body)).expect_err(&shown);
        assert_eq!(
            error.reason(),
            Some(Reason::NotAnArchive),
            "{shown}, gzipped: {error:?}"
        );
    }
    let mut endless = Endless::new(b"<html>".repeat(1000));
    let result = run_with(&mut endless, &Limits::default(), everything());
    assert_reason(result, Reason::NotAnArchive);
    assert!(endless.read <= 64 << 10);
}

#[test]
fn a25_an_empty_body_is_its_own_reason() {
    assert_reason(run(b""), Reason::ArchiveEmpty);
    assert_reason(run(&gzip(b"")), Reason::ArchiveEmpty);
    assert_reason(run_tar(&Tar::new()), Reason::ArchiveEmpty);
    let comment = pax_records(&[("comment", b"x")]);
    assert_reason(
        run_tar(&Tar::new().extension(b'g', &comment)),
        Reason::ArchiveEmpty,
    );
    // Directories are members.
    assert_eq!(run_tar(&Tar::new().directory("./")).unwrap().entries, 1);
}

#[test]
fn a26_other_containers_are_named() {
    let gzip_in_gzip = gzip(&honest().gzip());
    let bodies: &[(&[u8], &str)] = &[
        (b"PK\x03\x04rest", "zip"),
        (b"PK\x05\x06", "zip"),
        (b"\xfd7zXZ\0rest", "xz"),
        (b"BZh91AY&SYrest", "bzip2"),
        (b"BZh9\x17\x72\x45\x38\x50\x90", "bzip2"),
        (b"\x28\xb5\x2f\xfdrest", "zstd"),
        (b"\x50\x2a\x4d\x18\x01\0\0\0x\x28\xb5\x2f\xfd", "zstd"),
        (b"\x5d\0\0\x80\0rest", "lzma"),
        (b"\x89LZO\0\r\n\x1a\nrest", "lzop"),
        (b"\x04\x22\x4d\x18rest", "lz4"),
        (b"\x02\x21\x4c\x18rest", "lz4"),
        (b"\xff\x06\0\0sNaPpYrest", "snappy"),
        (b"070701rest", "cpio"),
        (b"!<arch>\ndebian-binary", "ar"),
        (b"MSCF\0\0\0\0rest", "cab"),
        (b"xar!rest", "xar"),
        (&gzip_in_gzip, "gzip in gzip"),
    ];
    for (body, name) in bodies {
        let error = assert_reason(run(body), Reason::UnsupportedContainer);
        assert!(error.to_string().contains(name), "{error}");
        if *name != "gzip in gzip" {
            assert_reason(run(&gzip(body)), Reason::UnsupportedContainer);
        }
    }
    // A name that looks like one is none.
    for name in [
        &b"PK\x03\x04"[..],
        b"BZh91AY&SY",
        b"070701",
        b"\x1f\x8b\x08",
    ] {
        let extracted = run_tar(&Tar::new().file(name, "x")).unwrap();
        assert_eq!(extracted.entries, 1, "{name:?}");
    }
}

#[test]
fn a27_the_identity_file_may_be_anything() {
    assert!(
        run_tar(&Tar::new().file("a", ""))
            .unwrap()
            .files
            .get("config/id")
            .is_none()
    );
    let directory = run_tar(&Tar::new().directory("config/id").file("config/id/a", "")).unwrap();
    assert!(directory.files.get("config/id").is_none());
    let empty = run_tar(&Tar::new().file("config/id", "")).unwrap();
    assert_eq!(empty.files.get("config/id").unwrap().read().unwrap(), b"");

    let limits = Limits {
        document_size: 1 << 20,
        ..Limits::default()
    };
    let large = run_limited(
        &Tar::new().file("config/id", noise(3 << 20)).gzip(),
        &limits,
    )
    .unwrap();
    let id = large.files.get("config/id").unwrap();
    assert!(id.is_too_large());
    assert_eq!(id.size(), 3 << 20);
    assert_eq!(id.read().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
}

#[test]
fn a30_hostile_deflate_streams_are_errors() {
    let streams: &[(&str, &[u8])] = &[
        ("reserved block type", &[0b111, 0, 0, 0]),
        (
            "stored length mismatch",
            &[0b001, 5, 0, 5, 0, 1, 2, 3, 4, 5],
        ),
        (
            "distance beyond the window",
            &[0x4b, 0x04, 0xd2, 0x00, 0x00],
        ),
        ("all ones", &[0xff; 64]),
        (
            "oversubscribed code lengths",
            &[0b101, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        ("nothing", &[]),
    ];
    for (name, stream) in streams {
        let body = [GZIP_HEADER.as_slice(), stream, &[0; 8]].concat();
        let error = run(&body).expect_err(name);
        assert_eq!(
            error.reason(),
            Some(Reason::ArchiveCorrupt),
            "{name}: {error:?}"
        );
    }
}

/// Interrupts from the n-th question on.
fn after(asked: &Cell<u64>, limit: u64) -> Option<Interrupt> {
    asked.set(asked.get() + 1);
    (asked.get() > limit).then_some(Interrupt::Deadline)
}

#[test]
fn a30_streams_without_output_are_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let empty_blocks = (&GZIP_HEADER[..]).chain(Endless::new(vec![0, 0, 0, 0xff, 0xff]));
    let empty_members = Endless::new(gzip(b""));
    let padding = gzip(&honest().build());
    let padding = (&padding[..]).chain(Endless::new(vec![0; 100]));
    let bodies: [Box<dyn Read>; 3] = [
        Box::new(empty_blocks),
        Box::new(empty_members),
        Box::new(padding),
    ];
    for mut body in bodies {
        let asked = Cell::new(0);
        let result = extract(
            &mut body,
            &Limits::default(),
            everything(),
            dir.path(),
            &|| after(&asked, 100),
        );
        assert!(
            matches!(result, Err(Error::Interrupted(Interrupt::Deadline))),
            "{result:?}"
        );
        assert_reason(result, Reason::Timeout);
    }
}

#[test]
fn a30_an_endless_field_of_a_gzip_header_is_interrupted() {
    let dir = tempfile::tempdir().unwrap();
    let header = [0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 255];
    let mut body = (&header[..]).chain(Endless::new(vec![b'n'; 1000]));
    let asked = Cell::new(0);
    let interrupted = || after(&asked, 1000);
    let result = extract(
        &mut body,
        &Limits::default(),
        everything(),
        dir.path(),
        &interrupted,
    );
    assert!(matches!(result, Err(Error::Interrupted(_))), "{result:?}");
}

#[test]
fn a31_one_wrong_bit_in_a_header_is_corrupt() {
    // The first header and the last one; plain, since gzip has a checksum of its own.
    let tar = honest().build();
    for start in [0, tar.len() - 4 * BLOCK] {
        for bit in 0..8 * BLOCK {
            let mut tar = tar.clone();
            tar[start + bit / 8] ^= 1 << (bit % 8);
            let Err(error) = run(&tar) else {
                // The blanks around the number may become each other.
                assert!(
                    (148..156).contains(&(bit / 8)),
                    "bit {bit} of the header at {start}"
                );
                continue;
            };
            assert_eq!(
                error.reason(),
                Some(Reason::ArchiveCorrupt),
                "bit {bit}: {error:?}"
            );
            if bit % 16 == 0 {
                let gzipped = run(&gzip(&tar)).unwrap_err();
                assert_eq!(gzipped.to_string(), error.to_string(), "bit {bit}");
            }
        }
    }
    // No search for the next header.
    let bad = Header::new("bad").checksum(b"0000000\0");
    assert_fault(
        run_tar(&honest().member(&bad, b"").file("after", "x")),
        Fault::Checksum,
    );
    let junk = honest().raw(&[b'x'; BLOCK]).file("after", "x");
    assert_fault(run_tar(&junk), Fault::Checksum);
}

#[test]
fn a31_checksums_over_signed_bytes_are_right_too() {
    let name = b"caf\xe9";
    let header = Header::new(name);
    let unsigned: u32 = header.bytes().iter().map(|byte| u32::from(*byte)).sum();
    // `bytes` has put the digits in; with blanks instead the sum is the stated one.
    let field: u32 = header.bytes()[148..156]
        .iter()
        .map(|byte| u32::from(*byte))
        .sum();
    let signed = unsigned - field + 8 * 32 - 256;
    let text: [u8; 8] = format!("{signed:06o}\0 ").into_bytes().try_into().unwrap();
    run_tar(&Tar::new().member(&header.checksum(&text), b"")).unwrap();
}

#[test]
fn a32_every_spelling_is_found() {
    for name in ["a/b", "./a/b", "a//b", "a/./b", "/a/b", "a/b/", ".//a/./b"] {
        let extracted = run_tar(&Tar::new().file(name, "x").file("z", "")).unwrap();
        assert_eq!(
            extracted.files.get("a/b").unwrap().read().unwrap(),
            b"x",
            "{name}"
        );
        assert_eq!(names(&extracted), ["a/b", "z"]);
    }
    for name in [".", "./", "/", "//."] {
        let extracted = run_tar(&honest().directory(name)).unwrap();
        assert_eq!(names(&extracted), ["config/id", "config/node/a.json"]);
        // A file there has no name to be found by.
        let extracted = run_tar(&honest().file(name, "x").file("z", "")).unwrap();
        assert_eq!(names(&extracted), ["config/id", "config/node/a.json", "z"]);
        assert_eq!(extracted.ignored.other, 1);
    }
    // The directory of old programs.
    let old = Header::new("config/").v7().kind(0);
    assert_eq!(
        names(&run_tar(&Tar::new().member(&old, b"").file("config/a", "")).unwrap()),
        ["config/a"]
    );
    let prefixed = Header::new("b").prefix("config/a").size(1);
    assert_eq!(
        names(&run_tar(&Tar::new().member(&prefixed, b"x")).unwrap()),
        ["config/a/b"]
    );
}

#[test]
fn a_member_below_a_file_is_corrupt() {
    assert_fault(
        run_tar(&Tar::new().file("a", "x").file("a/b", "y")),
        Fault::BelowFile,
    );
    assert_fault(
        run_tar(&Tar::new().file("a/b", "x").file("a/b/c/d", "y")),
        Fault::BelowFile,
    );
    let fifo = Tar::new()
        .member(&Header::new("f").kind(b'6'), b"")
        .file("f/x", "y");
    assert_fault(run_tar(&fifo), Fault::BelowFile);
    // Another name that begins alike, and the same file again.
    run_tar(&Tar::new().file("a", "x").file("ab/c", "y").file("a", "z")).unwrap();
}

#[test]
fn one_common_directory_is_dropped() {
    let below = Tar::new()
        .directory("top")
        .file("top/config/id", "id")
        .file("top/config/version.json", "{}")
        .file("top/events/a.json", "{}");
    let wanted = Wanted::new(&[("config/version.json", false)]).unwrap();
    let run = |tar: &Tar| run_with(&mut &tar.gzip()[..], &Limits::default(), &wanted).unwrap();

    let extracted = run(&below);
    assert_eq!(names(&extracted), ["config/id", "config/version.json"]);
    assert_eq!(extracted.config_id_mtime, Some(MTIME));
    // One member beside it, of any kind, and it stays.
    for beside in [below.clone().file("x", ""), below.clone().symlink("x", "y")] {
        let extracted = run(&beside);
        assert!(extracted.files.is_empty());
        assert_eq!(extracted.config_id_mtime, None);
    }
    // `config` itself is no such directory.
    let config = Tar::new()
        .file("config/version.json", "{}")
        .file("config/config/version.json", "");
    assert_eq!(names(&run(&config)), ["config/version.json"]);
    // The root may be a member.
    assert_eq!(
        names(&run(&Tar::new().directory("./").raw(&below.unended()))).len(),
        2
    );
}

#[test]
fn only_wanted_names_are_kept() {
    let wanted = Wanted::new(&[
        ("config/node/*.json", false),
        ("config/pod/*/logs/*.log", true),
    ]);
    let wanted = wanted.unwrap();
    let tar = Tar::new()
        .file("config/node/a.json", "1")
        .file("config/node/b", "2")
        .file("config/node/deep/c.json", "3")
        .file("config/pod/p/logs/x.log", "4")
        .file("config/other.json", "5")
        .file("config/id", "6");
    let extracted = run_with(&mut &tar.gzip()[..], &Limits::default(), &wanted).unwrap();
    let expected = [
        "config/id",
        "config/node/a.json",
        "config/node/b",
        "config/pod/p/logs/x.log",
    ];
    assert_eq!(names(&extracted), expected);
    let below: Vec<_> = extracted
        .files
        .starting_with(b"config/node/")
        .map(|file| file.size())
        .collect();
    assert_eq!(below, [1, 1]);
    // What is not wanted is checked all the same.
    let cut = tar.file("config/node/deep/d.json", noise(5_000)).unended();
    let cut = gzip(&cut[..cut.len() - 3_000]);
    assert_reason(
        run_with(&mut &cut[..], &Limits::default(), &wanted),
        Reason::ArchiveCorrupt,
    );
}

#[test]
fn documents_are_bounded_and_logs_are_not() {
    let limits = Limits {
        document_size: 1000,
        ..Limits::default()
    };
    for (size, too_large) in [(999, false), (1000, false), (1001, true)] {
        let body = noise(size);
        let tar = Tar::new()
            .file("config/a.json", &body)
            .file("config/a.log", &body);
        let extracted = run_limited(&tar.gzip(), &limits).unwrap();
        assert_eq!(
            extracted.files.get("config/a.json").unwrap().is_too_large(),
            too_large
        );
        assert_eq!(
            extracted.files.get("config/a.log").unwrap().read().unwrap(),
            body
        );
    }
}

#[test]
fn large_documents_and_small_ones_keep_their_bytes() {
    let mut expected = BTreeMap::new();
    let mut tar = Tar::new();
    let sizes = [
        0, 1, 511, 512, 513, 65_535, 65_536, 65_537, 131_072, 1_000_000, 0, 7,
    ];
    for (index, size) in sizes.into_iter().enumerate() {
        let body = noise(size);
        tar = tar.file(format!("f{index:02}"), &body);
        expected.insert(format!("f{index:02}").into_bytes(), body);
    }
    let extracted = run_tar(&tar).unwrap();
    assert_eq!(contents(&extracted), expected);
    let mut text = String::new();
    let mut open = extracted.files.get("f09").unwrap().open().unwrap();
    let _ = open.by_ref().take(10).read_to_string(&mut text);
    let mut rest = Vec::new();
    open.read_to_end(&mut rest).unwrap();
    assert!(rest.len() >= 1_000_000 - 10);
}

#[test]
fn sparse_members_are_expanded_under_limits() {
    let data = noise(1024);
    let tar = sparse(
        "config/s",
        10_000,
        &[(512, &data[..512]), (4096, &data[512..])],
    );
    let mut expected = vec![0; 10_000];
    expected[512..1024].copy_from_slice(&data[..512]);
    expected[4096..4608].copy_from_slice(&data[512..]);
    let extracted = run_tar(&tar.file("z", "z")).unwrap();
    assert_eq!(
        extracted.files.get("config/s").unwrap().read().unwrap(),
        expected
    );
    assert_eq!(extracted.files.get("config/s").unwrap().size(), 10_000);
    assert_eq!(extracted.files.get("z").unwrap().read().unwrap(), b"z");

    // More segments than the header holds.
    let segments: Vec<(u64, &[u8])> = (0..60).map(|index| (index * 2048, &data[..512])).collect();
    let extracted = run_tar(&sparse("s", 60 * 2048, &segments).file("z", "z")).unwrap();
    let bytes = extracted.files.get("s").unwrap().read().unwrap();
    assert_eq!(bytes.len(), 60 * 2048);
    for (index, block) in bytes.chunks(2048).enumerate() {
        assert_eq!(
            (&block[..512], &block[512..]),
            (&data[..512], &[0; 1536][..]),
            "{index}"
        );
    }

    // The size it stands for counts before a byte of it is made.
    let limits = Limits {
        unpacked_size: 1 << 20,
        ratio: u64::MAX,
        ..Limits::default()
    };
    let bomb = sparse("s", 1 << 50, &[(0, &data[..512])]);
    assert_reason(run_limited(&bomb.gzip(), &limits), Reason::ArchiveTooLarge);
    let unpacked = sparse("s", 512, &[(0, &data[..512])]).build().len() as u64;
    for (hole, fits) in [
        ((1 << 20) - unpacked, true),
        ((1 << 20) - unpacked + 1, false),
    ] {
        let tar = sparse("s", 512 + hole, &[(0, &data[..512])]);
        assert_eq!(run_limited(&tar.gzip(), &limits).is_ok(), fits);
    }
    let bomb = sparse("s", 500 << 20, &[(0, &data[..512])]);
    assert_reason(run(&bomb.gzip()), Reason::ArchiveRatio);
}

#[test]
fn sparse_maps_that_contradict_themselves_are_corrupt() {
    let data = noise(2048);
    type Map<'a> = &'a [(u64, u64)];
    let maps: &[(u64, u64, Map<'_>)] = &[
        (4096, 1024, &[(1024, 512), (0, 512)]),
        (4096, 1024, &[(0, 1024), (512, 512)]),
        (100, 512, &[(0, 512)]),
        (4096, 1024, &[(0, 512)]),
        (4096, 512, &[(0, 512), (1024, 512)]),
        (4096, 1000, &[(0, 488), (1024, 512)]),
        (u64::MAX, 512, &[(u64::MAX - 3, 512)]),
    ];
    for (size, tape, map) in maps {
        let tar = sparse_with_map("s", *size, *tape, map, &data[..*tape as usize]);
        let limits = Limits {
            unpacked_size: u64::MAX,
            ratio: u64::MAX,
            ..Limits::default()
        };
        assert_fault(run_limited(&tar.build(), &limits), Fault::Sparse);
    }
    // Not GNU's header, and a size from elsewhere.
    let posix = Header::new("s").kind(b'S').field(483, &octal12(0));
    assert_fault(run_tar(&Tar::new().member(&posix, b"")), Fault::Sparse);
    let tar = Tar::new()
        .pax(&[("size", b"0")])
        .raw(&sparse("s", 0, &[]).unended());
    assert_fault(run_tar(&tar), Fault::Sparse);
    // A map without end.
    let mut block = vec![0; BLOCK];
    block[504] = 1;
    let header = Header::new("s")
        .gnu()
        .kind(b'S')
        .field(483, &octal12(0))
        .field(482, &[1]);
    let header = header.bytes();
    let mut body = (&header[..]).chain(Endless::new(block));
    assert_fault(
        run_with(&mut body, &Limits::default(), everything()),
        Fault::Extension,
    );
}

#[test]
fn pax_sparse_members_are_counted_and_left() {
    let tar = honest()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.realsize", b"99999999999"),
        ])
        .file("GNUSparseFile.1/s", "1\n0\n512\n")
        .file("z", "z");
    let extracted = run_tar(&tar).unwrap();
    assert_eq!(names(&extracted), ["config/id", "config/node/a.json", "z"]);
    assert_eq!(extracted.ignored.sparse, 1);
}

#[test]
fn the_gathering_time_is_that_of_the_identity_file() {
    let mtime = |tar: Tar| run_tar(&tar.file("z", "")).unwrap().config_id_mtime;
    let header = Header::new("config/id");
    assert_eq!(
        mtime(Tar::new().member(&header.clone().mtime(77), b"")),
        Some(77)
    );
    // The PAX time wins; fractions are dropped; a time before 1970 is none.
    for (text, expected) in [
        ("88", Some(88)),
        ("88.999999999", Some(88)),
        ("-5", None),
        ("-5.5", None),
    ] {
        let tar = Tar::new()
            .pax(&[("mtime", text.as_bytes())])
            .member(&header, b"");
        assert_eq!(mtime(tar), expected, "{text}");
    }
    assert_eq!(
        mtime(Tar::new().member(&header.field(136, &[0xff; 12]), b"")),
        None
    );
    assert_eq!(mtime(Tar::new().file("a/config/id", "")), None);
}

/// Gives some bytes and then an error.
struct Failing<'a>(&'a [u8], i32);

impl Read for Failing<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.0.read(into)? {
            0 => Err(io::Error::from_raw_os_error(self.1)),
            count => Ok(count),
        }
    }
}

#[test]
fn p08_faults_of_the_host_say_nothing_about_the_archive() {
    let body = honest().gzip();
    let dir = tempfile::tempdir().unwrap();
    let gone = dir.path().join("gone");
    let result = extract(
        &mut &body[..],
        &Limits::default(),
        everything(),
        &gone,
        &|| None,
    );
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Host(_)), "{error:?}");
    assert!(error.is_host_fault());
    assert_eq!(error.reason(), None);

    // Whatever the disk says of the body, EIO or the lack of something, and wherever it does.
    for errno in [5, 12, 23, 24, 27, 28, 30, 122] {
        for length in [0, 20, body.len() / 2] {
            let mut body = Failing(&body[..length], errno);
            let error = run_with(&mut body, &Limits::default(), everything()).unwrap_err();
            assert!(matches!(error, Error::Read(_)), "{error:?}");
            assert!(error.is_host_fault(), "{errno}");
            assert_eq!(error.reason(), None, "{errno}");
        }
    }
    // An archive that nothing is kept of needs no disk at all.
    let tar = Tar::new().file("unwanted", "x").gzip();
    let wanted = Wanted::new(&[]).unwrap();
    extract(&mut &tar[..], &Limits::default(), &wanted, &gone, &|| None).unwrap();
}

#[test]
fn p07_kept_documents_are_read_until_the_deadline() {
    let version = r#"{"status": {"desired": {"version": "4.14.3"}}}"#;
    let tar = Tar::new().file("config/version.json", version).gzip();
    let limits = Limits::default();
    let open = || {
        Archive::new(
            run_with(&mut &tar[..], &limits, everything()).unwrap(),
            1 << 20,
        )
    };
    let now = Instant::now();
    let archive = open().until(Some(now + Duration::from_secs(3600)));
    assert!(archive.cluster_version().is_some() && !archive.is_late());
    let archive = open().until(Some(now));
    assert!(archive.cluster_version().is_none() && archive.is_late());
    assert_eq!(archive.damaged(), 0);
    assert!(archive.take_host_fault().is_none());
}

#[test]
fn cancelling_is_no_reason() {
    let body = honest().gzip();
    let dir = tempfile::tempdir().unwrap();
    let cancelled = || Some(Interrupt::Cancelled);
    let error = extract(
        &mut &body[..],
        &Limits::default(),
        everything(),
        dir.path(),
        &cancelled,
    )
    .unwrap_err();
    assert!(matches!(error, Error::Interrupted(Interrupt::Cancelled)));
    assert_eq!(error.reason(), None);
    assert!(!error.is_host_fault());
}

#[test]
fn reads_may_be_short() {
    struct OneByte<'a>(&'a [u8]);
    impl Read for OneByte<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let length = into.len().min(1);
            self.0.read(&mut into[..length])
        }
    }
    for body in [honest().build(), honest().gzip()] {
        let result = run_with(&mut OneByte(&body), &Limits::default(), everything());
        assert_eq!(contents(&result.unwrap()), contents(&run(&body).unwrap()));
    }
}

#[test]
fn the_sample_archive_is_read() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/insights-archive-sample.tar.gz");
    let Ok(body) = fs::read(&path) else {
        println!("skipped: no sample archive beside the repository");
        return;
    };
    let extracted = run(&body).unwrap();
    assert_eq!(extracted.ignored, extract::IgnoredMembers::default());
    compare_with_gnu_tar(&body);
}

/// The regular files that GNU tar makes of an archive; `None` without GNU tar, or when it fails.
fn gnu_tar(body: &[u8]) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let tree = dir.path().join("tree");
    fs::write(&archive, body).unwrap();
    fs::create_dir(&tree).unwrap();
    let output = Command::new("tar")
        .args([
            "--extract",
            "--no-same-owner",
            "--no-same-permissions",
            "--delay-directory-restore",
        ])
        .args(body.starts_with(b"\x1f\x8b").then_some("--gzip"))
        .arg("--file")
        .arg(&archive)
        .current_dir(&tree)
        .env("LC_ALL", "C")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output.status.success().then(|| {
        let mut files = BTreeMap::new();
        collect(&tree, &tree, &mut files);
        files
    })
}

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    use std::os::unix::ffi::OsStrExt as _;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        if metadata.is_dir() {
            collect(root, &path, files);
        } else if metadata.is_file() {
            let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
            files.insert(name.to_vec(), fs::read(&path).unwrap());
        }
    }
}

fn has_gnu_tar() -> bool {
    let version = Command::new("tar")
        .arg("--version")
        .stderr(Stdio::null())
        .output();
    let has = version.is_ok_and(|output| output.stdout.starts_with(b"tar (GNU tar)"));
    if !has {
        println!("skipped: no GNU tar on this machine");
    }
    has
}

#[track_caller]
fn compare_with_gnu_tar(body: &[u8]) {
    if has_gnu_tar() {
        let expected = gnu_tar(body).expect("GNU tar refuses what we accept");
        // Files with holes have any ratio.
        let limits = Limits {
            ratio: u64::MAX,
            ..Limits::default()
        };
        let extracted = contents(&run_limited(body, &limits).unwrap());
        let both = |files: &BTreeMap<Vec<u8>, Vec<u8>>| -> Vec<(String, usize)> {
            files
                .iter()
                .map(|(name, body)| (name.escape_ascii().to_string(), body.len()))
                .collect()
        };
        assert_eq!(both(&extracted), both(&expected));
        assert!(extracted == expected, "contents differ");
    }
}

#[test]
fn archives_written_by_gnu_tar_are_read_alike() {
    if !has_gnu_tar() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let deep = format!("config/{}", "directory-with-a-long-name/".repeat(8));
    fs::create_dir_all(dir.path().join(&deep)).unwrap();
    fs::write(dir.path().join("config/id"), "id").unwrap();
    fs::write(dir.path().join("z"), noise(70_000)).unwrap();
    let short = dir
        .path()
        .join("config/directory-with-a-long-name/short.json");
    fs::write(short, "{}").unwrap();
    let write_long = || {
        fs::write(dir.path().join(&deep).join("n".repeat(120)), "long").unwrap();
        fs::write(dir.path().join("config/new\nline é"), "odd").unwrap();
    };
    let holes = fs::File::create(dir.path().join("config/holes")).unwrap();
    for index in 0..40 {
        std::os::unix::fs::FileExt::write_all_at(&holes, b"data", index * 100_000).unwrap();
    }
    holes.set_len(5_000_000).unwrap();

    for format in ["v7", "ustar", "gnu", "posix"] {
        let has_long_names = matches!(format, "gnu" | "posix");
        if has_long_names {
            write_long();
        } else if format == "v7" {
            // v7 has no place for names over 100 bytes; there are only directories that long.
            fs::remove_dir_all(dir.path().join(&deep[..60])).unwrap();
        } else {
            fs::create_dir_all(dir.path().join(&deep)).unwrap();
        }
        for sparse in [false, true] {
            // PAX sparse members are left out on purpose.
            if sparse && format != "gnu" {
                continue;
            }
            let output = Command::new("tar")
                .args(["--create", "--gzip", "--format", format])
                .args(sparse.then_some("--sparse"))
                .args(["--file", "-", "config", "z"])
                .current_dir(dir.path())
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            compare_with_gnu_tar(&output.stdout);
        }
    }
}

/// A member of a generated archive.
#[derive(Debug, Clone)]
enum Entry {
    File {
        name: String,
        body: Vec<u8>,
        form: u8,
    },
    Directory {
        name: String,
    },
    Fifo {
        name: String,
    },
    Comment,
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    // Few different names, so that some come twice. Directories and files differ in their
    // letters, so that no file has to become a directory.
    let name = "(\\./|/)?([ab]/{1,2}(\\./)?){0,3}[xyz]{1,2}";
    let body = prop::collection::vec(any::<u8>(), 0..1500);
    let entry = prop_oneof![
        6 => (name, body, 0_u8..5).prop_map(|(name, body, form)| Entry::File { name, body, form }),
        2 => "(\\./)?[ab](/[ab]){0,3}/?".prop_map(|name| Entry::Directory { name }),
        1 => "(b/)?f[0-9]".prop_map(|name| Entry::Fifo { name }),
        1 => Just(Entry::Comment),
    ];
    prop::collection::vec(entry, 1..20)
}

fn build(entries: &[Entry]) -> Tar {
    // A file at the root, so that no common directory is dropped.
    entries
        .iter()
        .fold(Tar::new().file("root", "x"), |tar, entry| match entry {
            Entry::File { name, body, form } => {
                let size = body.len().to_string();
                let header = Header::new(name).size(body.len() as u64);
                match form {
                    0 => tar.member(&header, body),
                    1 => tar.member(&header.gnu().kind(b'7'), body),
                    2 => tar
                        .pax(&[("size", size.as_bytes())])
                        .member(&header.size(3), body),
                    3 => tar
                        .pax(&[("path", name.as_bytes())])
                        .member(&Header::new("other").size(body.len() as u64), body),
                    _ => tar
                        .long_name(name.as_bytes())
                        .member(&Header::new("other").gnu().size(body.len() as u64), body),
                }
            }
            Entry::Directory { name } => tar.directory(name),
            Entry::Fifo { name } => tar.member(&Header::new(name).kind(b'6'), b""),
            Entry::Comment => tar.extension(b'g', &pax_records(&[("comment", b"c")])),
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn generated_archives_are_read_as_gnu_tar_does(entries in entries(), cut in any::<prop::sample::Index>()) {
        let tar = build(&entries).build();
        compare_with_gnu_tar(&tar);
        let (first, second) = tar.split_at(cut.index(tar.len()));
        compare_with_gnu_tar(&[gzip(first), gzip(second)].concat());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_archives_never_panic(
        entries in entries(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        gzipped in any::<bool>(),
        length in any::<prop::sample::Index>(),
    ) {
        let limits = Limits { unpacked_size: 1 << 20, entries: 30, ..Limits::default() };
        let mut tar = build(&entries).raw(&sparse("s", 9000, &[(1024, b"data")]).unended()).build();
        if gzipped {
            tar = gzip(&tar);
        }
        for (at, value) in &changes {
            let at = at.index(tar.len());
            tar[at] = *value;
        }
        if changes.len() % 2 == 0 {
            tar.truncate(length.index(tar.len()) + 1);
        }
        match run_limited(&tar, &limits) {
            Ok(extracted) => { contents(&extracted); }
            Err(error) => { prop_assert!(error.reason().is_some(), "{:?}", error); }
        }
    }

    #[test]
    fn headers_with_right_checksums_never_panic(
        fields in prop::collection::vec((0_usize..BLOCK, any::<u8>()), 0..12),
        kind in any::<prop::sample::Index>(),
        records in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        let kinds = b"01234567xgLKSXVMD\0";
        let limits = Limits { unpacked_size: 1 << 20, ..Limits::default() };
        let header = Header::new("config/a").gnu().kind(kinds[kind.index(kinds.len())]);
        let header = fields.iter().fold(header, |header, (at, byte)| header.field(*at, &[*byte]));
        let tar = Tar::new().extension(b'x', &records).member(&header, &records).file("z", "z");
        if let Ok(extracted) = run_limited(&tar.build(), &limits) {
            contents(&extracted);
        }
        let tar = Tar::new().member(&header, &records).file("z", "z");
        if let Ok(extracted) = run_limited(&tar.build(), &limits) {
            contents(&extracted);
        }
    }

    #[test]
    fn caps_hold_up_to_and_including(
        sizes in prop::collection::vec(0_usize..3000, 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..3),
        below in 0_u64..3,
    ) {
        let mut tar = Tar::new();
        for (index, size) in sizes.iter().enumerate() {
            tar = tar.file(format!("f{index}"), noise(*size));
        }
        let tar = tar.build();
        let mut body = Vec::new();
        let mut rest = tar.as_slice();
        for cut in &cuts {
            let (piece, left) = rest.split_at(cut.index(rest.len() + 1));
            body.extend(gzip(piece));
            rest = left;
        }
        body.extend(gzip(rest));
        let total = tar.len() as u64;
        for (limit, fits) in [(total - 1, false), (total, true), (total + below, true)] {
            let limits = Limits { unpacked_size: limit, ..Limits::default() };
            let result = run_limited(&body, &limits);
            prop_assert_eq!(result.is_ok(), fits, "{:?}", result);
        }
        let entries = sizes.len() as u64;
        for (limit, fits) in [(entries - 1, false), (entries, true), (entries + 1, true)] {
            let limits = Limits { entries: limit, ..Limits::default() };
            prop_assert_eq!(run_limited(&body, &limits).is_ok(), fits);
        }
    }
}
