//! The file format of happycache, read and written.
//!
//! gzip-compressed text: a line `./path`, then a line with the first resident page counted from 0,
//! then the distance of each further resident page to the one before; after each 2^20 pages of a
//! file its path and an absolute page number stand again. The format knows neither sizes nor times
//! and cannot express a name with a newline in it. (Described from files that happycache 0.1.2
//! wrote and read.)

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};

use super::pages::PageSet;
use super::record::{Dump, FORMAT, Header, Line, VERSION};
use crate::record::{PathText, Writer, push_line};
use crate::sys::page_size;
use crate::{Error, Progress, Result};

/// Pages after which happycache begins anew.
const STRETCH: u64 = 1 << 20;
/// The longest line that its reader takes, and that is taken here.
const LINE_LIMIT: u64 = 4096;
/// What happycache calls its first bytes: those of gzip.
pub const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Pages that one line of a record made from such a file tells of.
const PART: u64 = 1 << 16;

/// A file to import.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The file.
    pub source: PathBuf,
    /// The record to make of it.
    pub destination: PathBuf,
    /// The root that its paths are relative to.
    pub root: String,
    /// More members for the header.
    pub header: BTreeMap<String, serde_json::Value>,
    /// Decompress no more than this.
    pub max_bytes: u64,
}

/// A record to export.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportRequest {
    /// The record.
    pub source: PathBuf,
    /// The file to write.
    pub destination: PathBuf,
    /// Decompress no more than this.
    pub max_bytes: u64,
}

/// What was converted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Files.
    pub files: u64,
    /// Pages.
    pub pages: u64,
    /// Files left out because the format cannot express their names.
    pub inexpressible: u64,
}

/// Make a record of a happycache file. Sizes and times stay unknown, so it cannot be loaded with the
/// policy `strict`.
///
/// # Errors
/// [`Error::Io`], [`Error::Record`], [`Error::Cancelled`].
pub fn import(request: &ImportRequest, progress: &Progress) -> Result<Outcome> {
    let source = &request.source;
    let file = File::open(source).map_err(|e| Error::io(source, e))?;
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        page_size: page_size(),
        roots: vec![request.root.clone()],
        hotness: false,
        other: request.header.clone(),
    };
    let mut writer = Writer::create(&request.destination, &header)?;
    let mut outcome = Outcome::default();
    let mut lines = Vec::new();
    parse(file, source, request.max_bytes, progress, |path, pages, more| {
        outcome.files += u64::from(!more);
        outcome.pages += pages.count();
        let line = Line {
            path: PathText::new(path),
            root: 0,
            more,
            size: pages.end() * page_size(),
            mtime_ms: 0,
            tiers: vec![pages.encode(pages.end())],
        };
        lines.clear();
        push_line(&mut lines, &line)?;
        writer.write(&lines)
    })?;
    writer.finish(outcome.files, outcome.pages * page_size())?;
    Ok(outcome)
}

/// Read a happycache file, and hand on what it tells of each file, in parts of at most [`PART`]
/// pages; the last argument is true on all parts of a file but the first.
///
/// # Errors
/// [`Error::Io`], [`Error::Record`], [`Error::Cancelled`], or what `emit` gives.
pub fn parse(
    input: impl Read,
    name: &Path,
    limit: u64,
    progress: &Progress,
    mut emit: impl FnMut(&[u8], &PageSet, bool) -> Result<()>,
) -> Result<()> {
    let bad = |reason: &str| Error::record(name, reason);
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::UnexpectedEof => bad("it ends in the middle: the file is torn"),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
            bad("it is damaged or not a happycache file")
        }
        _ => Error::io(name, error),
    };
    let mut input = BufReader::with_capacity(128 << 10, MultiGzDecoder::new(input).take(limit));
    let mut state: Option<Stretch> = None;
    let mut line = Vec::new();
    let mut count = 0_u64;
    loop {
        line.clear();
        (&mut input).take(LINE_LIMIT).read_until(b'\n', &mut line).map_err(unreadable)?;
        count += 1;
        if count.is_multiple_of(1 << 16) {
            progress.check()?;
        }
        if line.is_empty() {
            break;
        }
        if line.pop() != Some(b'\n') {
            return Err(bad("it ends in the middle, has too long a line, or is too large"));
        }
        match (number(&line), &mut state) {
            (Some(step), Some(stretch)) => {
                if !stretch.step(step) {
                    return Err(bad("its page numbers do not ascend"));
                }
                if stretch.pages.count() >= PART {
                    stretch.flush(&mut emit)?;
                }
            }
            (Some(_), None) => return Err(bad("it does not begin with a path")),
            (None, _) => {
                let path = relative(&line).ok_or_else(|| {
                    bad("it has a line that is neither a page number nor a path below `./`")
                })?;
                let before = state.take();
                let mut next = Stretch::new(path);
                if let Some(mut before) = before {
                    before.flush(&mut emit)?;
                    if before.path == path {
                        next.emitted = before.emitted;
                    }
                }
                state = Some(next);
            }
        }
    }
    if input.into_inner().limit() == 0 {
        return Err(bad(&format!("it holds more than the {limit} bytes that are allowed")));
    }
    state.map_or(Ok(()), |mut last| last.flush(&mut emit))
}

