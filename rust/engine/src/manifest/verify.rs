//! Proving that what is on disk is what a manifest says, by reading it.
//!
//! A file with a table of XXH64 states is checked chunk by chunk, on several processors at once:
//! each chunk, taken in from the state before it, must arrive at the state after it, and the last one
//! at the file's digest. That proves the standard digest of the whole, and tells which chunks differ.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use super::hashing::FileHasher;
use super::record::{Chunks, Entry, FileKey, Header, Identity, Manifest, Status, Type};
use super::report::{Finding, FindingKind, Reason, Report};
use super::stamps::size_error;
use super::survey::{Survey, identity_of, link, survey};
use crate::confine::{OpenFile, Refusal, device, open_file, stat};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::pagecache::Place;
use crate::patterns::Patterns;
use crate::progress::lock;
use crate::read::{self, Device, End, Manner, Opened, Outcome as Ended, Source, Stream};
use crate::skips::LeftOut;
use crate::xxh64::{Xxh64, xxh64};
use crate::{Error, Progress, Result, Root};

/// What to verify, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The manifest.
    pub record: PathBuf,
    /// Bytes of it to decompress at most.
    pub max_bytes: u64,
    /// The directory that is to be what the manifest is of.
    pub place: Place,
    /// Directories to leave out.
    pub exclude: Vec<PathBuf>,
    /// Read only this share of the chunks, chosen at random.
    pub sample_percent: Option<f64>,
    /// What the choice depends on.
    #[serde(default)]
    pub seed: u64,
    /// The record file to write all findings to; its directory exists.
    pub report: PathBuf,
    /// More members for its header.
    pub header: BTreeMap<String, serde_json::Value>,
    /// At most so many bytes each second.
    pub bytes_per_second: Option<u64>,
    /// Give way above this pressure.
    pub pressure: Option<crate::pressure::Limit>,
    /// By which of the ways of reading.
    #[serde(default)]
    pub reader: read::Preference,
}

/// What was found out.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Whether nothing differs and everything could be proven.
    pub ok: bool,
    /// Why it is not `ok` although nothing was found to differ.
    pub why: Option<String>,
    /// Files of which at least a part was read.
    pub checked_files: u64,
    /// Of them those of which all that was read is as it should be.
    pub matching: u64,
    /// Files with other content or size, links with another target, names of another type.
    pub mismatched: u64,
    /// In the manifest only.
    pub missing: u64,
    /// On disk only.
    pub extra: u64,
    /// Written to while they were read, twice.
    pub changed: u64,
    /// The system gave an error.
    pub unreadable: u64,
    /// Of which the manifest itself has no digest.
    pub unproven: u64,
    /// Bytes in the ranges that differ.
    pub mismatched_bytes: u64,
    /// What differs by name, as far as there is room.
    pub findings: Vec<Finding>,
    /// Whether there was room for all.
    pub findings_all: bool,
    /// Bytes checked, holes included.
    pub bytes: u64,
    /// Chunks checked; a file without a table is one.
    pub chunks_checked: u64,
    /// Chunks there are.
    pub chunks_total: u64,
    /// The share that was asked for.
    pub sample_percent: Option<f64>,
    /// What the choice depended on.
    pub seed: Option<u64>,
    /// What of the directory was left out, by reason.
    pub left_out: BTreeMap<crate::skips::Reason, LeftOut>,
    /// How it was read.
    #[serde(flatten)]
    pub reading: read::Report,
}

/// A file to be checked.
#[derive(Debug)]
struct Check {
    /// Its names; more than one where they are one file and are to be the same.
    paths: Vec<Box<[u8]>>,
    /// The size that the manifest says.
    size: u64,
    /// The size it had when it was found.
    found: u64,
    digest: Digest,
    chunks: Option<Chunks>,
    /// How many parts of it are read.
    parts: u32,
}

/// A part of a file to be read: all of it, or one chunk.
#[derive(Debug, Clone, Copy)]
struct Part {
    check: u32,
    chunk: Option<u32>,
}

