//! How much of each file, directory and root is in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::probe::{may_probe, method, statistics, way};
use super::stores::{By, Collected, Groups, Part};
use super::{open_roots, refuse_unseen, starts, walkers};
use crate::progress::lock;
use crate::record::PathText;
use crate::sys::{CacheStat, page_size};
use crate::tree::confine::{OpenFile, Refusal};
use crate::tree::root_path::RootPath;
use crate::tree::skips::{LeftOut, Reason, Skips};
use crate::tree::walk::{Found, Parts, Visit, walk};
use crate::{Progress, Result};

/// What to inspect.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A root, or a file or directory in it.
    pub place: RootPath,
    /// Directories to leave out.
    pub exclude: Vec<PathBuf>,
    /// List directories up to this many levels below the place.
    pub depth: usize,
    /// List up to this many files and directories, those with most in memory.
    pub top: usize,
    /// Group the files as well, into up to `top` groups.
    #[serde(default)]
    pub by: Option<By>,
}

/// Residency of one thing, in bytes of whole pages; `bytes` is the size of its files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    files: u64,
    /// A few sparse files are together larger than 2^64 bytes.
    bytes: u128,
    resident: u64,
    dirty: Option<u64>,
    writeback: Option<u64>,
    evicted: Option<u64>,
    recently_evicted: Option<u64>,
}

/// A thing and its residency.
#[derive(Debug, Clone, Serialize)]
pub struct Residency {
    #[serde(flatten)]
    path: PathText,
    #[serde(flatten)]
    sums: Sums,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Outcome {
    total: Sums,
    directories: Vec<Residency>,
    files: Vec<Residency>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grouped: Option<Groups>,
    skipped: BTreeMap<Reason, u64>,
    left_out: BTreeMap<Reason, LeftOut>,
    left_out_of: Vec<BTreeMap<Reason, u64>>,
    method: &'static str,
}

impl Sums {
    /// Those of one file.
    pub(super) fn of(size: u64, stat: CacheStat, detailed: bool) -> Self {
        let bytes = |pages: u64| detailed.then_some(pages * page_size());
        Self {
            files: 1,
            bytes: size.into(),
            resident: stat.cached * page_size(),
            dirty: bytes(stat.dirty),
            writeback: bytes(stat.writeback),
            evicted: bytes(stat.evicted),
            recently_evicted: bytes(stat.recently_evicted),
        }
    }

    /// Bytes in memory.
    pub(super) fn resident(&self) -> u64 {
        self.resident
    }

    /// Add those of another thing.
    pub(super) fn add(&mut self, other: &Self) {
        // A number that is known for a part only would pass for the whole.
        let known = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
        if self.files == 0 {
            *self = other.clone();
            return;
        }
        self.files += other.files;
        self.bytes += other.bytes;
        self.resident += other.resident;
        self.dirty = known(self.dirty, other.dirty);
        self.writeback = known(self.writeback, other.writeback);
        self.evicted = known(self.evicted, other.evicted);
        self.recently_evicted = known(self.recently_evicted, other.recently_evicted);
    }
}

struct Surveyor<'a> {
    request: &'a Request,
    base: usize,
    progress: &'a Progress,
    found: Mutex<Sought>,
    skips: Skips,
}

#[derive(Default)]
struct Sought {
    total: Sums,
    directories: HashMap<Vec<u8>, Sums>,
    /// The largest so far, by bytes in memory.
    files: BTreeSet<(u64, Vec<u8>)>,
    detail: HashMap<Vec<u8>, Sums>,
    collected: Collected,
}

