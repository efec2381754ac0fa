//! Manifests as record files: their header and their lines.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::digest::{Algorithm, Digest};
use crate::record::{Entries, LINE_LIMIT, PathText, Reader, Trailer};
use crate::{Error, Progress, Result};

/// What the header calls this kind of record.
pub const FORMAT: &str = "holdfast-manifest";
/// The version written, and the highest one read.
pub const VERSION: u64 = 1;
/// Bytes in a chunk, unless the file has too many.
pub const CHUNK: u64 = 64 << 20;
/// Chunks that a file has at most.
pub const MOST_CHUNKS: u64 = 8192;
/// The largest size of a file: what `off_t` can hold.
const MOST_BYTES: u64 = i64::MAX as u64;
/// The longest path that is believed; Linux takes 4096 bytes at a time.
const MOST_PATH: usize = 64 << 10;

/// The chunk size of a file: 64 MiB, doubled until it has no more than 8192 chunks.
pub fn chunk_size(size: u64) -> u64 {
    let mut chunk = CHUNK;
    while size.div_ceil(chunk) > MOST_CHUNKS {
        chunk *= 2;
    }
    chunk
}

/// The first line of a manifest. Members that this version does not know are kept in `other`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u64,
    /// By which digest.
    pub algorithm: Algorithm,
    /// The root it was made in.
    pub root: String,
    /// The directory below the root that it is of; empty for the root itself.
    #[serde(default)]
    pub path: String,
    /// What was listed; everything if there are no patterns.
    #[serde(default)]
    pub include: Vec<String>,
    /// What was not listed.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// When the walk began, in nanoseconds since the epoch.
    #[serde(default)]
    pub scan_started_ns: i64,
    /// Whether dirty pages were written back before each file was read, so that a digest still
    /// holds for a file that looks the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub written_back: bool,
    /// Whatever else whoever made it wanted to say: id, host, boot id, time.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

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

/// What became of it.
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

/// Digests of the chunks of a file, and the states of the whole file's digest between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunks {
    /// Bytes in each but the last.
    pub size: u64,
    /// Of each chunk by itself.
    pub digests: Vec<Digest>,
    /// At the end of each chunk but the last; none for algorithms whose state cannot be kept.
    pub states: Vec<[u64; 4]>,
}

impl Chunks {
    /// Whether this can be the table of a file of `size` bytes.
    pub fn is_of(&self, size: u64) -> bool {
        let count = self.digests.len() as u64;
        self.size >= CHUNK
            && self.size.is_power_of_two()
            && count > 1
            && count <= MOST_CHUNKS
            && size.div_ceil(self.size) == count
            && (self.states.is_empty() || self.states.len() as u64 + 1 == count)
    }
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
    /// What became of it.
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
    /// Of a symbolic link: what it says.
    pub target: Option<Vec<u8>>,
    /// The system's words, for an error.
    pub detail: Option<String>,
    /// Of a file with several names where its device and inode number do not name it: a number
    /// that does, in this walk. Not recorded.
    pub file: Option<u64>,
}

/// What tells the files of one walk apart.
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

    /// What a symbolic link says.
    pub fn target(&self) -> Option<&[u8]> {
        self.rare.as_ref()?.target.as_deref()
    }

    /// The system's words.
    pub fn detail(&self) -> Option<&str> {
        self.rare.as_ref()?.detail.as_deref()
    }

    /// Room for what few lines have.
    pub fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Append it as a line.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the line is longer than readers accept.
    pub fn push(&self, buffer: &mut Vec<u8>) -> Result<()> {
        let from = buffer.len();
        let (path, path_b64) = text_of(&self.path);
        let line = Line {
            path,
            path_b64,
            kind: self.kind,
            size: self.identity.size,
            mtime_ns: self.identity.mtime_ns,
            ctime_ns: self.identity.ctime_ns,
            dev: self.identity.dev,
            ino: self.identity.ino,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            status: self.status,
            xxh64: self.digest.filter(|digest| digest.algorithm() == Algorithm::Xxh64),
            xxh3_128: self.digest.filter(|digest| digest.algorithm() == Algorithm::Xxh3_128),
            blake3: self.digest.filter(|digest| digest.algorithm() == Algorithm::Blake3),
            hardlink_of: self.hardlink_of().map(PathText::new),
            target: self.target().map(PathText::new),
            detail: self.detail().map(Cow::Borrowed),
            chunks: self.chunks().map(Table::of),
        };
        serde_json::to_writer(&mut *buffer, &line).map_err(|e| Error::Invalid(e.to_string()))?;
        buffer.push(b'\n');
        if buffer.len() - from > LINE_LIMIT {
            buffer.truncate(from);
            return Err(Error::Invalid("a line of a record would be too long".to_owned()));
        }
        Ok(())
    }
}

