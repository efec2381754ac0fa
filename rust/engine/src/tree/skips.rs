//! Names that were skipped: counted by reason and by root, some of each named.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;

use crate::progress::lock;
use crate::record::PathText;

/// How many skipped names a result has, and how many of each reason; the others are only counted.
const NAMED: usize = 20;

/// Why a file was skipped. The names are part of the HTTP contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A symbolic link: never followed.
    Symlink,
    /// A device, socket or FIFO: never opened.
    Special,
    /// Another name of a file that was dealt with under its first.
    Hardlink,
    /// Something is mounted there.
    OtherFilesystem,
    /// Left out by the request's patterns.
    Excluded,
    /// Gone since its directory was read or since the dump.
    Vanished,
    /// It may not be opened.
    PermissionDenied,
    /// The kernel would lie about its residency to this process.
    NotPermitted,
    /// Data that has no page cache (DAX).
    Dax,
    /// Its file system keeps no pages of it where the kernel shows them.
    Uncached,
    /// No longer a regular file.
    NotAFile,
    /// Its size or modification time differs from the dump's, under the policy `strict`.
    Changed,
    /// Pages beyond the file's present end.
    BeyondEnd,
    /// Pages in a hole: reading them costs no I/O, loading them only memory.
    Hole,
    /// No memory left within the budget.
    Budget,
    /// Memory ran short while loading.
    MemoryPressure,
    /// The system gave an error, named in the detail.
    Error,
}

impl Reason {
    /// Whether files with content are left out for it. What has no content of its own, was dealt
    /// with under another name, or is gone, is not left out.
    pub fn leaves_out(self) -> bool {
        matches!(
            self,
            Self::OtherFilesystem
                | Self::Excluded
                | Self::PermissionDenied
                | Self::NotPermitted
                | Self::Dax
                | Self::Uncached
                | Self::NotAFile
                | Self::Error
        )
    }
}

/// One skipped file.
#[derive(Debug, Clone, Serialize)]
pub struct Skipped {
    #[serde(flatten)]
    path: PathText,
    reason: Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// What was left out for one reason: names, each with all that is below it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LeftOut {
    /// How many names.
    pub count: u64,
    /// Some of them.
    pub examples: Vec<PathText>,
}

impl LeftOut {
    /// Count a name, and keep it within the limit.
    pub fn add(&mut self, path: impl FnOnce() -> PathText) {
        self.count += 1;
        if self.examples.len() < NAMED {
            self.examples.push(path());
        }
    }
}

/// What was skipped, as results have it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Files skipped, by reason.
    pub skipped: BTreeMap<Reason, u64>,
    /// Some of them by name.
    pub examples: Vec<Skipped>,
    /// What of the places was left out, by reason.
    pub left_out: BTreeMap<Reason, LeftOut>,
    /// How many names were left out of each place.
    pub left_out_of: Vec<BTreeMap<Reason, u64>>,
}

impl Summary {
    /// Whether there are names of which the kernel shows no pages.
    pub fn has_uncached(&self) -> bool {
        self.skipped.contains_key(&Reason::Uncached)
    }
}

/// Collects skipped files from many threads.
#[derive(Debug)]
pub struct Skips(Mutex<Summary>);

impl Skips {
    /// Collect what is skipped in a number of places.
    pub fn new(places: usize) -> Self {
        let left_out_of = vec![BTreeMap::new(); places];
        Self(Mutex::new(Summary { left_out_of, ..Summary::default() }))
    }

    /// Count a file of a place, and name it within the limit.
    pub fn add(&self, place: usize, path: &[u8], reason: Reason, detail: Option<String>) {
        let mut summary = lock(&self.0);
        *summary.skipped.entry(reason).or_default() += 1;
        if reason.leaves_out() {
            *summary.left_out_of[place].entry(reason).or_default() += 1;
            summary.left_out.entry(reason).or_default().add(|| PathText::new(path));
        }
        if summary.examples.len() < NAMED {
            summary.examples.push(Skipped { path: PathText::new(path), reason, detail });
        }
    }

    /// The counts, and those files that are named, in no particular order.
    pub fn into_summary(self) -> Summary {
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
