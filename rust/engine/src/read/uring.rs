//! Reads through io_uring.

use std::collections::HashMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::{EnterFlags, IoUring, opcode, types};
use rustix::io::Errno;

use super::queue::{Completion, Queue, Request};

/// How long the end waits for reads that are still in flight; a device that takes longer is stuck.
const DRAIN: Duration = Duration::from_secs(1);

/// A ring of one thread.
pub struct Uring {
    ring: ManuallyDrop<IoUring>,
    /// The requests the kernel has: it writes into their buffers.
    in_flight: ManuallyDrop<HashMap<u64, Request>>,
    /// Waiting for our own reads must not look like pressure on the device.
    no_iowait: EnterFlags,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

impl Uring {
    /// A ring of `depth` reads, to be used by the calling thread only.
    ///
    /// # Errors
    /// The system's error: `EPERM` where io_uring is forbidden (a seccomp filter,
    /// `kernel.io_uring_disabled`), `ENOSYS` where the kernel has none.
    pub fn new(depth: usize) -> io::Result<Self> {
        let entries = u32::try_from(depth.max(1)).unwrap_or(u32::MAX);
        // Completions are worked off by the waiting thread, not by interrupting it (Linux 6.1).
        let ring =
            IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(entries).or_else(
                |error| match error.raw_os_error() {
                    Some(libc::EINVAL) => IoUring::new(entries),
                    _ => Err(error),
                },
            )?;
        if !ring.params().is_feature_ext_arg() {
            // Before Linux 5.11 a wait cannot have a limit.
            return Err(Errno::OPNOTSUPP.into());
        }
        let quiet = ring.params().is_feature_no_iowait();
        let no_iowait = if quiet { EnterFlags::NO_IOWAIT } else { EnterFlags::empty() };
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            in_flight: ManuallyDrop::new(HashMap::new()),
            no_iowait,
        })
    }

    fn enter(&mut self, want: u32, timeout: Duration) -> rustix::io::Result<()> {
        let pending = self.ring.submission().len();
        let timespec = types::Timespec::from(timeout);
        let arguments = types::SubmitArgs::new().timespec(&timespec);
        let flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG | self.no_iowait;
        // SAFETY: the argument is the structure that EXT_ARG announces, and lives as long as the
        // call; the entries that are submitted are those of `push`.
        let entered = unsafe {
            self.ring.submitter().enter(pending as u32, want, flags.bits(), Some(&arguments))
        };
        match entered.map_err(|error| error.raw_os_error()) {
            Ok(_) | Err(Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Ok(()),
            Err(number) => Err(Errno::from_raw_os_error(number.unwrap_or(libc::EIO))),
        }
    }

    fn reap(&mut self, ended: &mut Vec<Completion>) {
        for entry in self.ring.completion() {
            let Some(request) = self.in_flight.remove(&entry.user_data()) else { continue };
            let result = match entry.result() {
                error if error < 0 => Err(Errno::from_raw_os_error(-error)),
                read => Ok(read as usize),
            };
            ended.push(Completion { tag: request.tag, buffer: request.buffer, result });
        }
    }
}

impl Queue for Uring {
    fn push(&mut self, mut request: Request) {
        let fd = types::Fd(request.file.fd.as_raw_fd());
        let length = u32::try_from(request.length).expect("buffers are smaller than 4 GiB");
        let address = request.buffer.all()[request.skip..][..request.length].as_mut_ptr();
        let entry = opcode::Read::new(fd, address, length)
            .offset(request.offset)
            .rw_flags(request.flags)
            .build()
            .user_data(request.tag);
        let replaced = self.in_flight.insert(request.tag, request);
        assert!(replaced.is_none(), "tags of reads in flight differ");
        // SAFETY: buffer and file stay in `in_flight` until the kernel reports that the read ended.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("no more reads are pushed than the ring was made for");
    }

    fn submit(&mut self) -> rustix::io::Result<()> {
        if self.ring.submission().is_empty() { Ok(()) } else { self.enter(0, Duration::ZERO) }
    }

    fn wait(&mut self, timeout: Duration, ended: &mut Vec<Completion>) -> rustix::io::Result<()> {
        // Nothing to wait for where something has ended already.
        self.reap(ended);
        if !ended.is_empty() || self.in_flight.is_empty() {
            return self.submit();
        }
        self.enter(1, timeout)?;
        self.reap(ended);
        Ok(())
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let deadline = Instant::now() + DRAIN;
        let mut ended = Vec::new();
        while !self.in_flight.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.enter(1, left).is_err() {
                // The kernel may yet write into these buffers: they, and the ring, are never freed.
                return;
            }
            self.reap(&mut ended);
            ended.clear();
        }
        // SAFETY: neither is used after this, the last thing that is done with them.
        unsafe {
            ManuallyDrop::drop(&mut self.ring);
            ManuallyDrop::drop(&mut self.in_flight);
        }
    }
}
