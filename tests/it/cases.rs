//! Which test proves which case: `tests/README.md` is made from the names of the tests.
//!
//! A test carries the id of its case at the start of its name, or behind a `_`, in lower case:
//! `a06_a_bomb_…`. Every case needs one. After tests came, went or were renamed,
//! `UPDATE_TESTS_README=1 cargo test --test it cases` writes the table anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use regex::Regex;

/// The cases: archives (A), URLs and HTTP (U), messages (M), Kafka and brokers (K), process and
/// host (P).
const CASES: &[(&str, &str)] = &[
    ("A01", "Parent traversal"),
    ("A02", "Absolute name"),
    ("A03", "Symlink swap"),
    ("A04", "Special files"),
    ("A05", "Mode and owner bits"),
    ("A06", "Gzip bomb, absolute limit"),
    ("A07", "Gzip bomb, ratio limit"),
    ("A08", "Entry-count bomb"),
    ("A09", "Header claims a huge size"),
    ("A10", "PAX size with zero ustar size"),
    ("A11", "PAX size with non-zero ustar size"),
    ("A12", "Malformed PAX record"),
    ("A13", "Huge extension header"),
    ("A14", "Long names"),
    ("A15", "Names that are not UTF-8"),
    ("A16", "Control characters in names"),
    ("A17", "Duplicate entries"),
    ("A18", "Trailing zeros"),
    ("A19", "Several gzip members"),
    ("A20", "Truncated gzip"),
    ("A21", "Bad CRC or length in the trailer"),
    ("A22", "Tar ends early inside a good gzip"),
    ("A23", "Tar without end blocks"),
    ("A24", "Not an archive"),
    ("A25", "Empty body"),
    ("A26", "Other containers"),
    ("A27", "Cluster id file"),
    ("A28", "Broken JSON inside"),
    ("A29", "Deep JSON"),
    ("A30", "Hostile deflate streams"),
    ("A31", "Header checksum wrong"),
    ("A32", "Name forms"),
    ("U01", "Scheme"),
    ("U02", "User-info"),
    ("U03", "Allow-listed text in the wrong place"),
    ("U04", "IP literals"),
    ("U05", "Name that resolves to a private address"),
    ("U06", "DNS rebinding"),
    ("U07", "Redirects"),
    ("U08", "Real S3 forms"),
    ("U09", "Signature must survive"),
    ("U10", "Secrets in logs"),
    ("U11", "Connection refused or reset at connect"),
    ("U12", "Connect hangs"),
    ("U13", "No response"),
    ("U14", "Trickle"),
    ("U15", "Declared size too big"),
    ("U16", "Undeclared size too big"),
    ("U17", "Short body"),
    ("U18", "Expired URL"),
    ("U19", "Missing object"),
    ("U20", "Server trouble"),
    ("U21", "Success status with an error body"),
    ("U22", "Other status codes"),
    ("U23", "TLS trouble"),
    ("U24", "Header bomb"),
    ("U25", "Stale pooled connection"),
    ("M01", "Null or empty value"),
    ("M02", "Not JSON"),
    ("M03", "JSON but not an object"),
    ("M04", "Missing or wrong-typed field"),
    ("M05", "Identity not decodable"),
    ("M06", "Organisation number"),
    ("M07", "Account number"),
    ("M08", "No request id"),
    ("M09", "Timestamp forms"),
    ("M10", "Other service"),
    ("M11", "Header that is not text"),
    ("M12", "Old record"),
    ("M13", "Deep or huge message"),
    ("M14", "Unknown fields"),
    ("M15", "Log and label injection"),
    ("M16", "Label growth from archives"),
    ("M17", "Everything is invalid"),
    ("M18", "Redelivery"),
    ("M19", "Report too large for the topic"),
    ("M20", "Dead letter too large"),
    ("M21", "Compressed batches"),
    ("K01", "No broker at start"),
    ("K02", "Some bootstrap brokers dead"),
    ("K03", "Topic missing"),
    ("K04", "Partitions added"),
    ("K05", "Leader change"),
    ("K06", "Coordinator moves"),
    ("K07", "Rebalance with work in flight"),
    ("K08", "Stale member"),
    ("K09", "Same static id twice"),
    ("K10", "Slow archive"),
    ("K11", "Out-of-order completion"),
    ("K12", "Broker killed during produce"),
    ("K13", "Not enough replicas"),
    ("K14", "Half-open connection"),
    ("K15", "Offset out of range"),
    ("K16", "Commit fails"),
    ("K17", "Wrong credentials"),
    ("K18", "TLS/plain mismatch"),
    ("K19", "Malformed responses"),
    ("K20", "Old and new brokers"),
    ("K21", "Dead-letter topic unavailable"),
    ("K22", "Tracker topic unavailable"),
    ("K23", "Quota throttling"),
    ("K24", "Idle connection closed"),
    ("K25", "Offsets with holes"),
    ("K26", "Rolling restart"),
    ("K27", "Member flapping"),
    ("P01", "SIGTERM idle"),
    ("P02", "SIGTERM busy"),
    ("P03", "Grace time exceeded"),
    ("P04", "Second signal"),
    ("P05", "kill -9 at every step"),
    ("P06", "Panic in a rule"),
    ("P07", "Archive that hangs a rule"),
    ("P08", "Disk full"),
    ("P09", "Memory limit"),
    ("P10", "File-descriptor limit"),
    ("P11", "Read-only root, no writable directory"),
    ("P12", "Any user id"),
    ("P13", "Clock jump"),
    ("P14", "CPU starvation"),
    ("P15", "Metrics port taken"),
    ("P16", "Hostile scraper"),
    ("P17", "Output pipe blocked or closed"),
    ("P18", "Bad configuration"),
    ("P19", "Secrets in configuration output"),
    ("P20", "No CA bundle"),
    ("P21", "Health under broker outage"),
    ("P22", "Soak"),
];

