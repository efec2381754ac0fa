//! The public status of the work while it runs.

pub mod connections;
pub mod metrics;
pub mod server;
pub mod tokens;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::initramfs::log;
use crate::{clock, say};

/// How many samples of progress are kept, one each tenth of a second.
const SAMPLES: usize = 50;

/// What the imager is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Looking for disks, for the network, or pausing before another try.
    Waiting,
    /// Reading the whole image and checking it.
    Verifying,
    /// Keeping the old disk as an image.
    Saving,
    /// Reading that image and checking it.
    VerifyingSaved,
    /// Writing the image to the disk.
    Writing,
    /// Reading the disk back.
    ReadingBack,
    /// Carrying over who the machine is.
    Identity,
    /// All is done.
    Rebooting,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 8] = [
        Self::Waiting,
        Self::Verifying,
        Self::Saving,
        Self::VerifyingSaved,
        Self::Writing,
        Self::ReadingBack,
        Self::Identity,
        Self::Rebooting,
    ];

    /// Its name in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Verifying => "verifying",
            Self::Saving => "saving",
            Self::VerifyingSaved => "verifying_saved",
            Self::Writing => "writing",
            Self::ReadingBack => "reading_back",
            Self::Identity => "identity",
            Self::Rebooting => "rebooting",
        }
    }
}

/// A phase that is over, for the marker.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Finished {
    /// Its name.
    pub phase: &'static str,
    /// How long it took.
    pub seconds: f64,
    /// How many bytes it dealt with.
    pub bytes: u64,
}

/// The state of the work. All reads are cheap and never block the work.
#[derive(Debug)]
pub struct Status {
    facts: Mutex<Value>,
    phase: Mutex<(Phase, Instant)>,
    /// Bytes done at a few times in the last seconds of the phase.
    samples: Mutex<VecDeque<(Instant, u64)>>,
    finished: Mutex<Vec<Finished>>,
    problems: Mutex<Vec<String>>,
    notes: Mutex<Vec<String>>,
    bytes_done: AtomicU64,
    bytes_expected: AtomicU64,
    bytes_written: AtomicU64,
    last_progress: AtomicU64,
    retries: AtomicU64,
    resumed: AtomicU64,
    first_write: AtomicBool,
    ended: AtomicBool,
    /// When something last happened, and how many waits are announced.
    life: Mutex<(Instant, usize)>,
}

/// A wait of unknown length in which nothing happens; announced until it is dropped.
#[derive(Debug)]
pub struct Silence<'a>(&'a Status);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        let mut life = lock(&self.0.life);
        *life = (Instant::now(), life.1 - 1);
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

impl Status {
    /// What does not change any more: the members `operation`, `nonce`, `image`, `mode` and `target`.
    pub fn tell(&self, facts: Value) {
        *lock(&self.facts) = facts;
    }

    /// Work that begins.
    pub fn new() -> Self {
        Self {
            facts: Mutex::new(Value::Null),
            phase: Mutex::new((Phase::Waiting, Instant::now())),
            samples: Mutex::default(),
            finished: Mutex::default(),
            problems: Mutex::default(),
            notes: Mutex::default(),
            bytes_done: AtomicU64::new(0),
            bytes_expected: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            last_progress: AtomicU64::new(clock::now()),
            retries: AtomicU64::new(0),
            resumed: AtomicU64::new(0),
            life: Mutex::new((Instant::now(), 0)),
            first_write: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        }
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        lock(&self.phase).0
    }

    /// Start a phase that will process `bytes_expected` (0: not known, or none).
    pub fn enter(&self, phase: Phase, bytes_expected: u64) {
        self.bytes_done.store(0, Ordering::Relaxed);
        self.bytes_expected.store(bytes_expected, Ordering::Relaxed);
        *lock(&self.phase) = (phase, Instant::now());
        lock(&self.samples).clear();
        self.progressed();
    }

    /// Keep how long the phase took and what it did.
    pub fn finish(&self) {
        let (phase, since) = *lock(&self.phase);
        let (seconds, bytes) = (since.elapsed().as_secs_f64(), self.bytes_done());
        say!("{}: done, {}", phase.name(), rate(bytes, seconds));
        lock(&self.finished).push(Finished {
            phase: phase.name(),
            seconds: (seconds * 1000.0).round() / 1000.0,
            bytes,
        });
    }

    /// The phases that are over, in order; after a retry some are there twice.
    pub fn finished(&self) -> Vec<Finished> {
        lock(&self.finished).clone()
    }

    /// Count bytes as dealt with.
    pub fn advance(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        self.progressed();
    }

    /// Count bytes as written to the disk.
    pub fn wrote(&self, bytes: u64) {
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that the phase dealt with.
    pub fn bytes_done(&self) -> u64 {
        self.bytes_done.load(Ordering::Relaxed)
    }

    /// Bytes that were written to the disk in all, failed tries included.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written.load(Ordering::Relaxed)
    }

