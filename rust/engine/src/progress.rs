//! Progress that any thread reads, and the way to cancel.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::{Error, Result};

/// `u64::MAX` means "not known".
const UNKNOWN: u64 = u64::MAX;

/// Counters of one running call. All reads are cheap and never block the work.
#[derive(Debug)]
pub struct Progress {
    phase: Mutex<Arc<str>>,
    current: Mutex<Option<Arc<str>>>,
    bytes_done: AtomicU64,
    bytes_expected: AtomicU64,
    files_done: AtomicU64,
    files_expected: AtomicU64,
    read_bytes: AtomicU64,
    passed_over: AtomicU64,
    uses_done: AtomicU64,
    uses_expected: AtomicU64,
    cancelled: AtomicBool,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            phase: Mutex::new("".into()),
            current: Mutex::new(None),
            bytes_done: AtomicU64::new(0),
            bytes_expected: AtomicU64::new(UNKNOWN),
            files_done: AtomicU64::new(0),
            files_expected: AtomicU64::new(UNKNOWN),
            read_bytes: AtomicU64::new(0),
            passed_over: AtomicU64::new(0),
            uses_done: AtomicU64::new(0),
            uses_expected: AtomicU64::new(UNKNOWN),
            cancelled: AtomicBool::new(false),
        }
    }
}

impl Progress {
    /// What the call is doing, in one or two words.
    pub fn phase(&self) -> Arc<str> {
        Arc::clone(&lock(&self.phase))
    }

    /// Enter a phase.
    pub fn enter(&self, phase: &str) {
        *lock(&self.phase) = phase.into();
    }

    /// The largest file that is being worked on, for people, where the call reports it.
    pub fn current(&self) -> Option<Arc<str>> {
        lock(&self.current).clone()
    }

    /// Set the largest file that is being worked on.
    pub fn work_on(&self, file: Option<Arc<str>>) {
        *lock(&self.current) = file;
    }

    /// Bytes dealt with.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// Bytes there are to deal with, once known.
    pub fn bytes_expected(&self) -> Option<u64> {
        known(&self.bytes_expected)
    }

    /// Files dealt with.
    pub fn files_done(&self) -> u64 {
        self.files_done.load(Ordering::Relaxed)
    }

    /// Files there are to deal with, once known.
    pub fn files_expected(&self) -> Option<u64> {
        known(&self.files_expected)
    }

    /// Bytes of file data that the call caused to be read.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// The share of the expected uses that is dealt with, where a load estimates them.
    pub fn uses_share(&self) -> Option<f64> {
        let expected = known(&self.uses_expected)?;
        let done = self.uses_done.load(Ordering::Relaxed).min(expected);
        Some(if expected == 0 { 1.0 } else { done as f64 / expected as f64 })
    }

    /// The share that is dealt with: of the expected uses where they are estimated, else of the
    /// bytes; 0 until it is known how much there is.
    pub fn share(&self) -> f64 {
        self.uses_share().unwrap_or_else(|| match self.bytes_expected() {
            None => 0.0,
            Some(0) => 1.0,
            Some(expected) => self.bytes_done() as f64 / expected as f64,
        })
    }

    /// Set the sum of the expected uses, or that there is none. Comes before
    /// [`Progress::expect`], so that who sees what is expected sees this as well.
    pub fn expect_uses(&self, uses: Option<u64>) {
        self.uses_expected.store(uses.unwrap_or(UNKNOWN), Ordering::Release);
    }

    /// Count expected uses as dealt with.
    pub fn add_uses(&self, uses: u64) {
        self.uses_done.fetch_add(uses, Ordering::Relaxed);
    }

    /// Count `bytes` as dealt with.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Count `bytes` as dealt with although nothing could be done with them.
    pub fn pass_over(&self, bytes: u64) {
        self.passed_over.fetch_add(bytes, Ordering::Relaxed);
        self.add_bytes(bytes);
    }

    /// Bytes dealt with that something was done with.
    pub fn bytes_worked(&self) -> u64 {
        self.bytes_done() - self.passed_over.load(Ordering::Relaxed)
    }

    /// Count `files` as dealt with.
    pub fn add_files(&self, files: u64) {
        self.files_done.fetch_add(files, Ordering::Relaxed);
    }

    /// Count `bytes` as read.
    pub fn add_read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Set how much there is to do.
    pub fn expect(&self, bytes: u64, files: u64) {
        self.bytes_expected.store(bytes, Ordering::Release);
        self.files_expected.store(files, Ordering::Relaxed);
    }

    /// Add to what there is to do, before all of it is known.
    pub fn found(&self, bytes: u64, files: u64) {
        let add = |counter: &AtomicU64, more| {
            let before = counter.load(Ordering::Relaxed);
            let known = if before == UNKNOWN { 0 } else { before };
            counter.store(known.saturating_add(more), Ordering::Relaxed);
        };
        add(&self.bytes_expected, bytes);
        add(&self.files_expected, files);
    }

    /// Add `bytes` to what there is to process.
    pub fn expect_more(&self, bytes: u64) {
        self.bytes_expected.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Set how many bytes there are to process, or that this is not known any more.
    pub fn expect_bytes(&self, bytes: Option<u64>) {
        self.bytes_expected.store(bytes.unwrap_or(UNKNOWN), Ordering::Relaxed);
    }

    /// Begin to count the bytes dealt with from zero again, as when work has to be done once more.
    pub fn restart(&self) {
        self.passed_over.store(0, Ordering::Relaxed);
        self.bytes_done.store(0, Ordering::Relaxed);
    }

    /// Ask the call to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether the call was asked to stop.
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// [`Error::Cancelled`] once the call was asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

fn known(value: &AtomicU64) -> Option<u64> {
    Some(value.load(Ordering::Acquire)).filter(|&v| v != UNKNOWN)
}

/// Lock a mutex whose data stays consistent even if a holder panicked.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
