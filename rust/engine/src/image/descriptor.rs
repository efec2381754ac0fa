//! The descriptor of a disk image: what it holds, where it is not zero, and the digests that prove it.
//!
//! A descriptor comes from anywhere and is not trusted: [`Descriptor::parse`] bounds it, checks every
//! claim in it that can be checked without the image, and nothing else makes one out of text.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Sha256, is_zero};
use crate::{Error, Result};

/// What the member `format` says.
pub const FORMAT: &str = "holdfast-image";
/// The version that is written, and the only one that is read.
pub const VERSION: u64 = 1;
/// The largest descriptor, in bytes of JSON.
pub const LIMIT: u64 = 64 << 20;
/// Sizes a chunk may have, in bytes.
pub const CHUNK_SIZES: [u64; 3] = [1 << 20, 2 << 20, 4 << 20];
/// Sizes of images and places of partitions are multiples of this many bytes.
pub const SECTOR: u64 = 512;
/// The most partitions a descriptor may name; GPT as everybody makes it has room for 128.
const PARTITIONS: usize = 1024;
/// The longest text a descriptor may have in a member, in bytes.
const TEXT: usize = 255;

/// The most texts of what was found by looking.
const ITEMS: usize = 256;

/// Nothing, or a sentence about what is wrong.
type Checked = std::result::Result<(), String>;

/// How an image is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Not at all.
    Identity,
    /// As zstd frames, any number of them.
    Zstd,
    /// As members of gzip, any number of them.
    Gzip,
    /// As streams of xz, any number of them.
    Xz,
}

impl Encoding {
    /// Tell by the first bytes of a file, of which six are enough, how it is packed.
    ///
    /// RFC 8878, section 3.1 (zstd, and frames that it skips); RFC 1952, section 2.3 (gzip); the .xz
    /// file format, section 2.1.1.1.
    pub fn of(head: &[u8]) -> Self {
        match head {
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0x1f, 0x8b, 0x08, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            _ => Self::Identity,
        }
    }
}

/// A way in which firmware starts what is on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootMode {
    /// Through the code in the first sector.
    Bios,
    /// Through a program in the EFI system partition.
    Uefi,
}

/// A kind of partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Mbr,
}

/// The file an image is delivered in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Its name; it lies beside the descriptor.
    pub file: String,
    /// How the image is packed in it.
    pub encoding: Encoding,
    /// Its size as it is, packed.
    pub size_bytes: u64,
    /// Its digest as it is, packed.
    pub sha256: Sha256,
}

/// A partition, as the table and the file system in it tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// Its number, as in the names of the kernel's devices.
    pub number: u32,
    /// Where it begins on the disk.
    pub start_bytes: u64,
    /// How long it is.
    pub size_bytes: u64,
    /// GPT: a GUID in lower case; MBR: two hexadecimal digits.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name in a GPT; empty in an MBR.
    #[serde(default)]
    pub name: String,
    /// `ext4` and so on, if one was recognised.
    #[serde(default)]
    pub file_system: Option<String>,
    /// The file system's UUID, as `blkid` prints it.
    #[serde(default)]
    pub uuid: Option<String>,
    /// The file system's label.
    #[serde(default)]
    pub label: Option<String>,
    /// What `PARTUUID=` names.
    #[serde(default)]
    pub part_uuid: Option<String>,
}

/// A disk's partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionTable {
    /// Its kind.
    pub kind: TableKind,
    /// GPT: the disk's GUID in lower case; MBR: the signature, eight hexadecimal digits.
    pub id: String,
    /// In the order of the table.
    pub partitions: Vec<Partition>,
}

/// Where a logical volume is on the disk, in one piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRange {
    /// Where it begins on the disk.
    pub start_bytes: u64,
    /// How long it is.
    pub size_bytes: u64,
}

