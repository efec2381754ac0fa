//! btrfs on one device (`include/uapi/linux/btrfs_tree.h`): its subvolumes and their files. Files packed
//! with LZO are not read. The log tree, which has what was written last before a crash, is not replayed.

use std::cell::Cell;
use std::io::Read as _;
use std::rc::Rc;

use super::walk::{Inodes, length, type_of};
use super::{Space, Tree, Type};
use crate::Source;
use crate::bytes::{index, u16_le, u32_le, u64_le};
use crate::superblock::btrfs_checksum_ok;

/// Where the first superblock is.
const SUPERBLOCK: u64 = 64 << 10;
/// The most nodes of trees that one look-up reads.
const NODES: usize = 1 << 14;
/// The most chunks of the map from logical to physical places.
const CHUNKS: usize = 1 << 14;
/// The most subvolumes that are listed.
const SUBVOLUMES: usize = 256;
/// The most bytes of one extent of a file, unpacked.
const EXTENT: usize = 128 << 10;

/// Objects and types of keys.
const ROOT_TREE_DIRECTORY: u64 = 6;
const FS_TREE: u64 = 5;
const FIRST: u64 = 256;
const CHUNK_TREE: u64 = 256;
const INODE_ITEM: u8 = 1;
const INODE_REF: u8 = 12;
const DIR_ITEM: u8 = 84;
const DIR_INDEX: u8 = 96;
const EXTENT_DATA: u8 = 108;
const ROOT_ITEM: u8 = 132;
const ROOT_BACKREF: u8 = 144;
const CHUNK_ITEM: u8 = 228;

const FEATURES: [(u64, &str); 12] = [
    (0x1, "mixed_backref"),
    (0x2, "default_subvol"),
    (0x4, "mixed_groups"),
    (0x8, "compress_lzo"),
    (0x10, "compress_zstd"),
    (0x40, "extended_iref"),
    (0x80, "raid56"),
    (0x100, "skinny_metadata"),
    (0x200, "no_holes"),
    (0x400, "metadata_uuid"),
    (0x2000, "extent_tree_v2"),
    (0x4000, "raid_stripe_tree"),
];

type Key = (u64, u8, u64);

/// A subvolume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subvolume {
    /// Its number.
    pub id: u64,
    /// Its path from the top of the file system, without a `/` at its beginning.
    pub path: String,
    /// Whether it is mounted if none is named.
    pub default: bool,
}

/// A btrfs.
#[derive(Debug, Clone)]
pub struct Btrfs(Rc<Inner>);

struct Inner {
    device: Source,
    node_bytes: usize,
    sector_bytes: u64,
    /// Logical start, length, physical start.
    chunks: Vec<(u64, u64, u64)>,
    root: u64,
    total: u64,
    used: u64,
    incompatible: u64,
}

impl Btrfs {
    /// The file system on a device; `None` for one of several devices, or one that is damaged.
    pub fn open(device: &Source) -> Option<Self> {
        let block = device.bytes(SUPERBLOCK, 4096)?;
        let word = |at| u64_le(&block, at);
        let node_bytes = u32_le(&block, 148)? as usize;
        let valid = &block[64..72] == b"_BHRfS_M"
            && btrfs_checksum_ok(&block)?
            && word(136)? == 1
            && (4096..=65536).contains(&node_bytes);
        valid.then_some(())?;
        let mut inner = Inner {
            device: Source::clone(device),
            node_bytes,
            sector_bytes: u32_le(&block, 144)?.into(),
            chunks: Vec::new(),
            root: word(80)?,
            total: word(112)?,
            used: word(120)?,
            incompatible: word(188)?,
        };
        let array = block.get(811..811 + u32_le(&block, 160)? as usize)?;
        let mut at = 0;
        while let Some((_, _, logical)) = key(array, at) {
            let item = array.get(at + 17..)?;
            inner.chunks.push(chunk(item, logical)?);
            at += 17 + 48 + 32 * usize::from(u16_le(item, 44)?);
        }
        let mut chunks = Vec::new();
        let all = ((CHUNK_TREE, CHUNK_ITEM, 0), (CHUNK_TREE, CHUNK_ITEM, u64::MAX));
        inner.items(word(88)?, all, &mut |(_, _, logical), item| {
            chunks.extend(chunk(item, logical));
            chunks.len() < CHUNKS
        })?;
        inner.chunks = chunks;
        Some(Self(Rc::new(inner)))
    }

    /// Its space: what is not used, some of which metadata will take.
    pub fn space(&self) -> Space {
        let free_bytes = self.0.total.saturating_sub(self.0.used);
        Space { free_bytes, block_bytes: self.0.sector_bytes }
    }

    /// Names of its incompatible features.
    pub fn features(&self) -> Vec<String> {
        let named = FEATURES.iter().filter(|(bit, _)| self.0.incompatible & bit != 0);
        named.map(|(_, name)| (*name).to_owned()).collect()
    }

