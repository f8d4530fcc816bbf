//! Bytes through the real extraction, and what must hold for whatever comes out.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use ccx_data_pipeline::archive::Archive;
use ccx_data_pipeline::archive::extract::{Extracted, Limits, Wanted, extract};
use ccx_data_pipeline::archive::limits::{MAX_COMPONENT, MAX_DEPTH, MAX_NAME};
use ccx_data_pipeline::error::{Reason, chain};

/// Small, so that each of them is reached.
pub(crate) const LIMITS: Limits = Limits {
    unpacked_size: 3 << 20,
    document_size: 64 << 10,
    entries: 64,
    ratio: 300,
};

/// The members that are kept, by name; `None`: over the limit for documents.
pub(crate) type Contents = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An input is the body of a download.
pub fn run(data: &[u8]) {
    let _ = read(data);
}

/// Extracts `body` and gives what is in it, or the word for what is wrong with it.
pub(crate) fn read(body: &[u8]) -> Result<(Contents, u64), Reason> {
    static DIR: LazyLock<tempfile::TempDir> =
        LazyLock::new(|| tempfile::tempdir().expect("a directory for temporary files"));
    static WANTED: LazyLock<Wanted> = LazyLock::new(|| {
        Wanted::new(&[("**/*", false), ("**/*.log", true)]).expect("these are globs")
    });
    let dir = DIR.path();
    let asked = Cell::new(0_u64);
    let interrupted = || {
        asked.set(asked.get() + 1);
        None
    };
    let result = extract(&mut &body[..], &LIMITS, &WANTED, dir, &interrupted);
    assert!(is_empty(dir), "a name is left in the directory");
    // Each question stands for input that was taken or output that was made.
    let bound = 16 + 2 * body.len() as u64 + LIMITS.unpacked_size / 512;
    assert!(asked.get() <= bound, "it goes round without getting on");
    match result {
        Ok(extracted) => Ok(check(extracted)),
        Err(error) => {
            let reason = error.reason();
            let text = chain(&error);
            assert!(text.len() < 1024, "a long message: {text}");
            assert!(text.chars().all(|c| !c.is_control()), "{text:?}");
            Err(reason.unwrap_or_else(|| panic!("no fault of the archive: {text}")))
        }
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir)
        .expect("the directory is there")
        .next()
        .is_none()
}

fn check(extracted: Extracted) -> (Contents, u64) {
    let (entries, bytes) = (extracted.entries, extracted.bytes);
    assert!((1..=LIMITS.entries).contains(&entries));
    assert!(bytes <= LIMITS.unpacked_size);
    let mut contents = Contents::new();
    let mut total = 0;
    for file in extracted.files.iter_sorted() {
        let name = file.name();
        let components: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
        assert!(!name.is_empty() && name.len() <= MAX_NAME);
        assert!(components.len() <= MAX_DEPTH);
        for component in components {
            assert!(
                !matches!(component, b"" | b"." | b".."),
                "{}",
                name.escape_ascii()
            );
            assert!(component.len() <= MAX_COMPONENT);
        }
        let content = (!file.is_too_large()).then(|| {
            let content = file.read().expect("a kept document can be read");
            assert_eq!(content.len() as u64, file.size());
            total += file.size();
            content
        });
        if content.is_none() {
            assert!(file.size() > LIMITS.document_size && !name.ends_with(b".log"));
        }
        assert!(
            contents.insert(name.to_vec(), content).is_none(),
            "a name comes twice"
        );
    }
    assert!(contents.len() as u64 <= entries);
    assert!(total <= LIMITS.unpacked_size);
    let archive = Archive::new(extracted, LIMITS.document_size);
    archive.cluster_uuid();
    archive.remote_configuration_version();
    assert!(archive.take_host_fault().is_none());
    (contents, entries)
}
