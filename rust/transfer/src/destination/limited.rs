//! What limited a transfer, from the time that both ends spent waiting.

use std::time::Duration;

use serde::Serialize;

use crate::message::Spent;

/// Share of the processors above which they are what limits.
const BUSY: f64 = 0.9;

/// What limited a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Limited, Times};
    use crate::message::Spent;

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
