//! The proof by reading back: what is flushed is read from the device and digested again, while more
//! arrives.
//!
//! Chunks are read as soon as they are flushed, the last one of a file and what was not read by then
//! once the file is in place. The journal keeps which files were read back whole.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use holdfast_engine::manifest::record::chunk_size;
use holdfast_engine::read::{
    self, Device, End, Opened, Outcome, Preference, ReadOptions, Source, Stream,
};
use holdfast_engine::tree::confine::{device, open_file, stat};
use holdfast_engine::xxh64::{Xxh64, update_both};
use rustix::fs::{Advice, fadvise};

use crate::destination::flush::{Chunk, Finished, Ledger, lock};
use crate::destination::journal::{Held, Item, Record};
use crate::destination::pass::finish::remove_gone;
use crate::destination::staging::Staging;
use crate::message::Stamp;
use crate::{Error, Result};

/// Files that are read before the journal has the results.
const FILES: usize = 4096;

/// A stretch of a file to read: a chunk, or all of a file without chunks.
#[derive(Debug)]
struct Stretch {
    range: Range<u64>,
    /// The state of the whole file's digest before it.
    before: Option<[u64; 4]>,
    /// The digest of the chunk.
    chunk: Option<u64>,
    /// What the whole file's digest comes to behind it.
    end: Behind,
}

#[derive(Debug)]
enum Behind {
    State([u64; 4]),
    Digest(u64),
}

/// Where a stretch is read.
#[derive(Debug)]
enum Place {
    /// In the staging directory, by the file's name there: a chunk of a file that is put together.
    Staged { name: u64, index: u32 },
    /// Where the file belongs.
    Placed,
}

#[derive(Debug)]
struct Work {
    path: Arc<[u8]>,
    place: Place,
    stretch: Stretch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    Differs,
    /// It cannot be opened.
    Gone,
}

/// Flushed chunks and placed files, to be read back; files with the name they had in the staging
/// directory, if they come from there.
#[derive(Debug, Default)]
pub struct Flushed {
    chunks: VecDeque<Work>,
    files: VecDeque<(Arc<[u8]>, Option<u64>)>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Flushed,
    closed: bool,
    abandoned: bool,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// Files that were in place and differ, with what they are on the source. They are removed.
    pub differing: Vec<(Arc<[u8]>, Stamp)>,
    /// Files that differ, also those that never came into place.
    pub differed: u64,
    /// Files that are what they should be.
    pub proven: u64,
    /// Chunks that are what they should be, by their file's name in the staging directory.
    read: HashMap<u64, BTreeSet<u32>>,
    /// Files with chunks that differ, by the same.
    spoiled: HashSet<u64>,
}

