//! Frames and the bodies that are no messages: blocks of one file, and packs of small files.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{End, decode, encode};

/// Bytes of a file in one block at most.
pub const BLOCK: usize = 1 << 20;
/// The longest body of a frame.
pub const LIMIT: usize = BLOCK + (64 << 10);
/// Files up to this size are sent in packs.
pub const SMALL: u64 = 256 << 10;
/// Bytes before a frame's body.
pub const HEAD: usize = 5;
/// Bytes before a block's data.
pub const BLOCK_HEAD: usize = 24;
/// What a frame has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One message.
    Message,
    /// Bytes of a file.
    Block,
    /// Small files.
    Pack,
}

/// Parse the head of a frame; `None` for an unknown kind or a body over the limit.
pub fn parse_head(head: [u8; HEAD]) -> Option<(Kind, usize)> {
    let [kind, a, b, c, d] = head;
    let kind = match kind {
        0 => Kind::Message,
        1 => Kind::Block,
        2 => Kind::Pack,
        _ => return None,
    };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    (length <= LIMIT).then_some((kind, length))
}

/// Return the head of a frame.
pub fn head(kind: Kind, length: usize) -> [u8; HEAD] {
    let [a, b, c, d] = (length as u32).to_le_bytes();
    [kind as u8, a, b, c, d]
}

/// Where a block belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHead {
    /// Which want.
    pub want: u32,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// Whether the file has holes, so that space must not be allocated for all of it.
    pub sparse: bool,
    /// XXH3 of the data.
    pub check: u64,
}

impl BlockHead {
    /// Return it as it crosses the wire.
    pub fn bytes(&self) -> [u8; BLOCK_HEAD] {
        let mut bytes = [0; BLOCK_HEAD];
        bytes[..4].copy_from_slice(&self.want.to_le_bytes());
        bytes[4..12].copy_from_slice(&self.offset.to_le_bytes());
        bytes[12] = u8::from(self.sparse);
        bytes[16..24].copy_from_slice(&self.check.to_le_bytes());
        bytes
    }

    /// Parse it.
    pub fn parse(bytes: &[u8; BLOCK_HEAD]) -> Self {
        let number = |from: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(number)
        };
        Self {
            want: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            offset: number(4),
            sparse: bytes[12] & 1 != 0,
            check: number(16),
        }
    }
}

/// A small file in a pack; its bytes follow those of its predecessor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Small {
    /// Its end.
    pub end: End,
    /// Its bytes.
    pub length: u32,
}

/// Return a pack: the check of what follows, the length of the heads, the heads, the bytes.
pub fn pack(files: &[Small], bytes: &[u8]) -> Vec<u8> {
    let heads = encode(&files);
    let mut body = Vec::with_capacity(12 + heads.len() + bytes.len());
    body.extend([0; 8]);
    body.extend((heads.len() as u32).to_le_bytes());
    body.extend(heads);
    body.extend(bytes);
    let check = xxh3_64(&body[8..]);
    body[..8].copy_from_slice(&check.to_le_bytes());
    body
}

/// Parse a pack: its files and the bytes of all. The outer `None` is a body that is no pack, the
/// inner one a check that differs.
pub fn unpack(body: &[u8]) -> Option<Option<(Vec<Small>, &[u8])>> {
    let (check, rest) = body.split_first_chunk::<8>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    if xxh3_64(rest) != u64::from_le_bytes(*check) {
        return Some(None);
    }
    let length = u32::from_le_bytes(*length) as usize;
    let heads = rest[4..].get(..length)?;
    let bytes = &rest[4 + length..];
    let files: Vec<Small> = decode(heads)?;
    let total = files.iter().try_fold(0_usize, |sum, file| sum.checked_add(file.length as usize));
    (total == Some(bytes.len())).then_some(Some((files, bytes)))
}
