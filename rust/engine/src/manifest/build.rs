//! Making a manifest: every file below a directory with its digest, each byte read once at most.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::fingerprint::{Fingerprint, Printer};
use super::hashing::FileHasher;
use super::journal::{Journal, Past, Plan};
use super::record::{Chunks, Entry, FORMAT, Header, Identity, Status, Type, VERSION};
use super::reuse::{Known, previous, resume, reuse};
use super::stamps::{now_ns, size_error, wait_for_trace, write_back};
use super::survey::{Survey, describe, identity_of, link, survey};
use super::totals::{Counts, Problem};
use crate::confine::{OpenFile, Refusal, device, stat};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::filesystem::Filesystem;
use crate::pagecache::Place;
use crate::patterns::Patterns;
use crate::progress::lock;
use crate::read::{self, Device, End, Manner, Opened, Outcome as Ended, Source, Stream};
use crate::record::Writer;
use crate::skips::{LeftOut, Reason};
use crate::{Error, Progress, Result, Root};

/// Attempts to open a file when no writer is within the grain of its times.
const QUIET_ATTEMPTS: u32 = 3;
/// The longest time between two looks whether the build was cancelled.
const PAUSE: Duration = Duration::from_millis(100);
/// Lines are handed to the compressor in batches of about this many bytes.
const BATCH: usize = 1 << 20;

/// What to make a manifest of, how, and where to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A root, or a directory below it.
    pub place: Place,
    /// Directories to leave out.
    pub exclude: Vec<PathBuf>,
    /// What to list; everything if there are none.
    pub include_patterns: Vec<String>,
    /// What not to list.
    pub exclude_patterns: Vec<String>,
    /// By which digest.
    pub algorithm: Algorithm,
    /// The record file to write; its directory exists.
    pub destination: PathBuf,
    /// What is found out meanwhile, for a later run if this one is killed.
    pub journal: PathBuf,
    /// Manifests made here, by preference: the digests of unchanged files are taken over from the
    /// first one that is of the same directory and algorithm.
    pub previous: Vec<PathBuf>,
    /// Bytes of one to decompress at most.
    pub max_bytes: u64,
    /// More members for the header.
    pub header: BTreeMap<String, serde_json::Value>,
    /// At most so many bytes each second.
    pub bytes_per_second: Option<u64>,
    /// Give way above this pressure.
    pub pressure: Option<crate::pressure::Limit>,
    /// By which of the ways of reading.
    #[serde(default)]
    pub reader: read::Preference,
    /// Whether what is mounted below the directory belongs to it.
    #[serde(default)]
    pub across_mounts: bool,
}

/// What was recorded.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// What the manifest has.
    #[serde(flatten)]
    pub counts: Counts,
    /// Files without a digest by name, as far as there is room.
    pub problems: Vec<Problem>,
    /// Whether there was room for all.
    pub problems_all: bool,
    /// Bytes hashed in this run, holes included.
    pub hashed_bytes: u64,
    /// What needed no reading.
    #[serde(flatten)]
    pub known: Known,
    /// Why the previous manifest was of no use.
    pub previous_unusable: Option<String>,
    /// Size of the record file.
    pub record_bytes: u64,
    /// What was left out, by reason.
    pub skipped: BTreeMap<Reason, u64>,
    /// The same with some names.
    pub left_out: BTreeMap<Reason, LeftOut>,
    /// How it was read.
    #[serde(flatten)]
    pub reading: read::Report,
    /// What the lines are about, for the comparison with another manifest of the same tree.
    #[serde(skip)]
    pub fingerprint: Fingerprint,
}

/// Files that wait to be hashed.
#[derive(Debug, Default)]
struct Waiting {
    /// Indices of lines, the largest file first.
    first: VecDeque<u32>,
    /// Of files that changed while they were read.
    again: Vec<u32>,
}

struct Build<'a> {
    base: &'a Root,
    algorithm: Algorithm,
    progress: &'a Progress,
    entries: Mutex<Vec<Entry>>,
    waiting: Mutex<Waiting>,
    /// Files that were written to a moment before they were opened first.
    deferred: Mutex<HashSet<u32>>,
    second: Mutex<HashSet<u32>>,
    /// Where to go on in files that an earlier run had begun.
    begun: Mutex<HashMap<u32, Chunks>>,
    journal: Mutex<Journal>,
}

/// How a file can be begun with.
enum Start {
    /// It is open; `traced` if every write to it from then on changes its identity.
    Ready { file: Arc<OpenFile>, identity: Identity, traced: bool },
    /// It was written to just now, and is to be opened after all others.
    Later,
    /// It cannot be opened.
    Refused(Refusal),
}

