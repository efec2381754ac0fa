//! Recording which pages of the files below some roots are in memory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::pages::PageSet;
use super::probe::{Probe, Way, has_any, may_probe, method, resident, resident_of_many, way};
use super::record::{FORMAT, Header, Line, VERSION};
use super::{open_roots, refuse_unseen, starts, walkers};
use crate::progress::lock;
use crate::record::{PathText, Writer, push_line};
use crate::sys::page_size;
use crate::tree::confine::{OpenFile, Refusal, mtime_ms};
use crate::tree::root_path::RootPath;
use crate::tree::skips::{Reason, Skips, Summary};
use crate::tree::walk::{Found, Parts, Visit, walk};
use crate::{Error, Progress, Result};

/// Pages of a file that one line describes and one thread probes: 1 GiB of 4 KiB pages. It bounds
/// both the length of a line and the time until a cancellation is seen.
const PART: u64 = 1 << 18;
/// Lines are handed to the compressor in batches of about this many bytes.
const BATCH: usize = 1 << 20;

/// What to dump, and where to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What to inspect.
    pub places: Vec<RootPath>,
    /// Directories to leave out.
    pub exclude: Vec<PathBuf>,
    /// The record file to write; its directory exists.
    pub destination: PathBuf,
    /// More members for the header.
    pub header: BTreeMap<String, serde_json::Value>,
    /// What to do about files that may not be opened or probed.
    pub on_denied: OnDenied,
}

/// What to do about files whose residency cannot be read for lack of permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDenied {
    /// Refuse to make a dump that would be incomplete.
    Fail,
    /// Leave them out and count them.
    Skip,
}

/// What was recorded.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Files with resident pages.
    pub files: u64,
    /// Files inspected.
    pub files_scanned: u64,
    /// Bytes of resident pages.
    pub bytes: u64,
    /// Resident pages.
    pub pages: u64,
    /// Bytes in a page.
    pub page_size: u64,
    /// Size of the record file.
    pub record_bytes: u64,
    /// Files skipped, and what was left out.
    #[serde(flatten)]
    pub skips: Summary,
    /// How the kernel was asked.
    pub method: &'static str,
}

struct Dumper<'a> {
    request: &'a Request,
    progress: &'a Progress,
    output: Mutex<Output>,
    files: AtomicU64,
    pages: AtomicU64,
    skips: Skips,
}

struct Output {
    writer: Writer,
    lines: Vec<Vec<u8>>,
    size: usize,
}

impl Output {
    /// Write the lines of a batch in order: neighbours have paths and times in common, which makes
    /// the record a third smaller than in the order in which threads came by.
    fn flush(&mut self) -> Result<()> {
        self.lines.sort_unstable();
        self.writer.write(&self.lines.concat())?;
        self.lines.clear();
        self.size = 0;
        Ok(())
    }
}

/// A file being probed, by one thread or by several.
struct Scanned {
    root: usize,
    path: Vec<u8>,
    file: OpenFile,
    way: Way,
    recorded: AtomicBool,
}

/// Pages `[start, end)` of a file.
struct Part {
    file: Arc<Scanned>,
    start: u64,
    end: u64,
}

/// Make a dump.
///
/// # Errors
/// [`Error::NotPermitted`] and [`Error::Io`] for files that may not be probed, unless they are to
/// be skipped; [`Error::Unsupported`], [`Error::Cancelled`]. No file is left then.
pub fn dump(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("scanning");
    let roots = open_roots(&request.places)?;
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        page_size: page_size(),
        roots: roots.iter().map(|root| root.path().to_string_lossy().into_owned()).collect(),
        hotness: false,
        other: request.header.clone(),
    };
    let writer = Writer::create(&request.destination, &header)?;
    let dumper = Dumper {
        request,
        progress,
        output: Mutex::new(Output { writer, lines: Vec::new(), size: 0 }),
        files: AtomicU64::new(0),
        pages: AtomicU64::new(0),
        skips: Skips::new(request.places.len()),
    };
    let starts = starts(&request.places, &roots);
    walk(&starts, &request.exclude, walkers(), &dumper, progress)?;
    let skips = dumper.skips.into_summary();
    refuse_unseen(&roots, &skips, progress.files_done())?;
    progress.enter("writing");
    let files = dumper.files.into_inner();
    let pages = dumper.pages.into_inner();
    let bytes = pages * page_size();
    let mut output = dumper.output.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    output.flush()?;
    let record_bytes = output.writer.finish(files, bytes)?;
    Ok(Outcome {
        files,
        files_scanned: progress.files_done(),
        bytes,
        pages,
        page_size: page_size(),
        record_bytes,
        skips,
        method: method(&roots),
    })
}