/// Where the root is, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// The number of its partition: of the first one, for a volume on several.
    pub partition: u32,
    /// The logical volume, as group, `/`, volume.
    #[serde(default)]
    pub volume: Option<String>,
    /// Where the volume is on the disk; null where it is in several pieces, or may not be written.
    #[serde(default)]
    pub volume_range: Option<VolumeRange>,
    /// A clause about why the volume may not be written.
    #[serde(default)]
    pub volume_problem: Option<String>,
    /// The subvolume of a btrfs, where it is not the one mounted by default.
    #[serde(default)]
    pub subvolume: Option<String>,
    /// The path of the deployment of an OSTree.
    #[serde(default)]
    pub deployment: Option<String>,
    /// Whether dm-verity protects it, so that not a byte of it may change.
    #[serde(default)]
    pub verity: bool,
    /// Its file system, as `blkid` names it; of what cannot be read, what is on the partition.
    #[serde(default)]
    pub file_system: Option<String>,
    /// The file system's UUID.
    #[serde(default)]
    pub uuid: Option<String>,
    /// The file system's label.
    #[serde(default)]
    pub label: Option<String>,
    /// Bytes that root may still write.
    #[serde(default)]
    pub free_bytes: Option<u64>,
    /// Features of the file system, as its tools name them.
    #[serde(default)]
    pub features: Vec<String>,
    /// Whether it has an os-release, by which the imager recognises a system; null where it cannot be
    /// read.
    #[serde(default)]
    pub os_release: Option<bool>,
    /// How it was found, as the end of "because".
    #[serde(default)]
    pub because: String,
}

/// The operating system in the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct System {
    /// `PRETTY_NAME` of its os-release.
    #[serde(default)]
    pub name: Option<String>,
    /// Its `ID`.
    #[serde(default)]
    pub id: Option<String>,
    /// Its `VERSION_ID`.
    #[serde(default)]
    pub version: Option<String>,
    /// Releases of kernels that it has modules for.
    #[serde(default)]
    pub kernels: Vec<String>,
    /// Whether it has cloud-init.
    #[serde(default)]
    pub cloud_init: bool,
    /// `enforcing`, `permissive` or `disabled`, if it has SELinux.
    #[serde(default)]
    pub selinux: Option<String>,
    /// The version of holdfast in it.
    #[serde(default)]
    pub holdfast: Option<String>,
}

/// What was found by looking into an image; all of it is absent from older descriptors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// Whether the image was looked into.
    #[serde(default)]
    pub inspected: bool,
    /// Bytes of a sector of the disk that its partition table is for.
    #[serde(default)]
    pub sector_bytes: Option<u64>,
    /// What its loader, kernel and programs are for, as `uname -m` names it.
    #[serde(default)]
    pub architecture: Option<String>,
    /// The root.
    #[serde(default)]
    pub root: Option<Root>,
    /// The operating system.
    #[serde(default)]
    pub system: Option<System>,
    /// Sentences for people: what is odd, and what could not be found out.
    #[serde(default)]
    pub notes: Vec<String>,
}

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

/// What a descriptor says about one chunk of its image.
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
    /// Whether `bytes` are what the descriptor says: of this length and digest, or zeros.
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

/// What tells whether the rest can be understood.
#[derive(Deserialize)]
struct Kind {
    format: String,
    version: u64,
}

impl Descriptor {
    /// Read a descriptor; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Record`], saying what is wrong with it.
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

    /// What it says about the image as a whole.
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

    /// Check that it holds together; the error is a sentence about what does not.
    pub(super) fn validate(&self) -> Checked {
        check_text("name", &self.name, false)?;
        check_text("image_version", &self.image_version, false)?;
        check_text("created", &self.created, false)?;
        if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(SECTOR) {
            return Err(format!("size_bytes must be a multiple of {SECTOR} and not 0"));
        }
        if i64::try_from(self.size_bytes).is_err() {
            return Err("size_bytes is larger than any file can be".to_owned());
        }
        if !CHUNK_SIZES.contains(&self.chunk_bytes) {
            return Err("chunk_bytes must be 1, 2 or 4 MiB".to_owned());
        }
        self.check_mapped()?;
        self.check_content()?;
        self.check_partitions()
    }

    fn check_mapped(&self) -> Checked {
        let mut chunks = 0;
        let mut least = 0;
        for &(start, length) in &self.mapped {
            let end = start
                .checked_add(length)
                .filter(|end| *end <= self.size_bytes)
                .ok_or_else(|| format!("mapped: {start} and {length} lead out of the image"))?;
            if start < least {
                return Err(format!(
                    "mapped: the range at {start} comes before, overlaps or touches the one before it"
                ));
            }
            let whole = length % self.chunk_bytes == 0 || end == self.size_bytes;
            if length == 0 || start % self.chunk_bytes != 0 || !whole {
                return Err(format!("mapped: the range at {start} is not made of whole chunks"));
            }
            chunks += length.div_ceil(self.chunk_bytes);
            least = end + 1;
        }
        if chunks != self.chunks.len() as u64 {
            return Err(format!(
                "there are {} digests in chunks, and mapped has {chunks} chunks",
                self.chunks.len()
            ));
        }
        Ok(())
    }