/// A line as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Line<'a> {
    path: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    #[serde(rename = "type")]
    kind: Type,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    mtime_ns: i128,
    #[serde(default)]
    ctime_ns: i128,
    #[serde(default)]
    dev: u64,
    #[serde(default)]
    ino: u64,
    #[serde(default)]
    mode: u32,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    nlink: u32,
    status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "xxh64_text")]
    xxh64: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "xxh3_128_text")]
    xxh3_128: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "blake3_text")]
    blake3: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hardlink_of: Option<PathText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<PathText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chunks: Option<Table>,
}

/// A chunk table as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Table {
    size: u64,
    digests: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    states: Vec<String>,
}

impl Table {
    fn of(chunks: &Chunks) -> Self {
        let state = |[a, b, c, d]: &[u64; 4]| format!("{a:016x}{b:016x}{c:016x}{d:016x}");
        Self {
            size: chunks.size,
            digests: chunks.digests.iter().map(ToString::to_string).collect(),
            states: chunks.states.iter().map(state).collect(),
        }
    }

    fn read(self, algorithm: Algorithm, size: u64) -> Option<Chunks> {
        let digest = |text: &String| Digest::parse(algorithm, text);
        let chunks = Chunks {
            size: self.size,
            digests: self.digests.iter().map(digest).collect::<Option<_>>()?,
            states: self.states.iter().map(|text| state(text)).collect::<Option<_>>()?,
        };
        let states = chunks.states.is_empty() == (algorithm != Algorithm::Xxh64);
        (chunks.is_of(size) && states).then_some(chunks)
    }
}

fn state(text: &str) -> Option<[u64; 4]> {
    let mut lanes = [0; 4];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (lane, digits) in lanes.iter_mut().zip(text.as_bytes().as_chunks::<16>().0) {
        *lane = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(lanes)
}

/// Digests as text, one module for each member that can be one.
macro_rules! digest_text {
    ($module:ident, $algorithm:expr) => {
        mod $module {
            use super::{Algorithm, Digest};
            use serde::{Deserializer, Serializer};

            const ALGORITHM: Algorithm = $algorithm;

            pub fn serialize<S: Serializer>(
                digest: &Option<Digest>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                match digest {
                    Some(digest) => serializer.collect_str(digest),
                    None => serializer.serialize_none(),
                }
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<Digest>, D::Error> {
                deserializer.deserialize_str(super::DigestText(ALGORITHM)).map(Some)
            }
        }
    };
}

digest_text!(xxh64_text, Algorithm::Xxh64);
digest_text!(xxh3_128_text, Algorithm::Xxh3_128);
digest_text!(blake3_text, Algorithm::Blake3);

/// Reads a digest without keeping its text.
struct DigestText(Algorithm);

impl serde::de::Visitor<'_> for DigestText {
    type Value = Digest;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a digest of {} in hexadecimal", self.0.name())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Digest, E> {
        let unexpected = serde::de::Unexpected::Str(text);
        Digest::parse(self.0, text).ok_or_else(|| E::invalid_value(unexpected, &self))
    }
}

/// A path as the members `path` and, unless it is UTF-8, `path_b64`.
fn text_of(path: &[u8]) -> (Cow<'_, str>, Option<String>) {
    match std::str::from_utf8(path) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => (String::from_utf8_lossy(path), Some(STANDARD.encode(path))),
    }
}

/// Whether a path is one of plain names below a directory.
pub fn is_plain(path: &[u8]) -> bool {
    let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    path.len() <= MOST_PATH && path.split(|&byte| byte == b'/').all(plain)
}

/// A manifest being read.
#[derive(Debug)]
pub struct Manifest {
    /// Its header.
    pub header: Header,
    entries: Entries<Line<'static>>,
    last: Box<[u8]>,
    count: u64,
    bytes: u64,
}

impl Manifest {
    /// Open a manifest, of which at most `limit` bytes are decompressed.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Record`].
    pub fn open(path: &Path, limit: u64) -> Result<Self> {
        let (reader, header) = Reader::open::<Header>(path, FORMAT, VERSION, limit)?;
        Self::checked(reader, header)
    }

