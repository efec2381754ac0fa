//! What a file system records when a file is written to, and what follows for digests.
//!
//! A digest may be used again only where every write after it was taken has left a trace. Three
//! things stand against that:
//!
//! - **Coarse times.** ext4 with inodes of 128 bytes keeps whole seconds, so that a second write in
//!   the same second changes nothing that stat(2) shows.
//! - **Memory maps.** The kernel stamps a file when a clean page is first written to, and not again
//!   before that page was written back (`do_page_mkwrite` and `folio_mkclean` in the kernel's `mm/`).
//!   A page that was dirty when the file was read through the page cache can change without a trace.
//!   Reads past the cache write back first; everything else must ask for it.
//! - **File systems that promise none of this**: see [`Filesystem`].

use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use super::record::Identity;
use crate::sys::write_range_back;
use crate::tree::filesystem::{Filesystem, WriteBack};
use crate::{Error, Progress, Result};

/// Bytes that are written back between two checks for cancellation.
const WINDOW: u64 = 64 << 20;
/// Times of files are as fine as the kernel's tick, of at most 10 ms.
const TICK: i128 = 20_000_000;
const SECOND: i128 = 1_000_000_000;
/// Write the dirty pages of a file back, where its file system's times depend on it.
///
/// # Errors
/// The system's error; [`Errno::CANCELED`] if `progress` was cancelled.
pub fn write_back(
    filesystem: Filesystem,
    file: &OwnedFd,
    size: u64,
    progress: &Progress,
) -> rustix::io::Result<()> {
    let rounds = match filesystem.write_back {
        None => return Ok(()),
        Some(WriteBack::Once) => 1,
        Some(WriteBack::Twice) => 2,
    };
    let mut offset = 0;
    while offset < size {
        // The last one is to the end of the file, wherever that is by now.
        let last = size - offset <= WINDOW;
        for _ in 0..rounds {
            write_range_back(file, offset, if last { 0 } else { WINDOW })?;
        }
        if progress.cancelled() {
            return Err(Errno::CANCELED);
        }
        offset += WINDOW;
    }
    Ok(())
}

/// The time now, in nanoseconds since the epoch.
///
/// # Errors
/// [`Error::Invalid`] if the clock is set before 1970 or after 2262.
pub fn now_ns() -> Result<i64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .ok_or_else(|| Error::Invalid("the clock is set before 1970 or after 2262".to_owned()))
}

/// Whether a file that looks the same as at a walk that started at `started` is the same: not if it
/// was written so late that it can have been written again without a trace.
pub fn is_settled(identity: &Identity, started: i64) -> bool {
    let limit = i128::from(started) - grain(identity);
    identity.mtime_ns < limit && identity.ctime_ns < limit
}

/// How long to wait until a write to this file, as it was found at `now`, would change its times;
/// `None` if it would already.
pub fn wait_for_trace(identity: &Identity, now: i64) -> Option<Duration> {
    let grain = grain(identity);
    let left = identity.ctime_ns + grain - i128::from(now);
    // A time in the future is that of a clock that was set back: writes get another one.
    (left > 0 && left <= grain + SECOND)
        .then(|| Duration::from_nanos(u64::try_from(left).unwrap_or(0)))
}

/// How long a file's times stay the same although it is written to, in nanoseconds. A change time in
/// whole seconds is taken for one that is kept in seconds only: nobody can set it.
fn grain(identity: &Identity) -> i128 {
    if identity.ctime_ns.rem_euclid(SECOND) == 0 { SECOND + TICK } else { TICK }
}

/// Return why the size of a file is not that of its content, where the file system's sizes cannot
/// be believed; `None` if it is. Nothing may be in flight for the file any more.
pub fn size_error(filesystem: &Filesystem, file: &OwnedFd, size: u64) -> Option<String> {
    if filesystem.true_sizes {
        return None;
    }
    // Through the same descriptor, as not every FUSE server takes a second one; past the cache only
    // whole blocks could be read.
    let flags = fcntl_getfl(file).and_then(|flags| fcntl_setfl(file, flags - OFlags::DIRECT));
    match flags.and_then(|()| rustix::io::pread(file, &mut [0], size)) {
        Ok(0) => None,
        Ok(_) => Some("it has more content than the size that it claims".to_owned()),
        Err(errno) => {
            let error = std::io::Error::from(errno);
            Some(format!("reading behind its end failed: {error}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SECOND, is_settled, wait_for_trace};
    use crate::manifest::record::Identity;

    fn changed_at(ctime_ns: i128) -> Identity {
        Identity { ctime_ns, mtime_ns: ctime_ns, ..Identity::default() }
    }

    #[test]
    fn a_time_in_whole_seconds_is_waited_for_longer() {
        let now = 1_000 * SECOND + 300_000_000;
        let wait_for_trace =
            |identity: &Identity, now: i128| wait_for_trace(identity, i64::try_from(now).unwrap());
        let coarse = wait_for_trace(&changed_at(1_000 * SECOND), now).unwrap();
        assert!(coarse.as_millis() >= 700, "{coarse:?}");
        assert_eq!(wait_for_trace(&changed_at(1_000 * SECOND + 1), now), None);
        assert!(wait_for_trace(&changed_at(now - 1_000_000), now).is_some());
        assert_eq!(wait_for_trace(&changed_at(now + 100 * SECOND), now), None);
    }

    #[test]
    fn a_file_is_settled_once_its_times_would_have_moved() {
        let started = 1_000 * SECOND;
        let is_settled = |identity: &Identity| is_settled(identity, 1_000_000_000_000);
        assert!(!is_settled(&changed_at(started - SECOND)));
        assert!(is_settled(&changed_at(started - 2 * SECOND)));
        assert!(is_settled(&changed_at(started - SECOND + 1)));
        assert!(!is_settled(&changed_at(started - 10_000_001)));
        assert!(!is_settled(&changed_at(started + SECOND)));
    }
}
