//! FAT12, FAT16 and FAT32 (Microsoft's FAT specification). Names are those of VFAT where there are any,
//! and are compared without regard to case.

use super::Type;
use super::walk::{Inodes, length};
use crate::Source;
use crate::bytes::{index, u16_le, u32_le};
use crate::superblock::Fat;

/// The most clusters of one file that are followed.
const CLUSTERS: usize = 1 << 16;
/// The most bytes of one directory: 65536 entries.
const DIRECTORY: usize = 2 << 20;

const LONG_NAME: u8 = 0x0f;
const VOLUME: u8 = 0x08;
const DIRECTORY_BIT: u8 = 0x10;

pub(super) struct Files {
    device: Source,
    fat: Fat,
}

/// A file or a directory.
#[derive(Clone, Copy)]
pub(super) struct Node {
    pub(super) cluster: u32,
    pub(super) size: u64,
    pub(super) directory: bool,
    /// The root directory of FAT12 and FAT16, which has no clusters.
    pub(super) fixed: bool,
}

impl Files {
    pub(super) fn new(device: &Source, fat: Fat) -> Self {
        Self { device: Source::clone(device), fat }
    }

    fn bytes(&self, node: Node, most: usize) -> Option<Vec<u8>> {
        if node.fixed {
            return self.device.bytes(self.fat.root_at, index(self.fat.root_bytes));
        }
        let mut bytes = Vec::new();
        let mut cluster = node.cluster;
        for _ in 0..CLUSTERS {
            if bytes.len() >= most || !(2..self.fat.clusters.saturating_add(2)).contains(&cluster) {
                break;
            }
            let at = self.fat.data_at + u64::from(cluster - 2) * self.fat.cluster_bytes;
            bytes.extend(self.device.bytes(at, index(self.fat.cluster_bytes))?);
            cluster = self.next(cluster)?;
        }
        bytes.truncate(most);
        Some(bytes)
    }

    /// The cluster after this one; a number that is no cluster at the end.
    fn next(&self, cluster: u32) -> Option<u32> {
        let cluster = u64::from(cluster);
        let at = |offset: u64| self.device.bytes(self.fat.table_at + offset, 4);
        Some(match self.fat.bits {
            12 => {
                let pair = u32::from(u16_le(&at(cluster * 3 / 2)?, 0)?);
                if cluster % 2 == 0 { pair & 0xfff } else { pair >> 4 }
            }
            16 => u16_le(&at(cluster * 2)?, 0)?.into(),
            _ => u32_le(&at(cluster * 4)?, 0)? & 0x0fff_ffff,
        })
    }
}

impl Inodes for Files {
    type Id = Node;

    fn root(&self) -> Node {
        let fixed = self.fat.bits != 32;
        Node { cluster: self.fat.root_cluster, size: 0, directory: true, fixed }
    }

    fn kind_of(&self, node: Node) -> Option<Type> {
        Some(if node.directory { Type::Directory } else { Type::File })
    }

    fn each(&self, node: Node, each: &mut dyn FnMut(&[u8], Node) -> bool) -> Option<()> {
        let bytes = self.bytes(node, DIRECTORY)?;
        // The parts of a long name come before the entry, the last one first.
        let mut long: Vec<u16> = Vec::new();
        for entry in bytes.as_chunks::<32>().0 {
            match entry[0] {
                0 => break,
                0xe5 => long.clear(),
                _ if entry[11] & 0x3f == LONG_NAME => {
                    let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
                    let part = places.iter().filter_map(|at| u16_le(entry, *at));
                    let mut part: Vec<u16> =
                        part.take_while(|unit| !matches!(unit, 0 | 0xffff)).collect();
                    part.append(&mut long);
                    long = part;
                    // Names have at most 255 units.
                    long.truncate(260);
                }
                _ if entry[11] & VOLUME != 0 => long.clear(),
                _ => {
                    let name = if long.is_empty() {
                        short_name(entry)
                    } else {
                        String::from_utf16_lossy(&long).into_bytes()
                    };
                    long.clear();
                    let high = if self.fat.bits == 32 { u16_le(entry, 20)? } else { 0 };
                    let found = Node {
                        cluster: u32::from(high) << 16 | u32::from(u16_le(entry, 26)?),
                        size: u32_le(entry, 28)?.into(),
                        directory: entry[11] & DIRECTORY_BIT != 0,
                        fixed: false,
                    };
                    if !each(&name, found) {
                        break;
                    }
                }
            }
        }
        Some(())
    }

    fn content(&self, node: Node, most: usize) -> Option<Vec<u8>> {
        self.bytes(node, length(node.size, most))
    }

    fn same(&self, one: &[u8], other: &[u8]) -> bool {
        one.eq_ignore_ascii_case(other)
    }
}

fn short_name(entry: &[u8; 32]) -> Vec<u8> {
    let trimmed = |part: &[u8]| {
        let end = part.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
        part[..end].to_vec()
    };
    let (mut name, extension) = (trimmed(&entry[..8]), trimmed(&entry[8..11]));
    if !extension.is_empty() {
        name.push(b'.');
        name.extend(extension);
    }
    name
}
