//! What waits to be sent: filled by the threads that read, emptied by all connections of a session.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::{Error, Result};

use crate::message::{BLOCK, Reply};

/// Bytes that wait at most.
const CAPACITY: usize = 16 << 20;
/// How long one wait is, between two checks whether the round failed.
const TICK: Duration = Duration::from_millis(200);

/// Something to be sent.
#[derive(Debug)]
pub enum Item {
    /// Bytes of a file.
    Block {
        /// Which want.
        want: u32,
        /// Where in the file, in bytes.
        offset: u64,
        /// Whether the file has holes.
        sparse: bool,
        /// XXH3 of the bytes.
        check: u64,
        /// The bytes.
        data: Vec<u8>,
    },
    /// Small files, encoded.
    Pack(Vec<u8>),
    /// A message.
    Message(Reply),
}

/// What a connection gets.
#[derive(Debug)]
pub enum Popped {
    /// Something to send.
    Item(Item),
    /// Nothing came for a while.
    Nothing,
    /// The round is over.
    Closed,
    /// The round failed.
    Failed,
}

#[derive(Debug, Default)]
struct State {
    items: VecDeque<Item>,
    bytes: usize,
    free: Vec<Vec<u8>>,
    closed: bool,
    failed: bool,
    starved: Duration,
}

/// The queue of one round.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    drained: Condvar,
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Block { data, .. } | Self::Pack(data) => data.len(),
            Self::Message(_) => 64,
        }
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Add an item; wait while the queue is full.
    ///
    /// # Errors
    /// [`Error::Cancelled`] once the round failed.
    pub fn push(&self, item: Item) -> Result<()> {
        let mut state = self.lock();
        while state.bytes >= CAPACITY && !state.failed {
            state = self.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failed {
            return Err(Error::Cancelled);
        }
        state.bytes += item.bytes();
        state.items.push_back(item);
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// Remove the next item, and wait for it for at most `patience`.
    pub fn pop(&self, patience: Duration) -> Popped {
        let begin = Instant::now();
        let mut state = self.lock();
        let popped = loop {
            if state.failed {
                break Popped::Failed;
            }
            if let Some(item) = state.items.pop_front() {
                state.bytes -= item.bytes();
                break Popped::Item(item);
            }
            if state.closed {
                return Popped::Closed;
            }
            if begin.elapsed() >= patience {
                break Popped::Nothing;
            }
            state = self.filled.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
        };
        state.starved += begin.elapsed();
        drop(state);
        self.drained.notify_one();
        popped
    }

    /// Return an empty buffer for a block, one that was used before if there is one.
    pub fn buffer(&self) -> Vec<u8> {
        self.lock().free.pop().unwrap_or_else(|| Vec::with_capacity(BLOCK))
    }

    /// Take a buffer back.
    pub fn give_back(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.lock().free.push(buffer);
    }

    /// Mark the end: nothing more is added.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    /// End the round at once.
    pub fn fail(&self) {
        self.lock().failed = true;
        self.filled.notify_all();
        self.drained.notify_all();
    }

    /// Return the time that connections have waited for something to send, each for itself.
    pub fn starved(&self) -> Duration {
        self.lock().starved
    }
}
