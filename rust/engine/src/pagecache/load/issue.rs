//! Asking for absent pages, in their order on the device, and no page more.
//!
//! fadvise(2) puts reads into the device's queue and returns; a second thread doing so would only
//! spoil the order. So one thread asks, for many files at a time, sorted by where their data lies,
//! and keeps the queue full but not too long, by waiting for what it asked for a while ago and
//! looking whether it has come.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use super::budget::Budget;
use super::proportion;
use super::target::Target;
use crate::pagecache::pages::{PageSet, Run};
use crate::sys::{page_size, physical_address};
use crate::throttle::Throttle;
use crate::{Progress, Result};

/// Bytes asked for in one call.
const CHUNK: u64 = 1 << 20;
/// What a device reads ahead if it does not report it: the kernel's own default, in bytes.
const READ_AHEAD: u64 = 128 << 10;
/// Bytes that were asked for and not yet waited for.
const IN_FLIGHT: u64 = 64 << 20;
/// Calls that were made and not yet waited for. Where pages are scattered, the bytes above are
/// thousands of reads, behind which a read of anyone else would wait.
const CALLS: u64 = 1024;
/// Bytes waited for together.
const BURST: u64 = 256 << 10;
/// How long ago a burst may have been asked for before it is waited for: progress counts what has
/// arrived, and under a low rate limit 64 MiB take a long time.
const PATIENCE: Duration = Duration::from_millis(200);
/// Bursts that were asked for and not yet waited for: each keeps a file open.
const BURSTS: usize = 256;

/// Absent pages of an open file.
#[derive(Debug)]
pub struct Absent {
    /// Where the first of them is on the device; 0 if that is not known.
    pub address: u64,
    /// Number of the part of the dump that asks for them.
    pub unit: usize,
    /// The file.
    pub target: Arc<Target>,
    /// The pages.
    pub pages: PageSet,
    /// The sum of their levels of expected use.
    pub uses: u64,
}

impl Absent {
    /// Find where the pages are on the device.
    pub fn new(unit: usize, target: Arc<Target>, pages: PageSet, uses: u64) -> Self {
        let first = pages.runs().first().map_or(0, |run| run.start);
        let address = physical_address(&target.file.fd, first * page_size()).unwrap_or(0);
        Self { address, unit, target, pages, uses }
    }
}

/// Asks for pages.
#[derive(Debug)]
pub struct Issuer<'a> {
    throttle: &'a Throttle,
    progress: &'a Progress,
    chunks: HashMap<(u32, u32), u64>,
    bursts: VecDeque<Burst>,
    in_flight: u64,
    calls: u64,
    reread: u64,
    yield_at: Option<f64>,
}

/// Pages that were asked for one after the other.
#[derive(Debug)]
struct Burst {
    target: Arc<Target>,
    pages: PageSet,
    bytes: u64,
    calls: u64,
    uses: u64,
    asked: Instant,
}

impl<'a> Issuer<'a> {
    /// Ask under a rate limit; once the share `yield_at` is loaded, for one piece after the other.
    pub fn new(throttle: &'a Throttle, progress: &'a Progress, yield_at: Option<f64>) -> Self {
        let (chunks, bursts) = (HashMap::new(), VecDeque::new());
        Self { throttle, progress, chunks, bursts, in_flight: 0, calls: 0, reread: 0, yield_at }
    }

    /// Whether others are to have the device: what they read then waits for one piece at most.
    fn yields(&self) -> bool {
        self.yield_at.is_some_and(|share| self.progress.share() >= share)
    }

    /// Whether to wait for what was asked for before more is.
    fn full(&self) -> bool {
        self.in_flight > IN_FLIGHT
            || self.calls > CALLS
            || self.bursts.len() > BURSTS
            || self.bursts.front().is_some_and(|oldest| oldest.asked.elapsed() > PATIENCE)
            || (!self.bursts.is_empty() && self.yields())
    }

