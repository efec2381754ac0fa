//! Fairness between destinations: while several fetch at a time, each sends on as many connections
//! as that with the fewest, so that none gets more of the wire by opening more of them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long one wait is, between two checks of what the others do.
const TICK: Duration = Duration::from_millis(50);

/// The turns of one destination's connections.
#[derive(Debug, Default)]
pub struct Turns {
    /// Whether something is being read for it.
    active: AtomicBool,
    connections: AtomicUsize,
    sending: Mutex<usize>,
    freed: Condvar,
}

/// The right to send one item.
#[derive(Debug)]
pub struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.sending.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}

impl Turns {
    /// Note whether something is being read.
    pub fn set_active(&self, active: bool) {
        self.active.store(active, Ordering::Relaxed);
    }

    /// Count a connection that carries data, or one that does not any more.
    pub fn count(&self, more: bool) {
        if more {
            self.connections.fetch_add(1, Ordering::Relaxed);
        } else {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Return how many connections it has, if it fetches just now.
    pub fn competing(&self) -> Option<usize> {
        let connections = self.connections.load(Ordering::Relaxed);
        (self.active.load(Ordering::Relaxed) && connections > 0).then_some(connections)
    }

    /// Wait until fewer connections send than `share` returns; `None` after `patience`.
    pub fn take(&self, share: impl Fn() -> usize, patience: Duration) -> Option<Turn<'_>> {
        let begin = Instant::now();
        let mut sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        while *sending >= share().max(1) {
            if begin.elapsed() >= patience {
                return None;
            }
            let wait = self.freed.wait_timeout(sending, TICK);
            sending = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        *sending += 1;
        Some(Turn(self))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Turns;

    #[test]
    fn no_more_connections_send_than_their_share() {
        let turns = Turns::default();
        let first = turns.take(|| 2, Duration::ZERO).unwrap();
        let second = turns.take(|| 2, Duration::ZERO).unwrap();
        assert!(turns.take(|| 2, Duration::ZERO).is_none());
        drop(first);
        let third = turns.take(|| 2, Duration::ZERO).unwrap();
        assert!(turns.take(|| 0, Duration::ZERO).is_none());
        drop((second, third));
        assert!(turns.take(|| 0, Duration::ZERO).is_some());
        assert_eq!(turns.competing(), None);
        turns.set_active(true);
        turns.count(true);
        assert_eq!(turns.competing(), Some(1));
    }
}
