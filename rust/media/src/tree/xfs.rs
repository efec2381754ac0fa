//! XFS, versions 4 and 5 (`fs/xfs/libxfs/xfs_format.h`, `xfs_da_format.h`): inodes, and directories of
//! every form. The journal is not replayed.

use super::Type;
use super::walk::{Inodes, length, type_of};
use crate::Source;
use crate::bytes::{index, u16_be, u32_be, u64_be};
use crate::superblock::Xfs;

/// Directories have their entries below this offset, and indices above.
const LEAVES: u64 = 32 << 30;
/// The most extents of one file.
const EXTENTS: usize = 1 << 16;
/// The most blocks of one directory.
const BLOCKS: usize = 1 << 12;
/// The most levels of a tree of extents.
const LEVELS: u16 = 8;
/// Of an inode's second flags: its counts of extents have 64 bits.
const LARGE_COUNTS: u64 = 1 << 4;

pub(super) struct Files {
    device: Source,
    xfs: Xfs,
}

struct Inode {
    mode: u16,
    format: u8,
    size: u64,
    extents: u64,
    /// The inode's own part of the content, or of its map.
    fork: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Extent {
    /// In the file, in blocks.
    offset: u64,
    /// A file system's block, which has the group in its upper bits.
    block: u64,
    count: u64,
    /// Allocated and not written.
    unwritten: bool,
}

impl Files {
    pub(super) fn new(device: &Source, xfs: Xfs) -> Self {
        Self { device: Source::clone(device), xfs }
    }

    fn block_at(&self, block: u64) -> Option<u64> {
        let group = block >> self.xfs.group_shift;
        let within = block & ((1 << self.xfs.group_shift) - 1);
        let valid = group < self.xfs.groups.into() && within < self.xfs.group_blocks.into();
        valid.then_some(())?;
        (group * u64::from(self.xfs.group_blocks) + within).checked_mul(self.xfs.block_bytes)
    }

    fn inode(&self, number: u64) -> Option<Inode> {
        let block = self.block_at(number >> self.xfs.inodes_shift)?;
        let within = number & ((1 << self.xfs.inodes_shift) - 1);
        let size = usize::from(self.xfs.inode_bytes);
        let bytes = self.device.bytes(block + within * size as u64, size)?;
        bytes.starts_with(b"IN").then_some(())?;
        let version = bytes[4];
        let start = if version >= 3 { 176 } else { 100 };
        let end = match bytes[82] {
            0 => size,
            offset => start + usize::from(offset) * 8,
        };
        let large = version >= 3 && u64_be(&bytes, 120)? & LARGE_COUNTS != 0;
        let extents = if large { u64_be(&bytes, 24)? } else { u32_be(&bytes, 76)?.into() };
        Some(Inode {
            mode: u16_be(&bytes, 2)?,
            format: bytes[5],
            size: u64_be(&bytes, 56)?,
            extents,
            fork: bytes.get(start..end)?.to_vec(),
        })
    }

    fn extents(&self, inode: &Inode) -> Option<Vec<Extent>> {
        let mut extents = Vec::new();
        match inode.format {
            2 => {
                let count = index(inode.extents).min(EXTENTS);
                extents.extend(inode.fork.as_chunks::<16>().0.iter().take(count).map(extent));
            }
            3 => {
                let (level, count) = (u16_be(&inode.fork, 0)?, u16_be(&inode.fork, 2)?);
                let pointers = 4 + (inode.fork.len().checked_sub(4)? / 16) * 8;
                for child in 0..usize::from(count) {
                    let block = u64_be(&inode.fork, pointers + 8 * child)?;
                    self.branch(block, level.checked_sub(1)?, &mut extents)?;
                }
            }
            _ => return None,
        }
        Some(extents)
    }

    /// The extents below a block of the tree.
    fn branch(&self, block: u64, level: u16, extents: &mut Vec<Extent>) -> Option<()> {
        (level <= LEVELS && extents.len() < EXTENTS).then_some(())?;
        let bytes = self.device.bytes(self.block_at(block)?, index(self.xfs.block_bytes))?;
        let header = match bytes.get(..4)? {
            b"BMAP" => 24,
            b"BMA3" => 72,
            _ => return None,
        };
        (u16_be(&bytes, 4)? == level).then_some(())?;
        let count = usize::from(u16_be(&bytes, 6)?);
        if level == 0 {
            let records = bytes.get(header..)?.as_chunks::<16>().0;
            extents.extend(records.iter().take(count).map(extent));
            return Some(());
        }
        let pointers = header + (bytes.len() - header) / 16 * 8;
        for child in 0..count {
            self.branch(u64_be(&bytes, pointers + 8 * child)?, level - 1, extents)?;
        }
        Some(())
    }

