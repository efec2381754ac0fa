//! The files of a file system, read without mounting it.
//!
//! Paths have no `/` at their beginning. Symbolic links are followed within the tree, absolute ones
//! from its root. What is damaged, or not known here, is `None`.

mod btrfs;
mod ext;
mod fat;
mod fat_runs;
mod walk;
mod xfs;

pub use btrfs::{Btrfs, Subvolume};
pub use fat_runs::{NoPlace, Run, runs};

use crate::superblock::{Ext, Fat, Xfs, probe};
use crate::{Kind, Source};

/// The most entries of a directory that are read.
pub const ENTRIES: usize = 8192;

/// What a name refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, a pipe or a socket.
    Other,
}

/// A tree of files.
pub trait Tree {
    /// At most `most` bytes of the beginning of a regular file.
    fn read(&self, path: &str, most: usize) -> Option<Vec<u8>>;

    /// The names in a directory, in no order, without `.` and `..`.
    fn list(&self, path: &str) -> Option<Vec<String>>;

    /// What a path leads to; links are followed.
    fn kind(&self, path: &str) -> Option<Type>;

    /// Whether a path leads to anything.
    fn exists(&self, path: &str) -> bool {
        self.kind(path).is_some()
    }

    /// Whether a path leads to a directory.
    fn is_directory(&self, path: &str) -> bool {
        self.kind(path) == Some(Type::Directory)
    }

    /// A file's text, at most `most` bytes of it.
    fn text(&self, path: &str, most: usize) -> Option<String> {
        self.read(path, most).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// The space of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that root may still write.
    pub free_bytes: u64,
    /// Bytes of a block.
    pub block_bytes: u64,
}

/// A file system on a device.
pub struct FileSystem {
    /// Its kind.
    pub kind: Kind,
    /// Its UUID, as blkid prints it.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// Its space, where the superblock has it.
    pub space: Option<Space>,
    /// Names of its features.
    pub features: Vec<String>,
    /// What is wrong with it, or not known here, as a clause.
    pub problem: Option<String>,
    /// Its files; `None` where this kind cannot be read, or it is damaged.
    pub tree: Option<Box<dyn Tree>>,
    /// The subvolumes of a btrfs.
    pub subvolumes: Vec<Subvolume>,
}

impl FileSystem {
    /// The file system on a device, if it has one and is no member of something else.
    pub fn on(device: &Source) -> Option<Self> {
        let signature = probe(&**device).into_iter().next()?;
        if !signature.kind.is_file_system() {
            return None;
        }
        let head = device.bytes_up_to(0, 8192);
        let mut found = Self {
            kind: signature.kind,
            uuid: signature.uuid,
            label: signature.label,
            space: None,
            features: Vec::new(),
            problem: None,
            tree: None,
            subvolumes: Vec::new(),
        };
        let names = |all: &[&'static str]| all.iter().map(|name| (*name).to_owned()).collect();
        match found.kind {
            Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => {
                let superblock = Ext::parse(&head)?;
                found.space = Some(Space {
                    free_bytes: superblock.free_blocks.saturating_mul(superblock.block_bytes),
                    block_bytes: superblock.block_bytes,
                });
                found.features = names(&superblock.features);
                found.features.extend(unnamed(superblock.unknown));
                match ext::open(device) {
                    Ok(tree) => found.tree = Some(tree),
                    Err(why) => found.problem = Some(why),
                }
            }
            Kind::Xfs => {
                let superblock = Xfs::parse(&head)?;
                found.space = Some(Space {
                    free_bytes: superblock.free_blocks.saturating_mul(superblock.block_bytes),
                    block_bytes: superblock.block_bytes,
                });
                found.features = names(&superblock.features);
                if !superblock.checksum_ok {
                    found.problem = Some("the checksum of its superblock is wrong".to_owned());
                } else {
                    let unknown = (superblock.unknown_incompatible, superblock.unknown_read_only);
                    found.features.extend(unnamed(unknown));
                }
                found.tree = Some(Box::new(xfs::Files::new(device, superblock)));
            }
            Kind::Btrfs => {
                if let Some(btrfs) = Btrfs::open(device) {
                    found.space = Some(btrfs.space());
                    found.subvolumes = btrfs.subvolumes();
                    found.features = btrfs.features();
                    found.tree = btrfs.tree(btrfs.default_subvolume());
                }
            }
            Kind::Fat => found.tree = Some(Box::new(fat::Files::new(device, Fat::parse(&head)?))),
            _ => {}
        }
        Some(found)
    }
}

/// Names for features without one: incompatible ones, and those that only forbid writing.
fn unnamed((incompatible, read_only): (u32, u32)) -> impl Iterator<Item = String> {
    let one = |bits: u32, before: &str| (bits != 0).then(|| format!("{before}{bits:#x}"));
    one(incompatible, "").into_iter().chain(one(read_only, "ro_compat:"))
}

impl std::fmt::Debug for FileSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSystem").field("kind", &self.kind).finish_non_exhaustive()
    }
}
