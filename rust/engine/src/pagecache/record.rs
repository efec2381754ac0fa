//! Dumps as record files: their header, their lines, their inspection.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pages::{Encoded, PageSet, union};
use crate::record::{Entries, PathText, Reader, Trailer};
use crate::{Progress, Result};

/// What the header calls this kind of record.
pub const FORMAT: &str = "holdfast-pagecache-dump";
/// The version written, and the highest one read.
pub const VERSION: u64 = 1;

/// Page sizes of Linux on any architecture.
const PAGE_SIZES: std::ops::RangeInclusive<u64> = 4096..=(1 << 20);

/// The first line of a dump. Members that this version does not know are kept in `other`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u64,
    /// Bytes in a page.
    pub page_size: u64,
    /// The roots that were dumped; lines name them by their index.
    pub roots: Vec<String>,
    /// False. Earlier dumps could sort pages into tiers by the kernel's marks.
    #[serde(default)]
    pub hotness: bool,
    /// Further members of its maker: id, host, boot id, time.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// A line: pages of one file. A large file takes several lines, each with other pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The file, relative to its root.
    #[serde(flatten)]
    pub path: PathText,
    /// Index of its root in the header.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub root: usize,
    /// True on all lines of a file but one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
    /// Its size in bytes.
    pub size: u64,
    /// Its modification time, in milliseconds since the epoch: finer ones would double what a file
    /// costs in the record, and show no better whether it is the same.
    pub mtime_ms: i64,
    /// Its resident pages, as one tier; several, in dumps with `hotness`.
    pub tiers: Vec<Encoded>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(value: &usize) -> bool {
    *value == 0
}

/// The largest size of a file, and the most bytes that a dump may describe: what `off_t` can hold.
const MOST_BYTES: u64 = i64::MAX as u64;
/// The most pages that a dump may describe: those of 256 TiB of memory, if they are small. One line
/// can claim as many as fit into a file, and each costs time wherever it is written out or looked for.
pub const MOST_PAGES: u64 = 1 << 36;
/// More tiers than there can be.
const MOST_TIERS: usize = 8;

/// A line whose claims were checked.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The file, relative to its root: plain names only, neither `.` nor `..`.
    pub path: Vec<u8>,
    /// Index of its root in the header.
    pub root: usize,
    /// Whether another line describes the same file.
    pub more: bool,
    /// Its size in bytes when it was dumped.
    pub size: u64,
    /// Its modification time when it was dumped, in milliseconds since the epoch.
    pub mtime_ms: i64,
    /// Its pages.
    pub pages: PageSet,
}

/// A dump being read.
#[derive(Debug)]
pub struct Dump {
    /// Its header.
    pub header: Header,
    entries: Entries<Line>,
    pages: u64,
}

impl Dump {
    /// Open a dump, of which at most `limit` bytes are decompressed.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io), [`Error::Record`](crate::Error::Record).
    pub fn open(path: &Path, limit: u64) -> Result<Self> {
        let (reader, header) = Reader::open::<Header>(path, FORMAT, VERSION, limit)?;
        Self::checked(reader, header)
    }

    /// As [`Dump::open`], from anything that gives bytes.
    ///
    /// # Errors
    /// As [`Dump::open`].
    pub fn read(input: impl std::io::Read + Send + 'static, limit: u64) -> Result<Self> {
        let name = Path::new("dump");
        let (reader, header) = Reader::new::<Header>(input, name, FORMAT, VERSION, limit)?;
        Self::checked(reader, header)
    }

    fn checked(reader: Reader, header: Header) -> Result<Self> {
        if !PAGE_SIZES.contains(&header.page_size) || !header.page_size.is_power_of_two() {
            return Err(reader.bad(format!("it claims pages of {} bytes", header.page_size)));
        }
        if header.roots.is_empty() {
            return Err(reader.bad("it names no root"));
        }
        Ok(Self { header, entries: reader.entries(), pages: 0 })
    }

    /// The next entry; `None` after the last, when the whole was found to fit its trailer.
    ///
    /// # Errors
    /// [`Error::Record`](crate::Error::Record), [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn next(&mut self, progress: &Progress) -> Result<Option<Entry>> {
        let Some(line) = self.entries.next(progress)? else { return Ok(None) };
        let entry = self.check(line)?;
        self.pages = self.pages.saturating_add(entry.pages.count());
        if self.pages > MOST_PAGES {
            return Err(self.entries.bad(format!(
                "it claims more than the {MOST_PAGES} pages that any memory could hold"
            )));
        }
        Ok(Some(entry))
    }

    /// The trailer, after [`Dump::next`] returned `None`.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.entries.trailer()
    }

    fn check(&self, line: Line) -> Result<Entry> {
        let bad = |reason: &str| self.entries.bad(reason);
        let path = line.path.into_bytes().ok_or_else(|| bad("it has a malformed path_b64"))?;
        let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
        if !path.split(|&byte| byte == b'/').all(plain) {
            return Err(bad("it names a file by a path that is not plain and relative"));
        }
        if line.root >= self.header.roots.len() {
            return Err(bad("it names a root that its header does not have"));
        }
        if line.tiers.is_empty() || line.tiers.len() > MOST_TIERS {
            return Err(bad("it has a line with no tier, or with too many"));
        }
        if line.size > MOST_BYTES {
            return Err(bad("it claims that a file is larger than files can be"));
        }
        let pages = line.size.div_ceil(self.header.page_size);
        let tiers = line
            .tiers
            .iter()
            .map(|tier| tier.decode(pages).map_err(bad))
            .collect::<Result<Vec<_>>>()?;
        Ok(Entry {
            path,
            root: line.root,
            more: line.more,
            size: line.size,
            mtime_ms: line.mtime_ms,
            pages: union(tiers).map_err(bad)?,
        })
    }
}

/// The summary of a whole dump, after all of it was checked.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// Its header.
    pub header: Header,
    /// Files in it.
    pub files: u64,
    /// Bytes of pages in it.
    pub bytes: u64,
}

/// Read all of a dump and check it.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), [`Error::Record`](crate::Error::Record),
/// [`Error::Cancelled`](crate::Error::Cancelled).
pub fn inspect(mut dump: Dump, progress: &Progress) -> Result<Inspection> {
    let (mut files, mut bytes) = (0, 0_u64);
    while let Some(entry) = dump.next(progress)? {
        files += u64::from(!entry.more);
        let of_entry = entry.pages.count().saturating_mul(dump.header.page_size);
        bytes = bytes.saturating_add(of_entry);
    }
    if bytes > MOST_BYTES {
        return Err(dump.entries.bad("it claims more bytes than there can be"));
    }
    if dump.trailer().is_none_or(|trailer| trailer.files != files || trailer.bytes != bytes) {
        return Err(dump.entries.bad("its trailer does not fit its lines"));
    }
    Ok(Inspection { header: dump.header, files, bytes })
}