    /// Ask for pages within the budget. Returns how many pages the budget did not allow.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled), [`Error::Io`](crate::Error::Io) if the kernel
    /// does not report how much memory is free.
    pub fn issue(&mut self, absent: &Absent, budget: &Budget) -> Result<u64> {
        let target = &absent.target;
        let chunk = self.chunk(target);
        let pages = absent.pages.count();
        let mut cut = 0;
        for run in chunks(&absent.pages, chunk) {
            self.progress.check()?;
            let granted = budget.take(run.count * page_size(), page_size())? / page_size();
            let refused = run.count - granted;
            cut += refused;
            self.progress.add_bytes(refused * page_size());
            if granted == 0 {
                continue;
            }
            let bytes = granted * page_size();
            self.throttle.wait(bytes, self.progress)?;
            let run = Run { count: granted, ..run };
            advise(&target.file.fd, run);
            self.progress.add_read(bytes);
            self.queued(target, run, proportion(absent.uses, granted, pages))?;
        }
        Ok(cut)
    }

    /// Wait for everything that was asked for. Returns how many bytes had to be read again.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    pub fn drain(mut self) -> Result<u64> {
        while !self.bursts.is_empty() {
            self.progress.check()?;
            self.wait_for_oldest()?;
        }
        Ok(self.reread)
    }

    fn queued(&mut self, target: &Arc<Target>, run: Run, uses: u64) -> Result<()> {
        let bytes = run.count * page_size();
        self.in_flight += bytes;
        self.calls += 1;
        match self.bursts.back_mut() {
            // Sorted files may come back to a target: its pages must ascend.
            Some(burst)
                if burst.bytes < BURST
                    && Arc::ptr_eq(&burst.target, target)
                    && burst.pages.end() <= run.start =>
            {
                burst.pages.push(run.start, run.count);
                burst.bytes += bytes;
                burst.calls += 1;
                burst.uses += uses;
            }
            _ => self.bursts.push_back(Burst {
                target: Arc::clone(target),
                pages: PageSet::from_iter([run]),
                bytes,
                calls: 1,
                uses,
                asked: Instant::now(),
            }),
        }
        while self.full() {
            self.wait_for_oldest()?;
        }
        Ok(())
    }

    fn wait_for_oldest(&mut self) -> Result<()> {
        let Some(Burst { target, pages, bytes, calls, uses, .. }) = self.bursts.pop_front() else {
            return Ok(());
        };
        // Reads are queued in order: when the last page has arrived, so have the others, as a rule.
        touch(&target.file.fd, pages.end() - 1);
        if let Ok(absent) = target.absent_now(&pages)
            && !absent.is_empty()
        {
            self.reread += absent.count() * page_size();
            reread(&target, &absent, self.throttle, self.progress)?;
        }
        self.in_flight -= bytes;
        self.calls -= calls;
        self.progress.add_bytes(bytes);
        self.progress.add_uses(uses);
        Ok(())
    }

    /// Bytes that one call reads: the kernel silently reads no more than the device's read-ahead,
    /// however much it was asked for.
    fn chunk(&mut self, target: &Target) -> u64 {
        let most = if self.yields() { READ_AHEAD } else { u64::MAX };
        let stat = &target.file.stat;
        let device = (stat.stx_dev_major, stat.stx_dev_minor);
        let chunk = *self.chunks.entry(device).or_insert_with(|| {
            let chunk = read_ahead(device).unwrap_or(READ_AHEAD).min(self.throttle.portion(CHUNK));
            chunk.max(page_size()) / page_size()
        });
        chunk.min(most / page_size()).max(1)
    }
}

