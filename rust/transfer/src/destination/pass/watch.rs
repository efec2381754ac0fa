//! Watches a round: what limits it from second to second, and whether more connections would help.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::clock::processor_time;
use crate::destination::flush::lock;
use crate::destination::pass::limited::{Growth, Ledger, Times};
use crate::destination::receive::Round;

/// How long one interval is.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often it is checked whether the round is over.
const TICK: Duration = Duration::from_millis(5);

/// The watch of one round.
#[derive(Debug)]
pub struct Watch {
    begin: Instant,
    processor: Duration,
    growth: Growth,
    connections: usize,
    received: u64,
}

impl Watch {
    /// Begin.
    pub fn new(most: usize, connections: usize) -> Self {
        Self {
            begin: Instant::now(),
            processor: processor_time(),
            growth: Growth::new(most),
            connections,
            received: 0,
        }
    }

    /// Wait for an interval, or until the round is over. Returns how many connections to add.
    pub fn interval(&mut self, round: &Round<'_>, over: &AtomicBool, limits: &mut Ledger) -> usize {
        let begin = Instant::now();
        while begin.elapsed() < INTERVAL {
            if over.load(Ordering::Relaxed) {
                return 0;
            }
            std::thread::sleep(TICK);
        }
        let limited = limits.add(self.times(round));
        let received = round.received.load(Ordering::Relaxed);
        let rate = (received - self.received) as f64 / begin.elapsed().as_secs_f64();
        self.received = received;
        let more = self.growth.more(self.connections, rate, limited);
        self.connections += more;
        more
    }

    /// Add no more connections.
    pub fn settle(&mut self) {
        self.growth.settle();
    }

    /// Account for the last interval.
    pub fn finish(&mut self, round: &Round<'_>, limits: &mut Ledger) {
        limits.add(self.times(round));
        limits.end_of_round();
    }

    fn times(&self, round: &Round<'_>) -> Times {
        Times {
            wall: self.begin.elapsed(),
            connections: self.connections,
            source: *lock(&round.spent),
            writing: *lock(&round.writing),
            processor: processor_time().saturating_sub(self.processor),
            processors: holdfast_engine::pool::processors(),
        }
    }
}
