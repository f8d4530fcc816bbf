//! Signals: the first SIGTERM, SIGINT or SIGHUP asks for a drain, the second ends the process at once
//! with 128 + its number.
//!
//! Handlers only touch atomics. Nothing waits for a signal: whoever works asks
//! [`Shutdown::is_requested`] between steps.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// Whether, and by what, the process was asked to end. Clones share the answer.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Shutdown {
    /// Asked by nobody and bound to no signal, until [`Shutdown::request`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Binds SIGTERM, SIGINT and SIGHUP for the rest of the process, the last one unless it is
    /// ignored, as under `nohup`.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let hangs_up = (!ignores_hangups()).then_some((SIGHUP, 1));
        for (number, as_usize) in [(SIGTERM, 15usize), (SIGINT, 2)]
            .into_iter()
            .chain(hangs_up)
        {
            // In this order: at the first signal the condition is still false when it is looked
            // at, and only then becomes true; the second signal, of either kind, finds it true.
            flag::register_conditional_shutdown(
                number,
                128 + number,
                Arc::clone(&shutdown.requested),
            )?;
            flag::register_usize(number, Arc::clone(&shutdown.signal), as_usize)?;
            flag::register(number, Arc::clone(&shutdown.requested))?;
        }
        Ok(shutdown)
    }

    /// Whether the work should come to its end.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }

    /// Asks for the end from inside, for a fault that cannot be worked around.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
    }

    /// Name of the signal that asked, `None` when it was no signal.
    pub fn signal(&self) -> Option<&'static str> {
        match self.signal.load(Ordering::SeqCst) {
            15 => Some("SIGTERM"),
            2 => Some("SIGINT"),
            1 => Some("SIGHUP"),
            _ => None,
        }
    }
}

/// From now on a file that reaches the limit of its size is a failed write, and does not end the
/// process.
///
/// # Errors
/// The system refuses a handler.
pub fn outlive_file_limits() -> io::Result<()> {
    flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Whether the process was started with SIGHUP ignored; not where that cannot be told.
fn ignores_hangups() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_reaches_every_clone() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        assert!(!other.is_requested());
        shutdown.request();
        assert!(other.is_requested());
        assert_eq!(other.signal(), None);
    }
}