/// Measure how much of a place is in memory.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), [`Error::Unsupported`](crate::Error::Unsupported),
/// [`Error::Cancelled`](crate::Error::Cancelled).
pub fn residency(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("scanning");
    let places = [request.place.clone()];
    let roots = open_roots(&places)?;
    let starts = starts(&places, &roots);
    let surveyor = Surveyor {
        request,
        base: starts[0].path.len() + usize::from(!starts[0].path.is_empty()),
        progress,
        found: Mutex::default(),
        skips: Skips::new(1),
    };
    walk(&starts, &request.exclude, walkers(), &surveyor, progress)?;
    let skips = surveyor.skips.into_summary();
    refuse_unseen(&roots, &skips, progress.files_done())?;
    let found = surveyor.found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let list = |things: HashMap<Vec<u8>, Sums>| {
        let mut list: Vec<_> = things.into_iter().collect();
        list.sort_by(|a, b| b.1.resident.cmp(&a.1.resident).then_with(|| a.0.cmp(&b.0)));
        list.truncate(request.top);
        list.into_iter()
            .map(|(path, sums)| Residency {
                path: PathText::new(&request.place.absolute(&path)),
                sums,
            })
            .collect()
    };
    let grouped = request.by.map(|by| {
        progress.enter("grouping");
        found.collected.into_groups(by, request.top, (&roots[0], &request.place), progress)
    });
    progress.check()?;
    Ok(Outcome {
        total: found.total,
        directories: list(found.directories),
        files: list(found.detail),
        grouped,
        skipped: skips.skipped,
        left_out: skips.left_out,
        left_out_of: skips.left_out_of,
        method: method(&roots),
    })
}

impl Visit for Surveyor<'_> {
    type Part = ();

    fn files(&self, root: usize, files: Vec<Found>, _: &Parts<'_, Self>) -> Result<()> {
        files.into_iter().try_for_each(|Found { path, file }| self.file(root, path, file))
    }

    fn part(&self, (): (), _: &Parts<'_, Self>) -> Result<()> {
        Ok(())
    }

    fn skip(&self, _root: usize, path: &[u8], refusal: Refusal) -> Result<()> {
        if self.request.by.is_some() {
            lock(&self.found).collected.note(path);
        }
        self.skips.add(0, &self.request.place.absolute(path), refusal.reason, refusal.detail);
        Ok(())
    }
}

impl Surveyor<'_> {
    fn file(&self, root: usize, path: Vec<u8>, file: OpenFile) -> Result<()> {
        let size = file.stat.stx_size;
        if size > 0 && !may_probe(&file.fd, &file.stat) {
            self.skips.add(0, &self.request.place.absolute(&path), Reason::NotPermitted, None);
            return Ok(());
        }
        let way = match way(&file) {
            Ok(way) => way,
            Err(refusal) => return self.skip(root, &path, refusal),
        };
        match statistics(&file.fd, way, size) {
            Ok((stat, detailed)) => {
                let sums = Sums::of(size, stat, detailed);
                self.progress.add_files(1);
                self.progress.add_bytes(sums.resident);
                let part =
                    self.request.by.and_then(|_| Collected::part(&path, &self.request.place));
                lock(&self.found).add(path, part, &sums, self.base, self.request);
                Ok(())
            }
            Err(errno) => self.skip(root, &path, errno.into()),
        }
    }
}

impl Sought {
    fn add(
        &mut self,
        path: Vec<u8>,
        part: Option<Part>,
        sums: &Sums,
        base: usize,
        request: &Request,
    ) {
        self.total.add(sums);
        if request.by.is_some() {
            self.collected.add(&path, part, sums);
        }
        let slashes = path.iter().enumerate().skip(base).filter(|&(_, &byte)| byte == b'/');
        for (at, _) in slashes.take(request.depth) {
            match self.directories.get_mut(&path[..at]) {
                Some(known) => known.add(sums),
                None => _ = self.directories.insert(path[..at].to_vec(), sums.clone()),
            }
        }
        if sums.resident == 0 || request.top == 0 {
            return;
        }
        if self.files.len() == request.top {
            let Some(smallest) = self.files.first().filter(|(least, _)| *least < sums.resident)
            else {
                return;
            };
            let smallest = smallest.clone();
            self.files.remove(&smallest);
            self.detail.remove(&smallest.1);
        }
        self.files.insert((sums.resident, path.clone()));
        self.detail.insert(path, sums.clone());
    }
}
