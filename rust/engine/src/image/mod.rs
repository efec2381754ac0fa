//! Disk images: what one is (a descriptor), reading one chunk by chunk, and checking it.

pub mod chunks;
pub mod describe;
pub mod descriptor;
pub mod device;
mod inspect;
pub mod pack;
pub mod rules;
mod scan;
pub mod sha256;
mod spool;
pub mod verify;

pub use chunks::Chunks;
pub use descriptor::{Descriptor, Encoding, Piece};
pub use sha256::{Hasher, Sha256};

/// Unpack something small into memory; `name` is for messages.
///
/// # Errors
/// [`Error::Record`](crate::Error::Record) if it is damaged or has more than `max_bytes`, unpacked.
pub fn unpack(
    name: &str,
    packed: &[u8],
    encoding: Encoding,
    max_bytes: u64,
) -> crate::Result<Vec<u8>> {
    /// Bytes that are unpacked at once.
    const STEP: u64 = 256 << 10;
    let mut chunks = Chunks::new(name, packed, encoding, STEP, None)?;
    let mut bytes = Vec::new();
    while let Some((_, chunk)) = chunks.next_chunk()? {
        if (bytes.len() + chunk.len()) as u64 > max_bytes {
            let reason = format!("unpacked it has more than the {max_bytes} bytes there may be");
            return Err(crate::Error::record(name, reason));
        }
        bytes.extend_from_slice(chunk);
    }
    Ok(bytes)
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}
