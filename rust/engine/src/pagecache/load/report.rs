//! The outcome of each file, and the sums.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::Serialize;

use super::Outcome;
use super::budget::Budget;
use super::plan::Ordered;
use crate::pagecache::record::Entry;
use crate::record::PathText;
use crate::tree::root_path::absolute;
use crate::tree::skips::{LeftOut, Reason};

/// How many files are named when only those that fell short are to be.
const NAMED: usize = 1000;
/// How many are named when all are to be.
const NAMED_ALL: usize = 100_000;

/// The outcome of one file, in bytes of whole pages.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FileOutcome {
    #[serde(flatten)]
    path: PathText,
    /// Asked for by the dump.
    pub requested: u64,
    /// Found in memory.
    pub already_resident: u64,
    /// Read into memory.
    pub loaded: u64,
    /// Asked for and not there at the end.
    pub missing: u64,
    /// Not asked for.
    pub skipped: u64,
    reason: Option<Reason>,
    detail: Option<String>,
    #[serde(skip)]
    reasons: BTreeMap<Reason, u64>,
    /// Read a second time.
    #[serde(skip)]
    pub retried: u64,
    /// Its expected uses.
    #[serde(skip)]
    pub uses: Uses,
}

/// Sums of levels of expected use.
#[derive(Debug, Clone, Copy, Default)]
pub struct Uses {
    /// Of the pages in memory.
    pub resident: u64,
    /// Of all that are still there to be loaded.
    pub wanted: u64,
}

impl Uses {
    /// Add those of other pages.
    pub fn add(&mut self, other: Self) {
        self.resident += other.resident;
        self.wanted += other.wanted;
    }
}

impl FileOutcome {
    /// Count bytes that were not asked for.
    pub fn skip(&mut self, reason: Reason, bytes: u64, detail: Option<String>) {
        self.skipped += bytes;
        *self.reasons.entry(reason).or_default() += bytes;
        self.reason.get_or_insert(reason);
        self.detail = self.detail.take().or(detail);
    }

    fn complete(&self) -> bool {
        self.missing == 0 && self.skipped == 0
    }

    fn add(&mut self, other: &Self) {
        self.requested += other.requested;
        self.already_resident += other.already_resident;
        self.loaded += other.loaded;
        self.missing += other.missing;
        self.retried += other.retried;
        self.uses.add(other.uses);
        for (&reason, &bytes) in &other.reasons {
            self.skip(reason, bytes, other.detail.clone());
        }
    }
}

/// Gathers the outcomes of the files.
#[derive(Debug)]
pub struct Report<'a> {
    roots: &'a [PathBuf],
    all: bool,
    sum: FileOutcome,
    files: u64,
    files_complete: u64,
    files_by_reason: BTreeMap<Reason, u64>,
    left_out: BTreeMap<Reason, LeftOut>,
    reported: Vec<FileOutcome>,
    /// Files that take several lines, until the end.
    large: HashMap<(usize, Vec<u8>), FileOutcome>,
}

impl<'a> Report<'a> {
    /// An empty report.
    pub fn new(roots: &'a [PathBuf], all: bool) -> Self {
        Self {
            roots,
            all,
            sum: FileOutcome::default(),
            files: 0,
            files_complete: 0,
            files_by_reason: BTreeMap::new(),
            left_out: BTreeMap::new(),
            reported: Vec::new(),
            large: HashMap::new(),
        }
    }

    /// Add the outcome of an entry.
    pub fn add(&mut self, entry: &Entry, mut outcome: FileOutcome) {
        outcome.requested =
            outcome.already_resident + outcome.loaded + outcome.missing + outcome.skipped;
        outcome.path = PathText::new(&absolute(&self.roots[entry.root], &entry.path));
        self.sum.add(&outcome);
        if entry.more || entry.size >= LARGE {
            match self.large.entry((entry.root, entry.path.clone())) {
                std::collections::hash_map::Entry::Occupied(mut known) => {
                    known.get_mut().add(&outcome);
                }
                std::collections::hash_map::Entry::Vacant(place) => _ = place.insert(outcome),
            }
        } else {
            self.file(outcome);
        }
    }

    fn file(&mut self, outcome: FileOutcome) {
        self.files += 1;
        self.files_complete += u64::from(outcome.complete());
        for &reason in outcome.reasons.keys() {
            *self.files_by_reason.entry(reason).or_default() += 1;
            if reason.leaves_out() {
                self.left_out.entry(reason).or_default().add(|| outcome.path.clone());
            }
        }
        let most = if self.all { NAMED_ALL } else { NAMED };
        if (self.all || !outcome.complete()) && self.reported.len() < most {
            self.reported.push(outcome);
        }
    }

    /// The sums.
    pub fn outcome(mut self, budget: &Budget, ordered: Ordered, reread: u64) -> Outcome {
        for outcome in std::mem::take(&mut self.large).into_values() {
            self.file(outcome);
        }
        let resident = self.sum.already_resident + self.sum.loaded;
        let asked = resident + self.sum.missing;
        let cut = |reason| self.sum.reasons.get(&reason).copied().unwrap_or_default();
        let wanted = asked + cut(Reason::Budget) + cut(Reason::MemoryPressure);
        let listed = if self.all { self.files } else { self.files - self.files_complete };
        let (budget_bytes, limit) = budget.describe();
        Outcome {
            requested: self.sum.requested,
            already_resident: self.sum.already_resident,
            loaded: self.sum.loaded,
            missing: self.sum.missing,
            skipped_bytes: self.sum.skipped,
            recall: share(resident, wanted),
            budget_recall: share(resident, asked),
            expected_hits: ordered
                .by_dumps()
                .then(|| share(self.sum.uses.resident, self.sum.uses.wanted)),
            ordered,
            files: self.files,
            files_complete: self.files_complete,
            skipped: self.files_by_reason,
            left_out: self.left_out,
            skipped_bytes_by_reason: self.sum.reasons,
            reported_all: self.reported.len() as u64 == listed,
            reported: self.reported,
            budget: budget_bytes,
            budget_limit: limit.to_owned(),
            retried: self.sum.retried + reread,
            stopped: budget.stopped(),
        }
    }
}

/// Dumps made here describe files below this size in one line.
const LARGE: u64 = 1 << 30;

/// What part of `whole` there is; all of it where there is nothing to have.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}
