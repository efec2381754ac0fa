//! Reading a manifest, whose every claim is checked: it may come from a stranger.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::line::Line;
use super::{Entry, FORMAT, Header, Identity, Status, Type, VERSION, is_plain};
use crate::record::{Entries, Reader, Trailer};
use crate::{Error, Progress, Result};

/// The largest size of a file: what `off_t` can hold.
const MOST_BYTES: u64 = i64::MAX as u64;

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

    /// The trailer, after [`Manifest::next`] returned `None`.
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