    fn check_content(&self) -> Checked {
        let file = &self.content.file;
        check_text("content.file", file, false)?;
        if file.contains('/') || file == "." || file == ".." {
            return Err("content.file must be a bare file name".to_owned());
        }
        if self.content.encoding == Encoding::Identity && self.content.size_bytes != self.size_bytes
        {
            return Err("an image that is not packed has the size of its content".to_owned());
        }
        Ok(())
    }

    fn check_partitions(&self) -> Checked {
        let partitions = self.partition_table.as_ref().map_or(&[][..], |table| &table.partitions);
        if partitions.len() > PARTITIONS {
            return Err(format!("there are more than {PARTITIONS} partitions"));
        }
        if let Some(table) = &self.partition_table {
            check_text("partition_table.id", &table.id, true)?;
        }
        for (index, partition) in partitions.iter().enumerate() {
            let number = partition.number;
            if number == 0 || partitions[..index].iter().any(|other| other.number == number) {
                return Err(format!("partition number {number} is 0 or there twice"));
            }
            let inside = partition
                .start_bytes
                .checked_add(partition.size_bytes)
                .is_some_and(|end| end <= self.size_bytes);
            if !inside || partition.size_bytes == 0 {
                return Err(format!("partition {number} is empty or leads out of the image"));
            }
            let sectors = partition.start_bytes % SECTOR == 0 && partition.size_bytes % SECTOR == 0;
            if !sectors {
                return Err(format!("partition {number} is not made of sectors of {SECTOR} bytes"));
            }
            check_text("a partition's type", &partition.kind, false)?;
            check_text("a partition's name", &partition.name, true)?;
            for text in [&partition.file_system, &partition.uuid, &partition.label] {
                check_text(
                    "a file system's name, UUID or label",
                    text.as_deref().unwrap_or(""),
                    true,
                )?;
            }
        }
        if self.root_partition.is_some() && self.root().is_none() {
            return Err("root_partition names no partition of the table".to_owned());
        }
        self.check_inspection()
    }

    fn check_range(&self, range: Option<VolumeRange>) -> Checked {
        let (Some(range), Some(partition)) = (range, self.root()) else { return Ok(()) };
        let VolumeRange { start_bytes, size_bytes } = range;
        let end = start_bytes.checked_add(size_bytes);
        let inside = start_bytes >= partition.start_bytes
            && end.is_some_and(|end| end <= partition.start_bytes + partition.size_bytes);
        let sectors = start_bytes.is_multiple_of(SECTOR) && size_bytes.is_multiple_of(SECTOR);
        if inside && sectors && size_bytes > 0 {
            Ok(())
        } else {
            Err("root.volume_range does not lie in its partition".to_owned())
        }
    }

    fn check_inspection(&self) -> Checked {
        let Inspection { architecture, root, system, notes, .. } = &self.inspection;
        let mut texts: Vec<&str> = Vec::new();
        texts.extend(architecture.as_deref());
        if let Some(root) = root {
            if Some(root.partition) != self.root_partition {
                return Err("root.partition is not root_partition".to_owned());
            }
            self.check_range(root.volume_range)?;
            let optional = [
                &root.volume,
                &root.volume_problem,
                &root.subvolume,
                &root.deployment,
                &root.file_system,
                &root.uuid,
                &root.label,
            ];
            texts.extend(optional.into_iter().filter_map(Option::as_deref));
            texts.extend(root.features.iter().map(String::as_str));
            texts.push(&root.because);
        }
        if let Some(system) = system {
            let optional =
                [&system.name, &system.id, &system.version, &system.selinux, &system.holdfast];
            texts.extend(optional.into_iter().filter_map(Option::as_deref));
            texts.extend(system.kernels.iter().map(String::as_str));
        }
        if texts.len() > ITEMS || notes.len() > ITEMS {
            return Err("what was found by looking has too many parts".to_owned());
        }
        for text in texts {
            check_text("what was found by looking", text, true)?;
        }
        if notes.iter().any(|note| note.len() > 1024 || note.chars().any(char::is_control)) {
            return Err("a note is too long, or has control characters".to_owned());
        }
        Ok(())
    }
}

/// Names end up in boot menus, logs and terminals: they are short and have no control characters.
fn check_text(member: &str, text: &str, may_be_empty: bool) -> Checked {
    if text.is_empty() && !may_be_empty {
        return Err(format!("{member} must not be empty"));
    }
    if text.len() > TEXT || text.chars().any(char::is_control) {
        return Err(format!("{member} must have at most {TEXT} bytes and no control characters"));
    }
    Ok(())
}
