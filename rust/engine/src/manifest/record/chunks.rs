//! Chunk tables: a large file's digests by chunk, by which parts of it are proven and resumed.

use crate::digest::Digest;

/// Bytes in a chunk, unless the file has too many.
pub const CHUNK: u64 = 64 << 20;
/// Chunks that a file has at most.
pub const MOST_CHUNKS: u64 = 8192;

/// The chunk size of a file: 64 MiB, doubled until it has no more than 8192 chunks.
pub fn chunk_size(size: u64) -> u64 {
    let mut chunk = CHUNK;
    while size.div_ceil(chunk) > MOST_CHUNKS {
        chunk *= 2;
    }
    chunk
}

/// Digests of the chunks of a file, and the states of the whole file's digest between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    /// Bytes in each but the last.
    pub size: u64,
    /// Of each chunk by itself.
    pub digests: Vec<Digest>,
    /// At the end of each chunk but the last; none for algorithms whose state cannot be kept.
    pub states: Vec<[u64; 4]>,
}

impl Chunks {
    /// Whether this can be the table of a file of `size` bytes.
    pub fn is_of(&self, size: u64) -> bool {
        let count = self.digests.len() as u64;
        self.size >= CHUNK
            && self.size.is_power_of_two()
            && count > 1
            && count <= MOST_CHUNKS
            && size.div_ceil(self.size) == count
            && (self.states.is_empty() || self.states.len() as u64 + 1 == count)
    }
}
