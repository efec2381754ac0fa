//! Checking an image, writing it, and proving that the disk has it: reading, unpacking, digesting
//! and writing run at the same time, in memory that is bounded whatever the image.

pub mod differing;
pub mod ends;
pub mod read_back;
pub mod replace;
pub mod stream;
pub mod verify;
pub mod write;

use std::io::Read;

use holdfast_engine::image::Descriptor;
use holdfast_engine::image::descriptor::SECTOR;

use crate::disk::{Buffer, Disk};
use crate::lifeboat::Lifeboat;
use crate::{Fault, Result};

/// Where the image's packed bytes come from; asked anew for each pass.
pub trait Supply: Sync {
    /// What it is, for messages.
    fn name(&self) -> String;

    /// The packed bytes, from the first one on.
    ///
    /// # Errors
    /// A sentence about why there are none.
    fn open(&self) -> Result<Box<dyn Read + Send>>;

    /// Whether the bytes of another pass are certainly the same as those of this one,
    /// so that a cheap digest will do to notice damage. Not so if they come from another machine.
    fn is_local(&self) -> bool;
}

/// What an image is written to. Places and lengths are multiples of a sector.
pub trait Blocks: Sync {
    /// What it is, for messages.
    fn name(&self) -> String;

    /// Its size.
    fn size_bytes(&self) -> u64;

    /// Bytes of a sector, 512 or 4096.
    fn sector_bytes(&self) -> u64 {
        SECTOR
    }

    /// Fill the buffer from a place.
    ///
    /// # Errors
    /// The system's, with the place.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()>;

    /// Write a buffer to a place.
    ///
    /// # Errors
    /// The system's, with the place.
    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()>;

    /// Make a range read as zeros.
    ///
    /// # Errors
    /// The system's, with the place.
    fn zero(&self, offset: u64, length: u64) -> Result<()>;

    /// Wait until everything written is on the medium.
    ///
    /// # Errors
    /// The system's.
    fn flush(&self) -> Result<()>;
}

impl Blocks for Disk {
    fn name(&self) -> String {
        self.path().display().to_string()
    }

    fn size_bytes(&self) -> u64 {
        Self::size_bytes(self)
    }

    fn sector_bytes(&self) -> u64 {
        Self::sector_bytes(self)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        Self::read_at(self, buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        Self::write_at(self, buffer, offset)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<()> {
        Self::zero(self, offset, length)
    }

    fn flush(&self) -> Result<()> {
        Self::flush(self)
    }
}

/// How a disk is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteOptions<'a> {
    /// The number of the partition to extend, if any.
    pub grow: Option<u32>,
    /// What the disk boots until it has the image, if there is anything.
    pub lifeboat: Option<&'a Lifeboat>,
    /// Whether to read what the disk has, and write only where it differs.
    pub compare: bool,
}

/// Write a few bytes, and check that the disk has them; all that was written before is on the medium
/// then, too. `what` names them in messages.
///
/// # Errors
/// The disk's, or that it reads back differently.
pub(crate) fn put(disk: &dyn Blocks, bytes: &[u8], at: u64, what: &str) -> Result<()> {
    disk.write_at(bytes, at)?;
    disk.flush()?;
    let mut back = Buffer::new(bytes.len());
    disk.read_at(&mut back, at)?;
    if *bytes == *back { Ok(()) } else { Err(differs(what)) }
}

fn differs(what: &str) -> Fault {
    Fault(format!("the {what} reads back differently than it was written"))
}

/// The most bytes at the disk's beginning that are written after everything else, so that no firmware
/// or boot loader takes an incomplete disk for a system.
pub const HEAD_BYTES: u64 = 1 << 20;

/// How many bytes at the disk's beginning are held back: up to [`HEAD_BYTES`], and none of the root
/// partition, which is mounted before they are written.
pub fn head_bytes(image: &Descriptor) -> u64 {
    let root = image.root().map_or(HEAD_BYTES, |root| root.start_bytes);
    HEAD_BYTES.min(image.size_bytes).min(root.max(SECTOR))
}

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
