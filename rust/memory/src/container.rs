//! Writes the content of a save: blocks in flight to the device, past the page cache where it can.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Scope;

use holdfast_engine::read::buffers::{Buffer, Buffers};
use holdfast_engine::space;
use holdfast_engine::sys::write_range_back;
use holdfast_engine::tree::confine::{DIOALIGN, stat};
use holdfast_engine::{Error, Progress, Result};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;

use crate::record::BLOCK;

/// Bytes of one write.
const WRITE: usize = 2 << 20;
/// Writes in flight: what keeps an NVMe device busy.
const WRITERS: usize = 4;
/// Buffers: one is filled while others are written.
const BUFFERS: usize = WRITERS + 3;
/// Bytes between two checks of free space, where more is written than was expected.
const STRIDE: u64 = 256 << 20;

/// A file that is written from its beginning to its end.
pub struct Container {
    file: File,
    direct: bool,
    path: PathBuf,
    written: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

/// Its end that takes bytes.
pub struct Filler<'a> {
    container: &'a Container,
    full: Option<SyncSender<(Buffer, usize, u64)>>,
    free: Receiver<Buffer>,
    buffer: Option<(Buffer, usize)>,
    position: u64,
    checked: u64,
    progress: &'a Progress,
}

impl Container {
    /// Make the file, with space for `expected` bytes.
    ///
    /// # Errors
    /// [`Error::NoSpace`] below the floor of free space, [`Error::Io`].
    pub fn create(path: &Path, expected: u64) -> Result<Self> {
        let failed = |error: io::Error| Error::io(path, error);
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(path).map_err(failed)?;
        space::check_file(&file, path, expected)?;
        // Writes that extend a file wait for one another.
        file.set_len(expected).map_err(failed)?;
        match fallocate(&file, FallocateFlags::empty(), 0, expected.max(1)) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(Error::io(path, errno)),
        }
        let found = stat(&file).map_err(|errno| Error::io(path, errno))?;
        let aligned = found.stx_mask & DIOALIGN.bits() == 0
            || (1..=BLOCK as u32).contains(&found.stx_dio_offset_align);
        let mut direct = File::options();
        direct.write(true).custom_flags(libc::O_DIRECT);
        let opened = aligned.then(|| direct.open(path).ok()).flatten();
        let (direct, file) = (opened.is_some(), opened.unwrap_or(file));
        let (path, written, failure) = (path.to_owned(), AtomicU64::new(0), Mutex::default());
        Ok(Self { file, direct, path, written, failure })
    }

    /// Whether it is written past the page cache.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// Start the threads that write.
    ///
    /// # Errors
    /// [`Error::Io`] for want of memory.
    pub fn fill<'scope, 'env: 'scope>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        progress: &'env Progress,
    ) -> Result<Filler<'env>> {
        let (full, queue) = sync_channel(WRITERS);
        let (done, free) = channel();
        let buffers = Buffers::new(BUFFERS, WRITE)?;
        while let Some(buffer) = buffers.take() {
            done.send(buffer).expect("the receiver is in this function");
        }
        let queue = std::sync::Arc::new(Mutex::new(queue));
        for _ in 0..WRITERS {
            let (queue, done) = (std::sync::Arc::clone(&queue), done.clone());
            scope.spawn(move || self.write(&queue, &done));
        }
        Ok(Filler {
            container: self,
            full: Some(full),
            free,
            buffer: None,
            position: 0,
            checked: 0,
            progress,
        })
    }

    fn write(&self, queue: &Mutex<Receiver<(Buffer, usize, u64)>>, done: &Sender<Buffer>) {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((buffer, length, offset)) = next else { return };
            // After a failure the rest is taken and dropped, so that nobody waits.
            if !self.failed()
                && let Err(error) = self.write_block(buffer.filled(length), offset)
            {
                *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
            // At the end nobody wants it back, and what is queued is written all the same.
            let _ = done.send(buffer);
        }
    }

    fn write_block(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if !self.direct {
            // Paced: dirty pages do not pile up, and the page cache keeps what it had.
            write_range_back(&self.file, offset, bytes.len() as u64)?;
            let length = std::num::NonZero::new(bytes.len() as u64);
            let _ = fadvise(&self.file, offset, length, Advice::DontNeed);
        }
        Ok(())
    }

    fn failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Return what went wrong.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn check(&self) -> Result<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |error| Err(Error::io(&self.path, error)))
    }

    /// Cut it to what was written, once its threads have ended, and make it durable.
    ///
    /// # Errors
    /// [`Error::Io`], also of a write.
    pub fn finish(&self, length: u64) -> Result<()> {
        self.check()?;
        let failed = |error: io::Error| Error::io(&self.path, error);
        let written = self.written.load(Ordering::Relaxed);
        if written != length {
            let reason = format!("{written} of {length} bytes were written");
            return Err(failed(io::Error::other(reason)));
        }
        self.file.set_len(length).map_err(failed)?;
        self.file.sync_all().map_err(failed)
    }
}

impl Filler<'_> {
    /// Where the next byte goes: a multiple of [`BLOCK`] after [`Filler::align`].
    pub fn position(&self) -> u64 {
        self.position + self.buffer.as_ref().map_or(0, |(_, length)| *length as u64)
    }

    /// Let `read` put at most `most` bytes where they are written from, and return how many it put
    /// there; they are passed to `taken`.
    ///
    /// # Errors
    /// Those of `read`, and [`Error::Io`] of a write; [`Error::Cancelled`].
    pub fn take(
        &mut self,
        most: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize>,
        taken: impl FnOnce(&[u8]),
    ) -> Result<usize> {
        self.ready()?;
        let (buffer, length) = self.buffer.as_mut().expect("made ready above");
        let space = most.min(WRITE - *length);
        let count = read(&mut buffer.all()[*length..*length + space])?;
        taken(&buffer.filled(*length + count)[*length..]);
        *length += count;
        Ok(count)
    }

    /// Fill up with zeros to the next multiple of [`BLOCK`].
    pub fn align(&mut self) {
        if let Some((buffer, length)) = &mut self.buffer {
            let end = length.next_multiple_of(BLOCK as usize);
            buffer.all()[*length..end].fill(0);
            *length = end;
        }
    }

    /// Have a buffer that is not full.
    fn ready(&mut self) -> Result<()> {
        self.progress.check()?;
        if self.buffer.as_ref().is_some_and(|(_, length)| *length == WRITE) {
            self.flush()?;
        }
        if self.buffer.is_none() {
            self.container.check()?;
            let buffer = self.free.recv().map_err(|_| Error::Cancelled)?;
            self.buffer = Some((buffer, 0));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some((buffer, length)) = self.buffer.take() else { return Ok(()) };
        if self.position >= self.checked {
            space::check_file(&self.container.file, &self.container.path, 0)?;
            self.checked = self.position + STRIDE;
        }
        let full = self.full.as_ref().expect("open until it is finished");
        full.send((buffer, length, self.position)).map_err(|_| Error::Cancelled)?;
        self.position += length as u64;
        Ok(())
    }

    /// Hand on the last bytes, and let the threads end. Returns the length of the file.
    ///
    /// # Errors
    /// As [`Filler::take`].
    pub fn end(mut self) -> Result<u64> {
        self.align();
        self.flush()?;
        self.full = None;
        Ok(self.position)
    }
}
