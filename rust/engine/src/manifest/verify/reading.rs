//! Reading the parts of files, on several threads, and comparing each with the manifest.

use std::collections::hash_map;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Verify;
use super::names::Check;
use super::parts::{Part, Queue};
use crate::Result;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::manifest::hashing::FileHasher;
use crate::manifest::record::{Identity, Type};
use crate::manifest::report::{Finding, FindingKind};
use crate::manifest::stamps::size_error;
use crate::manifest::survey::identity_of;
use crate::progress::lock;
use crate::read::{End, Opened, Outcome as ReadOutcome, Source, Stream};
use crate::tree::confine::{OpenFile, Refusal, open_file, stat};
use crate::xxh64::Xxh64;

/// What is known of a file while its parts are being read.
#[derive(Debug)]
pub(super) struct State {
    file: Arc<OpenFile>,
    identity: Identity,
    name: Arc<str>,
    second: bool,
    left: u32,
    /// Parts that have been read.
    done: Vec<Part>,
    differing: Vec<[u64; 2]>,
    unreadable: Vec<[u64; 2]>,
    detail: Option<String>,
    short: bool,
}

/// How a part is checked.
#[derive(Debug)]
enum Work {
    /// From the state before a chunk to the one after it, or to the file's digest.
    Chain(Xxh64, Option<[u64; 4]>),
    /// The chunk by itself.
    Chunk(Hasher, Digest),
    /// The whole file.
    Whole(FileHasher),
}

pub(super) struct Checking<'a> {
    verify: &'a Verify<'a>,
    part: Part,
    range: std::ops::Range<u64>,
    delivered: u64,
    work: Work,
}

impl<'a> Verify<'a> {
    /// Begin to read a part, unless its file cannot be.
    fn begin(&'a self, part: Part) -> Result<Option<Opened<Checking<'a>>>> {
        let check = &self.checks[part.check as usize];
        let range = self.range(part);
        let mut open = lock(&self.open);
        let state = match open.entry(part.check) {
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => {
                match open_file(self.base.fd(), &check.paths[0], self.progress) {
                    Ok(file) => entry.insert(State::new(file, check)),
                    Err(refusal) => {
                        drop(open);
                        return self.refused(part, &refusal).map(|()| None);
                    }
                }
            }
        };
        let (file, name) = (Arc::clone(&state.file), Arc::clone(&state.name));
        drop(open);
        let work = match (&check.chunks, part.chunk) {
            (Some(chunks), Some(chunk)) => {
                let nth = chunk as usize;
                if self.algorithm == Algorithm::Xxh64 {
                    let before = nth.checked_sub(1).map(|nth| chunks.states[nth]);
                    let hash = before
                        .map_or_else(Xxh64::default, |lanes| Xxh64::resume(lanes, range.start));
                    Work::Chain(hash, chunks.states.get(nth).copied())
                } else {
                    Work::Chunk(Hasher::new(self.algorithm), chunks.digests[nth])
                }
            }
            _ => Work::Whole(FileHasher::new(self.algorithm, check.size)),
        };
        let stream = Checking { verify: self, part, range: range.clone(), delivered: 0, work };
        Ok(Some(Opened { file, range, stream, name }))
    }

    /// A file that was there a moment ago cannot be opened: report it once for all its parts.
    fn refused(&self, part: Part, refusal: &Refusal) -> Result<()> {
        let mut parts = vec![part];
        {
            let mut waiting = lock(&self.waiting);
            let Queue { first, again } = &mut *waiting;
            let others = first.iter().chain(again.iter());
            parts.extend(others.filter(|other| other.check == part.check));
            first.retain(|other| other.check != part.check);
            again.retain(|other| other.check != part.check);
        }
        self.progress.pass_over(self.bytes_in(&parts));
        self.absent(&self.checks[part.check as usize], refusal)
    }

    /// Take in the result of a part; of its file after the last part.
    fn ended(&self, part: Part, note: impl FnOnce(&mut State)) -> Result<()> {
        let state = {
            let mut open = lock(&self.open);
            let Some(state) = open.get_mut(&part.check) else { return Ok(()) };
            note(state);
            state.done.push(part);
            state.left -= 1;
            if state.left > 0 {
                return Ok(());
            }
            let Some(state) = open.remove(&part.check) else { return Ok(()) };
            state
        };
        let check = &self.checks[part.check as usize];
        let after = stat(&state.file.fd).map(|after| identity_of(&after));
        if after == Ok(state.identity) && state.identity.size == check.found {
            self.progress.add_files(1);
            let size = state.identity.size;
            let beyond = || size_error(self.base.filesystem(), &state.file.fd, size);
            let short = state.short.then(|| "it ends before the size that it claims".to_owned());
            let detail = state.detail.clone().or(short).or_else(beyond);
            return self.settle(check, &state.differing, &state.unreadable, detail.as_deref());
        }
        if !state.second {
            // Once more, all that was read of it, unless it has become another file altogether.
            match open_file(self.base.fd(), &check.paths[0], self.progress) {
                Ok(file) if file.stat.stx_size == check.found => {
                    let again = State { second: true, ..State::new(file, check) };
                    lock(&self.open).insert(part.check, again);
                    self.progress.expect_more(self.bytes_in(&state.done));
                    lock(&self.waiting).again.extend(state.done);
                    return Ok(());
                }
                Ok(_) => {}
                Err(refusal) => return self.absent(check, &refusal),
            }
        }
        self.progress.add_files(1);
        self.counts.checked.fetch_add(check.paths.len() as u64, Ordering::Relaxed);
        for path in &check.paths {
            self.counts.changed.fetch_add(1, Ordering::Relaxed);
            self.report.add(&Finding::new(path, FindingKind::Changed, Type::File))?;
        }
        Ok(())
    }
}

impl State {
    fn new(file: OpenFile, check: &Check) -> Self {
        Self {
            identity: identity_of(&file.stat),
            file: Arc::new(file),
            name: String::from_utf8_lossy(&check.paths[0]).into(),
            second: false,
            left: check.parts,
            done: Vec::new(),
            differing: Vec::new(),
            unreadable: Vec::new(),
            detail: None,
            short: false,
        }
    }
}

impl<'a> Source for &'a Verify<'a> {
    type Stream = Checking<'a>;

