//! The results of a build so far, so that one that was killed resumes instead of starting anew.
//!
//! A file of frames, each with its length and digest: a frame that a crash cut short is dropped with
//! all behind it. The first identifies the build; what was noted for another one is not used.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::hashing::Chunk;
use super::record::{Chunks, Identity, chunk_size};
use crate::digest::{Algorithm, Digest};
use crate::xxh64::xxh64;
use crate::{Error, Result, space};

/// Notes go to the file once they cover this many bytes of data,
const BYTES: u64 = 16 << 20;
/// or after so long.
const AGE: Duration = Duration::from_millis(200);
/// The largest frame that is written or read.
const FRAME: u64 = 16 << 20;
/// Before a frame: its length and the digest of what follows, little endian.
const HEAD: usize = 16;
/// zstd's quickest level.
const LEVEL: i32 = 1;

/// What is being built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The version of this format.
    pub version: u64,
    /// By which digest.
    pub algorithm: Algorithm,
    /// The directory, absolute.
    pub base: PathBuf,
    /// When its walk began, in nanoseconds since the epoch.
    pub scan_started_ns: i64,
}

/// One result. Files go by the digest of their path: whether it is still the same
/// file is known by its identity.
#[derive(Debug, Serialize, Deserialize)]
enum Note {
    /// A whole file.
    Done(u64, Identity, String),
    /// A chunk of one.
    Chunk(u64, Identity, usize, String, Option<[u64; 4]>),
}

/// What is known of a file from an earlier run.
#[derive(Debug)]
pub struct Known {
    /// The file as it was then.
    pub identity: Identity,
    /// Its digest, if it was finished.
    pub digest: Option<Digest>,
    /// Its chunks so far.
    pub chunks: Option<Chunks>,
}

/// A journal being written.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    notes: Vec<u8>,
    bytes: u64,
    flushed: Instant,
}

/// What an earlier run left.
#[derive(Debug, Default)]
pub struct Past {
    /// When its walk began, in nanoseconds since the epoch.
    pub scan_started_ns: Option<i64>,
    files: HashMap<u64, Known>,
}

impl Past {
    /// What is known of a file, unless it is another one by now.
    pub fn take(&mut self, path: &[u8], identity: &Identity) -> Option<Known> {
        if self.files.is_empty() {
            return None;
        }
        self.files.remove(&xxh64(path)).filter(|known| known.identity == *identity)
    }
}

impl Journal {
    /// Open a journal, and read what an earlier run of the same plan left in it. Otherwise it begins
    /// anew.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path, plan: &Plan) -> Result<(Self, Past)> {
        let failed = |error| Error::io(path, error);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed)?;
        let (past, whole) = read(&mut file, plan).map_err(failed)?;
        // Cut off what the crash left half-written, and everything of another plan.
        file.set_len(whole).map_err(failed)?;
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(whole)).map_err(failed)?;
        let path = path.to_owned();
        let mut journal = Self { file, path, notes: Vec::new(), bytes: 0, flushed: Instant::now() };
        if whole == 0 {
            journal.add(plan)?;
            journal.flush()?;
        }
        Ok((journal, past))
    }

    /// Note a whole file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn done(&mut self, path: &[u8], identity: Identity, digest: Digest) -> Result<()> {
        self.bytes += identity.size;
        self.add(&Note::Done(xxh64(path), identity, digest.to_string()))?;
        let due = self.bytes >= BYTES || self.flushed.elapsed() >= AGE;
        if due { self.flush() } else { Ok(()) }
    }

    /// Note a chunk, at once: it covers much data.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn chunk(&mut self, path: &[u8], identity: Identity, chunk: &Chunk) -> Result<()> {
        let Chunk { index, digest, state } = chunk;
        self.add(&Note::Chunk(xxh64(path), identity, *index, digest.to_string(), *state))?;
        self.flush()
    }

    /// Remove it: the work is done.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|e| Error::io(&self.path, e))
    }

    fn add(&mut self, value: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.notes, value).map_err(|e| Error::Invalid(e.to_string()))?;
        self.notes.push(b'\n');
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let packed = zstd::bulk::compress(&self.notes, LEVEL).map_err(|e| self.failed(e))?;
        let mut frame = Vec::with_capacity(HEAD + packed.len());
        frame.extend((packed.len() as u64).to_le_bytes());
        frame.extend(xxh64(&packed).to_le_bytes());
        frame.extend(packed);
        space::check_file(&self.file, &self.path, frame.len() as u64)?;
        // In one call: a process that dies between two has written nothing that misleads.
        self.file.write_all(&frame).map_err(|e| self.failed(e))?;
        self.notes.clear();
        self.bytes = 0;
        self.flushed = Instant::now();
        Ok(())
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(&self.path, error)
    }
}

/// Read all whole frames; return their content, and where they end. Nothing if they are not of this
/// plan.
fn read(file: &mut File, plan: &Plan) -> std::io::Result<(Past, u64)> {
    let mut past = Past::default();
    let mut whole = 0;
    let mut first = true;
    let mut input = std::io::BufReader::new(file);
    while let Some(notes) = frame(&mut input)? {
        for line in notes.1.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            if first {
                first = false;
                let Ok(old) = serde_json::from_slice::<Plan>(line) else {
                    return Ok((Past::default(), 0));
                };
                past.scan_started_ns = Some(old.scan_started_ns);
                if (Plan { scan_started_ns: plan.scan_started_ns, ..old }) != *plan {
                    return Ok((Past::default(), 0));
                }
            } else if let Ok(note) = serde_json::from_slice::<Note>(line) {
                remember(&mut past.files, note, plan.algorithm);
            }
        }
        whole += notes.0;
    }
    Ok((past, whole))
}

