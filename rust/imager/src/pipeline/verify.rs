//! The first pass: is it the image that was asked for? Nothing is written before that is certain.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_engine::image::Descriptor;
use holdfast_engine::xxh64::xxh64;

use super::{Digests, HEAD_BYTES, Supply, stream, workers};
use crate::status::{Phase, Status, lock};
use crate::{Fault, Result};

/// Read the whole image and check each chunk against the descriptor; answers a cheap digest of each,
/// by which later passes know it again.
///
/// # Errors
/// Which chunk is wrong, or why the image cannot be read.
pub fn verify(image: &Descriptor, supply: &dyn Supply, status: &Status) -> Result<Digests> {
    verify_in(Phase::Verifying, image, supply, status)
}

/// As [`verify`]; answers the image's first bytes as well, up to [`HEAD_BYTES`].
///
/// # Errors
/// As [`verify`].
pub fn verify_with_head(
    image: &Descriptor,
    supply: &dyn Supply,
    status: &Status,
) -> Result<(Digests, Vec<u8>)> {
    let head = Mutex::new(vec![0; HEAD_BYTES.min(image.size_bytes) as usize]);
    let digests = verify_seen(Phase::Verifying, image, supply, status, &|offset, bytes| {
        // No chunk is smaller, so only the first one has any of it.
        if offset == 0 {
            let mut head = lock(&head);
            let length = head.len().min(bytes.len());
            head[..length].copy_from_slice(&bytes[..length]);
        }
    })?;
    Ok((digests, head.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)))
}

/// As [`verify`], reported as another phase.
///
/// # Errors
/// As [`verify`].
pub fn verify_in(
    phase: Phase,
    image: &Descriptor,
    supply: &dyn Supply,
    status: &Status,
) -> Result<Digests> {
    verify_seen(phase, image, supply, status, &|_, _| ())
}

/// As [`verify_in`]; `see` is called with the place and the bytes of each chunk that is as it should be.
fn verify_seen(
    phase: Phase,
    image: &Descriptor,
    supply: &dyn Supply,
    status: &Status,
    see: &(dyn Fn(u64, &[u8]) + Sync),
) -> Result<Digests> {
    status.enter(phase, image.size_bytes);
    let digests: Vec<_> = (0..image.pieces_count()).map(|_| AtomicU64::new(0)).collect();
    stream::pass(image, supply, workers(1), &|index, piece, bytes| {
        if !piece.matches(bytes) {
            return Err(Fault(format!(
                "{} is not the image of the descriptor: the chunk at {} differs",
                supply.name(),
                piece.offset
            )));
        }
        see(piece.offset, bytes);
        digests[index].store(xxh64(bytes), Ordering::Relaxed);
        status.advance(piece.length);
        Ok(())
    })?;
    status.finish();
    Ok(digests.into_iter().map(AtomicU64::into_inner).collect())
}
