//! What is read of each file: all of it, or single chunks, a random sample of them if asked for.

use std::collections::VecDeque;
use std::ops::Range;

use super::names::Check;
use super::{Request, Verify};
use crate::digest::Algorithm;
use crate::progress::lock;
use crate::read::End;
use crate::xxh64::{Xxh64, xxh64};

/// A part of a file to be read: all of it, or one chunk.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) check: u32,
    pub(super) chunk: Option<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Parts of the largest file first.
    pub(super) first: VecDeque<Part>,
    /// Of files that changed while they were read.
    pub(super) again: Vec<Part>,
}

/// The parts to read, of the largest file first; `checks` learn how many theirs are.
pub(super) fn choose(checks: &mut [Check], algorithm: Algorithm, request: &Request) -> Vec<Part> {
    let Request { sample_percent, seed, .. } = *request;
    let by_chunks = sample_percent.is_some() || algorithm == Algorithm::Xxh64;
    let limit = sample_percent.map(|percent| (percent / 100.0 * u64::MAX as f64) as u64);
    let mut parts = Vec::new();
    let mut best = None;
    for (index, check) in checks.iter_mut().enumerate() {
        let index = index as u32;
        let whole = check.chunks.is_none() || (check.size == check.found && !by_chunks);
        let count = if whole { check.comparable().min(1) } else { check.comparable() };
        for chunk in 0..count {
            let part = Part { check: index, chunk: (!whole).then_some(chunk) };
            if let Some(limit) = limit {
                let lot = lot(seed, &check.paths[0], chunk);
                if best.is_none_or(|(lowest, _)| lot < lowest) {
                    best = Some((lot, part));
                }
                if lot > limit {
                    continue;
                }
            }
            check.parts += 1;
            parts.push(part);
        }
    }
    // A sample of something is never nothing.
    if let (true, Some((_, part))) = (parts.is_empty(), best) {
        checks[part.check as usize].parts = 1;
        parts.push(part);
    }
    parts
}

impl Verify<'_> {
    pub(super) fn range(&self, part: Part) -> Range<u64> {
        let check = &self.checks[part.check as usize];
        match (part.chunk, &check.chunks) {
            (Some(chunk), Some(chunks)) => {
                let begin = u64::from(chunk) * chunks.size;
                begin..(begin + chunks.size).min(check.size)
            }
            _ => 0..check.size,
        }
    }

    pub(super) fn chunks_in(&self, part: Part) -> u64 {
        match part.chunk {
            Some(_) => 1,
            None => u64::from(self.checks[part.check as usize].chunk_count()),
        }
    }

    pub(super) fn bytes_in(&self, parts: &[Part]) -> u64 {
        parts.iter().map(|part| self.range(*part)).map(|range| range.end - range.start).sum()
    }

    /// Take the next part.
    pub(super) fn take(&self, end: End) -> Option<Part> {
        let mut waiting = lock(&self.waiting);
        let next = match end {
            End::Largest => waiting.first.pop_front(),
            End::Smallest => waiting.first.pop_back(),
        };
        next.or_else(|| waiting.again.pop())
    }
}

/// A number that depends on a chunk and the seed only, the same whatever else is in the tree.
fn lot(seed: u64, path: &[u8], chunk: u32) -> u64 {
    let mut hash = Xxh64::default();
    hash.update(&seed.to_le_bytes());
    hash.update(&chunk.to_le_bytes());
    hash.update(&xxh64(path).to_le_bytes());
    hash.digest()
}
