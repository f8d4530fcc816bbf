//! Tells the program which commit it is built from, and puts the content of rules into it.
//!
//! `CCX_COMMIT` goes before git, for builds from a tree without history. Debug builds ask no
//! git: otherwise each commit would build every test again for one changed text.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

fn main() {
    println!("cargo:rerun-if-env-changed=CCX_COMMIT");
    println!("cargo:rerun-if-changed=build.rs");
    let given = env::var("CCX_COMMIT").ok().filter(|text| is_hash(text));
    let release = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = given.or_else(|| if release { ask_git() } else { None });
    if let Some(commit) = commit {
        println!("cargo:rustc-env=CCX_BUILD_COMMIT={}", &commit[..7]);
    }
    embed_content().expect("content/ can be read and the build directory written");
}

/// Writes a table of all files below `content/`, by name. Cargo looks at the folder as a whole,
/// so that new files are seen too.
fn embed_content() -> io::Result<()> {
    println!("cargo:rerun-if-changed=content");
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("content");
    let mut files = Vec::new();
    collect(&root, "", &mut files)?;
    files.sort();
    let mut table = String::from("static FILES: &[(&str, &str)] = &[\n");
    for (name, path) in files {
        table += &format!("    ({name:?}, include_str!({path:?})),\n");
    }
    table += "];\n";
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    fs::write(out.join("content.rs"), table)
}

fn collect(dir: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.push((name, entry.path()));
        }
    }
    Ok(())
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
