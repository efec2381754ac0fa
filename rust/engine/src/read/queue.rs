//! Reads that are in flight: what every way of having them done has in common.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;

use super::buffers::Buffer;
use crate::tree::confine::OpenFile;

/// A read to be done.
#[derive(Debug)]
pub struct Request {
    /// Comes back with the completion.
    pub tag: u64,
    /// The file, kept open until the read has ended.
    pub file: Arc<OpenFile>,
    /// Where to begin, in bytes.
    pub offset: u64,
    /// Bytes wanted; no more than fit into the buffer.
    pub length: usize,
    /// Where in the buffer to put the first of them: behind what an earlier read put there.
    pub skip: usize,
    /// Flags of preadv2(2).
    pub flags: i32,
    /// Where to put them.
    pub buffer: Buffer,
}

/// A read that has ended.
#[derive(Debug)]
pub struct Completion {
    /// Of its request.
    pub tag: u64,
    /// Of its request, with what was read.
    pub buffer: Buffer,
    /// Bytes read; fewer than wanted at the end of the file.
    pub result: Result<usize, Errno>,
}

/// Has reads done. Dropping it does not wait for long: what is in flight keeps its buffer and file.
pub trait Queue {
    /// Take a request; it may begin at once or at the next [`Queue::wait`].
    fn push(&mut self, request: Request);

    /// Begin what was pushed.
    ///
    /// # Errors
    /// As [`Queue::wait`].
    fn submit(&mut self) -> rustix::io::Result<()>;

    /// Begin what was pushed, wait until something in flight has ended, at most for `timeout`, and
    /// add all that has ended to `ended`.
    ///
    /// # Errors
    /// The system's error, after which the queue is of no use any more.
    fn wait(&mut self, timeout: Duration, ended: &mut Vec<Completion>) -> rustix::io::Result<()>;
}
