//! How a command ends, as a number that scripts and Kubernetes see. The only place that knows
//! these numbers.

use std::process::{ExitCode, Termination};

/// The outcome of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; also a clean end on the first signal.
    Done = 0,
    /// The work failed: an archive was refused, the worker is not healthy.
    Failure = 1,
    /// The command line was not understood.
    Usage = 2,
    /// Brokers or the health endpoint were not reached. `run` never ends so: it keeps trying.
    Unavailable = 69,
    /// A fault of our own: a broken invariant, a thread that died, a task that is stuck.
    Internal = 70,
    /// The drain took longer than `worker.shutdown_timeout`; what was unfinished is uncommitted.
    DrainExceeded = 75,
    /// Another member took our place in the group.
    Fenced = 76,
    /// The brokers refuse our credentials, or us the group or a topic.
    NotAuthorised = 77,
    /// The configuration, or what it names on this host, cannot be used.
    Configuration = 78,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}
