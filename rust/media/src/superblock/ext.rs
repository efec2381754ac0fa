//! ext2, ext3 and ext4: `fs/ext4/ext4.h` of the kernel.

use super::{Kind, Signature};
use crate::bytes::{label, u16_le, u32_le, uuid};

/// The superblock begins here.
const AT: usize = 1024;
/// Of the compatible features: a journal.
const JOURNAL: u32 = 0x4;
/// Incompatible features that ext3 knows: file types, recovery, meta block groups.
const INCOMPATIBLE_OF_EXT3: u32 = 0x2 | 0x4 | 0x10;
/// Features that forbid writing and that ext3 knows: sparse superblocks, large files, btrees.
const READ_ONLY_OF_EXT3: u32 = 0x1 | 0x2 | 0x4;
/// Of the incompatible features: numbers of blocks have 64 bits.
const WIDE: u32 = 0x80;

/// Names of features, as `dumpe2fs` prints them.
const COMPATIBLE: [(u32, &str); 9] = [
    (0x1, "dir_prealloc"),
    (0x4, "has_journal"),
    (0x8, "ext_attr"),
    (0x10, "resize_inode"),
    (0x20, "dir_index"),
    (0x200, "sparse_super2"),
    (0x400, "fast_commit"),
    (0x800, "stable_inodes"),
    (0x1000, "orphan_file"),
];
const INCOMPATIBLE: [(u32, &str); 15] = [
    (0x1, "compression"),
    (0x2, "filetype"),
    (0x4, "needs_recovery"),
    (0x8, "journal_dev"),
    (0x10, "meta_bg"),
    (0x40, "extent"),
    (WIDE, "64bit"),
    (0x100, "mmp"),
    (0x200, "flex_bg"),
    (0x400, "ea_inode"),
    (0x2000, "metadata_csum_seed"),
    (0x4000, "large_dir"),
    (0x8000, "inline_data"),
    (0x1_0000, "encrypt"),
    (0x2_0000, "casefold"),
];
const READ_ONLY: [(u32, &str); 14] = [
    (0x1, "sparse_super"),
    (0x2, "large_file"),
    (0x8, "huge_file"),
    (0x10, "uninit_bg"),
    (0x20, "dir_nlink"),
    (0x40, "extra_isize"),
    (0x100, "quota"),
    (0x200, "bigalloc"),
    (0x400, "metadata_csum"),
    (0x1000, "read-only"),
    (0x2000, "project"),
    (0x4000, "shared_blocks"),
    (0x8000, "verity"),
    (0x1_0000, "orphan_present"),
];

/// A superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ext {
    /// Which of the three: by their features, as blkid does.
    pub kind: Kind,
    /// Its UUID.
    pub uuid: String,
    /// Its label.
    pub label: Option<String>,
    /// Bytes of a block.
    pub block_bytes: u64,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Free blocks, those that are reserved for root included.
    pub free_blocks: u64,
    /// Free inodes.
    pub free_inodes: u32,
    /// Names of its features.
    pub features: Vec<&'static str>,
    /// Bits of incompatible features, and of those that forbid writing, that have no name here.
    pub unknown: (u32, u32),
}

impl Ext {
    /// The superblock in the first 2048 bytes of a device.
    pub fn parse(head: &[u8]) -> Option<Self> {
        let superblock = head.get(AT..AT + 1024)?;
        let word = |at| u32_le(superblock, at);
        let shift = word(24)?;
        let blocks_low = word(4)?;
        let sensible = u16_le(superblock, 56)? == 0xef53
            && shift <= 6
            && word(0)? > 0
            && blocks_low > 0
            && word(32)? > 0
            && word(76)? <= 1;
        if !sensible {
            return None;
        }
        let (compatible, incompatible, read_only) = (word(92)?, word(96)?, word(100)?);
        let unknown = incompatible & !INCOMPATIBLE_OF_EXT3 | read_only & !READ_ONLY_OF_EXT3;
        let kind = match (unknown, compatible & JOURNAL) {
            (0, 0) => Kind::Ext2,
            (0, _) => Kind::Ext3,
            _ => Kind::Ext4,
        };
        let wide = |low: u32, high: usize| {
            let high = if incompatible & WIDE == 0 { Some(0) } else { word(high) };
            high.map(|high| u64::from(high) << 32 | u64::from(low))
        };
        let features = named(&COMPATIBLE, compatible)
            .chain(named(&INCOMPATIBLE, incompatible))
            .chain(named(&READ_ONLY, read_only))
            .collect();
        Some(Self {
            kind,
            uuid: uuid(&superblock[104..120]),
            label: label(&superblock[120..136]),
            block_bytes: 1024 << shift,
            blocks: wide(blocks_low, 0x150)?,
            free_blocks: wide(word(12)?, 0x158)?,
            free_inodes: word(16)?,
            features,
            unknown: (unnamed(&INCOMPATIBLE, incompatible), unnamed(&READ_ONLY, read_only)),
        })
    }

    pub(super) fn signature(&self) -> Signature {
        Signature::new(self.kind, AT as u64 + 56)
            .uuid(Some(self.uuid.clone()))
            .label(self.label.clone())
    }
}

fn unnamed(names: &[(u32, &str)], features: u32) -> u32 {
    features & !names.iter().fold(0, |bits, (bit, _)| bits | bit)
}

fn named(
    names: &'static [(u32, &'static str)],
    features: u32,
) -> impl Iterator<Item = &'static str> {
    names.iter().filter(move |(bit, _)| features & bit != 0).map(|(_, name)| *name)
}
