//! The third pass: does the disk have what was written? It is read past the page cache.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use holdfast_engine::image::{Descriptor, Piece, is_zero};
use holdfast_engine::xxh64::xxh64;

use super::{Digests, HEAD_BYTES, workers, write};
use crate::disk::{Buffer, Disk};
use crate::status::{Phase, Status, lock};
use crate::{Fault, Result};

/// Reads in flight.
const IN_FLIGHT: usize = 4;

/// Compare everything on the disk but its first MiB with what was written; `head` is that MiB.
///
/// # Errors
/// The disk's, or where it differs.
pub fn read_back(
    image: &Descriptor,
    digests: &Digests,
    head: &Buffer,
    disk: &Disk,
    status: &Status,
) -> Result<()> {
    status.enter(Phase::ReadingBack, image.size_bytes);
    let pieces: Vec<_> = image.pieces().collect();
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let fault = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..workers(IN_FLIGHT) {
            scope.spawn(|| {
                let mut buffer = Buffer::new(image.chunk_bytes as usize);
                while !failed.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(piece) = pieces.get(index) else { return };
                    let bytes = &mut buffer[..piece.length as usize];
                    match check(piece, digests[index], head, bytes, disk) {
                        Ok(()) => status.advance(piece.length),
                        Err(error) => {
                            failed.store(true, Ordering::Relaxed);
                            lock(&fault).get_or_insert(error);
                        }
                    }
                }
            });
        }
    });
    if let Some(error) = lock(&fault).take() {
        return Err(error);
    }
    check_tail(image, disk)?;
    status.finish();
    Ok(())
}

fn check(piece: &Piece, digest: u64, head: &Buffer, bytes: &mut [u8], disk: &Disk) -> Result<()> {
    let held_back = HEAD_BYTES.saturating_sub(piece.offset).min(piece.length) as usize;
    if held_back < bytes.len() {
        disk.read_at(&mut bytes[held_back..], piece.offset + held_back as u64)?;
    }
    // The first MiB is not on the disk yet: what is going to be stands for it.
    if held_back > 0 {
        bytes[..held_back].copy_from_slice(&head[piece.offset as usize..][..held_back]);
    }
    let same = match piece.digest {
        Some(_) => xxh64(bytes) == digest,
        None => is_zero(bytes),
    };
    if same { Ok(()) } else { Err(differs(disk, piece.offset)) }
}

/// The end of the disk is zeros where the image does not reach.
fn check_tail(image: &Descriptor, disk: &Disk) -> Result<()> {
    let tail =
        write::zeroed(image, disk.size_bytes()).filter(|(from, _)| *from >= image.size_bytes);
    for (from, length) in tail {
        let mut buffer = Buffer::new(length as usize);
        disk.read_at(&mut buffer, from)?;
        if !is_zero(&buffer) {
            return Err(differs(disk, from));
        }
    }
    Ok(())
}

fn differs(disk: &Disk, offset: u64) -> Fault {
    Fault(format!(
        "{} reads back differently than it was written, at {offset}; the disk may be failing",
        disk.path().display()
    ))
}
