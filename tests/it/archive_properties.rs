//! Properties of extraction: against GNU tar over archives of every form that it reads, and the
//! limits at their edges.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use ccx_data_pipeline::archive::Archive;
use ccx_data_pipeline::archive::extract::{Error, Extracted, Limits, Wanted, extract};
use ccx_data_pipeline::archive::limits::{
    MAX_COMPONENT, MAX_DEPTH, MAX_EXTENSION, MAX_NAME, RATIO_FROM,
};
use ccx_data_pipeline::error::Reason;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::support::archive_builder::{BLOCK, Header, Tar, gzip, pax_records};

fn run(bytes: &[u8], limits: &Limits) -> Result<Extracted, Error> {
    static WANTED: LazyLock<Wanted> =
        LazyLock::new(|| Wanted::new(&[("**/*", false), ("**/*.log", true)]).unwrap());
    let dir = tempfile::tempdir().unwrap();
    extract(&mut &bytes[..], limits, &WANTED, dir.path(), &|| None)
}

fn reason(bytes: &[u8], limits: &Limits) -> Option<Reason> {
    run(bytes, limits)
        .err()
        .map(|error| error.reason().expect("no fault of this host"))
}

fn contents(extracted: &Extracted) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let files = extracted.files.iter_sorted();
    files
        .map(|file| (file.name().to_vec(), file.read().unwrap()))
        .collect()
}

/// Names for a message.
fn shown(files: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<String> {
    files
        .iter()
        .map(|(name, body)| format!("{}: {}", name.escape_ascii(), body.len()))
        .collect()
}

/// What GNU tar makes of an archive.
struct GnuTar {
    /// Regular files, by name.
    files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Members of every kind.
    entries: u64,
}

fn has_gnu_tar() -> bool {
    static HAS: LazyLock<bool> = LazyLock::new(|| {
        let version = Command::new("tar")
            .arg("--version")
            .stderr(Stdio::null())
            .output();
        let has = version.is_ok_and(|output| output.stdout.starts_with(b"tar (GNU tar)"));
        if !has {
            println!("skipped: no GNU tar on this machine");
        }
        has
    });
    *HAS
}

fn gnu_tar(body: &[u8]) -> Result<GnuTar, String> {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let tree = dir.path().join("tree");
    fs::write(&archive, body).unwrap();
    fs::create_dir(&tree).unwrap();
    let tar = |what: &[&str]| {
        let output = Command::new("tar")
            .args(what)
            .args(body.starts_with(b"\x1f\x8b").then_some("--gzip"))
            .arg("--file")
            .arg(&archive)
            .current_dir(&tree)
            .env("LC_ALL", "C")
            .output()
            .unwrap();
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    };
    let listed = tar(&["--list", "--quoting-style=escape"])?;
    tar(&[
        "--extract",
        "--no-same-owner",
        "--no-same-permissions",
        "--delay-directory-restore",
    ])?;
    let mut files = BTreeMap::new();
    collect(&tree, &tree, &mut files);
    let entries = listed.iter().filter(|byte| **byte == b'\n').count();
    Ok(GnuTar {
        files,
        entries: entries as u64,
    })
}

fn collect(root: &Path, dir: &Path, files: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
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

/// How a regular file is written into a stream.
#[derive(Debug, Clone, Copy)]
enum Form {
    Ustar,
    /// Directories in the field for them.
    Prefix,
    Gnu,
    V7,
    Contiguous,
    PaxPath,
    /// Size in the PAX header, another one in the header itself.
    PaxSize(u64),
    PaxBoth,
    GnuLong,
    Base256,
}

/// A member of a generated archive.
#[derive(Debug, Clone)]
enum Member {
    File(Vec<u8>, Vec<u8>, Form),
    Directory(Vec<u8>),
    Symlink(String),
    /// To the file at the root, which comes first.
    Hardlink(String),
    Fifo(String),
    Label,
    Comment,
}

/// Names that meet each other, in many spellings, and some that are long or of odd bytes.
/// Directories are made of `a` and `b`, files of other letters, so that none takes the other's
/// place on disk.
fn file_name() -> impl Strategy<Value = Vec<u8>> {
    let directories = "(\\./|/)?([ab]/{1,2}(\\./)?){0,4}";
    let plain = (directories, "[xyz]{1,2}").prop_map(|(a, b)| (a + &b).into_bytes());
    let odd =
        (directories, prop::collection::vec(1_u8.., 1..20)).prop_map(|(directories, mut odd)| {
            odd.retain(|byte| *byte != b'/');
            [directories.as_bytes(), b"o", &odd].concat()
        });
    let long = (directories, 90_usize..=MAX_COMPONENT)
        .prop_map(|(directories, length)| [directories.as_bytes(), &vec![b'n'; length]].concat());
    let deep =
        (1_usize..40, "[xyz]").prop_map(|(depth, name)| ("bbbb/".repeat(depth) + &name).into());
    prop_oneof![6 => plain, 2 => odd, 1 => long, 1 => deep]
}

/// Around the sizes of blocks, and any.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let size = prop_oneof![
        select(vec![0, 1, 511, 512, 513, 1023, 1024, 1025, 10_240]),
        0_usize..3000,
    ];
    (size, any::<u8>()).prop_map(|(size, first)| {
        let bytes = (0..size).map(|at| (at % 251) as u8 ^ first);
        bytes.collect()
    })
}

