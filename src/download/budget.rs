//! How many bytes of archive bodies the process holds at once.
//!
//! A download reserves before it reads, and waits while the budget is spent. Waiters are served
//! in the order in which they came: a large body is not overtaken for ever by small ones.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often a waiter asks whether it is still wanted.
const CHECK: Duration = Duration::from_millis(50);

/// A number of bytes that all downloads share.
#[derive(Debug)]
pub struct Budget {
    max: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    waiting: VecDeque<u64>,
    next_ticket: u64,
}

impl Budget {
    /// A budget of `max` bytes.
    pub fn new(max: u64) -> Self {
        Self {
            max,
            state: Mutex::default(),
            freed: Condvar::new(),
        }
    }

    /// Bytes reserved at the moment.
    pub fn used(&self) -> u64 {
        self.lock().used
    }

    /// The size of the whole budget in bytes.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// Waits until `bytes` are free and takes them. More than the whole budget is cut to the
    /// whole budget, since it could never be granted. `None` when `cancelled` said so first.
    pub fn reserve(
        self: &Arc<Self>,
        bytes: u64,
        cancelled: &dyn Fn() -> bool,
    ) -> Option<Reservation> {
        let bytes = bytes.min(self.max);
        let mut state = self.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiting.push_back(ticket);
        loop {
            let first = state.waiting.front() == Some(&ticket);
            if first && state.used.saturating_add(bytes) <= self.max {
                state.waiting.pop_front();
                state.used += bytes;
                drop(state);
                // The next in line may fit beside us.
                self.freed.notify_all();
                return Some(Reservation {
                    budget: Arc::clone(self),
                    bytes,
                });
            }
            // Asked without the lock: the answer may take locks of its own.
            drop(state);
            let stop = cancelled();
            state = self.lock();
            if stop {
                state.waiting.retain(|waiting| *waiting != ticket);
                drop(state);
                self.freed.notify_all();
                return None;
            }
            state = self
                .freed
                .wait_timeout(state, CHECK)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Two counters and a queue are whole at every moment, also after a panic elsewhere.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes taken from a [`Budget`], given back on drop.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Reservation {
    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back what is above `bytes`, once the real size is known.
    pub fn shrink_to(&mut self, bytes: u64) {
        let excess = self.bytes.saturating_sub(bytes);
        self.bytes -= excess;
        self.give_back(excess);
    }

    fn give_back(&self, bytes: u64) {
        if bytes > 0 {
            self.budget.lock().used -= bytes;
            self.budget.freed.notify_all();
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Instant;

    use super::*;

    fn never() -> bool {
        false
    }

    fn waiters(budget: &Budget, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while budget.lock().waiting.len() != count {
            assert!(Instant::now() < deadline, "never {count} waiters");
            std::thread::yield_now();
        }
    }

    #[test]
    fn p09_bytes_are_held_until_the_drop() {
        let budget = Arc::new(Budget::new(10));
        let first = budget.reserve(4, &never).unwrap();
        let mut second = budget.reserve(6, &never).unwrap();
        assert_eq!((budget.used(), first.bytes(), second.bytes()), (10, 4, 6));
        second.shrink_to(1);
        assert_eq!(budget.used(), 5);
        second.shrink_to(3);
        assert_eq!(second.bytes(), 1, "shrinking never grows");
        drop((first, second));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn p09_more_than_everything_is_everything() {
        let budget = Arc::new(Budget::new(10));
        assert_eq!(budget.reserve(1_000, &never).unwrap().bytes(), 10);
        assert_eq!(budget.reserve(0, &never).unwrap().bytes(), 0);
    }

    #[test]
    fn p09_a_slot_waits_until_bytes_are_free() {
        let budget = Arc::new(Budget::new(10));
        let held = budget.reserve(8, &never).unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| budget.reserve(5, &never).map(|granted| granted.bytes()));
            waiters(&budget, 1);
            assert_eq!(budget.used(), 8);
            drop(held);
            assert_eq!(waiter.join().unwrap(), Some(5));
        });
    }

    #[test]
    fn p09_small_ones_do_not_overtake_a_large_one() {
        let budget = Arc::new(Budget::new(10));
        let held = budget.reserve(8, &never).unwrap();
        let large_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let granted = budget.reserve(9, &never);
                large_done.store(true, Ordering::SeqCst);
                drop(granted);
            });
            waiters(&budget, 1);
            let small = scope.spawn(|| {
                // One byte would fit beside the eight at once.
                let granted = budget.reserve(2, &never);
                (granted.is_some(), large_done.load(Ordering::SeqCst))
            });
            waiters(&budget, 2);
            drop(held);
            assert_eq!(small.join().unwrap(), (true, true));
        });
    }

    #[test]
    fn p09_a_waiter_that_is_cancelled_lets_the_next_one_through() {
        let budget = Arc::new(Budget::new(10));
        let _held = budget.reserve(8, &never).unwrap();
        let cancelled = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let large = scope.spawn(|| {
                budget
                    .reserve(9, &|| cancelled.load(Ordering::SeqCst))
                    .is_none()
            });
            waiters(&budget, 1);
            let small = scope.spawn(|| budget.reserve(2, &never).is_some());
            waiters(&budget, 2);
            cancelled.store(true, Ordering::SeqCst);
            assert!(large.join().unwrap());
            assert!(small.join().unwrap());
        });
        assert_eq!(budget.used(), 8);
    }
}
