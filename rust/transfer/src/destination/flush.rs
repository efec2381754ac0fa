//! Group commit: data are flushed, then recorded, then files are placed.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::Progress;
use rustix::fs::{AtFlags, Mode, OFlags, fdatasync, fsync, openat, statx, syncfs};
use rustix::io::Errno;

use super::Proof;
use super::journal::{Held, Item, Journal, Record, State};
use super::staging::{Staging, split};
use crate::destination::pass::media::{Flushed, Proving};
use crate::destination::receive::target::Target;
use crate::message::Stamp;
use crate::{Error, Result};

/// What waits is flushed once it is this many bytes,
const BYTES: u64 = 64 << 20;
/// or this many files,
const FILES: usize = 4096;
/// or after so long.
const AGE: Duration = Duration::from_millis(250);
/// Receivers wait while more than this many bytes wait to be flushed.
const MOST_BYTES: u64 = 256 << 20;
/// And this many files.
const MOST_FILES: usize = 4 * FILES;
/// With more files than this the whole file system is flushed at once.
const ONE_BY_ONE: usize = 16;

/// A file that is whole in the staging directory, with its metadata set.
#[derive(Debug)]
pub struct Finished {
    /// Its path.
    pub path: Arc<[u8]>,
    /// Its name in the staging directory.
    pub name: u64,
    /// Where it is open.
    pub target: Option<Arc<Target>>,
    /// What is recorded of it.
    pub held: Held,
}

/// A chunk that is whole.
#[derive(Debug)]
pub struct Chunk {
    /// Of which file.
    pub target: Arc<Target>,
    /// Which one.
    pub index: u32,
    /// Its digest.
    pub digest: u64,
    /// The state of the whole file's digest behind it.
    pub state: Option<[u64; 4]>,
}

#[derive(Debug, Default)]
struct Pending {
    chunks: Vec<Chunk>,
    files: Vec<Finished>,
    bytes: u64,
    since: Option<Instant>,
    closed: bool,
    failed: bool,
}

/// What waits to be flushed.
#[derive(Debug, Default)]
pub struct Flusher {
    pending: Mutex<Pending>,
    changed: Condvar,
    drained: Condvar,
}

/// Where results go.
pub struct Ledger<'a> {
    /// The destination.
    pub staging: &'a Staging,
    /// The journal.
    pub journal: &'a Mutex<Journal>,
    /// What the journal has.
    pub state: &'a Mutex<State>,
    /// How much is to be durable.
    pub proof: Proof,
    /// For people.
    pub progress: &'a Progress,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Flusher {
    /// Add chunks and files; wait while too much waits. Returns the time waited; `None` once the
    /// flusher failed.
    pub fn add(&self, chunks: Vec<Chunk>, files: Vec<Finished>) -> Option<Duration> {
        let begin = Instant::now();
        let mut pending = lock(&self.pending);
        let full =
            |pending: &Pending| pending.bytes > MOST_BYTES || pending.files.len() > MOST_FILES;
        while full(&pending) && !pending.failed {
            pending = self.drained.wait(pending).unwrap_or_else(PoisonError::into_inner);
        }
        if pending.failed {
            return None;
        }
        let chunk_bytes: u64 = chunks.iter().map(|c| c.target.chunk_length(c.index)).sum();
        let file_bytes: u64 = files
            .iter()
            .filter(|file| file.target.as_ref().is_none_or(|target| target.chunks() <= 1))
            .map(|file| file.held.source.size)
            .sum();
        pending.bytes += chunk_bytes + file_bytes;
        pending.chunks.extend(chunks);
        pending.files.extend(files);
        pending.since.get_or_insert_with(Instant::now);
        drop(pending);
        self.changed.notify_one();
        Some(begin.elapsed())
    }

    /// Flush what is left and return from [`Flusher::run`].
    pub fn close(&self) {
        lock(&self.pending).closed = true;
        self.changed.notify_all();
    }

    /// Flush until it is closed, and hand on what is to be read back.
    ///
    /// # Errors
    /// The first one; what waited is dropped then.
    pub fn run(&self, ledger: &Ledger<'_>, proving: Option<&Proving<'_>>) -> Result<()> {
        loop {
            let mut pending = lock(&self.pending);
            loop {
                let age = pending.since.map(|since| since.elapsed());
                let due = pending.bytes >= BYTES
                    || pending.files.len() >= FILES
                    || age.is_some_and(|age| age >= AGE);
                if due || pending.closed {
                    break;
                }
                let wait = age.map_or(Duration::from_secs(3600), |age| AGE.saturating_sub(age));
                let woken = self.changed.wait_timeout(pending, wait);
                pending = woken.unwrap_or_else(PoisonError::into_inner).0;
            }
            let chunks = std::mem::take(&mut pending.chunks);
            let files = std::mem::take(&mut pending.files);
            pending.bytes = 0;
            pending.since = None;
            let closed = pending.closed;
            drop(pending);
            self.drained.notify_all();
            let flushed = proving.map(|proving| (proving, Flushed::of(&chunks, &files)));
            if let Err(error) = ledger.commit(chunks, files) {
                lock(&self.pending).failed = true;
                self.drained.notify_all();
                return Err(error);
            }
            if let Some((proving, flushed)) = flushed {
                proving.add(flushed);
            }
            if closed && lock(&self.pending).since.is_none() {
                return Ok(());
            }
        }
    }
}

