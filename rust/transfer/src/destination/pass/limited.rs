//! What limited a transfer, from the time that both ends spent waiting.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::statistics;

use crate::message::Spent;

/// Share of the processors above which they are what limits.
const BUSY: f64 = 0.9;

/// What limited a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limited {
    /// Connections waited for the source to read.
    SourceRead,
    /// Connections waited for the wire.
    Wire,
    /// Connections waited for the destination to write.
    DestinationWrite,
    /// The processors of one end were busy.
    Processor,
}

/// What is known of a round.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long it took.
    pub wall: Duration,
    /// Data connections.
    pub connections: usize,
    /// What the source reported.
    pub source: Spent,
    /// Time that connections spent writing here, each for itself.
    pub writing: Duration,
    /// Processor time here.
    pub processor: Duration,
    /// Processors here.
    pub processors: usize,
}

impl Limited {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::SourceRead, Self::Wire, Self::DestinationWrite, Self::Processor];

    /// Judge a round.
    pub fn of(times: &Times) -> Self {
        let wall = times.wall.as_secs_f64().max(1e-3);
        let connections = wall * times.connections.max(1) as f64;
        let share = |ms: u64, of: f64| ms as f64 / 1e3 / of;
        let here = times.processor.as_secs_f64() / (wall * times.processors.max(1) as f64);
        let there =
            share(times.source.processor_ms, wall * f64::from(times.source.processors.max(1)));
        if here.max(there) >= BUSY {
            return Self::Processor;
        }
        let reading = share(times.source.starved_ms, connections);
        let writing = times.writing.as_secs_f64() / connections;
        if reading >= 0.5 && reading >= writing {
            Self::SourceRead
        } else if writing >= 0.5 {
            Self::DestinationWrite
        } else {
            Self::Wire
        }
    }
}

/// Judges a round interval by interval.
#[derive(Debug, Default)]
pub struct Ledger {
    last: Option<Times>,
    /// Seconds by what limited them.
    pub seconds: BTreeMap<Limited, f64>,
}

impl Ledger {
    /// Take in the times since the round began; return what limited the interval since the last call.
    pub fn add(&mut self, now: Times) -> Limited {
        let interval = match &self.last {
            None => now,
            Some(last) => Times {
                wall: now.wall.saturating_sub(last.wall),
                source: Spent {
                    starved_ms: now.source.starved_ms.saturating_sub(last.source.starved_ms),
                    sending_ms: now.source.sending_ms.saturating_sub(last.source.sending_ms),
                    processor_ms: now.source.processor_ms.saturating_sub(last.source.processor_ms),
                    ..now.source
                },
                writing: now.writing.saturating_sub(last.writing),
                processor: now.processor.saturating_sub(last.processor),
                ..now
            },
        };
        let limited = Limited::of(&interval);
        *self.seconds.entry(limited).or_default() += interval.wall.as_secs_f64();
        statistics::limited(limited, interval.wall);
        self.last = Some(now);
        limited
    }

    /// Begin to count from zero with the next round.
    pub fn end_of_round(&mut self) {
        self.last = None;
    }
}

/// Decides whether more connections are worth it: some are added as long as the last ones paid.
#[derive(Debug)]
pub struct Growth {
    most: usize,
    /// The rate before the last connections were added, in bytes a second.
    before: Option<f64>,
    settled: bool,
}

/// Connections that are added at a time.
const STEP: usize = 4;
/// What added connections have to pay, as a factor of the rate.
const PAYS: f64 = 1.05;

impl Growth {
    /// Grow to at most this many connections.
    pub fn new(most: usize) -> Self {
        Self { most, before: None, settled: false }
    }

    /// Add no more.
    pub fn settle(&mut self) {
        self.settled = true;
    }

    /// Return how many connections to add after an interval with this rate and this limit.
    pub fn more(&mut self, connections: usize, rate: f64, limited: Limited) -> usize {
        if self.settled || connections >= self.most {
            return 0;
        }
        if self.before.is_some_and(|before| rate < before * PAYS) {
            self.settled = true;
            return 0;
        }
        // Others than the wire are no faster with more connections.
        if limited != Limited::Wire {
            return 0;
        }
        self.before = Some(rate);
        STEP.min(self.most - connections)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Growth, Limited, Times};
    use crate::message::Spent;

    #[test]
    fn connections_are_added_while_the_rate_grows_and_the_wire_limits() {
        let mut growth = Growth::new(18);
        assert_eq!(growth.more(8, 100.0, Limited::SourceRead), 0);
        assert_eq!(growth.more(8, 100.0, Limited::Wire), 4);
        assert_eq!(growth.more(12, 140.0, Limited::Wire), 4);
        assert_eq!(growth.more(16, 180.0, Limited::Wire), 2);
        assert_eq!(growth.more(18, 200.0, Limited::Wire), 0);
        let mut growth = Growth::new(32);
        assert_eq!(growth.more(8, 100.0, Limited::Wire), 4);
        assert_eq!(growth.more(12, 104.0, Limited::Wire), 0);
        assert_eq!(growth.more(12, 200.0, Limited::Wire), 0);
    }

    #[test]
    fn it_is_where_most_connections_wait() {
        let second = Duration::from_secs(1);
        let idle = Spent { processors: 2, ..Spent::default() };
        let times = Times {
            wall: 10 * second,
            connections: 4,
            source: idle,
            writing: Duration::ZERO,
            processor: second,
            processors: 2,
        };
        assert_eq!(Limited::of(&times), Limited::Wire);
        let source = Spent { starved_ms: 30_000, ..idle };
        assert_eq!(Limited::of(&Times { source, ..times }), Limited::SourceRead);
        let writing = 25 * second;
        assert_eq!(Limited::of(&Times { writing, ..times }), Limited::DestinationWrite);
        let source = Spent { processor_ms: 19_000, ..idle };
        assert_eq!(Limited::of(&Times { source, writing, ..times }), Limited::Processor);
    }
}
