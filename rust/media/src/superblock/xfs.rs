//! XFS: `fs/xfs/libxfs/xfs_format.h` of the kernel. All numbers but the checksum are big-endian.

use super::{Kind, Signature};
use crate::bytes::{crc32c, label, u16_be, u32_be, u32_le, u64_be, uuid};

/// Where the checksum is.
const CHECKSUM: usize = 224;
/// Of version 4's second features: entries of directories have the type of what they name.
const FILE_TYPE_V4: u32 = 0x200;
/// Of version 5's incompatible features: the same.
const FILE_TYPE_V5: u32 = 0x1;

const READ_ONLY: [(u32, &str); 4] =
    [(0x1, "finobt"), (0x2, "rmapbt"), (0x4, "reflink"), (0x8, "inobtcount")];
const INCOMPATIBLE: [(u32, &str); 10] = [
    (0x1, "ftype"),
    (0x2, "sparse_inodes"),
    (0x4, "meta_uuid"),
    (0x8, "bigtime"),
    (0x10, "needsrepair"),
    (0x20, "nrext64"),
    (0x40, "exchange"),
    (0x80, "parent"),
    (0x100, "metadir"),
    (0x200, "zoned"),
];

/// A superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Xfs {
    /// 4 or 5.
    pub version: u16,
    /// Its UUID.
    pub uuid: String,
    /// Its label.
    pub label: Option<String>,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks for data.
    pub blocks: u64,
    /// Free blocks.
    pub free_blocks: u64,
    /// Whether the checksum is right; true for version 4, which has none.
    pub checksum_ok: bool,
    /// Names of its features.
    pub features: Vec<&'static str>,
    /// Bits of incompatible features that have no name here.
    pub unknown_incompatible: u32,
    /// Bits of features that forbid writing that have no name here.
    pub unknown_read_only: u32,
    /// Whether entries of directories have a type.
    pub(crate) file_types: bool,
    /// The number of the root directory's inode.
    pub(crate) root_inode: u64,
    /// Blocks of an allocation group, and how many groups.
    pub(crate) group_blocks: u32,
    pub(crate) groups: u32,
    /// Bytes of an inode.
    pub(crate) inode_bytes: u16,
    /// Logarithms: inodes of a block, blocks of a group (rounded up), blocks of a directory's block.
    pub(crate) inodes_shift: u8,
    pub(crate) group_shift: u8,
    pub(crate) directory_shift: u8,
}

impl Xfs {
    /// The superblock at the beginning of a device.
    pub fn parse(head: &[u8]) -> Option<Self> {
        if !head.starts_with(b"XFSB") {
            return None;
        }
        let block_bytes = u32_be(head, 4)?;
        let version = u16_be(head, 100)? & 0xf;
        let sector = u16_be(head, 102)?;
        let inode_bytes = u16_be(head, 104)?;
        let sensible = block_bytes.is_power_of_two()
            && (512..=65536).contains(&block_bytes)
            && matches!(version, 4 | 5)
            && (512..=32768).contains(&sector)
            && (256..=2048).contains(&inode_bytes)
            && inode_bytes.is_power_of_two();
        if !sensible {
            return None;
        }
        let (read_only, incompatible) =
            if version == 5 { (u32_be(head, 212)?, u32_be(head, 216)?) } else { (0, 0) };
        let names = |all: &'static [(u32, &'static str)], bits: u32| {
            all.iter().filter(move |(bit, _)| bits & bit != 0).map(|(_, name)| *name)
        };
        let mut features: Vec<_> =
            names(&READ_ONLY, read_only).chain(names(&INCOMPATIBLE, incompatible)).collect();
        if version == 5 {
            features.insert(0, "crc");
        }
        let known =
            |all: &[(u32, &str)]| -> u32 { all.iter().fold(0, |bits, (bit, _)| bits | bit) };
        let byte = |at: usize| head.get(at).copied();
        Some(Self {
            version,
            uuid: uuid(head.get(32..48)?),
            label: label(head.get(108..120)?),
            block_bytes: block_bytes.into(),
            blocks: u64_be(head, 8)?,
            free_blocks: u64_be(head, 144)?,
            checksum_ok: version == 4 || checksum(head.get(..sector.into())?)?,
            features,
            unknown_incompatible: incompatible & !known(&INCOMPATIBLE),
            unknown_read_only: read_only & !known(&READ_ONLY),
            file_types: if version == 5 {
                incompatible & FILE_TYPE_V5 != 0
            } else {
                u32_be(head, 200)? & FILE_TYPE_V4 != 0
            },
            root_inode: u64_be(head, 56)?,
            group_blocks: u32_be(head, 84)?,
            groups: u32_be(head, 88)?,
            inode_bytes,
            inodes_shift: byte(123).filter(|shift| *shift <= 16)?,
            group_shift: byte(124).filter(|shift| *shift <= 32)?,
            directory_shift: byte(192).filter(|shift| *shift <= 8)?,
        })
    }

    pub(super) fn signature(&self) -> Signature {
        Signature::new(Kind::Xfs, 0).uuid(Some(self.uuid.clone())).label(self.label.clone())
    }
}

fn checksum(sector: &[u8]) -> Option<bool> {
    let mut covered = sector.to_vec();
    covered.get_mut(CHECKSUM..CHECKSUM + 4)?.fill(0);
    Some(crc32c(&covered) == u32_le(sector, CHECKSUM)?)
}
