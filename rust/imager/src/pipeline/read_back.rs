//! The third pass: does the disk have what was written? It is read past the page cache.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use holdfast_engine::image::{Descriptor, Piece, is_zero};
use holdfast_engine::xxh64::xxh64;

use super::ends::Ends;
use super::write::Written;
use super::{Blocks, Digests, workers};
use crate::disk::Buffer;
use crate::status::{Phase, Status, lock};
use crate::{Fault, Result};

/// Reads in flight.
const IN_FLIGHT: usize = 4;

/// Compare everything on the disk with what was written: all but what makes it boot.
///
/// # Errors
/// The disk's, or where it differs.
pub fn read_back(
    image: &Descriptor,
    digests: &Digests,
    written: &Written,
    disk: &dyn Blocks,
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
                    match check(piece, digests[index], &written.image, bytes, disk) {
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
    check_tail(&written.disk, disk)?;
    status.finish();
    Ok(())
}

fn check(
    piece: &Piece,
    digest: u64,
    ends: &Ends,
    bytes: &mut [u8],
    disk: &dyn Blocks,
) -> Result<()> {
    let middle = ends.between(piece.offset, piece.length);
    if !middle.is_empty() {
        disk.read_at(&mut bytes[middle.clone()], piece.offset + middle.start as u64)?;
    }
    // The first MiB is not on the disk yet, and the last one may be another than the image's: what
    // the image has there takes their place, so that the digest of the whole chunk can be compared.
    ends.fill_in(piece.offset, bytes);
    let same = match piece.digest {
        Some(_) => xxh64(bytes) == digest,
        None => is_zero(bytes),
    };
    if same { Ok(()) } else { Err(differs(disk, piece.offset)) }
}

fn check_tail(ends: &Ends, disk: &dyn Blocks) -> Result<()> {
    let mut buffer = Buffer::new(ends.tail.len());
    disk.read_at(&mut buffer, ends.tail_at)?;
    if *buffer == *ends.tail { Ok(()) } else { Err(differs(disk, ends.tail_at)) }
}

fn differs(disk: &dyn Blocks, offset: u64) -> Fault {
    Fault(format!(
        "{} reads back differently than it was written, at {offset}; the disk may be failing",
        disk.name()
    ))
}
