//! What of a destination differs from the source's manifest: every file is read, past the page cache.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use holdfast_engine::digest::{Algorithm, Digest};
use holdfast_engine::manifest::hashing::FileHasher;
use holdfast_engine::manifest::survey::identity_of;
use holdfast_engine::read::{self, Device, End, Opened, Outcome, ReadOptions, Source, Stream};
use holdfast_engine::tree::confine::{Refusal, device, stat};
use holdfast_engine::tree::skips::Reason;
use holdfast_engine::{Progress, Result, Root};

use crate::Error;
use crate::destination::flush::lock;
use crate::message::{Proven, Stamp};

/// How a file differs.
#[derive(Debug, Clone)]
pub struct Difference {
    /// What the source's manifest has.
    pub proven: Proven,
    /// Chunks with other content.
    pub chunks: Vec<u32>,
    /// Whether it is here with the size and time that it was transferred with.
    pub untouched: bool,
    /// Why it could not be compared.
    pub unreadable: Option<String>,
}

struct Comparing<'a> {
    base: &'a Root,
    progress: &'a Progress,
    waiting: Mutex<VecDeque<Proven>>,
    differing: Mutex<Vec<Difference>>,
}

struct Reading<'a> {
    comparing: &'a Comparing<'a>,
    proven: Proven,
    untouched: bool,
    hasher: FileHasher,
    chunks: Vec<u32>,
}

/// Compare all files with the manifest; returns those that differ.
///
/// # Errors
/// [`Error::Engine`].
pub fn compare(
    base: &Root,
    mut proven: Vec<Proven>,
    bytes_per_second: Option<u64>,
    progress: &Progress,
) -> crate::Result<Vec<Difference>> {
    proven.sort_by_key(|file| std::cmp::Reverse(file.size));
    let top = stat(base.fd()).map_err(|errno| Error::io(base.path(), errno))?;
    let comparing = Comparing {
        base,
        progress,
        waiting: Mutex::new(proven.into()),
        differing: Mutex::default(),
    };
    let options = ReadOptions { bytes_per_second, pressure: None, reader: read::Preference::Auto };
    read::read(&&comparing, Device::of(device(&top)), &options, progress)?;
    let mut differing = std::mem::take(&mut *lock(&comparing.differing));
    differing.sort_by(|one, other| one.proven.path.cmp(&other.proven.path));
    Ok(differing)
}

impl Comparing<'_> {
    fn refused(&self, proven: Proven, refusal: &Refusal) {
        let chunks = match refusal.reason {
            // Nothing is there: all of it is missing.
            Reason::Vanished => all_chunks(&proven),
            _ => Vec::new(),
        };
        let unreadable = (refusal.reason != Reason::Vanished).then(|| refusal.words());
        let difference = Difference { proven, chunks, untouched: false, unreadable };
        lock(&self.differing).push(difference);
    }
}

/// Return the numbers of all chunks of a file.
fn all_chunks(proven: &Proven) -> Vec<u32> {
    (0..).take_while(|&index| proven.chunk(index).is_some()).collect()
}

impl<'a> Source for &'a Comparing<'a> {
    type Stream = Reading<'a>;

    fn next(&self, end: End) -> Result<Option<Opened<Reading<'a>>>> {
        let comparing = *self;
        loop {
            let next = {
                let mut waiting = lock(&comparing.waiting);
                if end == End::Largest { waiting.pop_front() } else { waiting.pop_back() }
            };
            let Some(proven) = next else { return Ok(None) };
            let file = match comparing.base.open_file(&proven.path, comparing.progress) {
                Ok(file) => file,
                Err(refusal) => {
                    comparing.progress.check()?;
                    comparing.refused(proven, &refusal);
                    continue;
                }
            };
            let stamp = Stamp::from(&identity_of(&file.stat));
            let untouched = (stamp.size, stamp.mtime_ns) == (proven.size, proven.metadata.mtime_ns);
            if stamp.size != proven.size {
                let chunks = all_chunks(&proven);
                let difference = Difference { proven, chunks, untouched, unreadable: None };
                lock(&comparing.differing).push(difference);
                continue;
            }
            let size = proven.size;
            let name = String::from_utf8_lossy(&proven.path).into_owned().into();
            let hasher = FileHasher::new(Algorithm::Xxh64, size);
            let stream = Reading { comparing, proven, untouched, hasher, chunks: Vec::new() };
            return Ok(Some(Opened { file: Arc::new(file), range: 0..size, stream, name }));
        }
    }
}

impl Stream for Reading<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let (proven, chunks) = (&self.proven, &mut self.chunks);
        self.hasher.update(bytes, |chunk| {
            let index = u32::try_from(chunk.index).unwrap_or(u32::MAX);
            if proven.chunk(index).map(Digest::Xxh64) != Some(chunk.digest) {
                chunks.push(index);
            }
        });
        Ok(())
    }

    fn finish(self, end: Outcome) -> Result<()> {
        let Self { comparing, proven, untouched, hasher, mut chunks } = self;
        let unreadable = match end {
            Outcome::Complete => None,
            Outcome::Short => Some("it became shorter while it was read".to_owned()),
            Outcome::Failed { offset, length, errno } => {
                let error = std::io::Error::from(errno);
                Some(format!("reading {length} bytes at {offset} failed: {error}"))
            }
        };
        let (digest, table) = hasher.finish();
        if unreadable.is_none() {
            match table {
                Some(table) => {
                    let digest = |index: &u32| {
                        proven.chunk(*index).map(Digest::Xxh64)
                            != table.digests.get(*index as usize).copied()
                    };
                    chunks = all_chunks(&proven).into_iter().filter(digest).collect();
                }
                None if digest == Digest::Xxh64(proven.digest) => chunks.clear(),
                None => chunks = all_chunks(&proven),
            }
        }
        if !chunks.is_empty() || unreadable.is_some() {
            let difference = Difference { proven, chunks, untouched, unreadable };
            lock(&comparing.differing).push(difference);
        }
        Ok(())
    }
}
