//! Reading the pages of a dump back into memory, and making sure that they arrived.
//!
//! The dump is read several times: once to check all of it before anything is done, once for each
//! pass of loading it (`order.rs`), and once to ask the kernel what is in memory now, read again what
//! is not, and report the outcome. So memory use does not depend on how long a dump is, but for a few
//! bytes per file, and what the dumps before it show of its pages (`heat.rs`).

mod budget;
mod heat;
mod issue;
mod order;
mod plan;
mod report;
mod shares;
mod target;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use self::budget::Budget;
use self::issue::{Absent, Issuer, reread};
use self::order::{Order, Part};
use self::plan::{Ordered, plan};
use self::report::{FileOutcome, Report, Uses};
use self::target::Target;
use super::record::{Dump, Entry, inspect};
use super::walkers;
use crate::memory::Sources;
use crate::progress::lock;
use crate::sys::page_size;
use crate::throttle::Throttle;
use crate::tree::skips::{LeftOut, Reason};
use crate::{Error, Progress, Result, Root, pool};

/// Entries that wait for a thread.
const QUEUE: usize = 64;
/// Open files that are sorted together by where their data lies, and bytes of them.
const BATCH_FILES: usize = 256;
const BATCH_BYTES: u64 = 1 << 30;

/// What to load.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The record file.
    pub record: PathBuf,
    /// Decompress no more than this of it.
    pub max_bytes: u64,
    /// Where each of the dump's roots is now, in the dump's order.
    pub roots: Vec<PathBuf>,
    /// Which files still count as those dumped.
    pub policy: Policy,
    /// Load at most this many bytes.
    pub budget_bytes: Option<u64>,
    /// Leave this many bytes of memory available.
    pub reserve_bytes: u64,
    /// Read no more than this from the device.
    pub bytes_per_second: Option<u64>,
    /// Dumps of the same roots before this one, the newest first. They are checked as it is.
    pub earlier: Vec<PathBuf>,
    /// When to load by what the earlier dumps show.
    pub order: WhenOrdered,
    /// Once this share is loaded, of the expected uses where they are estimated, else of the bytes,
    /// ask for one piece after the other: a datastore is started then, and is to have the device.
    pub yield_at: Option<f64>,
    /// Name every file in the outcome, not only those that fell short.
    pub report_all: bool,
}

/// Which files still count as those dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Same size and modification time.
    Strict,
    /// Whatever has the name; pages beyond its end are dropped.
    Clamp,
    /// As `Clamp`, also from a machine with another page size.
    Any,
}

/// When to load those pages first that several dumps show to be needed most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenOrdered {
    /// Where the budget does not allow all of the dump.
    Auto,
    /// Also where it does: what is needed most is there before the end.
    Dumps,
    /// Never: under a budget every file gets an even share.
    Share,
}

/// What was asked for and what the kernel confirmed. All numbers but those of files are bytes of
/// whole pages.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    requested: u64,
    already_resident: u64,
    loaded: u64,
    missing: u64,
    skipped_bytes: u64,
    /// Resident, of all that is still there to be loaded.
    recall: f64,
    /// Resident, of what was asked for before the budget or free memory ran out.
    budget_recall: f64,
    /// What decided on the order.
    #[serde(flatten)]
    ordered: Ordered,
    /// The share of the expected uses that fall on resident pages, of those that are still there to
    /// be loaded; `None` unless dumps decided.
    expected_hits: Option<f64>,
    files: u64,
    files_complete: u64,
    skipped: BTreeMap<Reason, u64>,
    left_out: BTreeMap<Reason, LeftOut>,
    skipped_bytes_by_reason: BTreeMap<Reason, u64>,
    reported: Vec<FileOutcome>,
    reported_all: bool,
    budget: u64,
    budget_limit: String,
    retried: u64,
    stopped: Option<Reason>,
}

/// What the loading passes recorded of the pages of one line in one pass, for the last.
#[derive(Debug, Clone, Copy, Default)]
struct Unit {
    already: u64,
    cut: u64,
}

/// Pages of one line in one pass.
struct Job {
    unit: usize,
    entry: Entry,
    part: Part,
}

struct Loader<'a> {
    request: &'a Request,
    progress: &'a Progress,
    roots: Vec<Root>,
    record_page_size: u64,
    budget: Budget,
    order: Order,
    throttle: Throttle,
    units: Mutex<Vec<Unit>>,
    reread: AtomicU64,
}