    /// The entries of a directory's block, or of one in the inode, passed to `each`; whether to
    /// continue.
    fn entries(&self, bytes: &[u8], each: &mut dyn FnMut(&[u8], u64) -> bool) -> Option<bool> {
        let (header, in_one_block) = match bytes.get(..4)? {
            b"XD2B" => (16, true),
            b"XD2D" => (16, false),
            b"XDB3" => (64, true),
            b"XDD3" => (64, false),
            _ => return Some(true),
        };
        // A directory of one block has its index at the end of that.
        let end = if in_one_block {
            let count = u32_be(bytes, bytes.len().checked_sub(8)?)? as usize;
            bytes.len().checked_sub(8 + count.checked_mul(8)?)?
        } else {
            bytes.len()
        };
        let mut at = header;
        while at + 12 <= end {
            if u16_be(bytes, at)? == 0xffff {
                at += usize::from(u16_be(bytes, at + 2)?).max(8);
                continue;
            }
            let name_bytes = usize::from(*bytes.get(at + 8)?);
            let name = bytes.get(at + 9..at + 9 + name_bytes)?;
            if !each(name, u64_be(bytes, at)?) {
                return Some(false);
            }
            let length = 8 + 1 + name_bytes + usize::from(self.xfs.file_types) + 2;
            at += length.next_multiple_of(8);
        }
        Some(true)
    }

    fn short_entries(&self, inode: &Inode, each: &mut dyn FnMut(&[u8], u64) -> bool) -> Option<()> {
        let fork = &inode.fork;
        let wide = *fork.get(1)? != 0;
        let number = if wide { 8 } else { 4 };
        let count = fork[0];
        let mut at = 2 + number;
        for _ in 0..count {
            let name_bytes = usize::from(*fork.get(at)?);
            let name = fork.get(at + 3..at + 3 + name_bytes)?;
            at += 3 + name_bytes + usize::from(self.xfs.file_types);
            let id = if wide { u64_be(fork, at)? } else { u32_be(fork, at)?.into() };
            at += number;
            if !each(name, id) {
                break;
            }
        }
        Some(())
    }
}

impl Inodes for Files {
    type Id = u64;

    fn root(&self) -> u64 {
        self.xfs.root_inode
    }

    fn kind_of(&self, number: u64) -> Option<Type> {
        Some(type_of(self.inode(number)?.mode.into()))
    }

    fn each(&self, number: u64, each: &mut dyn FnMut(&[u8], u64) -> bool) -> Option<()> {
        let inode = self.inode(number)?;
        if inode.format == 1 {
            return self.short_entries(&inode, each);
        }
        let per = 1 << self.xfs.directory_shift;
        let size = self.xfs.block_bytes * per;
        let mut read = 0;
        for extent in self.extents(&inode)? {
            let mut block = 0;
            while block < extent.count {
                let offset = (extent.offset + block).checked_mul(self.xfs.block_bytes)?;
                if offset >= LEAVES || read >= BLOCKS {
                    return Some(());
                }
                let at = self.block_at(extent.block + block)?;
                let bytes = self.device.bytes(at, index(size))?;
                if !self.entries(&bytes, each)? {
                    return Some(());
                }
                block += per;
                read += 1;
            }
        }
        Some(())
    }

    fn content(&self, number: u64, most: usize) -> Option<Vec<u8>> {
        let inode = self.inode(number)?;
        let wanted = length(inode.size, most);
        if inode.format == 1 {
            return inode.fork.get(..wanted).map(<[u8]>::to_vec);
        }
        // A link's target that is not in the inode has a header in version 5.
        let link = type_of(inode.mode.into()) == Type::Link && self.xfs.version == 5;
        let header = if link { 56 } else { 0 };
        let mut bytes = vec![0; wanted + header];
        for extent in self.extents(&inode)? {
            let from = index(extent.offset.checked_mul(self.xfs.block_bytes)?);
            let length = index(extent.count.checked_mul(self.xfs.block_bytes)?);
            if from >= bytes.len() || extent.unwritten {
                continue;
            }
            let end = bytes.len().min(from.saturating_add(length));
            self.device.read_at(self.block_at(extent.block)?, &mut bytes[from..end])?;
        }
        Some(bytes.split_off(header))
    }
}

fn extent(record: &[u8; 16]) -> Extent {
    let high = u64::from_be_bytes(record[..8].try_into().unwrap_or_default());
    let low = u64::from_be_bytes(record[8..].try_into().unwrap_or_default());
    Extent {
        offset: (high & (u64::MAX >> 1)) >> 9,
        block: (high & 0x1ff) << 43 | low >> 21,
        count: low & 0x1f_ffff,
        unwritten: high >> 63 != 0,
    }
}
