//! Blocks: the bytes of a file between two multiples of a block, or up to a hole.

use holdfast_engine::Result;
use xxhash_rust::xxh3::xxh3_64;

use super::queue::{Item, Queue};
use crate::message::{BLOCK, Reply};

/// Bytes of a file on their way into blocks.
pub struct Block<'a> {
    queue: &'a Queue,
    want: u32,
    sparse: bool,
    /// Where the next byte belongs.
    position: u64,
    data: Vec<u8>,
}

impl<'a> Block<'a> {
    /// Begin at a position.
    pub fn new(queue: &'a Queue, want: u32, position: u64, sparse: bool) -> Self {
        Self { queue, want, sparse, position, data: Vec::new() }
    }

    /// Add bytes; full blocks are queued.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn add(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.data.capacity() == 0 {
                self.data = self.queue.buffer();
            }
            // Blocks end where the next one begins that is aligned.
            let space = BLOCK - (self.position % BLOCK as u64) as usize;
            let (now, later) = bytes.split_at(space.min(bytes.len()));
            self.data.extend_from_slice(now);
            self.position += now.len() as u64;
            bytes = later;
            if self.position.is_multiple_of(BLOCK as u64) {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Pass a hole.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn skip(&mut self, length: u64) -> Result<()> {
        self.flush()?;
        let (want, offset) = (self.want, self.position);
        self.position += length;
        self.queue.push(Item::Message(Reply::Hole { want, offset, length }))
    }

    /// Queue what is left.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn flush(&mut self) -> Result<()> {
        if self.data.is_empty() {
            return Ok(());
        }
        let data = std::mem::take(&mut self.data);
        let offset = self.position - data.len() as u64;
        let (want, sparse) = (self.want, self.sparse);
        // Here rather than where it is sent: the processor's cache still has it.
        let check = xxh3_64(&data);
        self.queue.push(Item::Block { want, offset, sparse, check, data })
    }
}
