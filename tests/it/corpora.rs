//! The committed corpora of the fuzz targets, run once: what a fuzzer found stays found.

use std::fs;
use std::path::{Path, PathBuf};

/// The targets themselves, as the fuzzer has them.
#[path = "../../fuzz/src/lib.rs"]
pub mod targets;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut inputs: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 5, "{target} has a corpus");
    inputs
}

fn replay(target: &str, run: fn(&[u8])) {
    for (path, input) in corpus(target) {
        println!("{}", path.display());
        run(&input);
        // Cut and with a bit turned: cheap neighbours.
        run(&input[..input.len() / 2]);
        let mut turned = input.clone();
        if let Some(byte) = turned.get_mut(input.len() / 3) {
            *byte ^= 1;
        }
        run(&turned);
    }
}

#[test]
fn a30_the_corpus_of_archives() {
    replay("archive", targets::archive::run);
}

#[test]
fn a30_the_corpus_of_tar_streams() {
    replay("tar_blocks", targets::tar_blocks::run);
}

#[test]
fn a28_a29_the_corpus_of_documents() {
    replay("documents", targets::documents::run);
}

#[test]
fn m02_the_corpus_of_announcements() {
    replay("ingress", targets::ingress::run);
}

#[test]
fn u03_the_corpus_of_urls() {
    replay("url_policy", targets::url_policy::run);
}

/// Every name of the table is one that extraction keeps.
#[test]
fn documents_have_names_that_are_wanted() {
    use ccx_data_pipeline::engine::RuleSet;
    use ccx_data_pipeline::rules::Settings;
    let rules = RuleSet::all(Settings::default());
    let names = targets::documents::names();
    let kept = names
        .iter()
        .filter(|name| rules.wanted().contains(name.as_bytes()));
    assert!(kept.count() * 10 >= names.len() * 9, "{names:?}");
}
