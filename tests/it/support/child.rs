//! A test that changes its own process (limits) runs in a child of its own.

use std::fs::File;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

const MARK: &str = "CCX_TEST_CHILD";

/// Runs the named test once more in a child process, and fails if that fails. Answers `true` in
/// the child, which goes on with the test itself.
pub fn is_child(test: &str) -> bool {
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads", "1"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        text.contains("1 passed"),
        "the child has not found {test}: {text}"
    );
    false
}

/// From now on this process may have so many descriptors.
pub fn limit_descriptors(count: u64) {
    let limit = Rlimit {
        current: Some(count),
        maximum: Some(count),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
}

/// From now on this process may map so many bytes. What asks for more ends it.
pub fn limit_memory(bytes: u64) {
    let limit = Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    setrlimit(Resource::As, limit).unwrap();
}

/// Takes all descriptors that are left.
pub fn take_descriptors() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}
