//! The house rules that can be read off the sources: which room may use which, and what stays in
//! one room only.
//!
//! A record's way goes down the table; nothing looks up. Only the program's own code counts, not
//! the tests in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Rooms and the doors they have, beside their own: `crate::<door>` may appear in them. A room
/// that is not listed may use any.
const DOORS: &[(&str, &[&str])] = &[
    ("output", &["error", "ingress", "kafka", "report"]),
    ("report", &["engine", "rules", "version"]),
    ("engine", &["archive", "error", "rules"]),
    ("rules", &["archive"]),
    ("content", &["rules"]),
    ("archive", &["error"]),
    ("ingress", &["error", "signed_url"]),
    ("download", &["backoff", "error", "signed_url", "tls"]),
    ("offsets", &["kafka"]),
    // Otherwise written as if it were its own crate.
    ("kafka", &["backoff", "error", "outage", "secret", "tls"]),
    ("breaker", &["error"]),
    ("crashes", &["kafka"]),
    ("backoff", &[]),
    ("outage", &[]),
    ("tls", &[]),
    ("secret", &[]),
    ("shutdown", &[]),
    ("signed_url", &[]),
    ("error", &[]),
];

/// Texts that belong to some rooms only, and why.
const KEPT: &[(&str, &[&str], &str)] = &[
    (
        "env::var",
        &["config"],
        "configuration is read once, by `config`",
    ),
    ("process::exit", &[], "`main` returns the code"),
    (
        "new_gzip",
        &["archive/limits"],
        "every bound on an archive lies in its one reader",
    ),
    (
        "reveal()",
        &[
            "download",
            "config",
            "kafka",
            "secret",
            "signed_url",
            "cli",
            "worker",
        ],
        "a secret is shown to who uses it only",
    ),
    (
        "thread::sleep",
        &["backoff"],
        "a pause must end when the worker does",
    ),
];

/// What no rule may contain: the same archive has the same answer on any machine.
const NOT_IN_RULES: &[&str] = &[
    "std::time",
    "SystemTime",
    "Instant",
    "now_utc",
    "std::env",
    "TcpStream",
    "std::process",
    "log::",
    "fs::",
    "HashMap",
    "HashSet",
];

fn sources() -> Vec<(PathBuf, String)> {
    fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    collect(&root, &mut found);
    found.sort();
    let files = found.into_iter().filter(|path| !path.ends_with("tests.rs"));
    files
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.strip_prefix(&root).unwrap().with_extension("");
            // Unit tests stand at the end of a file.
            let tests = [
                "mod tests {",
                "pub(super) mod tests {",
                "pub(crate) mod testing {",
            ];
            let begins = tests.map(|begin| text.find(&format!("#[cfg(test)]\n{begin}")));
            let code = &text[..begins.into_iter().flatten().min().unwrap_or(text.len())];
            let lines = code
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            (name, lines.collect::<Vec<_>>().join("\n"))
        })
        .collect()
}

fn room(path: &Path) -> &str {
    path.iter().next().unwrap().to_str().unwrap()
}

#[test]
fn rooms_use_only_the_doors_they_have() {
    let mut through = Vec::new();
    for (path, code) in sources() {
        let room = room(&path);
        let Some((_, doors)) = DOORS.iter().find(|(listed, _)| *listed == room) else {
            continue;
        };
        let used: BTreeSet<&str> = code
            .split("crate::")
            .skip(1)
            .map(|rest| {
                let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_'));
                &rest[..end.unwrap_or(rest.len())]
            })
            .filter(|name| !name.is_empty() && *name != room)
            .collect();
        for door in used {
            if !doors.contains(&door) {
                through.push(format!("{} uses {door}", path.display()));
            }
        }
    }
    assert!(through.is_empty(), "{through:#?}");
}

#[test]
fn what_belongs_to_one_room_stays_there() {
    let mut elsewhere = Vec::new();
    for (path, code) in sources() {
        let name = path.to_str().unwrap();
        for (text, rooms, why) in KEPT {
            let home = rooms
                .iter()
                .any(|home| name == *home || name.starts_with(&format!("{home}/")));
            if code.contains(text) && !home {
                elsewhere.push(format!("{name} contains `{text}`: {why}"));
            }
        }
        if room(&path) == "rules" {
            for text in NOT_IN_RULES {
                if code.contains(text) {
                    elsewhere.push(format!("{name} contains `{text}`"));
                }
            }
        }
    }
    assert!(elsewhere.is_empty(), "{elsewhere:#?}");
}

/// No module is left out of the build, where it would rot unseen.
#[test]
fn every_source_is_declared() {
    let all = sources();
    for (path, _) in &all {
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.components().count() == 1 && matches!(name, "lib" | "main") {
            continue;
        }
        let parent = match path.parent().unwrap() {
            parent if parent.as_os_str().is_empty() => Path::new("lib"),
            parent => parent,
        };
        let declared = all.iter().any(|(other, code)| {
            other == parent
                && code.lines().any(|line| {
                    let line = line.trim().trim_end_matches(';');
                    line.ends_with(&format!("mod {name}"))
                })
        });
        assert!(declared, "{} is part of nothing", path.display());
    }
}
