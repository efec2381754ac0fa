//! Checking an image, writing it, and proving that the disk has it: reading, unpacking, digesting and
//! writing go on at the same time, in memory that is bounded whatever the image.

pub mod ends;
pub mod read_back;
pub mod stream;
pub mod verify;
pub mod write;

use std::io::Read;

use holdfast_engine::image::Descriptor;

use crate::Result;

/// Where the image's packed bytes come from; asked anew for each pass.
pub trait Supply: Sync {
    /// What it is, for messages.
    fn name(&self) -> String;

    /// The packed bytes, from the first one on.
    ///
    /// # Errors
    /// A sentence about why there are none.
    fn open(&self) -> Result<Box<dyn Read + Send>>;

    /// Whether the bytes of another pass are the same as those of this one as far as anybody can tell,
    /// so that a cheap digest will do to notice damage. Not so if they come from somebody else's
    /// machine.
    fn is_local(&self) -> bool;
}

/// The bytes that are written after everything else, so that a disk that is not complete does not look
/// as if it were.
pub const HEAD_BYTES: u64 = 1 << 20;

/// Cheap digests (xxh64) of the image's chunks, those of zeros included.
pub type Digests = Vec<u64>;

/// Buffers for chunks: enough that nobody waits for another, within 32 MiB.
fn buffers(image: &Descriptor, workers: usize) -> usize {
    let most = (32 << 20) / image.chunk_bytes as usize;
    (2 * workers + 2).min(most).max(workers + 2)
}

/// Threads that digest and write: one for each processor, and enough to keep a disk's queue filled.
fn workers(in_flight: usize) -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).clamp(in_flight, 8)
}
