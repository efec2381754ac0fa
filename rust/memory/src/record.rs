//! The index of a save: a record file, of which each line is checked before it is believed.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::BorrowedFd;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_engine::manifest::record::{chunk_size, is_plain};
use holdfast_engine::record::{PathText, Reader};
use holdfast_engine::tree::confine::{OpenFile, open_file};
use holdfast_engine::{Error, Progress, Result};
use holdfast_transfer::message::{Metadata, Names};
use serde::{Deserialize, Serialize};

use crate::staging::{STAGING, split};

/// What the header calls this kind of record.
pub const FORMAT: &str = "holdfast-memory";
/// The version written, and the highest one read.
pub const VERSION: u64 = 1;
/// The name of the file with the content.
pub const DATA: &str = "data";
/// The name of the record file.
pub const INDEX: &str = "index.zst";
/// Bytes to decompress of an index at most.
pub const MOST_INDEX: u64 = 512 << 20;
/// Content begins at multiples of this in both files.
pub const BLOCK: u64 = 4096;

/// The largest file, in bytes: zeros of holes are hashed too, which takes time.
pub const MOST_SIZE: u64 = 16 << 40;
const LONGEST_NAME: usize = 255;
/// Directories above a file at most.
pub const DEEPEST: usize = 64;
const MOST_ATTRIBUTES: usize = 64 << 10;

/// The first line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u64,
    /// The root that was saved.
    pub root: String,
    /// Names of users by number.
    #[serde(default)]
    pub users: Vec<(u32, String)>,
    /// Names of groups by number.
    #[serde(default)]
    pub groups: Vec<(u32, String)>,
    /// Further members of its maker: id, host, boot id, time.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Header {
    /// The names of owners.
    pub fn names(&self) -> Names {
        Names { users: self.users.clone(), groups: self.groups.clone() }
    }
}

/// What is kept of a file beside its content, as a line has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// Permissions, without the type.
    mode: u32,
    uid: u32,
    gid: u32,
    /// In nanoseconds since the epoch.
    mtime_ns: i64,
    /// Names and values of extended attributes, in base 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    attributes: Vec<(String, String)>,
}

/// A line after the header. A file is followed by its chunks.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Line {
    /// A directory.
    Directory {
        /// Relative to the root.
        #[serde(flatten)]
        path: PathText,
        /// Its metadata.
        kept: Kept,
    },
    /// A regular file.
    File {
        /// Relative to the root.
        #[serde(flatten)]
        path: PathText,
        /// Its metadata.
        kept: Kept,
        /// In bytes.
        size: u64,
        /// Of all of it, with its holes: 16 hexadecimal digits.
        xxh64: String,
    },
    /// A part of the file before it.
    Chunk(Chunk),
    /// Another name of a file.
    Link {
        /// Relative to the root.
        #[serde(flatten)]
        path: PathText,
        /// The first name of the file.
        to: PathText,
    },
}

/// A part of a file of [`chunk_size`] bytes, the last of which may be shorter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Where its content begins in [`DATA`], a multiple of [`BLOCK`].
    pub at: u64,
    /// Offset in the file and length of what is no hole; contiguous in [`DATA`].
    pub data: Vec<(u64, u64)>,
    /// State of the file's digest at its end; none at the end of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<[u64; 4]>,
}

impl Chunk {
    /// Bytes of content.
    pub fn length(&self) -> u64 {
        self.data.iter().map(|(_, length)| length).sum()
    }
}

/// An entry that was checked.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A directory.
    Directory(Metadata),
    /// A regular file: metadata, size, digest, chunks.
    File(Metadata, u64, u64, Vec<Chunk>),
    /// Another name of the file at a path.
    Link(Box<[u8]>),
}

/// A save whose claims were checked.
#[derive(Debug)]
pub struct Index {
    /// The first line.
    pub header: Header,
    /// Everything by path: a directory is before what is in it.
    pub entries: Vec<(Box<[u8]>, Entry)>,
}

impl Kept {
    /// Represent metadata. Set-id bits of files, capabilities and what else gives rights stay behind.
    pub fn new(metadata: &Metadata, directory: bool) -> Self {
        Self {
            mode: metadata.mode & if directory { 0o3777 } else { 0o1777 },
            uid: metadata.uid,
            gid: metadata.gid,
            mtime_ns: metadata.mtime_ns,
            attributes: metadata
                .attributes
                .iter()
                .filter(|(name, _)| is_harmless(name))
                .map(|(name, value)| (STANDARD.encode(name), STANDARD.encode(value)))
                .collect(),
        }
    }

    fn check(self, directory: bool) -> std::result::Result<Metadata, &'static str> {
        if self.mode & !0o7777 != 0 || self.mode & 0o4000 != 0 {
            return Err("a mode that no save has");
        }
        if !directory && self.mode & 0o2000 != 0 {
            return Err("a file that takes its group's rights when it runs");
        }
        if self.uid == u32::MAX || self.gid == u32::MAX {
            return Err("an owner that no file has");
        }
        let mut attributes = Vec::new();
        let mut total = 0;
        for (name, value) in self.attributes {
            let decoded = (STANDARD.decode(name).ok(), STANDARD.decode(value).ok());
            let (Some(name), Some(value)) = decoded else { return Err("a malformed attribute") };
            total += name.len() + value.len();
            if !is_harmless(&name) || name.contains(&0) || total > MOST_ATTRIBUTES {
                return Err("an extended attribute that no save has");
            }
            attributes.push((name, value));
        }
        let Self { mode, uid, gid, mtime_ns, .. } = self;
        Ok(Metadata { mode, uid, gid, mtime_ns, attributes })
    }
}

/// Whether an attribute gives no rights beyond access to the file itself.
fn is_harmless(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
}

