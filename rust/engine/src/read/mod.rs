//! Reading many files at the speed of the device, once, in the order of each file's bytes, and
//! without a trace in the page cache.
//!
//! A few threads, each with a queue of reads in flight and buffers that are used again and again,
//! take files from a [`Source`] and hand their bytes to [`Stream`]s. One thread begins with the
//! largest file and one with the smallest, so that neither one huge file nor many tiny ones are left
//! for the end. How many reads are in flight is a property of the device, shared by the threads that
//! still have work: one huge file alone gets the whole queue.

pub(crate) mod access;
pub mod buffers;
mod device;
pub mod extents;
mod queue;
mod threads;
mod uring;
mod worker;

pub use device::Device;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::pressure::{Limit, Pressure};
use crate::progress::lock;
use crate::throttle::Throttle;
use crate::tree::confine::OpenFile;
use crate::{Error, Progress, Result};
use access::Access;
use queue::Queue;

/// Bytes in one read.
pub const BLOCK: u64 = 1 << 20;
/// And in buffers altogether, whatever the number of reads in flight.
const MEMORY: u64 = 32 << 20;
/// What holes have, for streams.
pub static ZEROS: [u8; 1 << 18] = [0; 1 << 18];
/// More threads than this gain nothing: one hashes more than most devices read.
const THREADS: usize = 8;

/// Which end of what is left to take: the largest, or the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The largest.
    Largest,
    /// The smallest.
    Smallest,
}

/// Where files to read come from.
pub trait Source: Sync {
    /// What their bytes go to.
    type Stream: Stream;

    /// The next one to read; `None` when nothing is left.
    ///
    /// # Errors
    /// Whatever must end the whole work.
    fn next(&self, end: End) -> Result<Option<Opened<Self::Stream>>>;
}

/// What bytes go to, in order.
pub trait Stream {
    /// More bytes.
    ///
    /// # Errors
    /// Whatever must end the whole work.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;

    /// Bytes of a hole: zeros, unless the stream has a use for knowing better.
    ///
    /// # Errors
    /// Whatever must end the whole work.
    fn hole(&mut self, length: u64) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let portion = left.min(ZEROS.len() as u64);
            self.data(&ZEROS[..portion as usize])?;
            left -= portion;
        }
        Ok(())
    }

    /// All is delivered, or no more can be.
    ///
    /// # Errors
    /// Whatever must end the whole work.
    fn finish(self, end: Outcome) -> Result<()>;
}

/// How reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With all that was wanted.
    Complete,
    /// The file ended before.
    Short,
    /// The system gave an error.
    Failed {
        /// Where the read began, in bytes.
        offset: u64,
        /// How many bytes it was to read.
        length: u64,
        /// The error.
        errno: Errno,
    },
}

/// A file to be read.
#[derive(Debug)]
pub struct Opened<S> {
    /// The file.
    pub file: Arc<OpenFile>,
    /// Which of its bytes; the start is a multiple of [`BLOCK`].
    pub range: std::ops::Range<u64>,
    /// What they go to.
    pub stream: S,
    /// Its path, for people.
    pub name: Arc<str>,
}

/// How to read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadOptions {
    /// At most this many bytes each second.
    pub bytes_per_second: Option<u64>,
    /// Give way above this pressure.
    pub pressure: Option<Limit>,
    /// By which of the ways that there are.
    #[serde(default)]
    pub reader: Preference,
}

/// By which of the ways that there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// The best that works.
    #[default]
    Auto,
    /// io_uring, or not at all.
    IoUring,
    /// Threads.
    Pread,
    /// Threads, through the page cache.
    Buffered,
}

/// How it was read.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes in holes, which needed no reading.
    pub hole_bytes: u64,
    /// The way most bytes took.
    pub reader: String,
    /// Bytes by the way they took.
    pub reader_bytes: BTreeMap<String, u64>,
    /// Why it was not the best way.
    pub reader_note: Option<String>,
    /// Reads in flight at most.
    pub queue_depth: usize,
    /// What was read from.
    pub devices: Vec<Device>,
    /// Time spent waiting for the rate limit.
    pub rate_wait_seconds: f64,
    /// Time spent giving way.
    pub pressure_wait_seconds: f64,
}

/// Files being read, the largest last; several parts of one can be read at the same time.
type Current = BTreeMap<(u64, usize), (Arc<str>, usize)>;

