//! Which files are read, and in which order.

use std::collections::VecDeque;

use crate::digest::{Algorithm, Hasher};
use crate::manifest::record::{Entry, Status, Type};
use crate::read::End;

/// Files that wait to be hashed.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Indices of lines, the largest file first.
    pub(super) first: VecDeque<u32>,
    /// Of files that changed while they were read.
    pub(super) again: Vec<u32>,
}

impl Queue {
    /// Take the next file from one end; those to be read again come last.
    pub(super) fn take(&mut self, end: End) -> Option<u32> {
        let next = match end {
            End::Largest => self.first.pop_front(),
            End::Smallest => self.first.pop_back(),
        };
        next.or_else(|| self.again.pop())
    }
}

/// The files that must be read, the largest first. Of empty files the digest is known, where sizes
/// can be believed.
pub(super) fn wanting(entries: &mut [Entry], algorithm: Algorithm, true_sizes: bool) -> Vec<u32> {
    let nothing = Hasher::new(algorithm).digest();
    let mut waiting = Vec::new();
    for (index, entry) in entries.iter_mut().enumerate() {
        let file = entry.kind == Type::File && entry.status == Status::Ok;
        if !file || entry.digest.is_some() || entry.hardlink_of().is_some() {
            continue;
        }
        if entry.identity.size == 0 && true_sizes {
            entry.digest = Some(nothing);
        } else {
            waiting.push(u32::try_from(index).expect("lines are fewer than 2^32"));
        }
    }
    waiting.sort_by_key(|&index| std::cmp::Reverse(entries[index as usize].identity.size));
    waiting
}
