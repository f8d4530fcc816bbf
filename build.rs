//! Tells the program which commit it is built from.
//!
//! `CCX_COMMIT` goes before git, for builds from a tree without history. Debug builds ask no
//! git: otherwise each commit would build every test again for one changed text.

use std::env;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-env-changed=CCX_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    let given = env::var("CCX_COMMIT").ok().filter(|text| is_hash(text));
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| if release { ask_git() } else { None });
    if let Some(commit) = commit {
        println!("cargo:rustc-env=CCX_BUILD_COMMIT={}", &commit[..7]);
    }
}

fn ask_git() -> Option<String> {
    // The log of HEAD grows with each commit, checkout and reset.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "HEAD"]).filter(|text| is_hash(text))
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let text = String::from_utf8(output.stdout).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn is_hash(text: &str) -> bool {
    text.len() >= 7 && text.bytes().all(|b| b.is_ascii_hexdigit())
}