    fn next(&self, end: End) -> Result<Option<Opened<Checking<'a>>>> {
        let verify = *self;
        while let Some(part) = verify.take(end) {
            verify.progress.check()?;
            if let Some(opened) = verify.begin(part)? {
                return Ok(Some(opened));
            }
        }
        Ok(None)
    }
}

impl Stream for Checking<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        self.delivered += bytes.len() as u64;
        match &mut self.work {
            Work::Chain(hash, _) => hash.update(bytes),
            Work::Chunk(hasher, _) => hasher.update(bytes),
            Work::Whole(hasher) => hasher.update(bytes, |_| ()),
        }
        Ok(())
    }

    fn finish(self, end: ReadOutcome) -> Result<()> {
        let Self { verify, part, range, delivered, work } = self;
        verify.progress.pass_over(range.end - range.start - delivered);
        verify.ended(part, |state| match end {
            ReadOutcome::Complete => {
                let check = &verify.checks[part.check as usize];
                state.differing.extend(work.differing(check, &range));
            }
            ReadOutcome::Short => state.short = true,
            ReadOutcome::Failed { offset, length, errno } => {
                state.unreadable.push([offset, offset + length]);
                let error = std::io::Error::from(errno);
                state.detail.get_or_insert_with(|| {
                    format!("reading {length} bytes at {offset} failed: {error}")
                });
            }
        })
    }
}

impl Work {
    /// The ranges of what was read that are not as they should be.
    fn differing(self, check: &Check, range: &Range<u64>) -> Vec<[u64; 2]> {
        let whole = vec![[range.start, range.end]];
        let same = match self {
            Self::Chain(hash, Some(state)) => hash.lanes() == state,
            Self::Chain(hash, None) => Digest::Xxh64(hash.digest()) == check.digest,
            Self::Chunk(hasher, digest) => hasher.digest() == digest,
            Self::Whole(hasher) => {
                let (digest, found) = hasher.finish();
                let tables = check.chunks.as_ref().zip(found.as_ref());
                if let (true, Some((wanted, found))) = (digest != check.digest, tables) {
                    let pairs = wanted.digests.iter().zip(&found.digests).enumerate();
                    let begin = |nth: usize| nth as u64 * wanted.size;
                    let ranges: Vec<_> = pairs
                        .filter(|(_, (wanted, found))| wanted != found)
                        .map(|(nth, _)| [begin(nth), (begin(nth) + wanted.size).min(check.size)])
                        .collect();
                    // A manifest whose digests contradict each other proves nothing else.
                    return if ranges.is_empty() { whole } else { ranges };
                }
                digest == check.digest
            }
        };
        if same { Vec::new() } else { whole }
    }
}
