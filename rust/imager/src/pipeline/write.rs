//! The second pass: the image to the disk, but for what makes a disk boot, which comes last.

use std::sync::Mutex;

use holdfast_engine::image::{Descriptor, is_zero};
use holdfast_engine::xxh64::xxh64;

use super::ends::Ends;
use super::{
    Blocks, Digests, HEAD_BYTES, Supply, WriteOptions, differing, differs, head_bytes, put, stream,
    workers,
};
use crate::disk::Buffer;
use crate::disk::table::{self, Fitted, Sizes};
use crate::lifeboat::Lifeboat;
use crate::status::{Phase, Status, lock};
use crate::{Fault, Result};

/// The largest range that is zeroed by one request, so that progress can be reported.
const ZERO_AT_ONCE: u64 = 64 << 20;
/// Writes in flight.
const IN_FLIGHT: usize = 4;
/// Names of both ends, for messages.
const BEGINNING: &str = "beginning of the disk";
const END: &str = "end of the disk";

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
/// the disk's last MiB, where there are zeros or what a grown root and a larger disk make of the partition
/// table. What made the old disk boot goes first: its system may have the image's layout, and would
/// boot what is not complete. With a lifeboat the sectors up to its switch stay: it boots by them. All
/// is durable when this returns.
///
/// # Errors
/// The disk's or the source's; what was written is not undone.
pub fn write(
    image: &Descriptor,
    supply: &dyn Supply,
    digests: &Digests,
    disk: &dyn Blocks,
    options: WriteOptions<'_>,
    status: &Status,
) -> Result<Written> {
    status.enter(Phase::Writing, image.size_bytes);
    status.begin_writing();
    let ends = Ends::new(head_bytes(image), disk.size_bytes());
    let kept = options.lifeboat.map_or(0, Lifeboat::kept_bytes);
    clear(disk, kept, HEAD_BYTES.min(image.size_bytes).saturating_sub(kept), BEGINNING)?;
    if !ends.tail.is_empty() {
        let sector = disk.sector_bytes();
        clear(disk, disk.size_bytes() - sector, sector, END)?;
    }
    for (from, length) in image.zero_ranges() {
        let middle = ends.between(from, length);
        zero(disk, from + middle.start as u64, middle.len() as u64, options.compare, status)?;
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
                let (at, bytes) = (piece.offset + middle.start as u64, &bytes[middle]);
                status.wrote(match options.compare {
                    true => differing::write(disk, bytes, at)?,
                    false => disk.write_at(bytes, at).map(|()| bytes.len() as u64)?,
                });
            }
            status.advance(piece.length);
        }
        Ok(())
    })?;
    let image_ends = ends.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut ends = image_ends.clone();
    let sector = disk.sector_bytes();
    let sizes = Sizes {
        image_bytes: image.size_bytes,
        disk_bytes: disk.size_bytes(),
        // The lifeboat is no part of a partition while it may be booted.
        limit_bytes: options.lifeboat.map(|lifeboat| lifeboat.range().offset_bytes),
    };
    let table = table::fit(&mut ends, sizes, sector, options.grow);
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

/// Write what makes the disk boot, the first MiB last, and check that the disk has it. With a lifeboat
/// the sector that boots it is the last one, by itself; `fenced` is the disk without that sector.
///
/// # Errors
/// The disk's, or that it reads back differently.
pub fn complete(
    written: &Written,
    disk: &dyn Blocks,
    fenced: Option<(&Lifeboat, &dyn Blocks)>,
    status: &Status,
) -> Result<()> {
    let others = fenced.map_or(disk, |(_, fenced)| fenced);
    if let Some(backup) = &written.backup {
        put(others, backup, disk.size_bytes() - disk.sector_bytes(), END)?;
        status.wrote(backup.len() as u64);
    }
    let kept = fenced.map_or(0, |(lifeboat, _)| lifeboat.kept_bytes());
    let rest = written.disk.head.get(kept as usize..).unwrap_or_default();
    if !rest.is_empty() {
        put(others, rest, kept, BEGINNING)?;
        status.wrote(rest.len() as u64);
    }
    fenced
        .map_or(Ok(()), |(lifeboat, _)| lifeboat.switch_to_image(&written.disk.head, disk, status))
}

/// Zero what makes a disk boot, and check that it is gone.
fn clear(disk: &dyn Blocks, at: u64, length: u64, what: &str) -> Result<()> {
    disk.zero(at, length)?;
    disk.flush()?;
    let mut back = Buffer::new(length as usize);
    disk.read_at(&mut back, at)?;
    if is_zero(&back) { Ok(()) } else { Err(differs(what)) }
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

fn zero(disk: &dyn Blocks, from: u64, length: u64, compare: bool, status: &Status) -> Result<()> {
    let end = from + length;
    let mut at = from;
    while at < end {
        let length = (end - at).min(ZERO_AT_ONCE);
        match compare {
            true => differing::zero(disk, at, length)?,
            false => disk.zero(at, length)?,
        }
        status.advance(length);
        at += length;
    }
    Ok(())
}
