//! What is on a disk, seen while its image passes by: partition table, file systems, ways to boot.
//!
//! An image that is packed cannot be read here and there, so the few places that tell are copied when
//! they come by. The table is in the first mebibyte; it says where the superblocks are, and each
//! extended boot record where the next one is.

use std::collections::BTreeMap;

use super::descriptor::{BootMode, Partition, PartitionTable, SECTOR, TableKind};
use super::{filesystem, table};

/// Partition type of an EFI system partition in a GPT (UEFI specification, table 5.7).
const GPT_ESP: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// The same in an MBR.
const MBR_ESP: &str = "ef";
/// Partition types of root file systems: the discoverable partitions specification's for x86-64,
/// 64-bit ARM and x86.
const GPT_ROOTS: [&str; 3] = [
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
    "b921b045-1df0-41c3-af44-4c6f280d3fae",
    "44479540-f297-41b2-9af7-d131d5f0458a",
];
/// Bytes of the first sector that are code.
const BOOT_CODE: usize = 440;

/// What was found.
pub(super) struct Found {
    pub table: Option<PartitionTable>,
    pub boot_modes: Vec<BootMode>,
    pub root_partition: Option<u32>,
}

/// Collects what tells.
#[derive(Default)]
pub(super) struct Layout {
    table: Option<PartitionTable>,
    boot_code: bool,
    /// Copies of what is on the disk, by offset; what has not come by is zeros.
    copies: BTreeMap<u64, Vec<u8>>,
    chain: Option<table::Chain>,
}

impl Layout {
    /// A chunk that is not all hole comes by; they come in order.
    pub fn see(&mut self, offset: u64, bytes: &[u8]) {
        if offset == 0 {
            self.begin(bytes);
        }
        let end = offset + bytes.len() as u64;
        for (start, copy) in &mut self.copies {
            let from = offset.max(*start);
            let to = end.min(start + copy.len() as u64);
            if from < to {
                copy[index(from - start)..index(to - start)]
                    .copy_from_slice(&bytes[index(from - offset)..index(to - offset)]);
            }
        }
        // An extended boot record may be in the same chunk as the one before it.
        while let Some(chain) = &mut self.chain {
            let at = chain.next_at();
            if at >= end || at + SECTOR > end || at < offset {
                break;
            }
            let record = &bytes[index(at - offset)..index(at + SECTOR - offset)];
            let logical = chain.follow(record);
            if chain.ended() {
                self.chain = None;
            }
            if let Some(partition) = logical {
                self.watch(&partition, offset, bytes);
                if let Some(table) = &mut self.table {
                    table.partitions.push(partition);
                }
            }
        }
    }

    fn begin(&mut self, bytes: &[u8]) {
        let signed = bytes.len() >= 512 && bytes[510..512] == [0x55, 0xaa];
        self.boot_code = signed && bytes[..BOOT_CODE].iter().any(|byte| *byte != 0);
        self.table = table::gpt(bytes);
        if self.table.is_none() && signed {
            (self.table, self.chain) = table::mbr(bytes);
        }
        let partitions =
            self.table.as_ref().map_or_else(Vec::new, |table| table.partitions.clone());
        for partition in &partitions {
            self.watch(partition, 0, &[]);
        }
    }

    /// Copy the superblocks of a partition, from the current chunk as well.
    fn watch(&mut self, partition: &Partition, offset: u64, bytes: &[u8]) {
        for (place, length) in filesystem::PLACES {
            // Nothing comes by beyond where files can end.
            let start = partition.start_bytes.saturating_add(place);
            if place + length > partition.size_bytes || i64::try_from(start).is_err() {
                continue;
            }
            let mut copy = vec![0; index(length)];
            for (position, byte) in (start..).zip(&mut copy) {
                let inside = position.checked_sub(offset).and_then(|at| bytes.get(index(at)));
                *byte = inside.copied().unwrap_or(0);
            }
            self.copies.insert(start, copy);
        }
    }

    /// What was found on a disk of `size_bytes`.
    pub fn finish(mut self, size_bytes: u64) -> Found {
        if let Some(table) = &mut self.table {
            // A table may promise more than there is, of an image that was cut.
            table.partitions.retain(|partition| {
                let end = partition.start_bytes.checked_add(partition.size_bytes);
                end.is_some_and(|end| end <= size_bytes)
            });
            for partition in &mut table.partitions {
                let copies = filesystem::PLACES.map(|(place, _)| {
                    self.copies
                        .get(&partition.start_bytes.saturating_add(place))
                        .map_or(&[][..], Vec::as_slice)
                });
                if let Some(found) = filesystem::recognise(copies) {
                    partition.file_system = Some(found.name.to_owned());
                    partition.uuid = Some(found.uuid);
                    partition.label = found.label;
                }
            }
        }
        let partitions = self.table.as_ref().map_or(&[][..], |table| &table.partitions);
        let gpt = self.table.as_ref().is_some_and(|table| table.kind == TableKind::Gpt);
        let mut boot_modes = Vec::new();
        if self.boot_code {
            boot_modes.push(BootMode::Bios);
        }
        // Whether there is a boot loader in it would take following FAT's chains all over the image.
        let esp = if gpt { GPT_ESP } else { MBR_ESP };
        if partitions.iter().any(|partition| partition.kind == esp) {
            boot_modes.push(BootMode::Uefi);
        }
        let root_partition = root(partitions, gpt);
        Found { table: self.table, boot_modes, root_partition }
    }
}

/// Of the partitions with a file system that a root can be on: one whose type says so, or the largest.
fn root(partitions: &[Partition], gpt: bool) -> Option<u32> {
    let candidates = partitions.iter().filter(|partition| {
        matches!(partition.file_system.as_deref(), Some("ext2" | "ext3" | "ext4" | "xfs"))
    });
    candidates
        .max_by_key(|partition| {
            let typed = gpt && GPT_ROOTS.contains(&partition.kind.as_str());
            (typed, partition.size_bytes, std::cmp::Reverse(partition.number))
        })
        .map(|partition| partition.number)
}

/// A place within a chunk or a copy, both of which are in memory.
fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}