fn form() -> impl Strategy<Value = Form> {
    prop_oneof![
        Just(Form::Ustar),
        Just(Form::Prefix),
        Just(Form::Gnu),
        Just(Form::V7),
        Just(Form::Contiguous),
        Just(Form::PaxPath),
        (0_u64..4096).prop_map(Form::PaxSize),
        Just(Form::PaxBoth),
        Just(Form::GnuLong),
        Just(Form::Base256),
    ]
}

fn member() -> impl Strategy<Value = Member> {
    prop_oneof![
        8 => (file_name(), body(), form()).prop_map(|(name, body, form)| Member::File(name, body, form)),
        2 => "(\\./|/)?[ab](/[ab]){0,3}/{0,2}".prop_map(|name| Member::Directory(name.into())),
        1 => "([ab]/)?s[0-3]".prop_map(Member::Symlink),
        1 => "([ab]/)?h[0-3]".prop_map(Member::Hardlink),
        1 => "([ab]/)?f[0-3]".prop_map(Member::Fifo),
        1 => Just(Member::Label),
        1 => Just(Member::Comment),
    ]
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    prop::collection::vec(member(), 1..24)
}

/// `tar` with one more member.
fn with(tar: Tar, member: &Member) -> Tar {
    match member {
        Member::File(name, body, form) => file(tar, name, body, *form),
        Member::Directory(name) => tar.member(&Header::new(name).kind(b'5'), b""),
        Member::Symlink(name) => tar.symlink(name, "root"),
        Member::Hardlink(name) => tar.member(&Header::new(name).kind(b'1').link_to("root"), b""),
        Member::Fifo(name) => tar.member(&Header::new(name).kind(b'6'), b""),
        Member::Label => tar.member(&Header::new("label").gnu().kind(b'V'), b""),
        Member::Comment => tar.extension(b'g', &pax_records(&[("comment", b"c")])),
    }
}