/// The next frame: its size in the file, and what is in it. `None` at the end, and at a frame that is
/// not whole.
fn frame(input: &mut impl Read) -> std::io::Result<Option<(u64, Vec<u8>)>> {
    let mut head = [0; HEAD];
    if !fill(input, &mut head)? {
        return Ok(None);
    }
    let (length, digest) = head.split_at(8);
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("half of the head"));
    let (length, digest) = (number(length), number(digest));
    if length > FRAME {
        return Ok(None);
    }
    let mut packed = vec![0; length as usize];
    if !fill(input, &mut packed)? || xxh64(&packed) != digest {
        return Ok(None);
    }
    let notes = zstd::bulk::decompress(&packed, FRAME as usize).ok();
    Ok(notes.map(|notes| (HEAD as u64 + length, notes)))
}

/// Read until the buffer is full; false if the file ends before.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match input.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn remember(files: &mut HashMap<u64, Known>, note: Note, algorithm: Algorithm) {
    match note {
        Note::Done(path, identity, digest) => {
            let Some(digest) = Digest::parse(algorithm, &digest) else { return };
            let known = files.entry(path).or_insert(Known { identity, digest: None, chunks: None });
            if known.identity != identity {
                *known = Known { identity, digest: None, chunks: None };
            }
            known.digest = Some(digest);
        }
        Note::Chunk(path, identity, index, digest, state) => {
            let Some(digest) = Digest::parse(algorithm, &digest) else { return };
            let known = files.entry(path).or_insert(Known { identity, digest: None, chunks: None });
            if known.identity != identity || index == 0 {
                *known = Known { identity, digest: None, chunks: None };
            }
            let size = chunk_size(identity.size);
            let empty = Chunks { size, digests: Vec::new(), states: Vec::new() };
            let chunks = known.chunks.get_or_insert(empty);
            // A gap: nothing can resume from what follows it.
            if chunks.digests.len() == index {
                chunks.digests.push(digest);
                chunks.states.extend(state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::{Chunk, Identity, Journal, Plan};
    use crate::digest::{Algorithm, Digest};

    const SIZE: u64 = 200 << 20;

    fn plan(scan_started_ns: i64) -> Plan {
        Plan { version: 1, algorithm: Algorithm::Xxh64, base: "/a".into(), scan_started_ns }
    }

    fn identity(size: u64) -> Identity {
        Identity { dev: 1, ino: 2, size, mtime_ns: 3, ctime_ns: 4 }
    }

    fn chunk(index: usize) -> Chunk {
        Chunk { index, digest: Digest::Xxh64(index as u64), state: Some([index as u64; 4]) }
    }

    fn write(path: &Path) {
        let (mut journal, past) = Journal::open(path, &plan(7)).unwrap();
        assert_eq!(past.scan_started_ns, None);
        journal.done(b"small", identity(20 << 20), Digest::Xxh64(9)).unwrap();
        journal.chunk(b"large", identity(SIZE), &chunk(0)).unwrap();
        journal.chunk(b"large", identity(SIZE), &chunk(1)).unwrap();
    }

    #[test]
    fn what_was_noted_is_known_again_unless_the_file_is_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        write(&path);
        let (_, mut past) = Journal::open(&path, &plan(8)).unwrap();
        assert_eq!(past.scan_started_ns, Some(7));
        let small = past.take(b"small", &identity(20 << 20)).unwrap();
        assert_eq!(small.digest, Some(Digest::Xxh64(9)));
        let large = past.take(b"large", &identity(SIZE)).unwrap();
        assert_eq!((large.digest, large.chunks.unwrap().states.len()), (None, 2));
        assert!(past.take(b"large", &identity(SIZE)).is_none());
        let (_, mut past) = Journal::open(&path, &plan(8)).unwrap();
        assert!(past.take(b"large", &identity(SIZE + 1)).is_none());
    }

    #[test]
    fn a_frame_cut_short_at_any_byte_is_dropped_and_the_rest_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        write(&path);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, _) = Journal::open(&path, &plan(8)).unwrap();
            journal.done(b"more", identity(32 << 20), Digest::Xxh64(5)).unwrap();
            let (_, mut past) = Journal::open(&path, &plan(9)).unwrap();
            assert!(past.take(b"more", &identity(32 << 20)).is_some(), "cut at {length}");
        }
    }

    #[test]
    fn garbage_and_other_plans_count_for_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        write(&path);
        std::fs::File::options().append(true).open(&path).unwrap().write_all(&[255; 99]).unwrap();
        let (_, mut past) = Journal::open(&path, &plan(8)).unwrap();
        assert!(past.take(b"small", &identity(20 << 20)).is_some());
        let other = Plan { base: "/b".into(), ..plan(8) };
        let (_, mut past) = Journal::open(&path, &other).unwrap();
        assert!(past.take(b"small", &identity(20 << 20)).is_none());
    }
}