/// Pages of a file since its path was last named.
struct Stretch {
    path: Vec<u8>,
    page: Option<u64>,
    pages: PageSet,
    emitted: bool,
}

impl Stretch {
    fn new(path: &[u8]) -> Self {
        let pages = PageSet::default();
        Self { path: path.to_vec(), page: None, pages, emitted: false }
    }

    /// Go on by `step` pages; false if that is not ahead.
    fn step(&mut self, step: u64) -> bool {
        let next = match self.page {
            None => Some(step),
            Some(page) => page.checked_add(step).filter(|_| step > 0),
        };
        let Some(page) = next.filter(|&page| page < u64::MAX / page_size()) else { return false };
        self.page = Some(page);
        self.pages.push(page, 1);
        true
    }

    fn flush(&mut self, emit: &mut impl FnMut(&[u8], &PageSet, bool) -> Result<()>) -> Result<()> {
        if self.pages.is_empty() {
            return Ok(());
        }
        emit(&self.path, &self.pages, std::mem::replace(&mut self.emitted, true))?;
        self.pages = PageSet::default();
        Ok(())
    }
}

fn number(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok().filter(|text| !text.starts_with('+'))?.parse().ok()
}

fn relative(line: &[u8]) -> Option<&[u8]> {
    let path = line.strip_prefix(b"./")?;
    let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
    path.split(|&byte| byte == b'/').all(plain).then_some(path)
}

/// Write a record in happycache's format, under a temporary name until it is whole.
///
/// # Errors
/// [`Error::Io`], [`Error::Record`], [`Error::Cancelled`]; [`Error::Invalid`] for a dump of several
/// roots, which the format cannot express.
pub fn export(request: &ExportRequest, progress: &Progress) -> Result<Outcome> {
    let mut dump = Dump::open(&request.source, request.max_bytes)?;
    if dump.header.roots.len() > 1 {
        return Err(Error::Invalid(
            "the dump has several roots, and happycache's format knows only one".to_owned(),
        ));
    }
    let destination = &request.destination;
    let failed = |error: io::Error| Error::io(destination, error);
    let file = File::create(destination).map_err(failed)?;
    let mut output = BufWriter::new(GzEncoder::new(file, Compression::fast()));
    let mut outcome = Outcome::default();
    while let Some(entry) = dump.next(progress)? {
        if entry.path.contains(&b'\n') || entry.path.len() as u64 + 3 >= LINE_LIMIT {
            outcome.inexpressible += u64::from(!entry.more);
            continue;
        }
        outcome.files += u64::from(!entry.more);
        let mut runs: Vec<_> = entry.tiers.iter().flat_map(PageSet::runs).copied().collect();
        runs.sort_unstable_by_key(|run| run.start);
        let mut before: Option<u64> = None;
        for page in runs.iter().flat_map(|run| run.start..run.end()) {
            outcome.pages += 1;
            match before {
                Some(before) if before / STRETCH == page / STRETCH => {
                    writeln!(output, "{}", page - before).map_err(failed)?;
                }
                _ => {
                    output.write_all(b"./").map_err(failed)?;
                    output.write_all(&entry.path).map_err(failed)?;
                    writeln!(output, "\n{page}").map_err(failed)?;
                }
            }
            before = Some(page);
        }
    }
    let file = output.into_inner().map_err(|e| failed(e.into_error()))?.finish().map_err(failed)?;
    file.sync_all().map_err(failed)?;
    Ok(outcome)
}