fn file(tar: Tar, name: &[u8], body: &[u8], form: Form) -> Tar {
    let size = body.len() as u64;
    let digits = size.to_string();
    let header = |name: &[u8]| Header::new(name).size(size);
    let short = name.len() <= 100;
    let fits = |make: fn(Header) -> Header| {
        if short {
            tar.clone().member(&make(header(name)), body)
        } else {
            // No place in the header.
            tar.clone()
                .long_name(name)
                .member(&make(header(&name[..100])), body)
        }
    };
    match form {
        Form::Ustar => fits(|header| header),
        Form::Gnu => fits(Header::gnu),
        Form::V7 => fits(Header::v7),
        Form::Contiguous => fits(|header| header.kind(b'7')),
        Form::Prefix => {
            let slash = name.iter().rposition(|byte| *byte == b'/');
            match slash.filter(|at| (1..=155).contains(at) && name.len() - at <= 100) {
                Some(at) if name[at + 1..].len() <= 100 => {
                    let header = header(&name[at + 1..]).field(345, &name[..at]);
                    tar.member(&header, body)
                }
                _ => fits(|header| header),
            }
        }
        Form::PaxPath => tar.pax(&[("path", name)]).member(&header(b"other"), body),
        Form::PaxSize(other) => {
            let records = [("size", digits.as_bytes()), ("path", name)];
            tar.pax(&records)
                .member(&Header::new("other").size(other), body)
        }
        Form::PaxBoth => {
            let records = [
                ("comment", b"newline\n27 path=not/a/path".as_slice()),
                ("path", b"first/of/two"),
                ("path", name),
                ("size", digits.as_bytes()),
                ("mtime", b"1700000000.25"),
            ];
            tar.pax(&records).member(&header(b"other").size(0), body)
        }
        Form::GnuLong => tar.long_name(name).member(&header(b"other").gnu(), body),
        Form::Base256 => {
            let mut field = [0; 12];
            field[0] = 0x80;
            field[4..].copy_from_slice(&size.to_be_bytes());
            match short {
                true => tar.member(&header(name).gnu().field(124, &field), body),
                false => tar
                    .long_name(name)
                    .member(&header(b"other").gnu().field(124, &field), body),
            }
        }
    }
}

/// A first file keeps everything at the root, so that no common directory is dropped.
fn build(members: &[Member]) -> Tar {
    members.iter().fold(Tar::new().file("root", "x"), with)
}

/// The canonical names of links and the like, which GNU tar makes on disk and we leave.
fn links(members: &[Member]) -> BTreeSet<Vec<u8>> {
    let names = members.iter().filter_map(|member| match member {
        Member::Hardlink(name) => Some(name.clone().into_bytes()),
        _ => None,
    });
    names.collect()
}

