//! The descriptor of a disk image: what it holds, where it is not zero, and the digests that prove it.
//!
//! A descriptor comes from anywhere and is not trusted: [`Descriptor::parse`] bounds it, checks every
//! claim in it that can be checked without the image, and nothing else makes one out of text.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Sha256, is_zero};
use crate::{Error, Result};

mod members;
mod validate;

pub use self::members::{
    BootMode, Content, Encoding, Inspection, Partition, PartitionTable, Root, System, TableKind,
    VolumeRange,
};

/// The value of the member `format`.
pub const FORMAT: &str = "holdfast-image";
/// The version that is written, and the only one that is read.
pub const VERSION: u64 = 1;
/// The largest descriptor, in bytes of JSON.
pub const LIMIT: u64 = 64 << 20;
/// Sizes a chunk may have, in bytes.
pub const CHUNK_SIZES: [u64; 3] = [1 << 20, 2 << 20, 4 << 20];
/// Sizes of images and places of partitions are multiples of this many bytes.
pub const SECTOR: u64 = 512;

/// A descriptor that holds together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptor {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u64,
    /// What the image is, for people.
    pub name: String,
    /// Which one of that name it is, for people.
    pub image_version: String,
    /// When the descriptor was made, RFC 3339.
    pub created: String,
    /// The size of the image, unpacked; a multiple of 512.
    pub size_bytes: u64,
    /// The size of a chunk, one of [`CHUNK_SIZES`]; the last chunk of an image may be shorter.
    pub chunk_bytes: u64,
    /// Offsets and lengths of what is not zeros: whole chunks, ascending, neither overlapping nor
    /// touching. All else is zeros.
    pub mapped: Vec<(u64, u64)>,
    /// The digest of each chunk in `mapped`, in order.
    pub chunks: Vec<Sha256>,
    /// The file the image is delivered in.
    pub content: Content,
    /// How the image can be booted.
    pub boot_modes: Vec<BootMode>,
    /// Its partitions, if it has any.
    pub partition_table: Option<PartitionTable>,
    /// The number of the partition that holds the root file system, if one was found.
    pub root_partition: Option<u32>,
    /// What else was found by looking into it.
    #[serde(flatten)]
    pub inspection: Inspection,
}

/// The entry of one chunk in a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where the chunk begins in the image, in bytes.
    pub offset: u64,
    /// How long it is, in bytes: `chunk_bytes`, but for the last one.
    pub length: u64,
    /// Its digest, or `None` if it is zeros.
    pub digest: Option<Sha256>,
}

impl Piece {
    /// Whether `bytes` match the descriptor: of this length and digest, or zeros.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.length == bytes.len() as u64
            && self.digest.map_or_else(|| is_zero(bytes), |digest| Sha256::of(bytes) == digest)
    }
}

/// A descriptor without what there is for each chunk, so that it is small whatever the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    name: String,
    image_version: String,
    created: String,
    size_bytes: u64,
    mapped_bytes: u64,
    chunk_bytes: u64,
    content: Content,
    boot_modes: Vec<BootMode>,
    partition_table: Option<PartitionTable>,
    root_partition: Option<u32>,
    #[serde(flatten)]
    inspection: Inspection,
}

/// What decides whether the rest can be understood.
#[derive(Deserialize)]
struct Kind {
    format: String,
    version: u64,
}

impl Descriptor {
    /// Read a descriptor; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Record`], with what is wrong with it.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self> {
        let wrong = |reason: String| Error::record(path, reason);
        if json.len() as u64 > LIMIT {
            return Err(wrong(format!("a descriptor has at most {LIMIT} bytes")));
        }
        let kind: Kind = serde_json::from_slice(json)
            .map_err(|e| wrong(format!("this is not an image descriptor: {e}")))?;
        if kind.format != FORMAT {
            return Err(wrong(format!("its format is not {FORMAT}")));
        }
        if kind.version != VERSION {
            return Err(wrong(format!(
                "a descriptor of version {} cannot be read, only of version {VERSION}",
                kind.version
            )));
        }
        let descriptor: Self =
            serde_json::from_slice(json).map_err(|e| wrong(format!("malformed: {e}")))?;
        descriptor.validate().map_err(wrong)?;
        Ok(descriptor)
    }

    /// The descriptor as JSON text with a newline at its end.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a descriptor has only text for keys");
        text.push('\n');
        text
    }

    /// Its summary of the image as a whole.
    pub fn summary(&self) -> Summary {
        Summary {
            name: self.name.clone(),
            image_version: self.image_version.clone(),
            created: self.created.clone(),
            size_bytes: self.size_bytes,
            mapped_bytes: self.mapped_bytes(),
            chunk_bytes: self.chunk_bytes,
            content: self.content.clone(),
            boot_modes: self.boot_modes.clone(),
            partition_table: self.partition_table.clone(),
            root_partition: self.root_partition,
            inspection: self.inspection.clone(),
        }
    }

    /// Bytes of the image that are not known to be zeros.
    pub fn mapped_bytes(&self) -> u64 {
        self.mapped.iter().map(|(_, length)| length).sum()
    }

    /// The number of chunks of the image, those of zeros included.
    pub fn pieces_count(&self) -> u64 {
        self.size_bytes.div_ceil(self.chunk_bytes)
    }

    /// All chunks of the image in order, those of zeros included.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        let mut digests = self.chunks.iter();
        let mut ranges = self.mapped.iter().peekable();
        (0..self.pieces_count()).map(move |index| {
            let offset = index * self.chunk_bytes;
            let length = self.chunk_bytes.min(self.size_bytes - offset);
            ranges.next_if(|(start, mapped)| start + mapped <= offset);
            let mapped = ranges.peek().is_some_and(|(start, _)| *start <= offset);
            let digest = if mapped { digests.next().copied() } else { None };
            Piece { offset, length, digest }
        })
    }

    /// Offsets and lengths of what is zeros, ascending: all that is not in `mapped`.
    pub fn zero_ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        let ends = self.mapped.iter().map(|(start, length)| start + length);
        let starts = self.mapped.iter().map(|(start, _)| *start);
        std::iter::once(0)
            .chain(ends)
            .zip(starts.chain(std::iter::once(self.size_bytes)))
            .filter(|(from, to)| from < to)
            .map(|(from, to)| (from, to - from))
    }

    /// The partition that holds the root file system.
    pub fn root(&self) -> Option<&Partition> {
        let number = self.root_partition?;
        self.partition_table.as_ref()?.partitions.iter().find(|p| p.number == number)
    }
}
