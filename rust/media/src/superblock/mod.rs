//! What is on a device or a partition, by magic numbers; named as `blkid` names it.
//!
//! A magic number of a few bytes proves little, and boot loaders have code in the same places: each
//! superblock must make sense besides.

mod ext;
mod fat;
mod md;
mod other;
mod xfs;

use std::fmt;

pub use ext::Ext;
pub use fat::Fat;
pub use md::{Member, member};
pub(crate) use other::{btrfs_checksum_ok, lvm_label, lvm_uuid};
pub use xfs::Xfs;

use crate::ReadAt;

/// Bytes at the beginning of a device in which signatures are: the first label of ZFS has 256 KiB.
pub const HEAD: usize = 256 << 10;
/// Bytes at its end: md's version 0.90 has its superblock in the last 128 KiB.
pub const TAIL: usize = 128 << 10;

/// A kind of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// ext2: no journal.
    Ext2,
    /// ext3: a journal, and nothing that ext3 does not know.
    Ext3,
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// SquashFS.
    Squashfs,
    /// EROFS.
    Erofs,
    /// A member of an md array.
    Md,
    /// A physical volume of LVM.
    Lvm,
    /// LUKS, 1 or 2.
    Luks,
    /// Swap space.
    Swap,
    /// A device of a ZFS pool.
    Zfs,
    /// Hashes of dm-verity.
    Verity,
}

impl Kind {
    /// blkid's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Fat => "vfat",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::Md => "linux_raid_member",
            Self::Lvm => "LVM2_member",
            Self::Luks => "crypto_LUKS",
            Self::Swap => "swap",
            Self::Zfs => "zfs_member",
            Self::Verity => "DM_verity_hash",
        }
    }

    /// The kind of this name.
    pub fn named(name: &str) -> Option<Self> {
        const ALL: [Kind; 14] = [
            Kind::Ext2,
            Kind::Ext3,
            Kind::Ext4,
            Kind::Xfs,
            Kind::Btrfs,
            Kind::Fat,
            Kind::Squashfs,
            Kind::Erofs,
            Kind::Md,
            Kind::Lvm,
            Kind::Luks,
            Kind::Swap,
            Kind::Zfs,
            Kind::Verity,
        ];
        ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it holds files by itself, and is no part of something else.
    pub fn is_file_system(self) -> bool {
        use Kind::{Btrfs, Erofs, Ext2, Ext3, Ext4, Fat, Squashfs, Xfs};
        matches!(self, Ext2 | Ext3 | Ext4 | Xfs | Btrfs | Fat | Squashfs | Erofs)
    }

    /// Whether it is one of the ext family.
    pub fn is_ext(self) -> bool {
        matches!(self, Self::Ext2 | Self::Ext3 | Self::Ext4)
    }

    /// What it is, for people, with an article.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Ext2 => "a file system (ext2)",
            Self::Ext3 => "a file system (ext3)",
            Self::Ext4 => "a file system (ext4)",
            Self::Xfs => "a file system (xfs)",
            Self::Btrfs => "a file system (btrfs)",
            Self::Fat => "a file system (vfat)",
            Self::Squashfs => "a file system (squashfs)",
            Self::Erofs => "a file system (erofs)",
            Self::Md => "a member of an md array",
            Self::Lvm => "an LVM physical volume",
            Self::Luks => "a LUKS volume",
            Self::Swap => "swap space",
            Self::Zfs => "a ZFS device",
            Self::Verity => "a hash device of dm-verity",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What was recognised.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// What it is.
    pub kind: Kind,
    /// Where its magic number is, in bytes from the beginning.
    pub offset: u64,
    /// Its UUID as blkid prints it: of an md member the array's, with colons as mdadm prints it.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
}

impl Signature {
    fn new(kind: Kind, offset: u64) -> Self {
        Self { kind, offset, uuid: None, label: None }
    }

    fn uuid(mut self, uuid: Option<String>) -> Self {
        self.uuid = uuid;
        self
    }

    fn label(mut self, label: Option<String>) -> Self {
        self.label = label;
        self
    }
}

/// All signatures on a device: those that make it part of something else first.
///
/// Reads the first 256 KiB and a few places near the end.
pub fn probe(device: &dyn ReadAt) -> Vec<Signature> {
    let head = device.bytes_up_to(0, HEAD);
    let mut found: Vec<Signature> = Vec::new();
    found.extend(md::signature(&head, device));
    found.extend(other::lvm(&head));
    found.extend(other::luks(&head));
    found.extend(other::zfs(&head));
    found.extend(other::swap(&head));
    found.extend(Xfs::parse(&head).map(|xfs| xfs.signature()));
    found.extend(Ext::parse(&head).map(|ext| ext.signature()));
    found.extend(other::btrfs(&head));
    found.extend(other::squashfs(&head));
    found.extend(other::erofs(&head));
    found.extend(other::verity(&head));
    found.extend(Fat::parse(&head).map(|fat| fat.signature()));
    found
}
