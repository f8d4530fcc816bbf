//! Waiting for what happens elsewhere: in another process, on a disk.

use std::time::{Duration, Instant};

use ccx_data_pipeline::backoff::sleep_unless;

/// Long enough for a busy machine; what hangs, hangs for ever.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until it is so.
///
/// # Panics
/// It is not so for long.
#[track_caller]
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "never: {what}");
        sleep_unless(Duration::from_millis(10), || false);
    }
}