/// What is known of a file while its parts are being read.
#[derive(Debug)]
struct State {
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

#[derive(Debug, Default)]
struct Waiting {
    /// Parts of the largest file first.
    first: VecDeque<Part>,
    /// Of files that changed while they were read.
    again: Vec<Part>,
}

#[derive(Debug, Default)]
struct Counts {
    checked: AtomicU64,
    matching: AtomicU64,
    mismatched: AtomicU64,
    missing: AtomicU64,
    extra: AtomicU64,
    changed: AtomicU64,
    unreadable: AtomicU64,
    unproven: AtomicU64,
    mismatched_bytes: AtomicU64,
}

struct Verify<'a> {
    base: &'a Root,
    algorithm: Algorithm,
    progress: &'a Progress,
    checks: Vec<Check>,
    waiting: Mutex<Waiting>,
    open: Mutex<HashMap<u32, State>>,
    report: Report,
    counts: Counts,
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

struct Checking<'a> {
    verify: &'a Verify<'a>,
    part: Part,
    range: std::ops::Range<u64>,
    delivered: u64,
    work: Work,
}

/// Verify what is on disk.
///
/// # Errors
/// [`Error::Record`] for a manifest that cannot be trusted, [`Error::Io`] if the directory cannot be
/// read or the report not be written, [`Error::Cancelled`].
pub fn verify(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("walking");
    let mut manifest = Manifest::open(&request.record, request.max_bytes)?;
    let Header { algorithm, include, exclude, .. } = &manifest.header;
    let algorithm = *algorithm;
    let patterns = Patterns::new(include, exclude)?;
    let base = Root::open(&request.place.root)?.below(&request.place.path)?;
    let Survey { mut entries, left_out, mut mounts } =
        survey(&base, &request.exclude, &patterns, progress)?;
    mounts.sort_unstable();
    link(&mut entries);
    let report = Report::create(&request.report, "verify", &request.header)?;
    let counts = Counts::default();
    let checks = plan(&mut manifest, entries, &mounts, &report, &counts, progress)?;

    let mut verify = Verify {
        base: &base,
        algorithm,
        progress,
        checks,
        waiting: Mutex::default(),
        open: Mutex::default(),
        report,
        counts,
    };
    let chunks_total = verify.checks.iter().map(|check| u64::from(check.chunk_count())).sum();
    verify.checks.sort_by_key(|check| std::cmp::Reverse(check.found));
    let parts = verify.choose(request.sample_percent, request.seed);
    let chunks_checked = parts.iter().map(|part| verify.chunks_in(*part)).sum();
    progress.expect(verify.bytes_in(&parts), verify.checks.len() as u64);
    verify.waiting = Mutex::new(Waiting { first: parts.into(), again: Vec::new() });

    progress.enter("verifying");
    verify.settle_without_reading()?;
    let manner = Manner {
        bytes_per_second: request.bytes_per_second,
        pressure: request.pressure.clone(),
        reader: request.reader,
    };
    let top = stat(base.fd()).map_err(|e| Error::io(base.path(), e))?;
    let reading = read::read(&&verify, Device::of(device(&top)), &manner, progress)?;

    let Verify { report, counts, .. } = verify;
    let (findings, findings_all) = report.finish()?;
    let count = AtomicU64::into_inner;
    let mut outcome = Outcome {
        ok: false,
        why: None,
        checked_files: count(counts.checked),
        matching: count(counts.matching),
        mismatched: count(counts.mismatched),
        missing: count(counts.missing),
        extra: count(counts.extra),
        changed: count(counts.changed),
        unreadable: count(counts.unreadable),
        unproven: count(counts.unproven),
        mismatched_bytes: count(counts.mismatched_bytes),
        findings,
        findings_all,
        bytes: progress.bytes_worked(),
        chunks_checked,
        chunks_total,
        sample_percent: request.sample_percent,
        seed: request.sample_percent.map(|_| request.seed),
        left_out: left_out.left_out,
        reading,
    };
    let Outcome { mismatched, missing, extra, changed, unreadable, unproven, .. } = outcome;
    let differs = mismatched + missing + extra + changed + unreadable + unproven > 0;
    if !differs && outcome.checked_files == 0 {
        let left: u64 = outcome.left_out.values().map(|left| left.count).sum();
        // An empty directory is as an empty manifest has it; one of which all was left out is not.
        outcome.why = (left > 0).then(|| {
            let names = if left == 1 { "1 name" } else { &format!("{left} names") };
            format!(
                "nothing was verified: the manifest records no file, and {names} in the directory \
                 were left out"
            )
        });
    }
    outcome.ok = !differs && outcome.why.is_none();
    Ok(outcome)
}