/// Reads back what arrives in one round.
pub struct Proving<'a> {
    ledger: &'a Ledger<'a>,
    device: Device,
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl<'a> Proving<'a> {
    /// Begin with files that are in place already.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn new(ledger: &'a Ledger<'a>, placed: Vec<Arc<[u8]>>) -> Result<Self> {
        let base = ledger.staging.root();
        let top = stat(base.fd()).map_err(|errno| Error::io(base.path(), errno))?;
        let files = placed.into_iter().map(|path| (path, None)).collect();
        let waiting = Flushed { files, ..Flushed::default() };
        Ok(Self {
            ledger,
            device: Device::of(device(&top)),
            queue: Mutex::new(Queue { waiting, ..Queue::default() }),
            changed: Condvar::new(),
        })
    }

    /// Take in what was flushed and recorded.
    pub fn add(&self, flushed: Flushed) {
        let mut queue = lock(&self.queue);
        queue.waiting.chunks.extend(flushed.chunks);
        queue.waiting.files.extend(flushed.files);
        drop(queue);
        self.changed.notify_one();
    }

    /// Read what is left and return from [`Proving::run`]; where the round failed, leave it to the
    /// next attempt.
    pub fn close(&self, failed: bool) {
        let mut queue = lock(&self.queue);
        queue.closed = true;
        queue.abandoned = failed;
        drop(queue);
        self.changed.notify_one();
    }

    /// Read back until it is closed. What was found counts also when it fails.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn run(&self) -> (Findings, Result<()>) {
        let mut found = Findings::default();
        let result = self.read_all(&mut found);
        (found, result)
    }

    fn read_all(&self, found: &mut Findings) -> Result<()> {
        loop {
            let mut queue = lock(&self.queue);
            let is_empty =
                |queue: &Queue| queue.waiting.chunks.is_empty() && queue.waiting.files.is_empty();
            while is_empty(&queue) && !queue.closed {
                queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            if queue.abandoned || is_empty(&queue) {
                return Ok(());
            }
            let chunks = std::mem::take(&mut queue.waiting.chunks);
            let count = queue.waiting.files.len().min(FILES);
            let files: Vec<_> = queue.waiting.files.drain(..count).collect();
            drop(queue);
            self.chunks(chunks, found)?;
            self.files(files, found)?;
        }
    }

    fn is_abandoned(&self) -> bool {
        lock(&self.queue).abandoned
    }

    /// Read chunks of files that are being put together.
    fn chunks(&self, chunks: VecDeque<Work>, found: &mut Findings) -> Result<()> {
        let mut spoiled = Vec::new();
        for (Work { path, place, .. }, verdict) in self.read(chunks)? {
            let Place::Staged { name, index } = place else { continue };
            match verdict {
                Verdict::Same => _ = found.read.entry(name).or_default().insert(index),
                Verdict::Differs => {
                    spoiled.push(Record::Spoiled(path, vec![index]));
                    found.differed += u64::from(found.spoiled.insert(name));
                }
                // The file is in place by now: what was not read of it is read there.
                Verdict::Gone => {}
            }
        }
        if spoiled.is_empty() { Ok(()) } else { self.ledger.record(spoiled, true) }
    }

    /// Read what was not read yet of files that are in place, and remove those that differ: no later
    /// call may take them for what was fetched.
    fn files(&self, files: Vec<(Arc<[u8]>, Option<u64>)>, found: &mut Findings) -> Result<()> {
        let mut works = VecDeque::new();
        let mut left: HashMap<Arc<[u8]>, usize> = HashMap::new();
        let mut differing = HashSet::new();
        for (path, name) in files {
            let read = name.and_then(|name| found.read.remove(&name)).unwrap_or_default();
            if name.is_some_and(|name| found.spoiled.contains(&name)) {
                differing.insert(path);
                continue;
            }
            let stretches = {
                let state = lock(self.ledger.state);
                let Some(Item::File(held)) = state.items.get(&path) else { continue };
                stretches(held, &read)
            };
            left.insert(Arc::clone(&path), stretches.len());
            works.extend(stretches.into_iter().map(|stretch| Work {
                path: Arc::clone(&path),
                place: Place::Placed,
                stretch,
            }));
        }
        for (Work { path, .. }, verdict) in self.read(works)? {
            match verdict {
                Verdict::Same => _ = left.entry(path).and_modify(|left| *left -= 1),
                Verdict::Differs | Verdict::Gone => {
                    found.differed += u64::from(differing.insert(path));
                }
            }
        }
        let proven = left.into_iter().filter(|(_, left)| *left == 0);
        let records: Vec<_> = proven.map(|(path, _)| Record::Proven(path)).collect();
        found.proven += records.len() as u64;
        self.ledger.record(records, false)?;
        if differing.is_empty() {
            return Ok(());
        }
        let mut gone: Vec<_> = differing.into_iter().collect();
        {
            let state = lock(self.ledger.state);
            found.differing.extend(gone.iter().filter_map(|path| match state.items.get(path) {
                Some(Item::File(held)) => Some((Arc::clone(path), held.source)),
                _ => None,
            }));
        }
        remove_gone(self.ledger, &mut gone).map(drop)
    }

    /// Read stretches and return what was found, of those that were read.
    fn read(&self, works: VecDeque<Work>) -> Result<Vec<(Work, Verdict)>> {
        if works.is_empty() {
            return Ok(Vec::new());
        }
        let count = works.len();
        let batch = Batch {
            proving: self,
            waiting: Mutex::new(works),
            done: Mutex::new(Vec::with_capacity(count)),
        };
        let options =
            ReadOptions { bytes_per_second: None, pressure: None, reader: Preference::Auto };
        read::read(&&batch, self.device.clone(), &options, self.ledger.progress)?;
        Ok(batch.done.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Flushed {
    /// Note chunks and files that are about to be recorded.
    pub fn of(chunks: &[Chunk], files: &[Finished]) -> Self {
        let files = files.iter().map(|file| (Arc::clone(&file.path), Some(file.name))).collect();
        Self { chunks: chunks.iter().filter_map(staged).collect(), files }
    }
}

/// Return what is to be read of a chunk, if all that it is judged by is known by now.
fn staged(chunk: &Chunk) -> Option<Work> {
    let &Chunk { ref target, index, digest, state } = chunk;
    let known = |before: u32| target.state().digests.get(&before).and_then(|known| known.1);
    let before = match index.checked_sub(1) {
        Some(before) => Some(known(before)?),
        None => None,
    };
    let begin = u64::from(index) * chunk_size(target.size);
    let range = begin..begin + target.chunk_length(index);
    let stretch = Stretch { range, before, chunk: Some(digest), end: Behind::State(state?) };
    let place = Place::Staged { name: target.name, index };
    Some(Work { path: Arc::clone(&target.path), place, stretch })
}

/// Return the stretches of a file, without chunks that were read.
fn stretches(held: &Held, read: &BTreeSet<u32>) -> Vec<Stretch> {
    let size = held.source.size;
    let Some(table) = &held.table else {
        let end = Behind::Digest(held.digest);
        return vec![Stretch { range: 0..size, before: None, chunk: None, end }];
    };
    let chunk = chunk_size(size);
    (0..)
        .zip(&table.digests)
        .filter(|(index, _)| !read.contains(index))
        .map(|(index, &digest)| {
            let begin = u64::from(index) * chunk;
            let state = |index: u32| table.states.get(index as usize).copied();
            Stretch {
                range: begin..(begin + chunk).min(size),
                before: index.checked_sub(1).and_then(state),
                chunk: Some(digest),
                end: state(index).map_or(Behind::Digest(held.digest), Behind::State),
            }
        })
        .collect()
}

struct Batch<'a> {
    proving: &'a Proving<'a>,
    waiting: Mutex<VecDeque<Work>>,
    done: Mutex<Vec<(Work, Verdict)>>,
}

struct Reading<'a> {
    batch: &'a Batch<'a>,
    work: Work,
    chunk: Xxh64,
    whole: Xxh64,
}

impl<'a> Source for &'a Batch<'a> {
    type Stream = Reading<'a>;

    fn next(&self, end: End) -> holdfast_engine::Result<Option<Opened<Reading<'a>>>> {
        let batch = *self;
        let ledger = batch.proving.ledger;
        loop {
            if batch.proving.is_abandoned() {
                return Ok(None);
            }
            let next = {
                let mut waiting = lock(&batch.waiting);
                if end == End::Largest { waiting.pop_front() } else { waiting.pop_back() }
            };
            let Some(work) = next else { return Ok(None) };
            let file = match work.place {
                Place::Staged { name, .. } => {
                    let name = Staging::name(name);
                    open_file(ledger.staging.fd(), name.as_bytes(), ledger.progress)
                }
                Place::Placed => open_file(ledger.staging.root().fd(), &work.path, ledger.progress),
            };
            let Ok(file) = file else {
                ledger.progress.check()?;
                lock(&batch.done).push((work, Verdict::Gone));
                continue;
            };
            // Where a file cannot be read past the page cache, what was written through it must not
            // be what is read. Flushed pages can be dropped.
            let _ = fadvise(&file.fd, 0, None, Advice::DontNeed);
            let name = String::from_utf8_lossy(&work.path).into_owned().into();
            let range = work.stretch.range.clone();
            let resumed = |state| Xxh64::resume(state, range.start);
            let whole = work.stretch.before.map_or_else(Xxh64::default, resumed);
            let stream = Reading { batch, work, chunk: Xxh64::default(), whole };
            return Ok(Some(Opened { file: Arc::new(file), range, stream, name }));
        }
    }
}

impl Stream for Reading<'_> {
    fn data(&mut self, bytes: &[u8]) -> holdfast_engine::Result<()> {
        if self.work.stretch.chunk.is_some() {
            update_both(&mut self.whole, &mut self.chunk, bytes);
        } else {
            self.whole.update(bytes);
        }
        Ok(())
    }

    fn finish(self, end: Outcome) -> holdfast_engine::Result<()> {
        let Stretch { chunk, end: behind, .. } = &self.work.stretch;
        let same = end == Outcome::Complete
            && chunk.is_none_or(|chunk| chunk == self.chunk.digest())
            && match *behind {
                Behind::State(state) => state == self.whole.lanes(),
                Behind::Digest(digest) => digest == self.whole.digest(),
            };
        let verdict = if same { Verdict::Same } else { Verdict::Differs };
        lock(&self.batch.done).push((self.work, verdict));
        Ok(())
    }
}
