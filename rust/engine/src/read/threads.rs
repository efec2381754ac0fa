//! Reads by threads that call preadv2(2), for where io_uring is forbidden or absent.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use super::queue::{Completion, Queue, Request};
use crate::progress::lock;

/// Stack of a thread that does nothing but read.
const STACK: usize = 64 << 10;

/// A pool of threads that serves one caller. Threads that are stuck in the kernel when it is dropped
/// are left to themselves, with the buffers they own.
#[derive(Debug)]
pub struct Threads {
    requests: Sender<Request>,
    waiting: Arc<Mutex<Receiver<Request>>>,
    completions: Receiver<Completion>,
    done: Sender<Completion>,
    running: usize,
    most: usize,
    in_flight: usize,
}

impl Threads {
    /// A pool of at most `depth` threads, which are started as they are needed.
    pub fn new(depth: usize) -> Self {
        let (requests, waiting) = channel();
        let (done, completions) = channel();
        Self {
            requests,
            waiting: Arc::new(Mutex::new(waiting)),
            completions,
            done,
            running: 0,
            most: depth.max(1),
            in_flight: 0,
        }
    }

    /// Start one more thread; true if there is at least one.
    fn grow(&mut self) -> bool {
        let waiting = Arc::clone(&self.waiting);
        let done = self.done.clone();
        let body = move || {
            crate::pool::be_nice();
            loop {
                let next = lock(&waiting).recv();
                let Ok(request) = next else { return };
                if done.send(read(request)).is_err() {
                    return;
                }
            }
        };
        let started = thread::Builder::new().name("holdfast-read".into()).stack_size(STACK);
        self.running += usize::from(started.spawn(body).is_ok());
        self.running > 0
    }
}

impl Queue for Threads {
    fn push(&mut self, request: Request) {
        self.in_flight += 1;
        if self.in_flight > self.running && self.running < self.most && !self.grow() {
            // No thread is to be had at all: this one can read as well.
            let _ = self.done.send(read(request));
            return;
        }
        // It fails only when the receiver is gone, and this value holds it.
        let _ = self.requests.send(request);
    }

    fn submit(&mut self) -> rustix::io::Result<()> {
        Ok(())
    }

    fn wait(&mut self, timeout: Duration, ended: &mut Vec<Completion>) -> rustix::io::Result<()> {
        if self.in_flight == 0 {
            return Ok(());
        }
        let before = ended.len();
        match self.completions.recv_timeout(timeout) {
            Ok(completion) => ended.push(completion),
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => return Err(Errno::IO),
        }
        ended.extend(self.completions.try_iter());
        self.in_flight -= ended.len() - before;
        Ok(())
    }
}

fn read(mut request: Request) -> Completion {
    let fd = request.file.fd.as_raw_fd();
    let (skip, length) = (request.skip, request.length);
    let result = loop {
        let buffer = &mut request.buffer.all()[skip..][..length];
        match preadv2(fd, buffer, request.offset, request.flags) {
            Err(Errno::INTR) => {}
            result => break result,
        }
    };
    Completion { tag: request.tag, buffer: request.buffer, result }
}

fn preadv2(fd: RawFd, buffer: &mut [u8], offset: u64, flags: i32) -> rustix::io::Result<usize> {
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: the vector is of one buffer, which is borrowed for writing during the call.
    let read = unsafe { libc::preadv2(fd, &raw const vector, 1, offset, flags) };
    usize::try_from(read)
        .map_err(|_| Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
