//! One pass through an image: a thread that unpacks, and others that each deal with a chunk at a time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use holdfast_engine::image::{Chunks, Descriptor, Piece};

use super::{Supply, buffers};
use crate::disk::Buffer;
use crate::status::lock;
use crate::{Fault, Result};

/// A chunk: its number, its entry in the descriptor, and its bytes.
struct Chunk {
    index: usize,
    piece: Piece,
    buffer: Buffer,
}

/// What is done with a chunk: its number, its entry in the descriptor, and its bytes.
pub type ForChunk<'a> = &'a (dyn Fn(usize, Piece, &[u8]) -> Result<()> + Sync);

/// Read the whole image once; `work` is called for each chunk with its number, its entry in the
/// descriptor and its bytes, by `workers` threads at once, started in order. The bytes are aligned
/// for O_DIRECT.
///
/// # Errors
/// The first one of `work` or of reading; nothing new is started after it.
pub fn pass(
    image: &Descriptor,
    supply: &dyn Supply,
    workers: usize,
    work: ForChunk<'_>,
) -> Result<()> {
    let name = supply.name();
    let encoding = image.content.encoding;
    let mut chunks = Chunks::new(
        name.clone(),
        supply.open()?,
        encoding,
        image.chunk_bytes,
        Some(image.size_bytes),
    )?;
    let (give_back, empty) = mpsc::channel::<Buffer>();
    for _ in 0..buffers(image, workers) {
        let buffer = Buffer::new(image.chunk_bytes as usize);
        give_back.send(buffer).expect("the receiver is here");
    }
    // No more can be under way than there are buffers.
    let (hand_out, full) = mpsc::channel::<Chunk>();
    let full = Mutex::new(full);
    let failed = AtomicBool::new(false);
    let fault = Mutex::new(None);
    let fail = |error: Fault| {
        failed.store(true, Ordering::Relaxed);
        lock(&fault).get_or_insert(error);
    };
    let next = || lock(&full).recv();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (give_back, next, failed, fail) = (give_back.clone(), &next, &failed, &fail);
            scope.spawn(move || {
                while let Ok(Chunk { index, piece, buffer }) = next() {
                    if !failed.load(Ordering::Relaxed)
                        && let Err(error) = work(index, piece, &buffer[..piece.length as usize])
                    {
                        fail(error);
                    }
                    // Nobody wants it any more when all has been read.
                    let _ = give_back.send(buffer);
                }
            });
        }
        // So that it is noticed if no worker is left.
        drop(give_back);
        let mut fill = |piece: Piece| -> Result<Buffer> {
            let mut buffer = empty.recv().map_err(|_| Fault::new("all workers are gone"))?;
            match chunks.fill(&mut buffer)? {
                Some((offset, length))
                    if offset == piece.offset && length as u64 == piece.length =>
                {
                    Ok(buffer)
                }
                _ => Err(Fault(format!("{name}: it ends before the image does"))),
            }
        };
        for (index, piece) in image.pieces().enumerate() {
            if failed.load(Ordering::Relaxed) {
                break;
            }
            match fill(piece) {
                Ok(buffer) => {
                    let _ = hand_out.send(Chunk { index, piece, buffer });
                }
                Err(error) => fail(error),
            }
        }
        drop(hand_out);
        if !failed.load(Ordering::Relaxed) && chunks.offset() == image.size_bytes {
            // Nothing may follow.
            let mut buffer = Buffer::new(4096);
            if let Err(error) = chunks.fill(&mut buffer) {
                fail(error.into());
            }
        }
    });
    fault.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
}
