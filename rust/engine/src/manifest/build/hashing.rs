//! Opening and hashing single files, on several threads; files that change meanwhile, and cannot be.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Build;
use super::links::promote;
use crate::Result;
use crate::digest::Digest;
use crate::manifest::hashing::FileHasher;
use crate::manifest::record::{Chunks, Identity, Status};
use crate::manifest::stamps::{now_ns, size_error, wait_for_trace, write_back};
use crate::manifest::survey::{describe, identity_of};
use crate::progress::lock;
use crate::read::{End, Opened, Outcome as ReadOutcome, Source, Stream};
use crate::tree::confine::{OpenFile, Refusal, stat};
use crate::tree::skips::Reason;

/// Attempts to open a file when no writer is within the grain of its times.
const QUIET_ATTEMPTS: u32 = 3;
/// The longest time between two looks whether the build was cancelled.
const PAUSE: Duration = Duration::from_millis(100);

/// How a file can be started.
enum Start {
    /// It is open; `traced` if every write to it from then on changes its identity.
    Ready { file: Arc<OpenFile>, identity: Identity, traced: bool },
    /// It was written to just now, and is to be opened after all others.
    Later,
    /// It cannot be opened.
    Refused(Refusal),
}

/// One file being hashed.
pub(super) struct Hashing<'a> {
    build: &'a Build<'a>,
    index: u32,
    path: Vec<u8>,
    file: Arc<OpenFile>,
    identity: Identity,
    /// Whether any write since it was opened has changed its identity.
    traced: bool,
    hasher: FileHasher,
}

impl<'a> Source for &'a Build<'a> {
    type Stream = Hashing<'a>;

    fn next(&self, end: End) -> Result<Option<Opened<Hashing<'a>>>> {
        let build = *self;
        loop {
            build.progress.check()?;
            let Some(index) = lock(&build.waiting).take(end) else { return Ok(None) };
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
        let partial = lock(&self.partial).remove(&index);
        let had = partial.as_ref().map_or(0, |chunks| chunks.size * chunks.states.len() as u64);
        let (file, identity, traced) = match start {
            Start::Ready { file, identity, traced } => (file, identity, traced),
            Start::Later => return Ok(None),
            Start::Refused(refusal) => {
                self.refused(index, &refusal);
                self.progress.pass_over(expected - had);
                return Ok(None);
            }
        };
        // What an earlier run knew was compared with the file as found, not with its present state.
        let hasher = match partial.filter(|_| identity == found) {
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

    fn finish(self, end: ReadOutcome) -> Result<()> {
        let Self { build, index, path, file, identity, traced, hasher } = self;
        let size = identity.size;
        let missing = size - hasher.position();
        let same = stat(&file.fd).is_ok_and(|after| identity_of(&after) == identity);
        let found = match end {
            ReadOutcome::Failed { offset, length, errno } => {
                let error = std::io::Error::from(errno);
                Found::Error(format!("reading {length} bytes at {offset} failed: {error}"))
            }
            ReadOutcome::Complete if same && traced => {
                match size_error(build.base.filesystem(), &file.fd, size) {
                    Some(detail) => Found::Error(detail),
                    None => {
                        let (digest, chunks) = hasher.finish();
                        lock(&build.journal).done(&path, identity, digest)?;
                        Found::Digest(digest, chunks)
                    }
                }
            }
            ReadOutcome::Complete | ReadOutcome::Short => {
                if lock(&build.second).insert(index) {
                    // Once more, from the start: what was counted as done has to be done again.
                    build.progress.expect_more(size - missing);
                    let entry = &mut lock(&build.entries)[index as usize];
                    entry.identity.size = size;
                    lock(&build.waiting).again.push(index);
                    return Ok(());
                }
                match end {
                    ReadOutcome::Short if same => {
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

    use super::{Build, Chunks, Status, describe};
    use crate::digest::{Algorithm, Digest};
    use crate::manifest::build::queue::Queue;
    use crate::manifest::journal::{Journal, Plan};
    use crate::manifest::record::{CHUNK, Entry};
    use crate::manifest::survey::link;
    use crate::tree::confine::open_file;
    use crate::{Progress, Root};

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
            waiting: Mutex::new(Queue::default()),
            deferred: Mutex::new([0, 1, 2].into()),
            second: Mutex::default(),
            partial: Mutex::default(),
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
                waiting: Mutex::new(Queue::default()),
                deferred: Mutex::new([0].into()),
                second: Mutex::default(),
                partial: Mutex::new(HashMap::from([(0, chunks)])),
                journal: Mutex::new(Journal::open(&journal, &plan).unwrap().0),
            };
            build.open(0).unwrap().unwrap().range.start
        };
        assert_eq!(begin(0), CHUNK);
        assert_eq!(begin(1), 0);
    }
}
