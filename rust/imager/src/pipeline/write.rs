//! The second pass: the image to the disk, but for what makes a disk boot, which comes last.

use std::sync::Mutex;

use holdfast_engine::image::{Descriptor, is_zero};
use holdfast_engine::xxh64::xxh64;

use super::ends::Ends;
use super::{Blocks, Digests, HEAD_BYTES, Supply, head_bytes, stream, workers};
use crate::disk::Buffer;
use crate::status::{Phase, Status, lock};
use crate::table::{self, Fitted};
use crate::{Fault, Result};

/// The largest range that is zeroed by one request, so that progress can be reported.
const ZERO_AT_ONCE: u64 = 64 << 20;
/// Writes in flight.
const IN_FLIGHT: usize = 4;
/// Names of both ends, for messages.
const BEGINNING: &str = "beginning";
const END: &str = "end";

/// What was written, and what is still to be.
#[derive(Debug)]
pub struct Written {
    /// The disk's ends as the image has them.
    pub image: Ends,
    /// The disk's ends as they are to be: the last one is there, but for `backup`; the first is not.
    pub disk: Ends,
    /// The header of the table's backup, for the disk's last sector, which has zeros until then:
    /// firmware boots by it where the first one is missing.
    pub backup: Option<Buffer>,
    /// How the partition table was made to fit the disk.
    pub table: Fitted,
}

/// Write everything but what makes the disk boot: the rest of the image, zeros where it has none, and
/// the disk's last MiB, where there are zeros or what `grow` and a larger disk make of the partition
/// table. What made the old disk boot goes first: its system may have the image's layout, and would
/// boot what is not complete. All is durable when this returns. `grow` is the number of the partition to
/// extend, if any.
///
/// # Errors
/// The disk's or the source's; what was written is not undone.
pub fn write(
    image: &Descriptor,
    supply: &dyn Supply,
    digests: &Digests,
    disk: &dyn Blocks,
    grow: Option<u32>,
    status: &Status,
) -> Result<Written> {
    status.enter(Phase::Writing, image.size_bytes);
    status.begin_writing();
    let ends = Ends::new(head_bytes(image), disk.size_bytes());
    clear(disk, 0, HEAD_BYTES.min(image.size_bytes), BEGINNING)?;
    if !ends.tail.is_empty() {
        let sector = disk.sector_bytes();
        clear(disk, disk.size_bytes() - sector, sector, END)?;
    }
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
    let sector = disk.sector_bytes();
    let table = table::fit(&mut ends, image.size_bytes, disk.size_bytes(), sector, grow);
    let backup = take_backup(&mut ends.tail, sector as usize);
    if is_zero(&ends.tail) {
        disk.zero(ends.tail_at, ends.tail.len() as u64)?;
    } else {
        disk.write_at(&ends.tail, ends.tail_at)?;
        status.wrote(ends.tail.len() as u64);
    }
    disk.flush()?;
    status.finish();
    Ok(Written { image: image_ends, disk: ends, backup, table })
}

/// Write what makes the disk boot, the first MiB last, and check that the disk has it.
///
/// # Errors
/// The disk's, or that it reads back differently.
pub fn complete(written: &Written, disk: &dyn Blocks, status: &Status) -> Result<()> {
    if let Some(backup) = &written.backup {
        put(disk, backup, disk.size_bytes() - disk.sector_bytes(), END, status)?;
    }
    put(disk, &written.disk.head, 0, BEGINNING, status)
}

fn put(disk: &dyn Blocks, bytes: &Buffer, at: u64, what: &str, status: &Status) -> Result<()> {
    disk.write_at(bytes, at)?;
    disk.flush()?;
    status.wrote(bytes.len() as u64);
    let mut back = Buffer::new(bytes.len());
    disk.read_at(&mut back, at)?;
    if **bytes == *back { Ok(()) } else { Err(differs(what)) }
}

/// Zero what makes a disk boot, and check that it is gone.
fn clear(disk: &dyn Blocks, at: u64, length: u64, what: &str) -> Result<()> {
    disk.zero(at, length)?;
    disk.flush()?;
    let mut back = Buffer::new(length as usize);
    disk.read_at(&mut back, at)?;
    if is_zero(&back) { Ok(()) } else { Err(differs(what)) }
}

fn differs(what: &str) -> Fault {
    Fault(format!("the {what} of the disk reads back differently than it was written"))
}

/// Take a backup header of a GPT out of the disk's last sector.
fn take_backup(tail: &mut Buffer, sector: usize) -> Option<Buffer> {
    let at = tail.len().checked_sub(sector)?;
    let last = &mut tail[at..];
    if !last.starts_with(b"EFI PART") {
        return None;
    }
    let mut backup = Buffer::new(sector);
    backup.copy_from_slice(last);
    last.fill(0);
    Some(backup)
}

fn zero(disk: &dyn Blocks, from: u64, length: u64, status: &Status) -> Result<()> {
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
