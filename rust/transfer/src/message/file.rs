//! What messages have of files: what they are known by, what is carried, and what the destination has.

use holdfast_engine::manifest::record::{Identity, Type};
use serde::{Deserialize, Serialize};

/// Attributes of one file, with their names, in bytes at most; the kernel allows 64 KiB for each.
pub const MOST_ATTRIBUTES: usize = 32 << 10;

/// By what a file is known to be unchanged, as it crosses the wire and as journals have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// Its device.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Its change time in nanoseconds since the epoch.
    pub ctime_ns: i64,
}

impl From<&Identity> for Stamp {
    fn from(identity: &Identity) -> Self {
        // Times beyond the years 1677 to 2262 are cut to these, at both ends alike.
        let cut = |time: i128| time.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
        let Identity { dev, ino, size, mtime_ns, ctime_ns } = *identity;
        Self { dev, ino, size, mtime_ns: cut(mtime_ns), ctime_ns: cut(ctime_ns) }
    }
}

/// What is carried of a file beside its content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Permissions, without the type.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Extended attributes: access control lists and capabilities are some of them.
    pub attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Something below the offered directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Its path, of plain names; empty for the directory itself.
    pub path: Box<[u8]>,
    /// What it is.
    pub kind: Type,
    /// By what it is known to be unchanged.
    pub stamp: Stamp,
    /// Of directories and symbolic links: what is carried. A file's follows its content.
    pub metadata: Option<Box<Metadata>>,
    /// Of a symbolic link its target, of another name of a file its first name.
    pub link: Option<Box<[u8]>>,
}

/// Chunks of a file, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Of each chunk by itself.
    pub digests: Vec<u64>,
    /// Of the whole file's digest, at the end of each chunk but the last.
    pub states: Vec<[u64; 4]>,
}

/// What the destination has of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Have {
    /// Nothing.
    #[default]
    Nothing,
    /// The first chunks of this very version.
    Prefix(Box<Table>),
    /// Some chunks of this or another version, by their digests.
    Chunks(Vec<Option<u64>>),
}

/// A file that the destination asks for. Its number is its place in the round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Its path as it was listed.
    pub path: Box<[u8]>,
    /// What it was when it was listed.
    pub stamp: Stamp,
    /// What is there.
    pub have: Have,
}

/// A file as the source's manifest has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proven {
    /// Its path.
    pub path: Box<[u8]>,
    /// Its size in bytes.
    pub size: u64,
    /// What is carried beside the content; extended attributes are in no manifest.
    pub metadata: Metadata,
    /// XXH64 of all of it.
    pub digest: u64,
    /// Of its chunks, if it has more than one.
    pub digests: Vec<u64>,
    /// Whether it is something else on the source by now.
    pub moved: bool,
}

impl Proven {
    /// Return the digest of a chunk; `None` if it has no such chunk.
    pub fn chunk(&self, index: u32) -> Option<u64> {
        if self.digests.is_empty() && index == 0 {
            return Some(self.digest);
        }
        self.digests.get(index as usize).copied()
    }

    /// Return which bytes a chunk has.
    pub fn range(&self, index: u32) -> std::ops::Range<u64> {
        let chunk = holdfast_engine::manifest::record::chunk_size(self.size);
        let start = u64::from(index).saturating_mul(chunk).min(self.size);
        start..start.saturating_add(chunk).min(self.size)
    }
}

/// The end of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Which want.
    pub want: u32,
    /// XXH64 of the whole file.
    pub digest: u64,
    /// What the file was when it was read.
    pub stamp: Stamp,
    /// What is carried beside the content.
    pub metadata: Metadata,
}

/// Return whether a table can be that of a file of `size` bytes, whole or its first chunks.
pub fn fits(table: &Table, size: u64, whole: bool) -> bool {
    let chunk = holdfast_engine::manifest::record::chunk_size(size);
    let (digests, states) = (table.digests.len() as u64, table.states.len() as u64);
    if whole {
        digests == size.div_ceil(chunk) && states + 1 == digests
    } else {
        digests == states && digests > 0 && digests * chunk < size
    }
}
