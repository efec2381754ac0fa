//! What the journal records, and what the records come to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::message::{Stamp, Table};

/// A file that was made whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// What it was on the source.
    pub source: Stamp,
    /// XXH64 of all of it.
    pub digest: u64,
    /// Its chunks, if it has more than one.
    pub table: Option<Box<Table>>,
    /// Its inode here.
    pub ino: u64,
    /// Its modification time here, in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Its change time here; 0 if it was placed, but a crash came before this was known.
    pub ctime_ns: i64,
    /// Whether it was read back from the device; a record of its own.
    #[serde(skip)]
    pub proven: bool,
}

impl Held {
    /// Return whether a file that is there is this one, as it was placed.
    pub fn is(&self, there: &Stamp) -> bool {
        (there.ino, there.size, there.mtime_ns) == (self.ino, self.source.size, self.mtime_ns)
            && (self.ctime_ns == 0 || self.ctime_ns == there.ctime_ns)
    }
}

/// Something that a transfer made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// A file.
    File(Held),
    /// A directory that was not there before.
    Directory,
    /// A symbolic link, or another name of a file.
    Link,
}

/// Chunks by number: the digest of each, and the state of the whole file's digest behind it.
pub type Chunks = BTreeMap<u32, (u64, Option<[u64; 4]>)>;

/// A file that is being put together in the staging directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// Its name there.
    pub name: u64,
    /// What it is on the source.
    pub stamp: Stamp,
    /// Whether it began as an older version.
    pub based: bool,
    /// Chunks that are flushed: digest, and state behind it.
    pub chunks: Chunks,
}

/// One record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record {
    /// The first one.
    Begin {
        /// [`VERSION`].
        version: u32,
        /// The seed of the destination's key.
        puller: [u8; 32],
    },
    /// Something is about to be made, or a file is flushed and about to be placed.
    Made(Arc<[u8]>, Item),
    /// A file was placed, and has this change time.
    Placed(Arc<[u8]>, i64),
    /// Something was removed.
    Removed(Arc<[u8]>),
    /// A file is being put together.
    Staged(Arc<[u8]>, Staged),
    /// A chunk of it is flushed.
    Chunk(Arc<[u8]>, u32, u64, Option<[u64; 4]>),
    /// Chunks of it are about to be overwritten.
    Spoiled(Arc<[u8]>, Vec<u32>),
    /// The final pass is done.
    Complete,
    /// Whether owners are found by name.
    Mapped(bool),
    /// A file is not put together any more.
    Abandoned(Arc<[u8]>),
    /// A file that was placed was read back from the device, and is what it was on the source.
    Proven(Arc<[u8]>),
    /// What follows is not flushed.
    Unflushed {
        /// The boot of this machine that it is written in.
        boot: String,
        /// [`State::suspect`].
        suspect: bool,
    },
    /// All before it is flushed.
    Flushed,
}

/// What the journal has.
#[derive(Debug, Default)]
pub struct State {
    /// Everything that was made, in the order of the paths' bytes.
    pub items: BTreeMap<Arc<[u8]>, Item>,
    /// Everything that is being put together.
    pub staged: HashMap<Arc<[u8]>, Staged>,
    /// Whether the final pass is done.
    pub complete: bool,
    /// Whether owners are found by name, once a pass began.
    pub mapped: Option<bool>,
    /// The boot of this machine in which something was written that may not be flushed.
    pub unflushed: Option<String>,
    /// Whether another boot followed: what was not read back since may have been lost.
    pub suspect: bool,
}

impl State {
    /// Take a record in.
    pub fn apply(&mut self, record: Record) {
        match record {
            Record::Begin { .. } => {}
            Record::Made(path, item) => _ = self.items.insert(path, item),
            Record::Placed(path, ctime_ns) => {
                self.staged.remove(&path);
                if let Some(Item::File(held)) = self.items.get_mut(&path) {
                    held.ctime_ns = ctime_ns;
                }
            }
            Record::Removed(path) => {
                self.items.remove(&path);
                self.staged.remove(&path);
            }
            Record::Staged(path, staged) => {
                // What was there became the base of it, or is replaced by it later.
                if staged.based {
                    self.items.remove(&path);
                }
                self.staged.insert(path, staged);
            }
            Record::Chunk(path, index, digest, state) => {
                if let Some(staged) = self.staged.get_mut(&path) {
                    staged.chunks.insert(index, (digest, state));
                }
            }
            Record::Spoiled(path, indices) => {
                if let Some(staged) = self.staged.get_mut(&path) {
                    indices.iter().for_each(|index| _ = staged.chunks.remove(index));
                }
            }
            Record::Complete => self.complete = true,
            Record::Mapped(mapped) => self.mapped = Some(mapped),
            Record::Abandoned(path) => _ = self.staged.remove(&path),
            Record::Unflushed { boot, suspect } => {
                self.unflushed = Some(boot);
                self.suspect |= suspect;
            }
            Record::Flushed => (self.unflushed, self.suspect) = (None, false),
            Record::Proven(path) => {
                if let Some(Item::File(held)) = self.items.get_mut(&path) {
                    held.proven = true;
                }
            }
        }
    }
}