    /// The number of the subvolume that is mounted if none is named.
    pub fn default_subvolume(&self) -> u64 {
        let mut default = FS_TREE;
        let range = ((ROOT_TREE_DIRECTORY, DIR_ITEM, 0), (ROOT_TREE_DIRECTORY, DIR_ITEM, u64::MAX));
        // Where it cannot be read, nothing else can.
        let _ = self.0.items(self.0.root, range, &mut |_, item| {
            if let Some((name, id)) = entry(item)
                && name == b"default"
            {
                default = id.0;
            }
            true
        });
        default
    }

    /// Its subvolumes, the top itself without a path.
    pub fn subvolumes(&self) -> Vec<Subvolume> {
        let default = self.default_subvolume();
        let mut above = Vec::new();
        let range = ((FS_TREE, ROOT_BACKREF, 0), (u64::MAX, ROOT_BACKREF, u64::MAX));
        let _ = self.0.items(self.0.root, range, &mut |(id, kind, parent), item| {
            if kind == ROOT_BACKREF
                && let Some(directory) = u64_le(item, 0)
                && let Some(length) = u16_le(item, 16)
                && let Some(name) = item.get(18..18 + usize::from(length))
            {
                above.push((id, parent, directory, String::from_utf8_lossy(name).into_owned()));
            }
            above.len() < SUBVOLUMES
        });
        let mut found =
            vec![Subvolume { id: FS_TREE, path: String::new(), default: default == FS_TREE }];
        for (id, ..) in &above {
            let mut path = Vec::new();
            let mut here = *id;
            // Subvolumes within each other without an end have no path.
            while let Some((_, parent, directory, name)) =
                above.iter().find(|(id, ..)| *id == here).filter(|_| path.len() < 64)
            {
                path.push(name.clone());
                path.extend(self.directories(*parent, *directory));
                here = *parent;
            }
            if here == FS_TREE {
                path.reverse();
                let path = path.join("/");
                found.push(Subvolume { id: *id, path, default: *id == default });
            }
        }
        found
    }

    /// Names of a directory and those above it, within its subvolume.
    fn directories(&self, subvolume: u64, directory: u64) -> Vec<String> {
        let Some(tree) = self.0.subvolume(subvolume) else { return Vec::new() };
        let mut names = Vec::new();
        let mut here = directory;
        while here != FIRST && names.len() < 64 {
            let mut above = None;
            let range = ((here, INODE_REF, 0), (here, INODE_REF, u64::MAX));
            let read = self.0.items(tree, range, &mut |(_, _, parent), item| {
                let name = u16_le(item, 8).and_then(|n| item.get(10..10 + usize::from(n)));
                above = name.map(|name| (parent, String::from_utf8_lossy(name).into_owned()));
                false
            });
            let Some((parent, name)) = read.and(above) else { break };
            names.push(name);
            here = parent;
        }
        names
    }

    /// The files of a subvolume.
    pub fn tree(&self, subvolume: u64) -> Option<Box<dyn Tree>> {
        self.0.subvolume(subvolume)?;
        Some(Box::new(Files { btrfs: Rc::clone(&self.0), subvolume }))
    }
}

impl Inner {
    fn physical(&self, logical: u64) -> Option<u64> {
        self.chunks.iter().find_map(|(start, length, physical)| {
            let within = logical.checked_sub(*start).filter(|within| within < length)?;
            physical.checked_add(within)
        })
    }

    /// Where the tree of a subvolume begins.
    fn subvolume(&self, id: u64) -> Option<u64> {
        let mut root = None;
        self.items(self.root, ((id, ROOT_ITEM, 0), (id, ROOT_ITEM, u64::MAX)), &mut |_, item| {
            root = u64_le(item, 176);
            true
        })?;
        root
    }

    /// Call `each` with the items of a tree in a range of keys, in order, until it returns false.
    fn items(
        &self,
        root: u64,
        range: (Key, Key),
        each: &mut dyn FnMut(Key, &[u8]) -> bool,
    ) -> Option<()> {
        let left = Cell::new(NODES);
        self.node(root, range, each, &left, 8).map(drop)
    }

    fn node(
        &self,
        logical: u64,
        (least, most): (Key, Key),
        each: &mut dyn FnMut(Key, &[u8]) -> bool,
        left: &Cell<usize>,
        depth: u8,
    ) -> Option<bool> {
        left.set(left.get().checked_sub(1)?);
        let bytes = self.device.bytes(self.physical(logical)?, self.node_bytes)?;
        (u64_le(&bytes, 48)? == logical).then_some(())?;
        let count = u32_le(&bytes, 96)? as usize;
        let level = bytes[100];
        if level == 0 {
            for at in (0..count).map(|item| 101 + 25 * item) {
                let here = key(&bytes, at)?;
                if here > most {
                    return Some(false);
                }
                let start = 101 + u32_le(&bytes, at + 17)? as usize;
                let item = bytes.get(start..start + u32_le(&bytes, at + 21)? as usize)?;
                if here >= least && !each(here, item) {
                    return Some(false);
                }
            }
            return Some(true);
        }
        (level < depth).then_some(())?;
        for at in (0..count).map(|item| 101 + 33 * item) {
            let next = key(&bytes, at + 33).filter(|_| at + 33 < 101 + 33 * count);
            if next.is_some_and(|next| next <= least) {
                continue;
            }
            if key(&bytes, at)? > most {
                return Some(false);
            }
            if !self.node(u64_le(&bytes, at + 17)?, (least, most), each, left, level)? {
                return Some(false);
            }
        }
        Some(true)
    }
}

