//! The digest of one file with its chunk table, in one pass over its bytes.

use super::record::{Chunks, chunk_size};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::xxh64::{Xxh64, update_both};

/// A chunk of a file that was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// Which one.
    pub index: usize,
    /// Of its own bytes.
    pub digest: Digest,
    /// The state of the whole file's digest at its end, where the algorithm has one that can be
    /// kept, and unless it is the last one.
    pub state: Option<[u64; 4]>,
}

/// Takes in the bytes of one file.
#[derive(Debug)]
pub struct FileHasher {
    algorithm: Algorithm,
    size: u64,
    position: u64,
    whole: Hasher,
    /// Of the present chunk, for a file of more than one.
    chunk: Option<Hasher>,
    chunks: Chunks,
}

impl FileHasher {
    /// Begin a file of `size` bytes.
    pub fn new(algorithm: Algorithm, size: u64) -> Self {
        let chunk = chunk_size(size);
        Self {
            algorithm,
            size,
            position: 0,
            whole: Hasher::new(algorithm),
            chunk: (size > chunk).then(|| Hasher::new(algorithm)),
            chunks: Chunks { size: chunk, digests: Vec::new(), states: Vec::new() },
        }
    }

    /// Resume a file of which some chunks were hashed before; from the start if that cannot be.
    pub fn resume(algorithm: Algorithm, size: u64, chunks: Chunks) -> Self {
        let position = chunks.size.saturating_mul(chunks.states.len() as u64);
        let fits = chunks.size == chunk_size(size)
            && chunks.digests.len() == chunks.states.len()
            && position < size;
        let (true, Algorithm::Xxh64, Some(&state)) = (fits, algorithm, chunks.states.last()) else {
            return Self::new(algorithm, size);
        };
        Self {
            algorithm,
            size,
            position,
            whole: Hasher::Xxh64(Xxh64::resume(state, position)),
            chunk: Some(Hasher::new(algorithm)),
            chunks,
        }
    }

    /// Bytes taken in.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Hash more bytes, reporting each chunk that they complete.
    pub fn update(&mut self, mut bytes: &[u8], mut completed: impl FnMut(Chunk)) {
        while !bytes.is_empty() {
            let Some(chunk) = &mut self.chunk else {
                self.position += bytes.len() as u64;
                self.whole.update(bytes);
                return;
            };
            let left = self.chunks.size - self.position % self.chunks.size;
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at(most);
            match (&mut *chunk, &mut self.whole) {
                (Hasher::Xxh64(chunk), Hasher::Xxh64(whole)) => update_both(whole, chunk, now),
                (chunk, whole) => {
                    chunk.update(now);
                    whole.update(now);
                }
            }
            self.position += now.len() as u64;
            bytes = later;
            let last = self.position == self.size;
            if last || self.position.is_multiple_of(self.chunks.size) {
                let digest = std::mem::replace(chunk, Hasher::new(self.algorithm)).digest();
                let state = match &self.whole {
                    Hasher::Xxh64(whole) if !last => Some(whole.lanes()),
                    _ => None,
                };
                let index = self.chunks.digests.len();
                self.chunks.digests.push(digest);
                self.chunks.states.extend(state);
                completed(Chunk { index, digest, state });
            }
        }
    }

    /// The file's digest, and its chunk table if it has more than one chunk.
    pub fn finish(self) -> (Digest, Option<Chunks>) {
        (self.whole.digest(), self.chunk.map(|_| self.chunks))
    }
}

#[cfg(test)]
mod tests {
    use super::{FileHasher, Hasher};
    use crate::digest::Algorithm;
    use crate::manifest::record::CHUNK;

    const PIECE: usize = 3 << 20;

    fn hash(hasher: &mut FileHasher, data: &[u8], from: usize) -> Vec<usize> {
        let mut completed = Vec::new();
        for piece in data[from..].chunks(PIECE) {
            hasher.update(piece, |chunk| completed.push(chunk.index));
        }
        completed
    }

    #[test]
    fn it_goes_on_after_a_chunk_and_comes_to_the_same() {
        let data: Vec<u8> = (0..CHUNK as usize + 77).map(|n| (n / 7) as u8).collect();
        let size = data.len() as u64;
        let mut whole = FileHasher::new(Algorithm::Xxh64, size);
        assert_eq!(hash(&mut whole, &data, 0), [0, 1]);
        let (digest, chunks) = whole.finish();
        let chunks = chunks.unwrap();
        let mut judge = Hasher::new(Algorithm::Xxh64);
        judge.update(&data);
        assert_eq!(digest, judge.digest());
        assert!(chunks.is_of(size));
        let mut started = chunks.clone();
        started.digests.truncate(1);
        let mut hasher = FileHasher::resume(Algorithm::Xxh64, size, started.clone());
        assert_eq!(hasher.position(), CHUNK);
        assert_eq!(hash(&mut hasher, &data, CHUNK as usize), [1]);
        assert_eq!(hasher.finish(), (digest, Some(chunks)));
        // Other algorithms, and files of another size, cannot be resumed.
        let other = FileHasher::resume(Algorithm::Blake3, size, started.clone());
        assert_eq!(other.position(), 0);
        assert_eq!(FileHasher::resume(Algorithm::Xxh64, CHUNK, started).position(), 0);
    }
}
