//! The members of a descriptor on an image's file, table, root and system.

use serde::{Deserialize, Serialize};

use crate::image::Sha256;

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
    /// Detect the encoding of a file from its first bytes, of which six are enough.
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
    /// Its packed size.
    pub size_bytes: u64,
    /// The digest of the packed file.
    pub sha256: Sha256,
}

/// A partition, as described by the table and the file system in it.
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
    /// The subvolume of a btrfs, where it is not mounted by default.
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
    /// Sentences for people: what is odd, and what could not be determined.
    #[serde(default)]
    pub notes: Vec<String>,
}
