//! One pass over the file of an image: the digest of the packed file, and one for each chunk.
//!
//! One thread reads, unpacks and takes in the file's own digest, which has to be done in order; chunks
//! are hashed by all processors. Holes of a file that is not packed are not read.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{Advice, SeekFrom, fadvise, seek};

use super::chunks::Chunks;
use super::sha256::{Hasher, Sha256};
use super::{Encoding, is_zero};
use crate::pool::{self, Queue};
use crate::progress::lock;
use crate::{Error, Progress, Result};

/// The most threads that hash chunks.
const THREADS: usize = 8;

/// How a file is to be scanned.
pub(super) struct Plan {
    pub encoding: Encoding,
    pub chunk_bytes: u64,
    /// The size of the image, unpacked, if it is known.
    pub size_bytes: Option<u64>,
    /// Whether to leave nothing of the file in the page cache.
    pub drop_cache: bool,
}

/// What a file holds.
pub(super) struct Scanned {
    /// Digest of each chunk; `None` for zeros.
    pub digests: Vec<Option<Sha256>>,
    /// Bytes of the image, unpacked.
    pub size_bytes: u64,
    /// Bytes of the packed file.
    pub content_bytes: u64,
    /// Digest of the packed file.
    pub content_sha256: Sha256,
}

/// Scan the file at `path`; `see` receives each chunk that is not a hole, in order.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`]; [`Error::Record`] if it cannot be unpacked, is not of the
/// planned size, or changes meanwhile; those of `see`.
pub(super) fn scan(
    path: &Path,
    plan: &Plan,
    progress: &Progress,
    mut see: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<Scanned> {
    let file = File::open(path).map_err(|e| Error::io(path, e))?;
    let before = Identity::of(&file, path)?;
    progress.expect(before.size, 1);
    let length = usize::try_from(plan.chunk_bytes).expect("a chunk is a few MiB");
    let threads = pool::processors().min(THREADS);
    let free: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    let digests: Mutex<Vec<Option<Sha256>>> = Mutex::new(Vec::new());
    let mut content = Hasher::default();
    let mut size_bytes = 0;
    let produce = |queue: &Queue<(usize, usize, Vec<u8>)>| {
        let mut reader = Reader::new(&file, path, plan, before.size, &mut content, progress)?;
        loop {
            progress.check()?;
            if !queue.wait_for_room(threads) {
                return Ok(());
            }
            let mut buffer = lock(&free).pop().unwrap_or_else(|| vec![0; length]);
            let Some(read) = reader.next(&mut buffer)? else { return Ok(()) };
            let index = {
                let mut digests = lock(&digests);
                digests.push(None);
                digests.len() - 1
            };
            size_bytes += read.length as u64;
            if read.hole {
                lock(&free).push(buffer);
            } else {
                see(index as u64 * plan.chunk_bytes, &buffer[..read.length])?;
                queue.push((index, read.length, buffer));
            }
        }
    };
    pool::feed(threads, produce, |(index, length, buffer), _| {
        let bytes = &buffer[..length];
        if !is_zero(bytes) {
            let digest = Sha256::of(bytes);
            lock(&digests)[index] = Some(digest);
        }
        lock(&free).push(buffer);
        Ok(())
    })?;
    if Identity::of(&file, path)? != before {
        return Err(Error::record(path, "it changed while it was read"));
    }
    progress.add_files(1);
    Ok(Scanned {
        digests: digests.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner),
        size_bytes,
        content_bytes: before.size,
        content_sha256: content.digest(),
    })
}

/// What changes when a file changes.
#[derive(PartialEq)]
struct Identity {
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(file: &File, path: &Path) -> Result<Self> {
        let found = file.metadata().map_err(|e| Error::io(path, e))?;
        if !found.is_file() {
            return Err(Error::record(path, "it is not a regular file"));
        }
        Ok(Self {
            size: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// A chunk in a buffer, or a hole of that length, for which the buffer was not touched.
struct Chunk {
    length: usize,
    hole: bool,
}

enum Reader<'a> {
    Plain(Plain<'a>),
    Packed(Chunks<Input<'a>>),
}

impl<'a> Reader<'a> {
    fn new(
        file: &'a File,
        path: &'a Path,
        plan: &Plan,
        size: u64,
        digest: &'a mut Hasher,
        progress: &'a Progress,
    ) -> Result<Self> {
        // Being denied this only costs speed.
        let _ = fadvise(file, 0, None, Advice::Sequential);
        let input = Input { file, offset: 0, digest, progress, drop_cache: plan.drop_cache };
        Ok(match plan.encoding {
            Encoding::Identity => {
                if let Some(expected) = plan.size_bytes.filter(|expected| *expected != size) {
                    let reason = format!("it has {size} bytes, and the image has {expected}");
                    return Err(Error::record(path, reason));
                }
                Self::Plain(Plain { input, path, size, zeros: Vec::new(), data_at: 0 })
            }
            encoding => {
                let name = path.to_string_lossy();
                Self::Packed(Chunks::new(name, input, encoding, plan.chunk_bytes, plan.size_bytes)?)
            }
        })
    }

    fn next(&mut self, buffer: &mut [u8]) -> Result<Option<Chunk>> {
        match self {
            Self::Plain(plain) => plain.next(buffer),
            Self::Packed(chunks) => {
                Ok(chunks.fill(buffer)?.map(|(_, length)| Chunk { length, hole: false }))
            }
        }
    }
}

/// The file's bytes in order, taken in and counted.
struct Input<'a> {
    file: &'a File,
    offset: u64,
    digest: &'a mut Hasher,
    progress: &'a Progress,
    drop_cache: bool,
}

impl Input<'_> {
    fn took(&mut self, bytes: &[u8], read: bool) {
        self.digest.update(bytes);
        self.progress.add_bytes(bytes.len() as u64);
        if read {
            self.progress.add_read(bytes.len() as u64);
            if let Some(length) = std::num::NonZeroU64::new(bytes.len() as u64)
                && self.drop_cache
            {
                // What stays costs the datastore a little of its cache, and no more.
                let _ = fadvise(self.file, self.offset, Some(length), Advice::DontNeed);
            }
        }
        self.offset += bytes.len() as u64;
    }
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read_at(buffer, self.offset)?;
        self.took(&buffer[..length], true);
        Ok(length)
    }
}

/// A file that is not packed.
struct Plain<'a> {
    input: Input<'a>,
    path: &'a Path,
    size: u64,
    zeros: Vec<u8>,
    /// There is no data from the current offset up to here.
    data_at: u64,
}

impl Plain<'_> {
    fn next(&mut self, buffer: &mut [u8]) -> Result<Option<Chunk>> {
        let offset = self.input.offset;
        let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        if length == 0 {
            return Ok(None);
        }
        let hole = self.is_hole(offset + length as u64);
        if hole {
            self.zeros.resize(length, 0);
            self.input.took(&self.zeros, false);
        } else {
            self.input.read_exact(&mut buffer[..length]).map_err(|e| Error::io(self.path, e))?;
        }
        Ok(Some(Chunk { length, hole }))
    }

    /// Whether there is nothing but a hole up to `end`.
    fn is_hole(&mut self, end: u64) -> bool {
        let offset = self.input.offset;
        if self.data_at < end {
            self.data_at = match seek(self.input.file.as_fd(), SeekFrom::Data(offset)) {
                Ok(data) => data,
                Err(rustix::io::Errno::NXIO) => u64::MAX,
                // The file system does not report holes: all is to be read.
                Err(_) => offset,
            };
        }
        self.data_at >= end
    }
}