/// Whether a path is that of a mount or below one; `mounts` are sorted.
fn is_below(mounts: &[Box<[u8]>], path: &[u8]) -> bool {
    let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
    ends.chain([path.len()]).any(|end| mounts.binary_search_by(|m| (**m).cmp(&path[..end])).is_ok())
}

/// Compare the names, and find the files whose content has to be looked at.
fn plan(
    manifest: &mut Manifest,
    entries: Vec<Entry>,
    mounts: &[Box<[u8]>],
    report: &Report,
    counts: &Counts,
    progress: &Progress,
) -> Result<Vec<Check>> {
    let mut checks: Vec<Check> = Vec::new();
    // Where the first name of a file that has several is checked.
    let mut linked: HashMap<FileKey, usize> = HashMap::new();
    let extra = |entry: &Entry| {
        counts.extra.fetch_add(1, Ordering::Relaxed);
        report.add(&Finding::new(&entry.path, FindingKind::Extra, entry.kind))
    };
    let mut present = entries.into_iter().peekable();
    while let Some(line) = manifest.next(progress)? {
        while let Some(entry) = present.next_if(|entry| entry.path < line.path) {
            extra(&entry)?;
        }
        let entry = present.next_if(|entry| entry.path == line.path);
        if line.status == Status::Vanished {
            // It was not there in the end: as if there were no line.
            if let Some(entry) = entry {
                extra(&entry)?;
            }
            continue;
        }
        let finding = |kind| Finding::new(&line.path, kind, line.kind);
        let Some(entry) = entry.filter(|entry| entry.status != Status::Vanished) else {
            counts.missing.fetch_add(1, Ordering::Relaxed);
            let hidden = is_below(mounts, &line.path);
            let detail = hidden.then_some("something else is mounted there now");
            report.add(&finding(FindingKind::Missing).detail(detail))?;
            continue;
        };
        if entry.status == Status::Error {
            counts.unreadable.fetch_add(1, Ordering::Relaxed);
            report.add(&finding(FindingKind::Unreadable).detail(entry.detail()))?;
            continue;
        }
        let reason = if entry.kind != line.kind {
            Some(Reason::Type)
        } else if entry.target() != line.target() {
            Some(Reason::Target)
        } else {
            None
        };
        if let Some(reason) = reason {
            counts.mismatched.fetch_add(1, Ordering::Relaxed);
            report.add(&finding(FindingKind::Mismatched).reason(reason))?;
            continue;
        }
        if line.status != Status::Ok {
            counts.unproven.fetch_add(1, Ordering::Relaxed);
            report.add(&finding(FindingKind::Unproven).detail(line.detail()))?;
            continue;
        }
        let Some(digest) = line.digest else { continue };
        let check = Check {
            paths: vec![line.path],
            size: line.identity.size,
            found: entry.identity.size,
            digest,
            chunks: line.rare.and_then(|rare| rare.chunks),
            parts: 0,
        };
        if entry.nlink > 1 {
            let place = *linked.entry(entry.file()).or_insert(checks.len());
            // One file on disk is read once, unless its names are to differ.
            if let Some(first) = checks.get_mut(place)
                && (first.size, first.digest) == (check.size, check.digest)
            {
                first.paths.extend(check.paths);
                continue;
            }
        }
        checks.push(check);
    }
    present.try_for_each(|entry| extra(&entry))?;
    Ok(checks)
}

impl Check {
    fn chunk_count(&self) -> u32 {
        self.chunks.as_ref().map_or(1, |chunks| chunks.digests.len() as u32)
    }

    /// The chunks that are there whole and to be compared: all, unless the size is another one.
    fn comparable(&self) -> u32 {
        let Some(chunks) = &self.chunks else { return u32::from(self.size == self.found) };
        if self.size == self.found {
            return chunks.digests.len() as u32;
        }
        (self.size.min(self.found) / chunks.size) as u32
    }
}

