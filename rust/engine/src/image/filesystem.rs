//! File systems by their superblocks, named as `blkid` names them.
//!
//! Places and fields are those of the kernel's headers: fs/ext4/ext4.h, fs/xfs/libxfs/xfs_format.h,
//! include/uapi/linux/btrfs_tree.h and include/uapi/linux/msdos_fs.h.

use super::table::{printable, u32_at, uuid};

/// Offsets and lengths within a partition of what is looked at: for btrfs the second, else the first.
pub(super) const PLACES: [(u64, u64); 2] = [(0, 4096), (64 << 10, 4096)];

/// A file system that was recognised.
pub(super) struct FileSystem {
    pub name: &'static str,
    pub uuid: String,
    pub label: Option<String>,
}

/// The file system that has these bytes at [`PLACES`].
pub(super) fn recognise([first, second]: [&[u8]; 2]) -> Option<FileSystem> {
    xfs(first).or_else(|| ext(first)).or_else(|| btrfs(second)).or_else(|| vfat(first))
}

fn xfs(block: &[u8]) -> Option<FileSystem> {
    block.starts_with(b"XFSB").then_some(())?;
    Some(FileSystem {
        name: "xfs",
        uuid: uuid(block.get(32..48)?),
        label: label(block.get(108..120)?),
    })
}

fn ext(block: &[u8]) -> Option<FileSystem> {
    /// The file system has a journal.
    const JOURNAL: u32 = 0x4;
    /// What ext3 knows of incompatible features: file types, recovery, meta block groups.
    const INCOMPATIBLE: u32 = 0x2 | 0x4 | 0x10;
    /// What ext3 knows of features that forbid writing: sparse superblocks, large files, btrees.
    const READ_ONLY: u32 = 0x1 | 0x2 | 0x4;
    let superblock = block.get(1024..2048)?;
    (superblock[56..58] == [0x53, 0xef]).then_some(())?;
    let unknown = |at, known: u32| u32_at(superblock, at).is_some_and(|found| found & !known != 0);
    let name = if unknown(96, INCOMPATIBLE) || unknown(100, READ_ONLY) {
        "ext4"
    } else if u32_at(superblock, 92)? & JOURNAL != 0 {
        "ext3"
    } else {
        "ext2"
    };
    let label = label(&superblock[120..136]);
    Some(FileSystem { name, uuid: uuid(&superblock[104..120]), label })
}

fn btrfs(superblock: &[u8]) -> Option<FileSystem> {
    (superblock.get(64..72)? == b"_BHRfS_M").then_some(())?;
    let label = label(superblock.get(299..555)?);
    Some(FileSystem { name: "btrfs", uuid: uuid(superblock.get(32..48)?), label })
}

fn vfat(block: &[u8]) -> Option<FileSystem> {
    (block.get(510..512)? == [0x55, 0xaa]).then_some(())?;
    // The serial number, the label and the name follow each other: in FAT32 at another place.
    let at = if block.get(82..87)? == b"FAT32" {
        67
    } else if block.get(54..58)? == b"FAT1" {
        39
    } else {
        return None;
    };
    let serial = u32_at(block, at)?;
    let label = label(&block[at + 4..at + 15]).filter(|label| label != "NO NAME");
    Some(FileSystem {
        name: "vfat",
        uuid: format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff),
        label,
    })
}

/// Text up to the first zero byte; `None` if there is none, or more than a descriptor takes.
fn label(bytes: &[u8]) -> Option<String> {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = printable(&String::from_utf8_lossy(&bytes[..end]));
    Some(text.trim_end().to_owned()).filter(|text| !text.is_empty() && text.len() <= 255)
}