/// Cuts a stream into gzip members, empty ones among them.
fn in_members(tar: &[u8], cuts: &[Index], padding: usize) -> Vec<u8> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(tar.len() + 1)).collect();
    cuts.sort_unstable();
    let mut packed = Vec::new();
    let mut from = 0;
    for cut in cuts {
        packed.extend(gzip(&tar[from..cut]));
        from = cut;
    }
    packed.extend(gzip(&tar[from..]));
    packed.resize(packed.len() + padding, 0);
    packed
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(64))]

    /// Files, their contents and the number of members are GNU tar's.
    #[test]
    fn every_form_of_member_is_read_as_gnu_tar_does(
        members in members(),
        cuts in prop::collection::vec(any::<Index>(), 0..4),
        padding in 0_usize..3,
    ) {
        let tar = build(&members).build();
        let ours = run(&tar, &Limits::default()).unwrap();
        let packed = in_members(&tar, &cuts, padding * 500);
        let packed = run(&packed, &Limits::default()).unwrap();
        prop_assert_eq!(contents(&ours), contents(&packed), "several gzip members differ");
        prop_assert_eq!((ours.entries, ours.bytes), (packed.entries, packed.bytes));
        if !has_gnu_tar() {
            return Ok(());
        }
        let mut theirs = gnu_tar(&tar).map_err(TestCaseError::fail)?;
        theirs.files.retain(|name, _| !links(&members).contains(name));
        let ours_files = contents(&ours);
        prop_assert_eq!(shown(&ours_files), shown(&theirs.files));
        prop_assert!(ours_files == theirs.files, "contents differ");
        prop_assert_eq!(ours.entries, theirs.entries);
    }

    /// Another archive in a body never becomes members of the outer one, whatever the ustar size
    /// says: zero (A10) or anything else (A11).
    #[test]
    fn a10_a11_the_body_of_a_pax_size_is_never_read_as_members(
        inner in members(),
        stated in prop_oneof![Just(0), (0_u64..40).prop_map(|blocks| blocks * 512), 0_u64..20_000],
        octets in any::<bool>(),
    ) {
        let inner = build(&inner).build();
        let size = if octets { inner.len() } else { inner.len() - 100 };
        let digits = size.to_string();
        let tar = Tar::new()
            .file("first", "1")
            .pax(&[("size", digits.as_bytes())])
            .member(&Header::new("outer").size(stated), &inner[..size])
            .file("last", "2")
            .build();
        let ours = run(&tar, &Limits::default()).unwrap();
        let files = contents(&ours);
        let names: Vec<&[u8]> = files.keys().map(Vec::as_slice).collect();
        prop_assert_eq!(names, [b"first".as_slice(), b"last", b"outer"]);
        prop_assert_eq!(ours.entries, 3);
        prop_assert!(files[b"outer".as_slice()] == inner[..size]);
        if has_gnu_tar() {
            let theirs = gnu_tar(&tar).map_err(TestCaseError::fail)?;
            prop_assert!(files == theirs.files, "{:?}", shown(&theirs.files));
        }
    }

    /// Of several identity files, in whatever spelling, the last one is that of the archive.
    #[test]
    fn a17_the_last_identity_file_is_the_one(
        ids in prop::collection::vec((any::<u128>(), 0_usize..6, form(), any::<bool>()), 1..5),
    ) {
        const SPELLINGS: [&str; 6] =
            ["config/id", "./config/id", "config//id", "/config/id", "config/./id", ".//config/id"];
        let mut tar = Tar::new().file("root", "x");
        for (id, spelling, form, between) in &ids {
            let id = uuid::Uuid::from_u128(*id).to_string();
            tar = file(tar, SPELLINGS[*spelling].as_bytes(), id.as_bytes(), *form);
            if *between {
                tar = tar.file("config/other", "y");
            }
        }
        let extracted = run(&tar.gzip(), &Limits::default()).unwrap();
        let archive = Archive::new(extracted, 1 << 20);
        let last = uuid::Uuid::from_u128(ids.last().unwrap().0);
        prop_assert_eq!(archive.cluster_uuid(), Some(last));
    }

    /// How a name is spelled and written down changes nothing about its limits.
    #[test]
    fn a14_names_hold_their_limits_in_every_spelling(
        component in MAX_COMPONENT - 1..=MAX_COMPONENT + 1,
        depth in MAX_DEPTH - 1..=MAX_DEPTH + 1,
        length in MAX_NAME - 1..=MAX_NAME + 1,
        which in 0..3,
        spaces in prop::collection::vec((any::<Index>(), select(vec!["/", "./", "//./"])), 0..20),
        pax in any::<bool>(),
    ) {
        let (parts, fits) = match which {
            0 => (vec!["c".repeat(component)], component <= MAX_COMPONENT),
            1 => (vec!["d".to_owned(); depth], depth <= MAX_DEPTH),
            _ => {
                let mut parts = vec!["l".repeat(200); 20];
                // Twenty parts and their slashes.
                parts.push("l".repeat(length - 20 * 201));
                (parts, length <= MAX_NAME)
            }
        };
        let mut spelled: Vec<String> = parts.clone();
        for (at, space) in spaces {
            let at = at.index(spelled.len());
            spelled[at].insert_str(0, space);
        }
        let spelled = spelled.join("/");
        let tar = Tar::new().file("root", "");
        let form = if pax { Form::PaxPath } else { Form::GnuLong };
        let result = run(&file(tar, spelled.as_bytes(), b"x", form).build(), &Limits::default());
        match result {
            Ok(extracted) => {
                prop_assert!(fits);
                prop_assert!(extracted.files.get(parts.join("/")).is_some());
            }
            Err(error) => {
                prop_assert!(!fits, "{}", error);
                prop_assert_eq!(error.reason(), Some(Reason::ArchiveUnsafe));
            }
        }
    }

    /// Members of every kind count alike.
    #[test]
    fn a08_members_of_every_kind_count_up_to_and_including(members in members()) {
        let tar = build(&members).build();
        let entries = run(&tar, &Limits::default()).unwrap().entries;
        for (limit, fits) in [(entries - 1, false), (entries, true), (entries + 1, true)] {
            let limits = Limits { entries: limit, ..Limits::default() };
            let expected = (!fits).then_some(Reason::ArchiveEntries);
            prop_assert_eq!(reason(&tar, &limits), expected);
        }
    }

    /// One document of a size around the limit among others.
    #[test]
    fn documents_hold_their_limit_up_to_and_including(
        limit in 0_usize..2000,
        form in form(),
    ) {
        for size in limit.saturating_sub(1)..=limit + 1 {
            let limits = Limits { document_size: limit as u64, ..Limits::default() };
            let body = vec![b'b'; size];
            let tar = file(Tar::new().file("root", ""), b"config/a.json", &body, form);
            let tar = file(tar, b"config/a.log", &body, form).build();
            let extracted = run(&tar, &limits).unwrap();
            let document = extracted.files.get("config/a.json").unwrap();
            prop_assert_eq!(document.is_too_large(), size > limit);
            prop_assert_eq!(document.size(), size as u64);
            let log = extracted.files.get("config/a.log").unwrap();
            prop_assert_eq!(log.read().unwrap(), body);
        }
    }
}