impl<'a> Verify<'a> {
    /// The parts to read, of the largest file first.
    fn choose(&mut self, sample_percent: Option<f64>, seed: u64) -> Vec<Part> {
        let by_chunks = sample_percent.is_some() || self.algorithm == Algorithm::Xxh64;
        let limit = sample_percent.map(|percent| (percent / 100.0 * u64::MAX as f64) as u64);
        let mut parts = Vec::new();
        let mut best = None;
        for (index, check) in self.checks.iter_mut().enumerate() {
            let index = index as u32;
            let whole = check.chunks.is_none() || (check.size == check.found && !by_chunks);
            let count = if whole { check.comparable().min(1) } else { check.comparable() };
            for chunk in 0..count {
                let part = Part { check: index, chunk: (!whole).then_some(chunk) };
                if let Some(limit) = limit {
                    let lot = lot(seed, &check.paths[0], chunk);
                    if best.is_none_or(|(lowest, _)| lot < lowest) {
                        best = Some((lot, part));
                    }
                    if lot > limit {
                        continue;
                    }
                }
                check.parts += 1;
                parts.push(part);
            }
        }
        // A sample of something is never nothing.
        if let (true, Some((_, part))) = (parts.is_empty(), best) {
            self.checks[part.check as usize].parts = 1;
            parts.push(part);
        }
        parts
    }

    fn range(&self, part: Part) -> std::ops::Range<u64> {
        let check = &self.checks[part.check as usize];
        match (part.chunk, &check.chunks) {
            (Some(chunk), Some(chunks)) => {
                let begin = u64::from(chunk) * chunks.size;
                begin..(begin + chunks.size).min(check.size)
            }
            _ => 0..check.size,
        }
    }

    fn chunks_in(&self, part: Part) -> u64 {
        match part.chunk {
            Some(_) => 1,
            None => u64::from(self.checks[part.check as usize].chunk_count()),
        }
    }

    /// Report on files of which nothing is read: those of another size without common chunks.
    fn settle_without_reading(&self) -> Result<()> {
        for check in self.checks.iter().filter(|check| check.parts == 0) {
            self.progress.add_files(1);
            if check.size != check.found {
                self.settle(check, &[], &[], None)?;
            }
        }
        Ok(())
    }

    /// Report what was found out about a file.
    fn settle(
        &self,
        check: &Check,
        differing: &[[u64; 2]],
        unreadable: &[[u64; 2]],
        detail: Option<&str>,
    ) -> Result<()> {
        let counts = &self.counts;
        let names = check.paths.len() as u64;
        let mut differing = differing.to_vec();
        let resized = check.size != check.found;
        if resized {
            // Behind the chunks that could be compared.
            let chunk = check.chunks.as_ref().map_or(0, |chunks| chunks.size);
            let from = u64::from(check.comparable()) * chunk;
            differing.push([from, check.size.max(check.found)]);
        }
        counts.checked.fetch_add(if check.parts > 0 { names } else { 0 }, Ordering::Relaxed);
        let unread = detail.is_some();
        if differing.is_empty() && !unread {
            counts.matching.fetch_add(names, Ordering::Relaxed);
            return Ok(());
        }
        let differing = merged(differing);
        for path in &check.paths {
            if !differing.is_empty() {
                counts.mismatched.fetch_add(1, Ordering::Relaxed);
                let bytes: u64 = differing.iter().map(|[from, to]| to - from).sum();
                counts.mismatched_bytes.fetch_add(bytes, Ordering::Relaxed);
                let reason = if resized { Reason::Size } else { Reason::Content };
                let finding = Finding::new(path, FindingKind::Mismatched, Type::File);
                self.report.add(&finding.reason(reason).ranges(&differing))?;
            }
            if unread {
                counts.unreadable.fetch_add(1, Ordering::Relaxed);
                let finding = Finding::new(path, FindingKind::Unreadable, Type::File);
                let ranges = merged(unreadable.to_vec());
                self.report.add(&finding.detail(detail).ranges(&ranges))?;
            }
        }
        Ok(())
    }

    /// Take the next part.
    fn take(&self, end: End) -> Option<Part> {
        let mut waiting = lock(&self.waiting);
        let next = match end {
            End::Largest => waiting.first.pop_front(),
            End::Smallest => waiting.first.pop_back(),
        };
        next.or_else(|| waiting.again.pop())
    }

