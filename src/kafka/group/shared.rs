//! One lock around the member, for the poll thread and the heartbeat thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Group;

/// The member as both threads hold it.
#[derive(Debug)]
pub(in crate::kafka) struct Shared {
    group: Mutex<Group>,
    changed: Condvar,
}

impl Shared {
    pub(in crate::kafka) fn new(group: Group) -> Arc<Self> {
        Arc::new(Self {
            group: Mutex::new(group),
            changed: Condvar::new(),
        })
    }

    /// The member. Never hold it over I/O. The guard must go before the other thread is to see
    /// what changed: [`Shared::wake`].
    pub(in crate::kafka) fn lock(&self) -> MutexGuard<'_, Group> {
        // A panic under the lock ends its thread, which is noticed and fatal on its own.
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the heartbeat thread look again.
    pub(in crate::kafka) fn wake(&self) {
        self.changed.notify_all();
    }

    /// Gives the lock back until something changes or `until`.
    pub(in crate::kafka) fn wait<'a>(
        &self,
        guard: MutexGuard<'a, Group>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, Group> {
        // A bound even without a time: a missed wake costs one look more, not the membership.
        let pause = until.map_or(Duration::from_secs(1), |until| {
            until.saturating_duration_since(Instant::now())
        });
        self.changed
            .wait_timeout(guard, pause)
            .unwrap_or_else(PoisonError::into_inner)
            .0
    }
}