impl Visit for Dumper<'_> {
    type Part = Part;

    fn files(&self, root: usize, files: Vec<Found>, parts: &Parts<'_, Self>) -> Result<()> {
        let mut small = Vec::with_capacity(files.len());
        for Found { path, file } in files {
            let pages = file.stat.stx_size.div_ceil(page_size());
            if pages > 0 && !may_probe(&file.fd, &file.stat) {
                match self.request.on_denied {
                    OnDenied::Fail => {
                        return Err(Error::NotPermitted { path: self.name(root, &path) });
                    }
                    OnDenied::Skip => {
                        self.skips.add(
                            root,
                            &self.absolute(root, &path),
                            Reason::NotPermitted,
                            None,
                        );
                        continue;
                    }
                }
            }
            let way = match way(&file) {
                Ok(way) => way,
                Err(refusal) => {
                    self.skip(root, &path, refusal)?;
                    continue;
                }
            };
            self.progress.add_files(1);
            let scanned = Scanned { root, path, file, way, recorded: AtomicBool::new(false) };
            if pages <= PART {
                small.push((scanned, pages));
                continue;
            }
            parts.push(Part { file: Arc::new(scanned), start: 0, end: pages });
        }
        let mut probes: Vec<_> =
            small.iter().map(|(file, pages)| Probe::new(&file.file.fd, file.way, *pages)).collect();
        resident_of_many(&mut probes);
        let found: Vec<_> = probes.into_iter().map(|probe| probe.resident).collect();
        small.iter().zip(found).try_for_each(|((scanned, _), pages)| self.found(scanned, pages))
    }

    fn part(&self, Part { file, start, end }: Part, parts: &Parts<'_, Self>) -> Result<()> {
        self.progress.check()?;
        if end - start > PART {
            // In halves, and only those with pages: a sparse file can be larger than any memory.
            return match has_any(&file.file.fd, file.way, start, end) {
                Ok(false) => Ok(()),
                Ok(true) => {
                    let middle = start + ((end - start) / 2).next_multiple_of(PART);
                    parts.push(Part { file: Arc::clone(&file), start: middle, end });
                    parts.push(Part { file, start, end: middle });
                    Ok(())
                }
                Err(errno) => self.skip(file.root, &file.path, errno.into()),
            };
        }
        let mut pages = PageSet::default();
        let probed = resident(&file.file.fd, file.way, start, end, &mut pages);
        self.found(&file, probed.map(|()| pages))
    }

    fn skip(&self, root: usize, path: &[u8], refusal: Refusal) -> Result<()> {
        if refusal.reason == Reason::PermissionDenied && self.request.on_denied == OnDenied::Fail {
            return Err(Error::io(self.name(root, path), rustix::io::Errno::ACCESS));
        }
        self.skips.add(root, &self.absolute(root, path), refusal.reason, refusal.detail);
        Ok(())
    }
}

impl Dumper<'_> {
    /// Record the residency of a file or a part of one.
    fn found(&self, file: &Scanned, pages: rustix::io::Result<PageSet>) -> Result<()> {
        match pages {
            Ok(pages) if pages.is_empty() => Ok(()),
            Ok(pages) => self.record(file, &pages),
            Err(errno) => self.skip(file.root, &file.path, errno.into()),
        }
    }

    fn name(&self, root: usize, path: &[u8]) -> String {
        String::from_utf8_lossy(&self.absolute(root, path)).into_owned()
    }

    fn absolute(&self, root: usize, path: &[u8]) -> Vec<u8> {
        self.request.places[root].absolute(path)
    }

    fn record(&self, file: &Scanned, pages: &PageSet) -> Result<()> {
        let more = file.recorded.swap(true, Ordering::Relaxed);
        let stat = &file.file.stat;
        let size = stat.stx_size.div_ceil(page_size());
        let line = Line {
            path: PathText::new(&file.path),
            root: file.root,
            more,
            size: stat.stx_size,
            mtime_ms: mtime_ms(stat),
            tiers: vec![pages.encode(size)],
        };
        let mut text = Vec::with_capacity(128);
        push_line(&mut text, &line)?;
        let count = pages.count();
        self.files.fetch_add(u64::from(!more), Ordering::Relaxed);
        self.pages.fetch_add(count, Ordering::Relaxed);
        self.progress.add_bytes(count * page_size());
        let mut output = lock(&self.output);
        output.size += text.len();
        output.lines.push(text);
        if output.size >= BATCH { output.flush() } else { Ok(()) }
    }
}
