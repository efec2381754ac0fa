//! Many small files in one frame.

use std::sync::Mutex;

use holdfast_engine::Result;

use super::lock;
use super::queue::{Item, Queue};
use crate::message::{BLOCK, End, Small, encode, pack};

/// Files in a pack at most.
const MOST: usize = 512;

/// Collects small files until a frame is full.
#[derive(Debug, Default)]
pub struct Packer(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    files: Vec<Small>,
    bytes: Vec<u8>,
    /// Of the heads, about.
    heads: usize,
}

impl Packer {
    /// Add a file; full packs are queued.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn add(&self, queue: &Queue, end: End, bytes: &[u8]) -> Result<()> {
        let small = Small { end, length: bytes.len() as u32 };
        let attributes = &small.end.metadata.attributes;
        let head = if attributes.is_empty() { 96 } else { encode(&small).len() + 8 };
        let full = {
            let mut open = lock(&self.0);
            let fits = open.files.len() < MOST
                && open.bytes.len() + open.heads + bytes.len() + head <= BLOCK;
            let full = (!fits).then(|| std::mem::take(&mut *open));
            open.files.push(small);
            open.bytes.extend_from_slice(bytes);
            open.heads += head;
            full
        };
        full.map_or(Ok(()), |open| queue.push(Item::Pack(pack(&open.files, &open.bytes))))
    }

    /// Queue what is left.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn finish(&self, queue: &Queue) -> Result<()> {
        let open = std::mem::take(&mut *lock(&self.0));
        if open.files.is_empty() {
            return Ok(());
        }
        queue.push(Item::Pack(pack(&open.files, &open.bytes)))
    }
}
