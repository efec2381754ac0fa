//! The file format of happycache, read and written.
//!
//! gzip-compressed text: a line `./path`, then a line with the first resident page counted from 0,
//! then the distance of each further resident page to the one before; after each 2^20 pages of a
//! file its path and an absolute page number are repeated. The format knows neither sizes nor times
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
use crate::record::{PathText, Writer, output_error, output_file, push_line};
use crate::sys::page_size;
use crate::{Error, Progress, Result};

/// Pages after which happycache begins anew.
const STRETCH: u64 = 1 << 20;
/// The longest line that its reader takes, and that is taken here.
const LINE_LIMIT: u64 = 4096;
/// What happycache calls its first bytes: those of gzip.
pub const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// Pages that one line of a record made from such a file describes.
const PART: u64 = 1 << 16;
/// Bytes of text between two looks whether the work was cancelled.
const PIECE: usize = 64 << 10;

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
    /// The descriptor of a file or pipe that is open for writing.
    pub output: i32,
    /// Decompress no more than this, and write no more than this before it is compressed.
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

/// Read a happycache file, and hand on its pages of each file, in parts of at most [`PART`]
/// pages; the last argument is true on all parts of a file but the first.
///
/// # Errors
/// [`Error::Io`], [`Error::Record`], [`Error::Cancelled`], or what `emit` returns.
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

    /// Advance by `step` pages; false if that is not ahead.
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

/// Write a record in happycache's format. Nothing is written before the header was read.
///
/// # Errors
/// [`Error::Io`], [`Error::Record`], [`Error::Cancelled`], also where the other end of the pipe was
/// closed; [`Error::Invalid`] for a dump of several roots, which the format cannot express, and one
/// that would be larger than is allowed.
pub fn export(request: &ExportRequest, progress: &Progress) -> Result<Outcome> {
    let mut dump = Dump::open(&request.source, request.max_bytes)?;
    if dump.header.roots.len() > 1 {
        return Err(Error::Invalid(
            "the dump has several roots, and happycache's format knows only one".to_owned(),
        ));
    }
    let packed = GzEncoder::new(output_file(request.output)?, Compression::fast());
    let mut output = BufWriter::new(packed);
    let mut left = request.max_bytes;
    let mut text = Vec::new();
    let mut outcome = Outcome::default();
    while let Some(entry) = dump.next(progress)? {
        if entry.path.contains(&b'\n') || entry.path.len() as u64 + 3 >= LINE_LIMIT {
            outcome.inexpressible += u64::from(!entry.more);
            continue;
        }
        outcome.files += u64::from(!entry.more);
        let mut before: Option<u64> = None;
        for page in entry.pages.runs().iter().flat_map(|run| run.start..run.end()) {
            outcome.pages += 1;
            match before {
                Some(before) if before / STRETCH == page / STRETCH => {
                    push_number(&mut text, page - before);
                }
                _ => {
                    text.extend(b"./");
                    text.extend(&entry.path);
                    text.push(b'\n');
                    push_number(&mut text, page);
                }
            }
            before = Some(page);
            if text.len() >= PIECE {
                // One line of a record can describe very many pages.
                progress.check()?;
                put(&mut output, &mut text, &mut left)?;
            }
        }
    }
    put(&mut output, &mut text, &mut left)?;
    let packed = output.into_inner().map_err(|e| output_error(e.into_error()))?;
    packed.finish().map_err(output_error)?;
    Ok(outcome)
}

fn push_number(text: &mut Vec<u8>, number: u64) {
    // A vector takes whatever it is given.
    let _ = writeln!(text, "{number}");
}

fn put(output: &mut impl Write, text: &mut Vec<u8>, left: &mut u64) -> Result<()> {
    *left = left.checked_sub(text.len() as u64).ok_or_else(|| {
        Error::Invalid("the dump is larger than is allowed in happycache's format".to_owned())
    })?;
    output.write_all(text).map_err(output_error)?;
    text.clear();
    Ok(())
}
