//! Disk images: what one is (a descriptor), reading one chunk by chunk, and checking it.

pub mod chunks;
pub mod descriptor;
pub mod sha256;

pub use chunks::Chunks;
pub use descriptor::{Descriptor, Encoding, Piece};
pub use sha256::{Hasher, Sha256};

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    let (blocks, rest) = bytes.as_chunks::<64>();
    blocks.iter().all(|block| *block == [0; 64]) && rest.iter().all(|&byte| byte == 0)
}