/// One file being hashed.
struct Hashing<'a> {
    build: &'a Build<'a>,
    index: u32,
    path: Vec<u8>,
    file: Arc<OpenFile>,
    identity: Identity,
    /// Whether any write since it was opened has changed its identity.
    traced: bool,
    hasher: FileHasher,
}

/// Make a manifest.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be read or the manifest not be written,
/// [`Error::Invalid`] for malformed patterns, [`Error::Cancelled`]. No manifest is left then; the
/// journal is.
pub fn build(request: &Request, progress: &Progress) -> Result<Outcome> {
    build_of(request, |_| {}, progress)
}

/// Make a manifest of what a function leaves of all that was found.
///
/// # Errors
/// As [`build`].
pub fn build_of(
    request: &Request,
    select: impl FnOnce(&mut Vec<Entry>),
    progress: &Progress,
) -> Result<Outcome> {
    progress.enter("walking");
    let patterns = Patterns::new(&request.include_patterns, &request.exclude_patterns)?;
    let mut base = Root::open(&request.place.root)?.below(&request.place.path)?;
    if request.across_mounts {
        base = base.across_mounts();
    }
    let plan = Plan {
        version: 1,
        algorithm: request.algorithm,
        base: base.path().to_owned(),
        scan_started_ns: now_ns()?,
    };
    let (journal, mut past) = Journal::open(&request.journal, &plan)?;
    let started = past.scan_started_ns.unwrap_or(plan.scan_started_ns);
    let filesystem = *base.filesystem();
    if !filesystem.keeps_track() {
        past = Past::default();
    }
    let Survey { mut entries, left_out, .. } =
        survey(&base, &request.exclude, &patterns, progress)?;
    select(&mut entries);
    link(&mut entries);

    let mut known = Known::default();
    let previous_unusable = if filesystem.keeps_track() {
        match previous(request) {
            None => None,
            Some(previous) => reuse(&mut entries, previous, progress, &mut known)?,
        }
    } else {
        (!request.previous.is_empty())
            .then(|| format!("not every change of a file leaves a trace on {}", filesystem.name))
    };
    let begun = resume(&mut entries, &mut past, started, &mut known);
    drop(past);
    let waiting = wanting(&mut entries, request.algorithm, filesystem.true_sizes);
    let left = |index: &u32| {
        let size = entries[*index as usize].identity.size;
        size - begun.get(index).map_or(0, |chunks| chunks.size * chunks.states.len() as u64)
    };
    let bytes = waiting.iter().map(left).fold(0, u64::saturating_add);
    let files = entries.iter().filter(|entry| entry.kind == Type::File).count() as u64;
    progress.expect(bytes, files);
    progress.add_files(files - waiting.len() as u64);

    progress.enter("hashing");
    let build = Build {
        base: &base,
        algorithm: request.algorithm,
        progress,
        entries: Mutex::new(entries),
        waiting: Mutex::new(Waiting { first: waiting.into(), again: Vec::new() }),
        deferred: Mutex::default(),
        second: Mutex::default(),
        begun: Mutex::new(begun),
        journal: Mutex::new(journal),
    };
    let manner = Manner {
        bytes_per_second: request.bytes_per_second,
        pressure: request.pressure.clone(),
        reader: request.reader,
    };
    let top = stat(base.fd()).map_err(|e| Error::io(base.path(), e))?;
    let reading = read::read(&&build, Device::of(device(&top)), &manner, progress)?;

    progress.enter("writing");
    let Build { entries, journal, .. } = build;
    let journal = journal.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut entries = entries.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    share(&mut entries);
    let (counts, record_bytes, fingerprint) =
        write(&entries, request, started, filesystem, progress)?;
    journal.remove()?;
    let mut problems = Vec::new();
    let noted = entries.iter().map(|entry| Problem::note(entry, &mut problems));
    let problems_all = noted.fold(true, |all, noted| all & noted);
    Ok(Outcome {
        counts,
        problems,
        problems_all,
        hashed_bytes: progress.bytes_worked(),
        known,
        previous_unusable,
        record_bytes,
        skipped: left_out.skipped,
        left_out: left_out.left_out,
        reading,
        fingerprint,
    })
}