/// Open the files of a save: the index, and the content with its size.
///
/// # Errors
/// [`Error::Record`] if one is missing or is no regular file.
pub fn open_file_of(
    directory: BorrowedFd<'_>,
    shown: &Path,
    name: &str,
    progress: &Progress,
) -> Result<OpenFile> {
    open_file(directory, name.as_bytes(), progress)
        .map_err(|refusal| Error::record(shown.join(name), refusal.words()))
}

/// Read an index and check all of it.
///
/// # Errors
/// [`Error::Record`] if it is torn, damaged, or claims what no save has; [`Error::Io`];
/// [`Error::Cancelled`].
pub fn read(file: OpenFile, shown: &Path, stored: u64, progress: &Progress) -> Result<Index> {
    let file = std::fs::File::from(file.fd);
    let (reader, header): (Reader, Header) = Reader::new(file, shown, FORMAT, VERSION, MOST_INDEX)?;
    let mut lines = reader.entries::<Line>();
    let mut checker = Checker { stored, ..Checker::default() };
    while let Some(line) = lines.next(progress)? {
        checker.take(line).map_err(|reason| lines.bad(reason))?;
    }
    checker.complete().map_err(|reason| lines.bad(reason))?;
    Ok(Index { header, entries: checker.entries })
}

#[derive(Default)]
struct Checker {
    entries: Vec<(Box<[u8]>, Entry)>,
    directories: HashSet<Box<[u8]>>,
    files: HashSet<Box<[u8]>>,
    stored: u64,
}

type Checked<T> = std::result::Result<T, String>;

impl Checker {
    fn take(&mut self, line: Line) -> Checked<()> {
        match line {
            Line::Directory { path, kept } => {
                let path = self.path(path)?;
                let metadata = kept.check(true).map_err(|reason| named(reason, &path))?;
                self.directories.insert(path.clone());
                self.entries.push((path, Entry::Directory(metadata)));
            }
            Line::File { path, kept, size, xxh64 } => {
                let path = self.path(path)?;
                let metadata = kept.check(false).map_err(|reason| named(reason, &path))?;
                let digest = (xxh64.len() == 16).then(|| u64::from_str_radix(&xxh64, 16).ok());
                let digest = digest.flatten().ok_or_else(|| named("a malformed digest", &path))?;
                if size > MOST_SIZE {
                    return Err(named("a file that is too large", &path));
                }
                self.files.insert(path.clone());
                self.entries.push((path, Entry::File(metadata, size, digest, Vec::new())));
            }
            Line::Chunk(chunk) => self.chunk(chunk)?,
            Line::Link { path, to } => {
                let path = self.path(path)?;
                let to: Box<[u8]> = to.into_bytes().unwrap_or_default().into();
                if !self.files.contains(&to) {
                    return Err(named("a second name of something that is no file", &path));
                }
                self.entries.push((path, Entry::Link(to)));
            }
        }
        Ok(())
    }

    /// Check that a path is plain, comes after those before it, and that its directory is there.
    fn path(&mut self, path: PathText) -> Checked<Box<[u8]>> {
        self.complete()?;
        let path = path.into_bytes().ok_or("it has a malformed path")?;
        let short = path.split(|&byte| byte == b'/').all(|name| name.len() <= LONGEST_NAME);
        if !is_plain(&path) || !short {
            return Err(named("a path that leads elsewhere", &path));
        }
        if path.iter().filter(|&&byte| byte == b'/').count() > DEEPEST {
            return Err(named("a path that is too deep", &path));
        }
        if path.split(|&byte| byte == b'/').next() == Some(STAGING.as_bytes()) {
            return Err(named("a path in the directory of a restore", &path));
        }
        let parent = split(&path).0;
        if !parent.is_empty() && !self.directories.contains(parent) {
            return Err(named("a path in a directory that it does not have", &path));
        }
        let last = self.entries.last();
        if last.is_some_and(|(last, _)| **last >= *path) {
            return Err(named("a path twice, or out of order", &path));
        }
        Ok(path.into())
    }

    fn chunk(&mut self, chunk: Chunk) -> Checked<()> {
        let stored = self.stored;
        let Some((path, Entry::File(_, size, _, chunks))) = self.entries.last_mut() else {
            return Err("it has a part of no file".to_owned());
        };
        let bytes = chunk_size(*size);
        let begin = chunks.len() as u64 * bytes;
        let end = (begin + bytes).min(*size);
        let mut at = begin;
        let mut fits = begin < *size
            && chunk.at.is_multiple_of(BLOCK)
            && chunk.state.is_some() == (end < *size);
        for &(offset, length) in &chunk.data {
            let until = offset.checked_add(length);
            fits &= offset >= at && offset.is_multiple_of(BLOCK) && length > 0;
            fits &= until.is_some_and(|until| {
                until <= end && (length.is_multiple_of(BLOCK) || until == *size)
            });
            at = until.unwrap_or(u64::MAX);
        }
        let within = || chunk.at.checked_add(chunk.length()).is_some_and(|end| end <= stored);
        if !fits || !within() {
            return Err(named("a part that does not fit its file", path));
        }
        chunks.push(chunk);
        Ok(())
    }

    /// Check that the last file has all of its chunks.
    fn complete(&self) -> Checked<()> {
        let Some((path, Entry::File(_, size, _, chunks))) = self.entries.last() else {
            return Ok(());
        };
        if chunks.len() as u64 == size.div_ceil(chunk_size(*size)) {
            return Ok(());
        }
        Err(named("a file without all of its parts", path))
    }
}

fn named(what: &str, path: &[u8]) -> String {
    format!("it has {what}: {}", String::from_utf8_lossy(path).escape_debug())
}
