//! What a manifest has of one name.

use serde::{Deserialize, Serialize};

use super::Chunks;
use crate::digest::Digest;

/// The longest path that is believed; Linux takes 4096 bytes at a time.
const MOST_PATH: usize = 64 << 10;

/// What a line is about.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// A regular file.
    #[default]
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    Block,
    /// A character device.
    Char,
}

/// The outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// All is known of it.
    #[default]
    Ok,
    /// It was written to while it was read, twice.
    Changed,
    /// It went away before it was read.
    Vanished,
    /// The system gave an error.
    Error,
}

/// By what a file is known to be unchanged. In records a list, in this order, or members of a line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The number of its device.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Its modification time in nanoseconds since the epoch.
    pub mtime_ns: i128,
    /// Its change time in nanoseconds since the epoch.
    pub ctime_ns: i128,
}

/// A line whose claims were checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its path relative to what the manifest is of: plain names only, neither `.` nor `..`.
    pub path: Box<[u8]>,
    /// By what it is known to be unchanged.
    pub identity: Identity,
    /// By the header's algorithm, for files that could be read.
    pub digest: Option<Digest>,
    /// Permissions, without the type.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its names.
    pub nlink: u32,
    /// What it is.
    pub kind: Type,
    /// The outcome.
    pub status: Status,
    /// What most have nothing of: a million lines are to fit into memory.
    pub rare: Option<Box<Rare>>,
}

/// What few lines have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rare {
    /// Of a file of more than one chunk.
    pub chunks: Option<Chunks>,
    /// Of another name of a file: its first name in the order of the paths.
    pub hardlink_of: Option<Vec<u8>>,
    /// Of a symbolic link: its target.
    pub target: Option<Vec<u8>>,
    /// The system's words, for an error.
    pub detail: Option<String>,
    /// Of a file with several names where its device and inode number do not name it: a number
    /// that does, in this walk. Not recorded.
    pub file: Option<u64>,
}

/// What distinguishes the files of one walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKey {
    /// Device and inode number.
    Inode(u64, u64),
    /// A number of this walk.
    Number(u64),
}

impl Entry {
    /// Which file it is, among those of one walk.
    pub fn file(&self) -> FileKey {
        let number = self.rare.as_ref().and_then(|rare| rare.file);
        number.map_or(FileKey::Inode(self.identity.dev, self.identity.ino), FileKey::Number)
    }

    /// The chunk table.
    pub fn chunks(&self) -> Option<&Chunks> {
        self.rare.as_ref()?.chunks.as_ref()
    }

    /// The first name of the same file, if this is another one.
    pub fn hardlink_of(&self) -> Option<&[u8]> {
        self.rare.as_ref()?.hardlink_of.as_deref()
    }

    /// The target of a symbolic link.
    pub fn target(&self) -> Option<&[u8]> {
        self.rare.as_ref()?.target.as_deref()
    }

    /// The system's words.
    pub fn detail(&self) -> Option<&str> {
        self.rare.as_ref()?.detail.as_deref()
    }

    /// Members that few lines have.
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

/// Whether a path is one of plain names below a directory.
pub fn is_plain(path: &[u8]) -> bool {
    let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    path.len() <= MOST_PATH && path.split(|&byte| byte == b'/').all(plain)
}
