//! Dropping clean pages from memory.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use super::probe::{may_probe, statistics, way};
use super::{open_roots, refuse_unseen, starts, walkers};
use crate::progress::lock;
use crate::record::PathText;
use crate::sys::page_size;
use crate::tree::confine::{OpenFile, Refusal};
use crate::tree::root_path::RootPath;
use crate::tree::skips::{Reason, Skips, Summary};
use crate::tree::walk::{Found, Parts, Visit, walk};
use crate::{Progress, Result};

/// How many files with pages left are named.
const NAMED: usize = 1000;

/// What to drop.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The files and directories.
    pub places: Vec<RootPath>,
    /// Directories to leave out.
    pub exclude: Vec<PathBuf>,
    /// Whether to write dirty pages out first.
    pub sync: bool,
}

/// A file of which pages stayed.
#[derive(Debug, Clone, Serialize)]
pub struct Retained {
    /// The file.
    #[serde(flatten)]
    pub path: PathText,
    /// Its device number, by which mappings of it can be found.
    pub device: u64,
    /// Its inode number.
    pub ino: u64,
    /// Bytes of its pages still in memory.
    pub retained: u64,
    /// Of these not yet written; not known without cachestat.
    pub dirty: Option<u64>,
    /// Of these being written; not known without cachestat.
    pub writeback: Option<u64>,
}

/// What was dropped.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Files dealt with.
    pub files: u64,
    /// Bytes of their pages in memory before.
    pub resident_before: u64,
    /// Bytes dropped.
    pub evicted: u64,
    /// Bytes that stayed.
    pub retained: u64,
    /// Files of which something stayed; at most a thousand of them.
    pub retained_files: Vec<Retained>,
    /// Files skipped, and what was left out.
    #[serde(flatten)]
    pub skips: Summary,
}

struct Evictor<'a> {
    request: &'a Request,
    progress: &'a Progress,
    before: AtomicU64,
    after: AtomicU64,
    retained: Mutex<Vec<Retained>>,
    skips: Skips,
}

/// Drop the clean pages of all files in the given places.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), [`Error::Unsupported`](crate::Error::Unsupported), [`Error::Cancelled`](crate::Error::Cancelled).
pub fn evict(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("evicting");
    let roots = open_roots(&request.places)?;
    let evictor = Evictor {
        request,
        progress,
        before: AtomicU64::new(0),
        after: AtomicU64::new(0),
        retained: Mutex::default(),
        skips: Skips::new(request.places.len()),
    };
    let starts = starts(&request.places, &roots);
    walk(&starts, &request.exclude, walkers(), &evictor, progress)?;
    let skips = evictor.skips.into_summary();
    refuse_unseen(&roots, &skips, progress.files_done())?;
    let resident_before = evictor.before.into_inner();
    let retained = evictor.after.into_inner();
    Ok(Outcome {
        files: progress.files_done(),
        resident_before,
        evicted: resident_before - retained,
        retained,
        retained_files: evictor
            .retained
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
        skips,
    })
}

impl Visit for Evictor<'_> {
    type Part = ();

    fn files(&self, place: usize, files: Vec<Found>, _: &Parts<'_, Self>) -> Result<()> {
        files.into_iter().try_for_each(|Found { path, file }| self.file(place, path, file))
    }

    fn part(&self, (): (), _: &Parts<'_, Self>) -> Result<()> {
        Ok(())
    }

    fn skip(&self, place: usize, path: &[u8], refusal: Refusal) -> Result<()> {
        self.skips.add(place, &self.absolute(place, path), refusal.reason, refusal.detail);
        Ok(())
    }
}

impl Evictor<'_> {
    fn file(&self, place: usize, path: Vec<u8>, file: OpenFile) -> Result<()> {
        if file.stat.stx_size > 0 && !may_probe(&file.fd, &file.stat) {
            self.skips.add(place, &self.absolute(place, &path), Reason::NotPermitted, None);
            return Ok(());
        }
        match self.drop_pages(place, &path, &file) {
            Ok(()) => self.progress.add_files(1),
            Err(refusal) => self.skip(place, &path, refusal)?,
        }
        Ok(())
    }

    fn absolute(&self, place: usize, path: &[u8]) -> Vec<u8> {
        self.request.places[place].absolute(path)
    }

    fn drop_pages(
        &self,
        place: usize,
        path: &[u8],
        file: &OpenFile,
    ) -> std::result::Result<(), Refusal> {
        let OpenFile { fd, stat } = file;
        let way = way(file)?;
        let (before, _) = statistics(fd, way, stat.stx_size)?;
        if before.cached == 0 {
            return Ok(());
        }
        if self.request.sync {
            rustix::fs::fdatasync(fd)?;
        }
        fadvise(fd, 0, None, Advice::DontNeed)?;
        let (after, detailed) = statistics(fd, way, stat.stx_size)?;
        // Another process may read the file at this moment; the count of dropped pages is never
        // negative.
        let kept = after.cached.min(before.cached) * page_size();
        let resident = before.cached * page_size();
        self.before.fetch_add(resident, Ordering::Relaxed);
        self.after.fetch_add(kept, Ordering::Relaxed);
        self.progress.add_bytes(resident - kept);
        if kept > 0 {
            let mut retained = lock(&self.retained);
            if retained.len() < NAMED {
                retained.push(Retained {
                    path: PathText::new(&self.absolute(place, path)),
                    device: crate::tree::confine::device(stat),
                    ino: stat.stx_ino,
                    retained: kept,
                    dirty: detailed.then_some(after.dirty * page_size()),
                    writeback: detailed.then_some(after.writeback * page_size()),
                });
            }
        }
        Ok(())
    }
}