/// The files of a subvolume; what is mounted in it by other subvolumes belongs to it.
struct Files {
    btrfs: Rc<Inner>,
    subvolume: u64,
}

impl Inodes for Files {
    /// Subvolume and inode.
    type Id = (u64, u64);

    fn root(&self) -> Self::Id {
        (self.subvolume, FIRST)
    }

    fn kind_of(&self, (subvolume, inode): Self::Id) -> Option<Type> {
        let mut mode = None;
        let range = ((inode, INODE_ITEM, 0), (inode, INODE_ITEM, u64::MAX));
        self.btrfs.items(self.btrfs.subvolume(subvolume)?, range, &mut |_, item| {
            mode = u32_le(item, 52);
            false
        })?;
        mode.map(type_of)
    }

    fn each(
        &self,
        (subvolume, inode): Self::Id,
        each: &mut dyn FnMut(&[u8], Self::Id) -> bool,
    ) -> Option<()> {
        let range = ((inode, DIR_INDEX, 0), (inode, DIR_INDEX, u64::MAX));
        self.btrfs.items(
            self.btrfs.subvolume(subvolume)?,
            range,
            &mut |_, item| match entry(item) {
                Some((name, (id, ROOT_ITEM, _))) => each(name, (id, FIRST)),
                Some((name, (id, ..))) => each(name, (subvolume, id)),
                None => true,
            },
        )
    }

    fn content(&self, (subvolume, inode): Self::Id, most: usize) -> Option<Vec<u8>> {
        let tree = self.btrfs.subvolume(subvolume)?;
        let mut size = None;
        let range = ((inode, INODE_ITEM, 0), (inode, INODE_ITEM, u64::MAX));
        self.btrfs.items(tree, range, &mut |_, item| {
            size = u64_le(item, 16);
            false
        })?;
        let mut bytes = vec![0; length(size?, most)];
        let mut whole = Some(());
        let range = ((inode, EXTENT_DATA, 0), (inode, EXTENT_DATA, u64::MAX));
        self.btrfs.items(tree, range, &mut |(_, _, offset), item| {
            let from = index(offset);
            if from >= bytes.len() {
                return false;
            }
            whole = extent(&self.btrfs, item, &mut bytes[from..]);
            whole.is_some()
        })?;
        whole.map(|()| bytes)
    }
}

/// Put an extent at the beginning of `to`; holes stay as they are.
fn extent(btrfs: &Inner, item: &[u8], to: &mut [u8]) -> Option<()> {
    let ram = index(u64_le(item, 8)?).min(EXTENT);
    let packing = *item.get(16)?;
    let (data, skip) = match *item.get(20)? {
        0 => (item.get(21..)?.to_vec(), 0),
        1 => {
            let (at, length) = (u64_le(item, 21)?, index(u64_le(item, 29)?));
            if at == 0 {
                return Some(());
            }
            let offset = u64_le(item, 37)?;
            let place = btrfs.physical(at)?;
            if packing == 0 {
                let wanted = to.len().min(index(u64_le(item, 45)?));
                let bytes = btrfs.device.bytes(place.checked_add(offset)?, wanted)?;
                to[..wanted].copy_from_slice(&bytes);
                return Some(());
            }
            (btrfs.device.bytes(place, length.min(EXTENT))?, index(offset))
        }
        // Allocated and not written.
        _ => return Some(()),
    };
    let mut unpacked = Vec::new();
    match packing {
        0 => unpacked = data,
        1 => {
            let decoder = flate2::read::ZlibDecoder::new(&*data);
            decoder.take(ram as u64).read_to_end(&mut unpacked).ok()?;
        }
        3 => {
            let decoder = zstd::Decoder::new(&*data).ok()?.single_frame();
            decoder.take(ram as u64).read_to_end(&mut unpacked).ok()?;
        }
        _ => return None,
    }
    let unpacked = unpacked.get(skip..)?;
    let wanted = to.len().min(unpacked.len());
    to[..wanted].copy_from_slice(&unpacked[..wanted]);
    Some(())
}

fn key(bytes: &[u8], at: usize) -> Option<Key> {
    Some((u64_le(bytes, at)?, *bytes.get(at + 8)?, u64_le(bytes, at + 9)?))
}

/// Logical start, length and the first copy of a chunk that is not striped.
fn chunk(item: &[u8], logical: u64) -> Option<(u64, u64, u64)> {
    Some((logical, u64_le(item, 0)?, u64_le(item, 48 + 8)?))
}

/// The name in an item of a directory, and the key of what it names.
fn entry(item: &[u8]) -> Option<(&[u8], Key)> {
    let length = usize::from(u16_le(item, 27)?);
    Some((item.get(30..30 + length)?, key(item, 0)?))
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("chunks", &self.chunks.len()).finish_non_exhaustive()
    }
}
