//! sync_file_range(2).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Write the dirty pages of `length` bytes at `offset` to the device and wait for it; a length of
/// zero means up to the end of the file.
///
/// It commits no journal and flushes no device's cache: what matters here is that the pages are
/// clean, not that they survive a power cut.
///
/// # Errors
/// The system's error; `EIO` and `ENOSPC` also for pages that could not be written.
pub fn write_range_back(fd: impl AsFd, offset: u64, length: u64) -> rustix::io::Result<()> {
    let flags = libc::SYNC_FILE_RANGE_WAIT_BEFORE
        | libc::SYNC_FILE_RANGE_WRITE
        | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let (offset, length) = (offset.cast_signed(), length.cast_signed());
    // SAFETY: the call takes no pointers, and the descriptor is open for as long as it lasts.
    let result = unsafe { libc::sync_file_range(fd.as_fd().as_raw_fd(), offset, length, flags) };
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    }
}
