//! Whether the process is alive, and whether records flow.
//!
//! Alive means that the poll loop ticks and no task is stuck: an outage of a broker does not make
//! a restart useful, so it only makes the process not ready. All times are monotonic.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A poll loop that has not ticked for this long is taken for dead.
pub const TICK_LIMIT: Duration = Duration::from_secs(30);

/// What holds the flow up without being a record's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A topic that we write to takes nothing.
    Sink,
    /// Our own host: disk, descriptors, memory.
    Host,
    /// The incoming topic cannot be read as it should be.
    InputTopic,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Fault; 3] = [Fault::Sink, Fault::Host, Fault::InputTopic];

    /// The word for labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Sink => "sink",
            Fault::Host => "host",
            Fault::InputTopic => "input_topic",
        }
    }
}

/// The state that `/livez` and `/readyz` answer from.
#[derive(Debug)]
pub struct Health(Mutex<State>);

#[derive(Debug)]
struct State {
    ticked: Instant,
    /// When the process last went on after it had been stopped.
    resumed: Option<Instant>,
    stuck: Option<String>,
    /// Why the membership is not ready; `None` when it is.
    joining: Option<String>,
    /// Why records wait although everything that we see works.
    breaker: Option<String>,
    /// Why partitions wait that hold dead letters.
    dead_letters: Option<String>,
    faults: [Holders; Fault::ALL.len()],
}

/// How many hold a fault up, and the first one's cause.
#[derive(Debug, Default)]
struct Holders {
    count: usize,
    cause: String,
}

/// Keeps a fault raised until it is dropped.
#[derive(Debug)]
pub struct Raised {
    health: Arc<Health>,
    fault: Fault,
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl Health {
    /// Alive, not ready yet.
    pub fn new() -> Self {
        Self(Mutex::new(State {
            ticked: Instant::now(),
            resumed: None,
            stuck: None,
            joining: Some("not a member of the group yet".into()),
            breaker: None,
            dead_letters: None,
            faults: Default::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is a single assignment, so a panic cannot leave the state half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The poll loop makes progress.
    pub fn tick(&self) {
        self.state().ticked = Instant::now();
    }

    /// A task is past every deadline; there is no way back from it.
    pub fn stuck(&self, cause: String) {
        self.state().stuck = Some(cause);
    }

    /// Says why the member is not ready, or that it is.
    pub fn membership(&self, not_ready: Option<String>) {
        self.state().joining = not_ready;
    }

    /// Says why the dead-letter breaker is open, or that it is closed.
    pub fn breaker(&self, open: Option<String>) {
        self.state().breaker = open;
    }

    /// Says why partitions wait whose dead letters are not accepted, or that none does. That is no
    /// [`Fault`]: the other partitions go on.
    pub fn dead_letters(&self, waiting: Option<String>) {
        self.state().dead_letters = waiting;
    }

    /// Raises a fault until the guard is dropped. The first holder logs it, the last one its end.
    pub fn raise(self: &Arc<Self>, fault: Fault, cause: String) -> Raised {
        let mut state = self.state();
        let holders = &mut state.faults[fault as usize];
        holders.count += 1;
        if holders.count == 1 {
            log::error!("{} fault, records wait: {cause}", fault.as_str());
            holders.cause = cause;
        }
        Raised {
            health: Arc::clone(self),
            fault,
        }
    }

    /// The process goes on after it was stopped as a whole: a debugger, a frozen container.
    pub fn resume(&self) {
        self.state().resumed = Some(Instant::now());
    }

    /// When the process last went on after it had been stopped.
    pub fn resumed(&self) -> Option<Instant> {
        self.state().resumed
    }

    /// Whether a fault is raised.
    pub fn has(&self, fault: Fault) -> bool {
        self.state().faults[fault as usize].count > 0
    }

    /// # Errors
    /// Why the process should be started anew, on one line.
    pub fn live(&self) -> Result<(), String> {
        let state = self.state();
        if let Some(cause) = &state.stuck {
            return Err(cause.clone());
        }
        let silent = state.ticked.elapsed();
        if silent > TICK_LIMIT {
            return Err(format!(
                "the poll loop has been silent for {} s",
                silent.as_secs()
            ));
        }
        Ok(())
    }

    /// # Errors
    /// Why no records flow, on one line.
    pub fn ready(&self) -> Result<(), String> {
        self.live()?;
        let state = self.state();
        for fault in Fault::ALL {
            let holders = &state.faults[fault as usize];
            if holders.count > 0 {
                return Err(format!("{}: {}", fault.as_str(), holders.cause));
            }
        }
        if let Some(cause) = &state.breaker {
            return Err(format!("breaker: {cause}"));
        }
        if let Some(cause) = &state.dead_letters {
            return Err(format!("dead_letters: {cause}"));
        }
        state.joining.clone().map_or(Ok(()), Err)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let mut state = self.health.state();
        let holders = &mut state.faults[self.fault as usize];
        holders.count -= 1;
        if holders.count == 0 {
            log::info!(
                "{} fault is over; it was: {}",
                self.fault.as_str(),
                holders.cause
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_needs_a_membership_and_no_fault() {
        let health = Arc::new(Health::new());
        assert!(health.ready().unwrap_err().contains("not a member"));
        health.membership(None);
        assert_eq!(health.ready(), Ok(()));

        let first = health.raise(Fault::Host, "disk full".into());
        let second = health.raise(Fault::Host, "still full".into());
        drop(first);
        assert_eq!(health.ready(), Err("host: disk full".into()));
        assert_eq!(health.live(), Ok(()), "a fault is no reason to restart");
        drop(second);
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn m17_an_open_breaker_is_not_ready() {
        let health = Health::new();
        health.membership(None);
        health.breaker(Some("20 records in a row failed".into()));
        let cause = "breaker: 20 records in a row failed".to_owned();
        assert_eq!((health.ready(), health.live()), (Err(cause), Ok(())));
        health.breaker(None);
        assert_eq!(health.ready(), Ok(()));
    }

    #[test]
    fn a_stuck_task_ends_liveness() {
        let health = Health::new();
        health.stuck("task of upload-0 offset 7 is stuck".into());
        assert!(health.live().is_err() && health.ready().is_err());
    }
}
