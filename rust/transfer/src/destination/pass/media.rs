//! The proof by reading back: what was fetched is read from the device and digested again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use holdfast_engine::digest::{Algorithm, Digest};
use holdfast_engine::manifest::hashing::FileHasher;
use holdfast_engine::read::{
    self, Device, End, Opened, Outcome, Preference, ReadOptions, Source, Stream,
};
use holdfast_engine::tree::confine::{device, open_file, stat};
use holdfast_engine::{Progress, Result, Root};

use crate::Error;
use crate::destination::flush::{Ledger, lock};
use crate::destination::journal::{Held, Item};

struct Proving<'a> {
    base: &'a Root,
    progress: &'a Progress,
    waiting: Mutex<VecDeque<(Arc<[u8]>, Held)>>,
    differing: Mutex<Vec<Arc<[u8]>>>,
}

struct Reading<'a> {
    proving: &'a Proving<'a>,
    path: Arc<[u8]>,
    held: Held,
    hasher: FileHasher,
}

/// Read files back and return the paths of those that differ.
///
/// # Errors
/// [`Error::Engine`].
pub fn prove(ledger: &Ledger<'_>, paths: &[Arc<[u8]>]) -> crate::Result<Vec<Arc<[u8]>>> {
    let state = lock(ledger.state);
    let mut waiting: Vec<_> = paths
        .iter()
        .filter_map(|path| match state.items.get(path) {
            Some(Item::File(held)) => Some((path.clone(), held.clone())),
            _ => None,
        })
        .collect();
    drop(state);
    waiting.sort_by_key(|(_, held)| std::cmp::Reverse(held.source.size));
    let base = ledger.staging.root();
    let top = stat(base.fd()).map_err(|errno| Error::io(base.path(), errno))?;
    // What was written through the page cache was flushed and dropped; direct reads pass it by.
    let proving = Proving {
        base,
        progress: ledger.progress,
        waiting: Mutex::new(waiting.into()),
        differing: Mutex::default(),
    };
    let options = ReadOptions { bytes_per_second: None, pressure: None, reader: Preference::Auto };
    read::read(&&proving, Device::of(device(&top)), &options, ledger.progress)?;
    Ok(std::mem::take(&mut *lock(&proving.differing)))
}

impl<'a> Source for &'a Proving<'a> {
    type Stream = Reading<'a>;

    fn next(&self, end: End) -> Result<Option<Opened<Reading<'a>>>> {
        let proving = *self;
        loop {
            let next = {
                let mut waiting = lock(&proving.waiting);
                if end == End::Largest { waiting.pop_front() } else { waiting.pop_back() }
            };
            let Some((path, held)) = next else { return Ok(None) };
            let Ok(file) = open_file(proving.base.fd(), &path, proving.progress) else {
                proving.progress.check()?;
                lock(&proving.differing).push(path);
                continue;
            };
            let size = held.source.size;
            let name = String::from_utf8_lossy(&path).into_owned().into();
            let hasher = FileHasher::new(Algorithm::Xxh64, size);
            let stream = Reading { proving, path, held, hasher };
            return Ok(Some(Opened { file: Arc::new(file), range: 0..size, stream, name }));
        }
    }
}

impl Stream for Reading<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes, |_| {});
        Ok(())
    }

    fn finish(self, end: Outcome) -> Result<()> {
        let (digest, chunks) = self.hasher.finish();
        let table = self.held.table.as_ref();
        let chunks_fit = chunks.is_none_or(|chunks| {
            table.is_some_and(|table| {
                let digests = table.digests.iter().map(|&digest| Digest::Xxh64(digest));
                chunks.digests.into_iter().eq(digests) && chunks.states == table.states
            })
        });
        let proven =
            end == Outcome::Complete && digest == Digest::Xxh64(self.held.digest) && chunks_fit;
        if !proven {
            lock(&self.proving.differing).push(self.path);
        }
        Ok(())
    }
}