/// The files that must be read, the largest first. Of empty files the digest is known, where sizes
/// can be believed.
fn wanting(entries: &mut [Entry], algorithm: Algorithm, true_sizes: bool) -> Vec<u32> {
    let nothing = Hasher::new(algorithm).digest();
    let mut waiting = Vec::new();
    for (index, entry) in entries.iter_mut().enumerate() {
        let file = entry.kind == Type::File && entry.status == Status::Ok;
        if !file || entry.digest.is_some() || entry.hardlink_of().is_some() {
            continue;
        }
        if entry.identity.size == 0 && true_sizes {
            entry.digest = Some(nothing);
        } else {
            waiting.push(u32::try_from(index).expect("lines are fewer than 2^32"));
        }
    }
    waiting.sort_by_key(|&index| std::cmp::Reverse(entries[index as usize].identity.size));
    waiting
}

/// A file has lost its first name: its next one takes that place. Answers which.
fn promote(entries: &mut [Entry], lost: usize) -> Option<usize> {
    let (head, tail) = entries.split_at_mut(lost + 1);
    let first = &head[lost].path;
    let mut others = tail.iter_mut().enumerate().filter(|(_, e)| e.hardlink_of() == Some(first));
    let (next, entry) = others.next()?;
    entry.rare_mut().hardlink_of = None;
    let path = entry.path.to_vec();
    others.for_each(|(_, other)| other.rare_mut().hardlink_of = Some(path.clone()));
    Some(lost + 1 + next)
}

/// Give the other names of a file what was found out under its first.
fn share(entries: &mut [Entry]) {
    for index in 0..entries.len() {
        let Some(first) = entries[index].hardlink_of() else { continue };
        let place = entries.binary_search_by(|entry| (*entry.path).cmp(first));
        let Ok(place) = place else { continue };
        let (known, entry) = if place < index {
            let (head, tail) = entries.split_at_mut(index);
            (&head[place], &mut tail[0])
        } else {
            continue;
        };
        entry.digest = known.digest;
        entry.status = known.status;
        if let Some(detail) = known.detail() {
            entry.rare_mut().detail = Some(detail.to_owned());
        }
        if known.digest.is_some() {
            entry.identity = known.identity;
        }
    }
}

fn write(
    entries: &[Entry],
    request: &Request,
    started: i64,
    filesystem: Filesystem,
    progress: &Progress,
) -> Result<(Counts, u64, Fingerprint)> {
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        algorithm: request.algorithm,
        root: request.place.root.to_string_lossy().into_owned(),
        path: request.place.path.to_string_lossy().into_owned(),
        include: request.include_patterns.clone(),
        exclude: request.exclude_patterns.clone(),
        scan_started_ns: started,
        written_back: filesystem.keeps_track(),
        other: request.header.clone(),
    };
    let mut writer = Writer::create(&request.destination, &header)?;
    let mut counts = Counts::default();
    let mut printer = Printer::default();
    let mut lines = Vec::with_capacity(BATCH + (64 << 10));
    for entry in entries {
        counts.count(entry);
        printer.add(entry);
        entry.push(&mut lines)?;
        if lines.len() >= BATCH {
            progress.check()?;
            writer.write(&lines)?;
            lines.clear();
        }
    }
    writer.write(&lines)?;
    progress.check()?;
    let record_bytes = writer.finish(counts.entries, counts.bytes)?;
    Ok((counts, record_bytes, printer.finish()))
}

impl<'a> Source for &'a Build<'a> {
    type Stream = Hashing<'a>;

    fn next(&self, end: End) -> Result<Option<Opened<Hashing<'a>>>> {
        let build = *self;
        loop {
            build.progress.check()?;
            let index = {
                let mut waiting = lock(&build.waiting);
                let next = match end {
                    End::Largest => waiting.first.pop_front(),
                    End::Smallest => waiting.first.pop_back(),
                };
                match next.or_else(|| waiting.again.pop()) {
                    Some(index) => index,
                    None => return Ok(None),
                }
            };
            if let Some(opened) = build.open(index)? {
                return Ok(Some(opened));
            }
        }
    }
}