proptest! {
    #![proptest_config(config(12))]

    /// From the first MiB on and not before; and what one limit takes a higher one takes as well.
    #[test]
    fn a07_the_ratio_holds_from_the_first_mebibyte_on(
        blocks in 0_u64..4,
        noise in 0_usize..20_000,
        cut in any::<Index>(),
    ) {
        let mut random = fastrand::Rng::with_seed(noise as u64);
        let noise: Vec<u8> = (0..noise).map(|_| random.u8(..)).collect();
        // Of one block less than a MiB to two more, headers and end included.
        let total = RATIO_FROM + blocks * BLOCK as u64 - BLOCK as u64;
        let tar = Tar::new().file("root", "").file("noise", &noise);
        let rest = total as usize - tar.build().len() - BLOCK;
        let tar = tar.file("zeros", vec![0; rest]).build();
        prop_assert_eq!(tar.len() as u64, total);
        let body = in_members(&tar, &[cut], 0);
        let accepts = |ratio: u64| {
            let found = reason(&body, &Limits { ratio, ..Limits::default() });
            assert!(matches!(found, None | Some(Reason::ArchiveRatio)), "{found:?}");
            found.is_none()
        };
        let first = (0..2000).collect::<Vec<u64>>().partition_point(|ratio| !accepts(*ratio)) as u64;
        if total < RATIO_FROM {
            prop_assert_eq!(first, 0);
        } else {
            // What is read at the end is all of it, so no limit below the whole ratio is enough.
            prop_assert!(first >= total / body.len() as u64);
            prop_assert!(first > 1 && !accepts(first - 1) && accepts(first) && accepts(first + 1));
            prop_assert!(first < 1100, "DEFLATE cannot reach {}", first);
        }
    }

    /// Kinds of extension header, each one byte below its limit, at it and above it.
    #[test]
    fn a13_extension_headers_hold_up_to_and_including(
        kind in select(vec![b'x', b'X', b'g', b'L', b'K']),
        more in 0_u64..3,
    ) {
        let length = (MAX_EXTENSION - 1 + more) as usize;
        let body = match kind {
            b'L' => [b"name".as_slice(), &vec![0; length - 4]].concat(),
            b'K' => vec![b'k'; length],
            _ => {
                // The digits of the record's length are part of it.
                let frame = pax_records(&[("comment", &vec![b'c'; length - 100])]).len();
                pax_records(&[("comment", &vec![b'c'; length - 100 + length - frame])])
            }
        };
        prop_assert_eq!(body.len(), length);
        let tar = Tar::new().extension(kind, &body).file("a", "x").build();
        let expected = (more == 2).then_some(Reason::ArchiveCorrupt);
        prop_assert_eq!(reason(&tar, &Limits::default()), expected);
    }
}