/// Load a dump.
///
/// # Errors
/// [`Error::Record`] before anything was loaded if the dump cannot be trusted, [`Error::Io`] if a
/// root cannot be opened, [`Error::Cancelled`]. The outcome reports what happens to single files.
pub fn load(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("checking");
    let inspection = inspect(open(request)?, progress)?;
    let record_page_size = inspection.header.page_size;
    if record_page_size != page_size() && request.policy != Policy::Any {
        return Err(Error::record(
            &request.record,
            format!(
                "it has pages of {record_page_size} bytes and this machine has pages of {}; \
                 load it with the policy `any` to convert it",
                page_size()
            ),
        ));
    }
    if inspection.header.roots.len() != request.roots.len() {
        return Err(Error::Invalid(format!(
            "the dump has {} roots, and {} were given",
            inspection.header.roots.len(),
            request.roots.len()
        )));
    }
    let roots =
        request.roots.iter().map(|path| Root::with_page_cache(path)).collect::<Result<Vec<_>>>()?;
    let budget = Budget::new(request.budget_bytes, request.reserve_bytes, Sources::default())?;
    let allowed = budget.describe().0 / record_page_size;
    let (order, ordered) = plan(request, &inspection, allowed, progress)?;
    let loader = Loader {
        request,
        progress,
        roots,
        record_page_size,
        order,
        budget,
        throttle: Throttle::new(request.bytes_per_second),
        units: Mutex::default(),
        reread: AtomicU64::new(0),
    };
    progress.expect_uses(loader.order.uses());
    progress.expect(inspection.bytes, inspection.files);
    progress.enter("loading");
    for pass in 0..loader.order.passes() {
        loader.load(pass)?;
    }
    progress.enter("verifying");
    let report = loader.verify()?;
    Ok(report.outcome(&loader.budget, ordered, loader.reread.load(Ordering::Relaxed)))
}

fn open(request: &Request) -> Result<Dump> {
    Dump::open(&request.record, request.max_bytes)
}

