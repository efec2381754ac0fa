//! The first pass: is it the image that was asked for? Nothing is written before that is certain.

use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_engine::image::Descriptor;
use holdfast_engine::xxh64::xxh64;

use super::{Digests, Supply, stream, workers};
use crate::status::{Phase, Status};
use crate::{Fault, Result};

/// Read the whole image and check each chunk against the descriptor; answers a cheap digest of each,
/// by which later passes know it again.
///
/// # Errors
/// Which chunk is wrong, or why the image cannot be read.
pub fn verify(image: &Descriptor, supply: &dyn Supply, status: &Status) -> Result<Digests> {
    verify_in(Phase::Verifying, image, supply, status)
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
        digests[index].store(xxh64(bytes), Ordering::Relaxed);
        status.advance(piece.length);
        Ok(())
    })?;
    status.finish();
    Ok(digests.into_iter().map(AtomicU64::into_inner).collect())
}