const KINDS: [(&str, &str); 5] = [
    ("A", "Archives"),
    ("U", "URLs and HTTP"),
    ("M", "Messages"),
    ("K", "Kafka and brokers"),
    ("P", "Process and host"),
];

/// Everything in the README behind this line is made here.
const MARK: &str = "<!-- Made by tests/it/cases.rs: do not edit below. -->\n";

#[test]
fn every_case_has_a_test_and_the_readme_names_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tests = tests_by_case(root);
    let missing: Vec<_> = CASES
        .iter()
        .filter(|(id, _)| !tests.contains_key(*id))
        .collect();
    assert!(missing.is_empty(), "cases without a test: {missing:?}");

    let path = root.join("tests/README.md");
    let readme = fs::read_to_string(&path).unwrap();
    let (written, made) = readme.split_once(MARK).expect("the line before the tables");
    let tables = tables(&tests);
    if env::var_os("UPDATE_TESTS_README").is_some() {
        fs::write(&path, format!("{written}{MARK}{tables}")).unwrap();
        return;
    }
    assert!(
        made == tables,
        "tests/README.md is not up to date: UPDATE_TESTS_README=1 cargo test --test it cases"
    );
}

/// The tests of each case, as `file: name`.
fn tests_by_case(root: &Path) -> BTreeMap<String, Vec<(String, String)>> {
    let function = Regex::new(r"#\[test\]\s+(?:#\[[^\]]*\]\s+)*fn (\w+)").unwrap();
    // In a property test or a macro the attribute is not beside the name.
    let in_macro = Regex::new(r"(?m)^ +fn ([amukp]\d\d_\w+)\(").unwrap();
    let id = Regex::new(r"(?:^|_)([amukp]\d\d)(?:_|$)").unwrap();
    let mut tests: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for file in sources(root) {
        let text = fs::read_to_string(&file).unwrap();
        let file = file.strip_prefix(root).unwrap().display().to_string();
        let found = function
            .captures_iter(&text)
            .chain(in_macro.captures_iter(&text));
        for name in found.map(|found| found[1].to_owned()) {
            let mut rest = name.as_str();
            while let Some(found) = id.captures(rest) {
                let case = found[1].to_uppercase();
                if CASES.iter().any(|(id, _)| *id == case) {
                    let tests = tests.entry(case).or_default();
                    let test = (file.clone(), name.clone());
                    if !tests.contains(&test) {
                        tests.push(test);
                    }
                }
                // The `_` behind one id may stand before the next.
                rest = &rest[found.get(1).unwrap().end()..];
            }
        }
    }
    tests.values_mut().for_each(|tests| tests.sort());
    tests
}

/// The Rust files of the program and its tests.
fn sources(root: &Path) -> Vec<PathBuf> {
    let mut folders = vec![root.join("src"), root.join("tests")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn tables(tests: &BTreeMap<String, Vec<(String, String)>>) -> String {
    let mut text = String::new();
    for (kind, title) in KINDS {
        let _ = write!(
            text,
            "\n## {title}\n\n| id | case | tests |\n|---|---|---|\n"
        );
        for (id, case) in CASES.iter().filter(|(id, _)| id.starts_with(kind)) {
            let tests = tests.get(*id).map_or(&[][..], Vec::as_slice);
            let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (file, name) in tests {
                by_file.entry(file).or_default().push(name);
            }
            let cells: Vec<String> = by_file
                .iter()
                .map(|(file, names)| format!("{file}: `{}`", names.join("`, `")))
                .collect();
            let _ = writeln!(text, "| {id} | {case} | {} |", cells.join("; "));
        }
    }
    text
}