impl Loader<'_> {
    /// Walk through the dump, with the number of the first unit of each entry, and its parts.
    fn each_entry(&self, mut visit: impl FnMut(usize, Entry, Vec<Part>) -> bool) -> Result<()> {
        let mut dump = open(self.request)?;
        let (mut unit, mut splitter) = (0, self.order.splitter());
        while let Some(mut entry) = dump.next(self.progress)? {
            let pages = std::mem::take(&mut entry.pages);
            let parts = splitter.split(&entry, &pages);
            let next = unit + parts.len();
            if !visit(unit, entry, parts) {
                break;
            }
            unit = next;
        }
        Ok(())
    }

    /// Load in one pass: some threads open files and find what is absent, another asks for it.
    fn load(&self, pass: usize) -> Result<()> {
        let (sender, receiver) = sync_channel(QUEUE);
        std::thread::scope(|scope| {
            let issuing = scope.spawn(|| {
                pool::be_nice();
                // The receiver goes with this thread, so that nobody waits for it if it fails.
                self.issue(receiver)
            });
            let opening = self.open_all(pass, sender);
            let issued = issuing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // A failure to hand over a file only shows that the other thread failed.
            issued.and(opening)
        })
    }

    fn open_all(&self, pass: usize, absent: SyncSender<Absent>) -> Result<()> {
        let produce = |queue: &pool::Queue<Job>| {
            self.each_entry(|first, entry, parts| {
                let last = parts.last().is_some_and(|part| part.pass == pass);
                if let Some((unit, part)) = (first..).zip(parts).find(|(_, part)| part.pass == pass)
                {
                    if last && !entry.more {
                        self.progress.add_files(1);
                    }
                    queue.push(Job { unit, entry, part });
                }
                queue.wait_for_room(QUEUE)
            })
        };
        pool::feed(walkers(), produce, |job, _| {
            self.progress.check()?;
            match self.open(&job)? {
                Some(found) => absent.send(found).map_err(|_| Error::Cancelled),
                None => Ok(()),
            }
        })
    }

    /// Open a file and return which of its pages are absent, if any are.
    fn open(&self, job: &Job) -> Result<Option<Absent>> {
        let requested = job.part.pages.count() * self.record_page_size;
        if self.budget.stopped().is_some() {
            self.settle(job.unit, Unit { already: u64::MAX, cut: u64::MAX });
            self.progress.add_bytes(requested);
            return Ok(None);
        }
        let found = self.target(&job.entry).ok().and_then(|target| {
            let wanted = target.want(&job.part.pages);
            let absent = target.absent(&wanted.pages).ok()?;
            Some((target, wanted, absent))
        });
        let Some((target, wanted, absent)) = found else {
            // The last pass reports why it cannot be loaded: it comes to the same result.
            self.progress.add_bytes(requested);
            self.progress.add_uses(job.part.uses);
            return Ok(None);
        };
        let already = wanted.pages.count() - absent.count();
        self.settle(job.unit, Unit { already, cut: 0 });
        self.progress.add_bytes(requested.saturating_sub(absent.count() * page_size()));
        // Of what cannot be loaded, nothing more is to be waited for.
        let uses = proportion(job.part.uses, absent.count(), wanted.asked());
        self.progress.add_uses(job.part.uses - uses);
        let target = Arc::new(target);
        Ok((!absent.is_empty()).then(|| Absent::new(job.unit, target, absent, uses)))
    }

    /// Ask for absent pages as they are found, many files at a time.
    fn issue(&self, receiver: Receiver<Absent>) -> Result<()> {
        let mut issuer = Issuer::new(&self.throttle, self.progress, self.request.yield_at);
        while let Ok(first) = receiver.recv() {
            let mut bytes = first.pages.count() * page_size();
            let mut batch = vec![first];
            while batch.len() < BATCH_FILES
                && bytes < BATCH_BYTES
                && let Ok(next) = receiver.try_recv()
            {
                bytes += next.pages.count() * page_size();
                batch.push(next);
            }
            batch.sort_by_key(|absent| absent.address);
            for absent in batch {
                let cut = issuer.issue(&absent, &self.budget)?;
                self.settle(absent.unit, Unit { already: 0, cut });
            }
        }
        self.reread.fetch_add(issuer.drain()?, Ordering::Relaxed);
        Ok(())
    }

    fn settle(&self, unit: usize, found: Unit) {
        let mut units = lock(&self.units);
        if units.len() <= unit {
            units.resize(unit + 1, Unit::default());
        }
        let known = &mut units[unit];
        known.already = known.already.saturating_add(found.already);
        known.cut = known.cut.saturating_add(found.cut);
    }

    fn target(&self, entry: &Entry) -> std::result::Result<Target, crate::tree::confine::Refusal> {
        let root = &self.roots[entry.root];
        Target::open(root, entry, self.request.policy, self.record_page_size, self.progress)
    }

    /// Ask the kernel, read again what is missing, and report the outcome.
    fn verify(&self) -> Result<Report<'_>> {
        let known = std::mem::take(&mut *lock(&self.units));
        let report = Mutex::new(Report::new(&self.request.roots, self.request.report_all));
        pool::feed(
            walkers(),
            |queue| {
                self.each_entry(|first, entry, parts| {
                    queue.push((first, entry, parts));
                    queue.wait_for_room(QUEUE)
                })
            },
            |(first, entry, parts): (usize, Entry, Vec<Part>), _| {
                self.progress.check()?;
                let outcome = self.check(first, &entry, parts, &known)?;
                lock(&report).add(&entry, outcome);
                Ok(())
            },
        )?;
        Ok(report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    fn check(
        &self,
        first: usize,
        entry: &Entry,
        parts: Vec<Part>,
        known: &[Unit],
    ) -> Result<FileOutcome> {
        let mut outcome = FileOutcome::default();
        let target = match self.target(entry) {
            Ok(target) => target,
            Err(refusal) => {
                let pages: u64 = parts.iter().map(|part| part.pages.count()).sum();
                outcome.skip(refusal.reason, pages * self.record_page_size, refusal.detail);
                return Ok(outcome);
            }
        };
        for (unit, Part { pages, uses, .. }) in (first..).zip(parts) {
            let wanted = target.want(&pages);
            let asked = wanted.asked();
            for (reason, pages) in wanted.dropped {
                outcome.skip(reason, pages * page_size(), None);
            }
            let known = known.get(unit).copied().unwrap_or_default();
            // That what was asked for arrived with its data was seen while loading; what is to be
            // seen now is that it is still there.
            let mut absent = match target.absent(&wanted.pages) {
                Ok(absent) => absent,
                Err(errno) => {
                    let detail = std::io::Error::from(errno).to_string();
                    outcome.skip(Reason::Error, wanted.pages.count() * page_size(), Some(detail));
                    continue;
                }
            };
            if !absent.is_empty() && known.cut == 0 && self.budget.stopped().is_none() {
                outcome.retried += absent.count() * page_size();
                reread(&target, &absent, &self.throttle, self.progress)?;
                absent = target.absent_now(&wanted.pages).unwrap_or(absent);
            }
            let present = wanted.pages.count() - absent.count();
            outcome.uses.add(Uses {
                resident: proportion(uses, present, asked),
                wanted: proportion(uses, wanted.pages.count(), asked),
            });
            let already = known.already.min(present);
            let cut = known.cut.min(absent.count());
            outcome.already_resident += already * page_size();
            outcome.loaded += (present - already) * page_size();
            outcome.missing += (absent.count() - cut) * page_size();
            if cut > 0 {
                let reason = self.budget.stopped().unwrap_or(Reason::Budget);
                outcome.skip(reason, cut * page_size(), None);
            }
        }
        Ok(outcome)
    }
}

/// What part of `uses` falls on `part` pages of `whole`.
fn proportion(uses: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(uses) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(product).unwrap_or(u64::MAX)
}