    /// As [`Manifest::open`], from anything that gives bytes.
    ///
    /// # Errors
    /// As [`Manifest::open`].
    pub fn read(input: impl std::io::Read + Send + 'static, limit: u64) -> Result<Self> {
        let name = Path::new("manifest");
        let (reader, header) = Reader::new::<Header>(input, name, FORMAT, VERSION, limit)?;
        Self::checked(reader, header)
    }

    fn checked(reader: Reader, header: Header) -> Result<Self> {
        if !Path::new(&header.root).is_absolute() {
            return Err(reader.bad("its root is not an absolute path"));
        }
        if !header.path.is_empty() && !is_plain(header.path.as_bytes()) {
            return Err(reader.bad("its path is not plain and relative to its root"));
        }
        let entries = reader.entries();
        Ok(Self { header, entries, last: Box::default(), count: 0, bytes: 0 })
    }

    /// The next entry; `None` after the last, when the whole was found to fit its trailer.
    ///
    /// # Errors
    /// [`Error::Record`], [`Error::Cancelled`].
    pub fn next(&mut self, progress: &Progress) -> Result<Option<Entry>> {
        let Some(line) = self.entries.next(progress)? else {
            let trailer = self.trailer().map(|trailer| (trailer.files, trailer.bytes));
            if trailer != Some((self.count, self.bytes)) {
                return Err(self.bad("its trailer does not fit its lines"));
            }
            return Ok(None);
        };
        let entry = self.check(line)?;
        self.count += 1;
        if entry.kind == Type::File && entry.hardlink_of().is_none() {
            self.bytes = self.bytes.saturating_add(entry.identity.size);
        }
        self.last.clone_from(&entry.path);
        Ok(Some(entry))
    }

    /// The trailer, after [`Manifest::next`] answered `None`.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.entries.trailer()
    }

    /// An [`Error::Record`] about this manifest.
    pub fn bad(&self, reason: impl Into<String>) -> Error {
        self.entries.bad(reason)
    }

    fn check(&self, line: Line<'static>) -> Result<Entry> {
        let path = match line.path_b64 {
            None => line.path.into_owned().into_bytes(),
            Some(text) => {
                STANDARD.decode(text).map_err(|_| self.bad("it has a malformed path_b64"))?
            }
        };
        if !is_plain(&path) {
            return Err(self.bad("it names a file by a path that is not plain and relative"));
        }
        if *path <= *self.last {
            return Err(self.bad("its lines are not in the order of their paths"));
        }
        if line.size > MOST_BYTES {
            return Err(self.bad("it claims that a file is larger than files can be"));
        }
        let algorithm = self.header.algorithm;
        let mut given = [line.xxh64, line.xxh3_128, line.blake3].into_iter().flatten();
        let digest = given.next();
        let fits = digest.is_none_or(|digest| {
            digest.algorithm() == algorithm && line.kind == Type::File && line.status == Status::Ok
        });
        if !fits || given.next().is_some() {
            return Err(self.bad("it has a digest where none of that algorithm can be"));
        }
        if digest.is_none() && line.kind == Type::File && line.status == Status::Ok {
            return Err(self.bad("it has a file without a digest and without a reason"));
        }
        let mut entry = Entry {
            path: path.into_boxed_slice(),
            identity: Identity {
                dev: line.dev,
                ino: line.ino,
                size: line.size,
                mtime_ns: line.mtime_ns,
                ctime_ns: line.ctime_ns,
            },
            digest,
            mode: line.mode,
            uid: line.uid,
            gid: line.gid,
            nlink: line.nlink,
            kind: line.kind,
            status: line.status,
            rare: None,
        };
        if let Some(table) = line.chunks {
            let chunks = table.read(algorithm, line.size).filter(|_| digest.is_some());
            let bad = || self.bad("it has a chunk table that does not fit its file");
            entry.rare_mut().chunks = Some(chunks.ok_or_else(bad)?);
        }
        if let Some(first) = line.hardlink_of {
            let first = first.into_bytes().filter(|first| {
                is_plain(first) && **first < *entry.path && line.kind == Type::File
            });
            let bad = || self.bad("it has a hard link to what cannot be its first name");
            entry.rare_mut().hardlink_of = Some(first.ok_or_else(bad)?);
        }
        if let Some(target) = line.target {
            let target = target.into_bytes().filter(|_| line.kind == Type::Symlink);
            let bad = || self.bad("it has a link's target where there is no link");
            entry.rare_mut().target = Some(target.ok_or_else(bad)?);
        }
        if let Some(detail) = line.detail {
            entry.rare_mut().detail = Some(detail.into_owned());
        }
        Ok(entry)
    }
}
