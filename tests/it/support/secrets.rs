//! What no output of the program may hold, and the search for it.
//!
//! Whoever gives the program a secret registers it here. The search runs over everything that any
//! program of any test of this process has written when it ends, over each answer of its endpoint
//! and the headers of its dead letters, whatever the test itself is about.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::broker::batch::LogRecord;

/// Words that stand for secrets in all tests: parts of presigned queries, and the password.
const ALWAYS: [&str; 6] = [
    "X-Amz-Signature",
    "X-Amz-Credential",
    "X-Amz-Security-Token",
    "Signature=",
    "secret-of-",
    "hunter2",
];

static REGISTERED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// From now on this must not be seen.
pub fn register(secret: &str) {
    assert!(secret.len() >= 4, "{secret:?} may stand anywhere by chance");
    let mut registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    if !registered.contains(secret) {
        registered.insert(secret.to_owned());
    }
}

/// The first secret in the text.
pub fn find(text: &str) -> Option<String> {
    let always = ALWAYS.into_iter().find(|word| text.contains(word));
    let registered = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    let found = registered.iter().find(|s| text.contains(s.as_str()));
    always.map(str::to_owned).or_else(|| found.cloned())
}

/// Fails the test when there is a secret in the text.
///
/// # Panics
/// There is one, and the thread does not panic already.
#[track_caller]
pub fn search(place: &str, text: &str) {
    let Some(secret) = find(text) else { return };
    let line = text.lines().find(|line| line.contains(&secret));
    let words = format!("a secret, {secret:?}, in {place}: {}", line.unwrap_or(text));
    if std::thread::panicking() {
        eprintln!("{words}");
    } else {
        panic!("{words}");
    }
}

/// Searches what the program put into the headers of a dead letter.
#[track_caller]
pub fn search_headers(letter: &LogRecord) {
    for name in ["message", "reason", "topic", "group"] {
        let name = format!("ccx-dlq-{name}");
        if let Some(value) = letter.header(&name) {
            search(&name, &value);
        }
    }
}