impl<'a> Build<'a> {
    /// Open a file to hash it, unless its outcome is clear.
    fn open(&'a self, index: u32) -> Result<Option<Opened<Hashing<'a>>>> {
        let (path, found) = {
            let entry = &lock(&self.entries)[index as usize];
            (entry.path.to_vec(), entry.identity)
        };
        let expected = found.size;
        let start = self.open_quiet(index, &path)?;
        if matches!(start, Start::Later) {
            return Ok(None);
        }
        let begun = lock(&self.begun).remove(&index);
        let had = begun.as_ref().map_or(0, |chunks| chunks.size * chunks.states.len() as u64);
        let (file, identity, traced) = match start {
            Start::Ready { file, identity, traced } => (file, identity, traced),
            Start::Later => return Ok(None),
            Start::Refused(refusal) => {
                self.refused(index, &refusal);
                self.progress.pass_over(expected - had);
                return Ok(None);
            }
        };
        // What an earlier run knew was compared with the file as it was found, not as it is now.
        let hasher = match begun.filter(|_| identity == found) {
            Some(chunks) => FileHasher::resume(self.algorithm, identity.size, chunks),
            None => FileHasher::new(self.algorithm, identity.size),
        };
        // It may have another size by now than when it was counted.
        let begin = hasher.position();
        self.progress.expect_more((identity.size - begin).saturating_sub(expected - had));
        self.progress.pass_over((expected - had).saturating_sub(identity.size - begin));
        if let Err(errno) =
            write_back(*self.base.filesystem(), &file.fd, identity.size, self.progress)
        {
            self.progress.check()?;
            let error = std::io::Error::from(errno);
            self.progress.pass_over(identity.size - begin);
            let detail = format!("writing its dirty pages back failed: {error}");
            self.found(index, &file, Found::Error(detail));
            return Ok(None);
        }
        let name = String::from_utf8_lossy(&path).into();
        let range = begin..identity.size;
        let stream =
            Hashing { build: self, index, path, file: Arc::clone(&file), identity, traced, hasher };
        Ok(Some(Opened { file, range, stream, name }))
    }

    /// Open a file at a moment from which on every write to it changes its identity.
    fn open_quiet(&self, index: u32, path: &[u8]) -> Result<Start> {
        let mut attempts = 0;
        loop {
            let now = now_ns()?;
            let file = match self.base.open_file(path, self.progress) {
                Ok(file) => Arc::new(file),
                Err(refusal) => {
                    self.progress.check()?;
                    return Ok(Start::Refused(refusal));
                }
            };
            let identity = identity_of(&file.stat);
            let Some(wait) = wait_for_trace(&identity, now) else {
                return Ok(Start::Ready { file, identity, traced: true });
            };
            if lock(&self.deferred).insert(index) {
                lock(&self.waiting).again.push(index);
                return Ok(Start::Later);
            }
            attempts += 1;
            if attempts == QUIET_ATTEMPTS {
                return Ok(Start::Ready { file, identity, traced: false });
            }
            self.pause(wait)?;
        }
    }

    /// Wait, unless the build is cancelled.
    fn pause(&self, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while let left = end.saturating_duration_since(Instant::now())
            && !left.is_zero()
        {
            self.progress.check()?;
            std::thread::sleep(left.min(PAUSE));
        }
        self.progress.check()
    }

    fn refused(&self, index: u32, refusal: &Refusal) {
        let mut entries = lock(&self.entries);
        let entry = &mut entries[index as usize];
        entry.status = match refusal.reason {
            Reason::Vanished => Status::Vanished,
            // It was a regular file when it was found.
            Reason::NotAFile | Reason::Symlink | Reason::Special | Reason::OtherFilesystem => {
                Status::Changed
            }
            _ => Status::Error,
        };
        if entry.status != Status::Vanished {
            entry.rare_mut().detail = Some(refusal.words());
        }
        if entry.nlink > 1
            && let Some(next) = promote(&mut entries, index as usize)
        {
            // One more to read, which was counted as done with its first name.
            self.progress.expect_more(entries[next].identity.size);
            lock(&self.waiting).again.push(next as u32);
        } else {
            self.progress.add_files(1);
        }
    }

    fn found(&self, index: u32, file: &OpenFile, found: Found) {
        let mut entries = lock(&self.entries);
        let entry = &mut entries[index as usize];
        describe(entry, &file.stat);
        match found {
            Found::Digest(digest, chunks) => {
                entry.digest = Some(digest);
                if let Some(chunks) = chunks {
                    entry.rare_mut().chunks = Some(chunks);
                }
            }
            Found::Changed => entry.status = Status::Changed,
            Found::Error(detail) => {
                entry.status = Status::Error;
                entry.rare_mut().detail = Some(detail);
            }
        }
        self.progress.add_files(1);
    }
}

enum Found {
    Digest(Digest, Option<Chunks>),
    Changed,
    Error(String),
}

impl Stream for Hashing<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        let (path, identity, journal) = (&self.path, self.identity, &self.build.journal);
        let mut noted = Ok(());
        self.hasher.update(bytes, |chunk| {
            if noted.is_ok() {
                noted = lock(journal).chunk(path, identity, &chunk);
            }
        });
        noted
    }

    fn finish(self, end: Ended) -> Result<()> {
        let Self { build, index, path, file, identity, traced, hasher } = self;
        let size = identity.size;
        let missing = size - hasher.position();
        let same = stat(&file.fd).is_ok_and(|after| identity_of(&after) == identity);
        let found = match end {
            Ended::Failed { offset, length, errno } => {
                let error = std::io::Error::from(errno);
                Found::Error(format!("reading {length} bytes at {offset} failed: {error}"))
            }
            Ended::Complete if same && traced => {
                match size_error(build.base.filesystem(), &file.fd, size) {
                    Some(detail) => Found::Error(detail),
                    None => {
                        let (digest, chunks) = hasher.finish();
                        lock(&build.journal).done(&path, identity, digest)?;
                        Found::Digest(digest, chunks)
                    }
                }
            }
            Ended::Complete | Ended::Short => {
                if lock(&build.second).insert(index) {
                    // Once more, from the start: what was counted as done has to be done again.
                    build.progress.expect_more(size - missing);
                    let entry = &mut lock(&build.entries)[index as usize];
                    entry.identity.size = size;
                    lock(&build.waiting).again.push(index);
                    return Ok(());
                }
                match end {
                    Ended::Short if same => {
                        Found::Error("it ends before the size that it claims".to_owned())
                    }
                    _ => Found::Changed,
                }
            }
        };
        build.progress.pass_over(missing);
        build.found(index, &file, found);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::{
        Algorithm, Build, Chunks, Entry, Journal, Plan, Progress, Root, Status, Waiting, describe,
        link,
    };
    use crate::confine::open_file;
    use crate::digest::Digest;
    use crate::manifest::record::CHUNK;

    #[test]
    fn a_file_that_loses_its_first_name_is_read_under_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("b"), "content").unwrap();
        for name in ["a", "c"] {
            std::fs::hard_link(path("b"), path(name)).unwrap();
        }
        let base = Root::open(directory.path()).unwrap();
        let mut entries = Vec::new();
        for name in ["a", "b", "c"] {
            let mut entry = Entry { path: name.as_bytes().into(), ..Entry::default() };
            describe(
                &mut entry,
                &open_file(base.fd(), name.as_bytes(), &Progress::default()).unwrap().stat,
            );
            entries.push(entry);
        }
        link(&mut entries);
        std::fs::remove_file(path("a")).unwrap();
        let progress = Progress::default();
        let plan = Plan {
            version: 1,
            algorithm: Algorithm::Xxh64,
            base: directory.path().to_owned(),
            scan_started_ns: 0,
        };
        let build = Build {
            base: &base,
            algorithm: Algorithm::Xxh64,
            progress: &progress,
            entries: Mutex::new(entries),
            waiting: Mutex::new(Waiting::default()),
            deferred: Mutex::new([0, 1, 2].into()),
            second: Mutex::default(),
            begun: Mutex::default(),
            journal: Mutex::new(Journal::open(&path("journal"), &plan).unwrap().0),
        };
        assert!(build.open(0).unwrap().is_none());
        assert_eq!(build.waiting.lock().unwrap().again, [1]);
        assert!(build.open(1).unwrap().is_some());
        let entries = build.entries.lock().unwrap();
        assert_eq!(entries[0].status, Status::Vanished);
        assert_eq!(entries[1].hardlink_of(), None);
        assert_eq!(entries[2].hardlink_of(), Some(b"b".as_slice()));
    }

    #[test]
    fn a_file_that_changed_after_it_was_found_is_not_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(directory.path().join("f")).unwrap();
        file.set_len(2 * CHUNK).unwrap();
        let base = Root::open(directory.path()).unwrap();
        let progress = Progress::default();
        let plan = Plan {
            version: 1,
            algorithm: Algorithm::Xxh64,
            base: directory.path().to_owned(),
            scan_started_ns: 0,
        };
        let begin = |later_ns: i128| {
            let mut entry = Entry { path: b"f".as_slice().into(), ..Entry::default() };
            describe(&mut entry, &open_file(base.fd(), b"f", &progress).unwrap().stat);
            entry.identity.mtime_ns -= later_ns;
            let chunks =
                Chunks { size: CHUNK, digests: vec![Digest::Xxh64(1)], states: vec![[1, 2, 3, 4]] };
            let journal = directory.path().join("journal");
            let build = Build {
                base: &base,
                algorithm: Algorithm::Xxh64,
                progress: &progress,
                entries: Mutex::new(vec![entry]),
                waiting: Mutex::new(Waiting::default()),
                deferred: Mutex::new([0].into()),
                second: Mutex::default(),
                begun: Mutex::new(HashMap::from([(0, chunks)])),
                journal: Mutex::new(Journal::open(&journal, &plan).unwrap().0),
            };
            build.open(0).unwrap().unwrap().range.start
        };
        assert_eq!(begin(0), CHUNK);
        assert_eq!(begin(1), 0);
    }
}
