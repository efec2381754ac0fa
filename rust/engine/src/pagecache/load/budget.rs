//! How much may be loaded: what was asked for, and the free memory, which is read again and again.

use std::sync::Mutex;

use crate::Result;
use crate::memory::{Headroom, Sources, headroom};
use crate::progress::lock;
use crate::tree::skips::Reason;

/// The kernel is asked again after this many bytes were granted.
const BATCH: u64 = 64 << 20;

/// A budget that threads draw on.
#[derive(Debug)]
pub struct Budget {
    bytes: u64,
    limit: String,
    reserve: u64,
    sources: Sources,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    granted: u64,
    /// How much may be granted in all before the kernel is asked again.
    checked: u64,
    stopped: Option<Reason>,
}

impl Budget {
    /// The smaller of what was asked for and of what is free beyond `reserve`, in bytes.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the kernel does not report how much is free.
    pub fn new(asked: Option<u64>, reserve: u64, sources: Sources) -> Result<Self> {
        let Headroom { bytes: free, mut limit } = headroom(&sources)?;
        let mut bytes = free.saturating_sub(reserve);
        if let Some(asked) = asked
            && asked <= bytes
        {
            bytes = asked;
            "request".clone_into(&mut limit);
        }
        let state = State { granted: 0, checked: BATCH, stopped: None };
        Ok(Self { bytes, limit, reserve, sources, state: Mutex::new(state) })
    }

    /// The whole of it, in bytes, and what set it.
    pub fn describe(&self) -> (u64, &str) {
        (self.bytes, &self.limit)
    }

    /// Draw up to `bytes`; return how many are granted, in whole multiples of `unit`.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) if the kernel does not report how much is free.
    pub fn take(&self, bytes: u64, unit: u64) -> Result<u64> {
        let mut state = lock(&self.state);
        if state.stopped.is_some() {
            return Ok(0);
        }
        if state.granted + bytes > state.checked {
            // What was loaded is clean page cache and so counts as free. When less than that and
            // half the reserve is left, another process needs the memory.
            let free = headroom(&self.sources)?.bytes;
            if free < state.granted.saturating_add(self.reserve / 2) {
                state.stopped = Some(Reason::MemoryPressure);
                return Ok(0);
            }
            state.checked = state.granted + bytes + BATCH;
        }
        let left = self.bytes - state.granted;
        let grant = bytes.min(left / unit * unit);
        state.granted += grant;
        if grant < bytes {
            state.stopped = Some(Reason::Budget);
        }
        Ok(grant)
    }

    /// Why nothing is granted any more, once that is so.
    pub fn stopped(&self) -> Option<Reason> {
        lock(&self.state).stopped
    }
}