    /// Begin to read a part, unless its file cannot be.
    fn begin(&'a self, part: Part) -> Result<Option<Opened<Checking<'a>>>> {
        let check = &self.checks[part.check as usize];
        let range = self.range(part);
        let mut open = lock(&self.open);
        let state = match open.entry(part.check) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
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

    /// A file that was there a moment ago cannot be opened: say so once for all its parts.
    fn refused(&self, part: Part, refusal: &Refusal) -> Result<()> {
        let mut parts = vec![part];
        {
            let mut waiting = lock(&self.waiting);
            let Waiting { first, again } = &mut *waiting;
            let others = first.iter().chain(again.iter());
            parts.extend(others.filter(|other| other.check == part.check));
            first.retain(|other| other.check != part.check);
            again.retain(|other| other.check != part.check);
        }
        self.progress.pass_over(self.bytes_in(&parts));
        self.absent(&self.checks[part.check as usize], refusal)
    }

    /// Report a file that cannot be opened.
    fn absent(&self, check: &Check, refusal: &Refusal) -> Result<()> {
        self.progress.add_files(1);
        for path in &check.paths {
            let finding = if refusal.reason == crate::skips::Reason::Vanished {
                self.counts.missing.fetch_add(1, Ordering::Relaxed);
                Finding::new(path, FindingKind::Missing, Type::File)
            } else {
                self.counts.unreadable.fetch_add(1, Ordering::Relaxed);
                let words = refusal.words();
                Finding::new(path, FindingKind::Unreadable, Type::File).detail(Some(&words))
            };
            self.report.add(&finding)?;
        }
        Ok(())
    }

    fn bytes_in(&self, parts: &[Part]) -> u64 {
        parts.iter().map(|part| self.range(*part)).map(|range| range.end - range.start).sum()
    }

    /// Take in what was found out about a part; about its file after the last one.
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

    fn finish(self, end: Ended) -> Result<()> {
        let Self { verify, part, range, delivered, work } = self;
        verify.progress.pass_over(range.end - range.start - delivered);
        verify.ended(part, |state| match end {
            Ended::Complete => {
                let check = &verify.checks[part.check as usize];
                state.differing.extend(work.differing(check, &range));
            }
            Ended::Short => state.short = true,
            Ended::Failed { offset, length, errno } => {
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
    fn differing(self, check: &Check, range: &std::ops::Range<u64>) -> Vec<[u64; 2]> {
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
                    // A manifest whose digests contradict each other tells nothing but that.
                    return if ranges.is_empty() { whole } else { ranges };
                }
                digest == check.digest
            }
        };
        if same { Vec::new() } else { whole }
    }
}

/// A number that depends on a chunk and the seed only, the same whatever else is in the tree.
fn lot(seed: u64, path: &[u8], chunk: u32) -> u64 {
    let mut hash = Xxh64::default();
    hash.update(&seed.to_le_bytes());
    hash.update(&chunk.to_le_bytes());
    hash.update(&xxh64(path).to_le_bytes());
    hash.digest()
}

/// Ranges in order, those that touch made one.
fn merged(mut ranges: Vec<[u64; 2]>) -> Vec<[u64; 2]> {
    ranges.sort_unstable();
    let mut merged: Vec<[u64; 2]> = Vec::new();
    for [from, to] in ranges {
        match merged.last_mut() {
            Some(last) if last[1] >= from => last[1] = last[1].max(to),
            _ => merged.push([from, to]),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::{is_below, merged};

    #[test]
    fn what_a_mount_hides_is_known_by_whole_names() {
        let mounts: Vec<Box<[u8]>> = vec![b"a/b".as_slice().into(), b"c".as_slice().into()];
        let hidden = |path: &[u8]| is_below(&mounts, path);
        assert!(hidden(b"c") && hidden(b"c/d") && hidden(b"a/b/e/f"));
        assert!(!hidden(b"a") && !hidden(b"a/bc") && !hidden(b"cd"));
    }

    #[test]
    fn ranges_that_touch_become_one() {
        assert_eq!(merged(vec![[4, 8], [0, 2], [8, 9], [5, 6]]), vec![[0, 2], [4, 9]]);
        assert_eq!(merged(Vec::new()), Vec::<[u64; 2]>::new());
    }
}