/// Read pages that were asked for and did not come, and wait for each. Reading marks them as
/// referenced, so that they are not the first to be given up again.
///
/// # Errors
/// [`Error::Cancelled`](crate::Error::Cancelled). Pages that cannot be read stay absent.
pub fn reread(
    target: &Target,
    absent: &PageSet,
    throttle: &Throttle,
    progress: &Progress,
) -> Result<()> {
    let fd = &target.file.fd;
    for run in chunks(absent, READ_AHEAD / page_size()) {
        throttle.wait(run.count * page_size(), progress)?;
        progress.add_read(run.count * page_size());
        advise(fd, run);
        for page in run.start..run.end() {
            touch(fd, page);
        }
    }
    Ok(())
}

/// The runs of a set, cut into pieces of at most `size` pages.
fn chunks(pages: &PageSet, size: u64) -> impl Iterator<Item = Run> {
    let size = size.max(1);
    pages.runs().iter().flat_map(move |run| {
        let starts = (run.start..run.end()).step_by(size as usize);
        starts.map(move |start| Run { start, count: size.min(run.end() - start) })
    })
}

/// Start reading a run.
fn advise(fd: &OwnedFd, run: Run) {
    let length = std::num::NonZero::new(run.count * page_size());
    // Advice that is not taken leaves pages absent, which is detected and reported.
    let _ = fadvise(fd, run.start * page_size(), length, Advice::WillNeed);
}

/// Wait for a page by reading a byte of it. A failure is detected when the kernel is asked.
fn touch(fd: &OwnedFd, page: u64) {
    let mut byte = [0_u8];
    let _ = rustix::io::pread(fd, &mut byte, page * page_size());
}

/// Read-ahead of a device in bytes.
fn read_ahead((major, minor): (u32, u32)) -> Option<u64> {
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    let kilobytes: u64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Absent, CALLS, Issuer};
    use crate::memory::Sources;
    use crate::pagecache::load::Policy;
    use crate::pagecache::load::budget::Budget;
    use crate::pagecache::load::target::Target;
    use crate::pagecache::pages::{PageSet, Run};
    use crate::pagecache::record::Entry;
    use crate::sys::page_size;
    use crate::throttle::Throttle;
    use crate::{Progress, Root};

    const PAGES: u64 = 4 * CALLS;

    /// Ask for every other page of a file after `done` percent; visit the issuer then.
    fn asked(yield_at: Option<f64>, done: u64, visit: impl Fn(&Issuer<'_>)) {
        let directory = tempfile::tempdir().unwrap();
        let size = PAGES * page_size();
        std::fs::write(directory.path().join("f"), vec![1; size as usize]).unwrap();
        let root = Root::open(directory.path()).unwrap();
        let pages: PageSet = (0..PAGES / 2).map(|page| Run { start: 2 * page, count: 1 }).collect();
        let entry = Entry {
            path: b"f".to_vec(),
            root: 0,
            more: false,
            size,
            mtime_ms: 0,
            pages: PageSet::default(),
        };
        let (progress, throttle) = (Progress::default(), Throttle::new(None));
        progress.expect(100 * size, 1);
        progress.add_bytes(done * size);
        let target = Target::open(&root, &entry, Policy::Clamp, page_size(), &progress).unwrap();
        let budget = Budget::new(Some(size), 0, Sources::default()).unwrap();
        let mut issuer = Issuer::new(&throttle, &progress, yield_at);
        let cut = issuer.issue(&Absent::new(0, Arc::new(target), pages, 0), &budget).unwrap();
        assert_eq!(cut, 0);
        visit(&issuer);
        issuer.drain().unwrap();
        assert_eq!(progress.bytes_done(), done * size + size / 2);
    }

    #[test]
    fn once_its_share_is_loaded_it_waits_for_each_piece() {
        asked(Some(0.9), 90, |issuer| assert_eq!((issuer.in_flight, issuer.calls), (0, 0)));
        asked(Some(0.9), 89, |issuer| assert!(!issuer.yields()));
        asked(None, 100, |issuer| assert!(!issuer.yields()));
    }

    #[test]
    fn scattered_pages_are_a_bounded_number_of_calls() {
        asked(None, 0, |issuer| assert!(issuer.calls <= CALLS));
    }
}