    /// Print what is wrong, and keep it.
    pub fn problem(&self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        say!("{sentence}");
        let mut problems = lock(&self.problems);
        // What repeats for ever is printed once, and not more than can be read.
        if problems.len() < 100 && !problems.contains(&sentence) {
            problems.push(sentence);
        }
    }

    /// Print a note on what is not wrong, and keep it for the new system.
    pub fn note(&self, sentence: impl Into<String>) {
        let sentence = sentence.into();
        say!("{sentence}");
        let mut notes = lock(&self.notes);
        // A pass that is repeated notes the same again.
        if !notes.contains(&sentence) {
            notes.push(sentence);
        }
    }

    /// What was noted.
    pub fn notes(&self) -> Vec<String> {
        lock(&self.notes).clone()
    }

    /// Tries that failed.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// When anything was last dealt with, in seconds since the epoch.
    pub fn last_progress(&self) -> u64 {
        self.last_progress.load(Ordering::Relaxed)
    }

    /// Count a try that failed.
    pub fn retry(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
        self.lives();
    }

    /// How many times the imager was booted from the lifeboat.
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// Note how many times the imager was booted from the lifeboat.
    pub fn set_resumed(&self, times: u64) {
        self.resumed.store(times, Ordering::Relaxed);
    }

    /// Announce that nothing may happen for as long as the answer lives.
    pub fn expect_silence(&self) -> Silence<'_> {
        lock(&self.life).1 += 1;
        Silence(self)
    }

    /// For how long nothing has happened that was not announced.
    pub fn silent_for(&self) -> Duration {
        let (since, announced) = *lock(&self.life);
        if announced > 0 { Duration::ZERO } else { since.elapsed() }
    }

    fn lives(&self) {
        lock(&self.life).0 = Instant::now();
    }

    /// From here on there is no way back.
    pub fn begin_writing(&self) {
        self.first_write.store(true, Ordering::SeqCst);
    }

    /// Whether the target was written to.
    pub fn first_write(&self) -> bool {
        self.first_write.load(Ordering::SeqCst)
    }

    /// Print a line about progress every few seconds, until [`Status::end`].
    pub fn narrate(&self, pause: Duration) {
        let step = Duration::from_millis(100);
        let mut last = Instant::now();
        while !self.ended.load(Ordering::Relaxed) {
            std::thread::sleep(step);
            self.sample();
            if last.elapsed() < pause {
                continue;
            }
            let (phase, done) = (self.phase(), self.bytes_done());
            if let Some(expected) = self.bytes_expected() {
                let percent = done.min(expected) * 100 / expected;
                let speed = self.bytes_per_second() / f64::from(1 << 20);
                say!("{}: {percent} %, {speed:.0} MiB/s", phase.name());
            }
            last = Instant::now();
        }
    }

    /// Let [`Status::narrate`] return.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// The response of `GET /v1/reimage`: the daemon's shape as far as it is known here.
    pub fn to_json(&self) -> Value {
        let phase = self.phase();
        let (done, expected) = (self.bytes_done(), self.bytes_expected());
        let speed = self.bytes_per_second();
        let left = expected.map(|expected| expected.saturating_sub(done) as f64);
        let eta = left.filter(|_| speed > 0.0).map(|left| (left / speed).round());
        let mut answer = json!({
            "state": "imaging",
            "progress": {
                "phase": phase.name(),
                "bytes_done": done,
                "bytes_expected": expected,
                "bytes_per_second": speed.round(),
                "eta_seconds": eta,
            },
            "phases": self.finished(),
            "first_write": self.first_write(),
            "retries": self.retries(),
            "resumed": self.resumed(),
            "problems": *lock(&self.problems),
            "notes": *lock(&self.notes),
            "log": log::recent(),
        });
        if let (Value::Object(answer), Value::Object(facts)) = (&mut answer, &*lock(&self.facts)) {
            answer.extend(facts.clone());
        }
        answer
    }

    /// Bytes that the phase has to deal with, if that is known.
    pub fn bytes_expected(&self) -> Option<u64> {
        Some(self.bytes_expected.load(Ordering::Relaxed)).filter(|&bytes| bytes > 0)
    }

    fn sample(&self) {
        let mut samples = lock(&self.samples);
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back((Instant::now(), self.bytes_done()));
    }

    /// By the last seconds: zeros at a phase's start cost next to nothing and predict little.
    fn bytes_per_second(&self) -> f64 {
        let samples = lock(&self.samples);
        let (Some((from, before)), Some((to, after))) = (samples.front(), samples.back()) else {
            return 0.0;
        };
        let seconds = to.duration_since(*from).as_secs_f64();
        if seconds > 0.0 { after.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }

    fn progressed(&self) {
        self.last_progress.store(clock::now(), Ordering::Relaxed);
        self.lives();
    }
}

/// `512 MiB in 4.0 s (128 MiB/s)`.
fn rate(bytes: u64, seconds: f64) -> String {
    let mebibytes = bytes as f64 / f64::from(1 << 20);
    let speed = if seconds > 0.0 { mebibytes / seconds } else { 0.0 };
    format!("{mebibytes:.0} MiB in {seconds:.1} s ({speed:.0} MiB/s)")
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