/// What the threads of one call have in common.
#[derive(Debug)]
struct Shared<'a> {
    progress: &'a Progress,
    throttle: Throttle,
    pressure: Option<Pressure>,
    preference: Preference,
    depth: usize,
    block: u64,
    working: AtomicUsize,
    tally: Mutex<Tally>,
    hole_bytes: AtomicU64,
    current: Mutex<Current>,
}

/// What threads report when they are done.
#[derive(Debug, Default)]
struct Tally {
    bytes: BTreeMap<String, u64>,
    note: Option<String>,
    rate_wait: Duration,
    pressure_wait: Duration,
}

impl Shared<'_> {
    /// Reads that one thread may have in flight now.
    fn share(&self) -> usize {
        (self.depth / self.working.load(Ordering::Relaxed).max(1)).max(1)
    }

    /// Show a file as one that is being read, until it was ended as often.
    fn begin(&self, size: u64, name: &Arc<str>) {
        let mut current = lock(&self.current);
        current.entry((size, name.as_ptr().addr())).or_insert((Arc::clone(name), 0)).1 += 1;
        self.show(&current);
    }

    /// It is no more.
    fn end(&self, size: u64, name: &Arc<str>) {
        let mut current = lock(&self.current);
        if let Entry::Occupied(mut entry) = current.entry((size, name.as_ptr().addr())) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
        self.show(&current);
    }

    fn show(&self, current: &Current) {
        self.progress.work_on(current.values().next_back().map(|(name, _)| Arc::clone(name)));
    }
}

/// Read everything a source has, from files on `device`.
///
/// # Errors
/// The first error of the source or of a stream; [`Error::Cancelled`]; [`Error::Io`] if there is no
/// way of reading at all.
pub fn read<S: Source>(
    source: &S,
    device: Device,
    options: &ReadOptions,
    progress: &Progress,
) -> Result<Report> {
    let depth = device.depth();
    let shared = Shared {
        progress,
        throttle: Throttle::new(options.bytes_per_second),
        pressure: options.pressure.clone().map(Pressure::new).transpose()?,
        preference: options.reader,
        depth,
        block: BLOCK.min((MEMORY / depth as u64).next_power_of_two()),
        working: AtomicUsize::new(0),
        tally: Mutex::default(),
        hole_bytes: AtomicU64::new(0),
        current: Mutex::default(),
    };
    let threads = crate::pool::processors().clamp(1, THREADS);
    shared.working.store(threads, Ordering::Relaxed);
    let ends = (0..threads)
        .map(|nth| if nth % 2 == 0 { End::Largest } else { End::Smallest })
        .collect::<Vec<_>>();
    let before = progress.read_bytes();
    let result = crate::pool::run(threads, ends, |end, _| worker::work(source, end, &shared));
    progress.work_on(None);
    result?;
    let tally = shared.tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let most = tally.bytes.iter().max_by_key(|(_, bytes)| **bytes);
    Ok(Report {
        read_bytes: progress.read_bytes() - before,
        hole_bytes: shared.hole_bytes.into_inner(),
        reader: most.map_or_else(|| "none".to_owned(), |(name, _)| name.clone()),
        reader_bytes: tally.bytes,
        reader_note: tally.note,
        queue_depth: depth,
        devices: vec![device],
        rate_wait_seconds: tally.rate_wait.as_secs_f64(),
        pressure_wait_seconds: tally.pressure_wait.as_secs_f64(),
    })
}

/// A way of having reads done, for the calling thread.
struct Way {
    queue: Box<dyn Queue>,
    engine: &'static str,
    /// How to read each file, to begin with.
    access: Access,
    /// Why it is not the best way.
    note: Option<String>,
}

impl Way {
    fn open(preference: Preference, depth: usize) -> Result<Self> {
        let threads = |access, note| Self {
            queue: Box::new(threads::Threads::new(depth)),
            engine: "pread",
            access,
            note,
        };
        match preference {
            Preference::Pread => Ok(threads(Access::Direct, None)),
            Preference::Buffered => Ok(threads(Access::Buffered, None)),
            Preference::Auto | Preference::IoUring => match uring::Uring::new(depth) {
                Ok(ring) => Ok(Self {
                    queue: Box::new(ring),
                    engine: "io_uring",
                    access: Access::Direct,
                    note: None,
                }),
                Err(error) if preference == Preference::IoUring => {
                    Err(Error::io("io_uring", error))
                }
                Err(error) => {
                    let note = format!("io_uring cannot be used here: {error}");
                    Ok(threads(Access::Direct, Some(note)))
                }
            },
        }
    }
}
