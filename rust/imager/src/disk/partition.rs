//! A partition that is no more than a range of a disk: the kernel learns of it by itself, while the
//! disk has no table with it.

use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::disk::Disk;
use crate::disk::devices::{names, text};
use crate::{Context as _, Fault, Result};

// include/uapi/linux/blkpg.h
const BLKPG: u32 = 0x1269;
const ADD: libc::c_int = 1;
const DELETE: libc::c_int = 2;
/// How long the partition's node may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);

/// `struct blkpg_partition`: places and lengths are bytes.
#[repr(C)]
struct Range {
    start: i64,
    length: i64,
    number: libc::c_int,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg`.
#[repr(C)]
struct Request {
    operation: libc::c_int,
    flags: libc::c_int,
    length: libc::c_int,
    data: *const Range,
}

/// Have the kernel know this partition of the disk and no other; answers its node.
///
/// # Errors
/// The system's; `EBUSY` when a partition is in use.
pub fn expose(disk: &Disk, number: u32, start: u64, length: u64) -> Result<PathBuf> {
    let what = || format!("partition {number} of {}", disk.path().display());
    let (major, minor) = (libc::major(disk.number()?), libc::minor(disk.number()?));
    let sys = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    for (_, known) in partitions(&sys) {
        ask(disk, DELETE, known, 0, 0).context(format_args!("forgetting partition {known}"))?;
    }
    ask(disk, ADD, number, start, length).context(what())?;
    let name = partitions(&sys)
        .into_iter()
        .find_map(|(name, known)| (known == number).then_some(name))
        .ok_or_else(|| Fault(format!("the kernel does not see {}", what())))?;
    let node = disk.path().with_file_name(name);
    let deadline = Instant::now() + PATIENCE;
    while !node.exists() {
        if Instant::now() > deadline {
            return Err(Fault(format!("there is no node {} for {}", node.display(), what())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(node)
}

/// Have the kernel forget a partition that [`expose`] made known.
///
/// # Errors
/// The system's; `EBUSY` when it is in use.
pub fn forget(disk: &Disk, number: u32) -> Result<()> {
    ask(disk, DELETE, number, 0, 0).context(format_args!("forgetting partition {number}"))
}

/// Names and numbers of the partitions that the kernel knows.
fn partitions(sys: &Path) -> Vec<(String, u32)> {
    // Through the link, as partitions are directories within the disk's.
    let sys = fs::canonicalize(sys).unwrap_or_else(|_| sys.to_owned());
    names(&sys)
        .into_iter()
        .filter_map(|name| {
            let number = text(&sys.join(&name).join("partition"))?.parse().ok()?;
            Some((name, number))
        })
        .collect()
}

fn ask(
    disk: &Disk,
    operation: libc::c_int,
    number: u32,
    start: u64,
    length: u64,
) -> io::Result<()> {
    let whole = |value: u64| i64::try_from(value).map_err(io::Error::other);
    let range = Range {
        start: whole(start)?,
        length: whole(length)?,
        number: libc::c_int::try_from(number).map_err(io::Error::other)?,
        names: [0; 128],
    };
    let request = Request {
        operation,
        flags: 0,
        length: libc::c_int::try_from(size_of::<Range>()).map_err(io::Error::other)?,
        data: &raw const range,
    };
    // SAFETY: the request reads both structures, which outlive the call.
    let done = unsafe { libc::ioctl(disk.fd().as_raw_fd(), BLKPG as _, &raw const request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