impl Ledger<'_> {
    fn commit(&self, chunks: Vec<Chunk>, files: Vec<Finished>) -> Result<()> {
        if chunks.is_empty() && files.is_empty() {
            return Ok(());
        }
        if self.proof != Proof::Wire {
            self.flush(&chunks, &files)?;
        }
        let new: Vec<bool> = {
            let state = lock(self.state);
            files.iter().map(|file| !state.items.contains_key(&file.path)).collect()
        };
        let mut records = Vec::with_capacity(chunks.len() + files.len());
        for Chunk { target, index, digest, state } in chunks {
            records.push(Record::Chunk(target.path.clone(), index, digest, state));
        }
        for file in &files {
            records.push(Record::Made(file.path.clone(), Item::File(file.held.clone())));
        }
        self.record(records, true)?;
        let mut parent: Option<(Box<[u8]>, OwnedFd)> = None;
        let mut placed = Vec::with_capacity(files.len());
        for (file, new) in files.into_iter().zip(new) {
            let failed = |errno| Error::io(self.staging.shown(&file.path), errno);
            let (directory, name) = split(&file.path);
            if parent.as_ref().is_none_or(|(known, _)| **known != *directory) {
                let fd = self.staging.directory(directory).map_err(failed)?;
                parent = Some((directory.into(), fd));
            }
            let Some((_, into)) = &parent else { continue };
            let staged = Staging::name(file.name);
            match self.staging.place(&staged, into, name, new) {
                // It appeared after the plan was made.
                Err(Errno::EXIST) if new => {
                    self.record(vec![Record::Removed(file.path.clone())], true)?;
                    return Err(self.staging.occupied(&file.path));
                }
                other => other.map_err(failed)?,
            }
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            let found = statx(into, name, flags, rustix::fs::StatxFlags::BASIC_STATS);
            let identity = found.map(|stat| holdfast_engine::manifest::survey::identity_of(&stat));
            let ctime_ns = Stamp::from(&identity.map_err(failed)?).ctime_ns;
            if let Some(target) = &file.target {
                target.forget_pages();
            }
            placed.push(Record::Placed(file.path, ctime_ns));
            self.progress.add_files(1);
        }
        self.record(placed, false)
    }

    /// Append records to the journal, and take them in.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn record(&self, records: Vec<Record>, sync: bool) -> Result<()> {
        lock(self.journal).append(&records, sync)?;
        let mut state = lock(self.state);
        records.into_iter().for_each(|record| state.apply(record));
        Ok(())
    }

    /// Read the state from the journal again.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn reload(&self) -> Result<()> {
        *lock(self.state) = lock(self.journal).reload()?;
        Ok(())
    }

    fn flush(&self, chunks: &[Chunk], files: &[Finished]) -> Result<()> {
        let mut open: HashMap<u64, (&Arc<Target>, bool)> = HashMap::new();
        for chunk in chunks {
            open.entry(chunk.target.name).or_insert((&chunk.target, false));
        }
        for file in files {
            if let Some(target) = &file.target {
                open.insert(target.name, (target, true));
            }
        }
        let small = files.iter().filter(|file| file.target.is_none());
        if open.len() + small.clone().count() > ONE_BY_ONE {
            let root = self.staging.root();
            return syncfs(root.fd()).map_err(|errno| Error::io(root.path(), errno));
        }
        for (target, whole) in open.into_values() {
            let flushed = if whole { fsync(&target.plain) } else { fdatasync(&target.plain) };
            flushed.map_err(|errno| Error::io(self.staging.shown(&target.path), errno))?;
        }
        for file in small {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(self.staging.fd(), Staging::name(file.name), flags, Mode::empty())
                .and_then(fsync)
                .map_err(|errno| Error::io(self.staging.shown(&file.path), errno))?;
        }
        Ok(())
    }
}
