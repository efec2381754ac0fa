//! cachestat(2), Linux 6.5 and later.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

use rustix::io::Errno;

/// The call's number: the same on every architecture (`include/uapi/asm-generic/unistd.h`).
const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// What the page cache holds of a range, in pages (`struct cachestat`, `include/uapi/linux/mman.h`).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CacheStat {
    /// In the cache.
    pub cached: u64,
    /// In the cache and not yet written.
    pub dirty: u64,
    /// Being written.
    pub writeback: u64,
    /// Dropped from memory since the inode was read.
    pub evicted: u64,
    /// Dropped so lately that reading them again would count as thrashing.
    pub recently_evicted: u64,
}

impl std::ops::AddAssign for CacheStat {
    fn add_assign(&mut self, other: Self) {
        self.cached += other.cached;
        self.dirty += other.dirty;
        self.writeback += other.writeback;
        self.evicted += other.evicted;
        self.recently_evicted += other.recently_evicted;
    }
}

/// Statistics of `length` bytes at `offset`.
///
/// # Errors
/// `ENOSYS` before Linux 6.5, `EPERM` where the caller neither owns the file nor may write it,
/// `EOPNOTSUPP` on hugetlbfs.
pub fn cachestat(fd: impl AsFd, offset: u64, length: u64) -> rustix::io::Result<CacheStat> {
    let range = Range { offset, length };
    let mut stat = CacheStat::default();
    // SAFETY: both pointers are to live, properly laid out values for the whole call, which reads
    // the first and writes the second.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, fd.as_fd().as_raw_fd(), &raw const range, &raw mut stat, 0_u32)
    };
    if result == 0 {
        Ok(stat)
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}

/// Whether the running kernel has the call and this process may make it (a seccomp filter can
/// answer `EPERM` or `ENOSYS`).
pub fn has_cachestat() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        // A file of our own, so that EPERM can only come from a filter.
        rustix::fs::memfd_create(c"probe", rustix::fs::MemfdFlags::CLOEXEC)
            .is_ok_and(|fd| cachestat(fd, 0, 0).is_ok())
    })
}
