//! The second pass: the image to the disk, but for its first MiB, and the disk's last MiB as it is to be.

use std::sync::Mutex;

use holdfast_engine::image::{Descriptor, is_zero};
use holdfast_engine::xxh64::xxh64;

use super::ends::Ends;
use super::{Digests, Supply, stream, workers};
use crate::disk::{Buffer, Disk};
use crate::status::{Phase, Status, lock};
use crate::table::{self, Fitted};
use crate::{Fault, Result};

/// The largest range that is zeroed by one request, so that progress can be told.
const ZERO_AT_ONCE: u64 = 64 << 20;
/// Writes in flight.
const IN_FLIGHT: usize = 4;

/// What was written, and what is still to be.
#[derive(Debug)]
pub struct Written {
    /// The disk's ends as the image has them.
    pub image: Ends,
    /// The disk's ends as they are to be: the last one is there, the first one is not.
    pub disk: Ends,
    /// How the partition table was made to fit the disk.
    pub table: Fitted,
}

/// Write everything but the first MiB: the rest of the image, zeros where it has none, and the disk's
/// last MiB, where there are zeros or what `grow` and a larger disk make of the partition table. It is
/// durable when this returns. `grow` is the number of the partition to extend, if any.
///
/// # Errors
/// The disk's or the source's; what was written is not undone.
pub fn write(
    image: &Descriptor,
    supply: &dyn Supply,
    digests: &Digests,
    disk: &Disk,
    grow: Option<u32>,
    status: &Status,
) -> Result<Written> {
    status.enter(Phase::Writing, image.size_bytes);
    status.begin_writing();
    let ends = Ends::new(image.size_bytes, disk.size_bytes());
    for (from, length) in image.zero_ranges() {
        let middle = ends.between(from, length);
        zero(disk, from + middle.start as u64, middle.len() as u64, status)?;
    }
    let ends = Mutex::new(ends);
    stream::pass(image, supply, workers(IN_FLIGHT), &|index, piece, bytes| {
        let expected =
            if supply.is_local() { xxh64(bytes) == digests[index] } else { piece.matches(bytes) };
        if !expected {
            return Err(Fault(format!(
                "{} changed since it was checked: the chunk at {} differs",
                supply.name(),
                piece.offset
            )));
        }
        let middle = lock(&ends).between(piece.offset, piece.length);
        if middle.len() < bytes.len() {
            lock(&ends).keep(piece.offset, bytes);
        }
        if piece.digest.is_some() {
            if !middle.is_empty() {
                disk.write_at(&bytes[middle.clone()], piece.offset + middle.start as u64)?;
                status.wrote(middle.len() as u64);
            }
            status.advance(piece.length);
        }
        Ok(())
    })?;
    let image_ends = ends.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut ends = image_ends.clone();
    let table = table::fit(&mut ends, image.size_bytes, disk.size_bytes(), grow);
    if is_zero(&ends.tail) {
        disk.zero(ends.tail_at, ends.tail.len() as u64)?;
    } else {
        disk.write_at(&ends.tail, ends.tail_at)?;
        status.wrote(ends.tail.len() as u64);
    }
    disk.flush()?;
    status.finish();
    Ok(Written { image: image_ends, disk: ends, table })
}

/// Write the first MiB and check that the disk has it: with this the disk is what it is to be.
///
/// # Errors
/// The disk's, or that it reads back differently.
pub fn complete(written: &Written, disk: &Disk, status: &Status) -> Result<()> {
    let head = &written.disk.head;
    disk.write_at(head, 0)?;
    disk.flush()?;
    status.wrote(head.len() as u64);
    let mut back = Buffer::new(head.len());
    disk.read_at(&mut back, 0)?;
    if **head == *back {
        Ok(())
    } else {
        Err(Fault::new("the beginning of the disk reads back differently than it was written"))
    }
}

fn zero(disk: &Disk, from: u64, length: u64, status: &Status) -> Result<()> {
    let end = from + length;
    let mut at = from;
    while at < end {
        let length = (end - at).min(ZERO_AT_ONCE);
        disk.zero(at, length)?;
        status.advance(length);
        at += length;
    }
    Ok(())
}
