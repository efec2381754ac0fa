//! The second pass: the image to the disk, but for its first MiB.

use std::sync::Mutex;

use holdfast_engine::image::Descriptor;
use holdfast_engine::xxh64::xxh64;

use super::{Digests, HEAD_BYTES, Supply, stream, workers};
use crate::disk::{Buffer, Disk};
use crate::status::{Phase, Status, lock};
use crate::{Fault, Result};

/// The largest range that is zeroed by one request, so that progress can be told.
const ZERO_AT_ONCE: u64 = 64 << 20;
/// Writes in flight.
const IN_FLIGHT: usize = 4;

/// Write everything but the first MiB, which is answered: the rest of the image, zeros where it has
/// none, and zeros at the disk's end, where an old partition table or superblock may be. It is durable
/// when this returns.
///
/// # Errors
/// The disk's or the source's; what was written is not undone.
pub fn write(
    image: &Descriptor,
    supply: &dyn Supply,
    digests: &Digests,
    disk: &Disk,
    status: &Status,
) -> Result<Buffer> {
    status.enter(Phase::Writing, image.size_bytes);
    status.begin_writing();
    for (from, length) in zeroed(image, disk.size_bytes()) {
        zero(disk, from, length, status)?;
    }
    let head_bytes = HEAD_BYTES.min(image.size_bytes);
    let head = Mutex::new(Buffer::new(head_bytes as usize));
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
        let held_back = head_bytes.saturating_sub(piece.offset).min(piece.length) as usize;
        if held_back > 0 {
            lock(&head)[piece.offset as usize..][..held_back].copy_from_slice(&bytes[..held_back]);
        }
        let rest = &bytes[held_back..];
        if piece.digest.is_some() && !rest.is_empty() {
            disk.write_at(rest, piece.offset + held_back as u64)?;
            status.wrote(rest.len() as u64);
            status.advance(piece.length);
        } else if piece.digest.is_some() {
            status.advance(piece.length);
        }
        Ok(())
    })?;
    disk.flush()?;
    status.finish();
    Ok(head.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Write the first MiB and check that the disk has it: with this the disk is what the image is.
///
/// # Errors
/// The disk's, or that it reads back differently.
pub fn complete(head: &Buffer, disk: &Disk, status: &Status) -> Result<()> {
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

/// What has to be zeros on the disk, the first MiB left out: all of the image that is not mapped, and
/// the disk's last MiB as far as the image does not reach there.
pub(super) fn zeroed(image: &Descriptor, disk_bytes: u64) -> impl Iterator<Item = (u64, u64)> {
    let tail = image.size_bytes.max(disk_bytes.saturating_sub(HEAD_BYTES));
    image
        .zero_ranges()
        .chain(std::iter::once((tail, disk_bytes - tail)))
        .map(|(from, length)| {
            let end = from + length;
            let from = from.max(HEAD_BYTES);
            (from, end.saturating_sub(from))
        })
        .filter(|(_, length)| *length > 0)
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
