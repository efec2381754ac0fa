//! The floor of free space on a volume, below which nothing of holdfast's is written.
//!
//! Like a resource limit it holds for the whole process: a writer that forgot about it could take
//! the last space from a datastore.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::{StatVfs, fstatvfs, statvfs};

use crate::progress::lock;
use crate::{Error, Result};

/// Bytes that a writer writes between two checks.
pub const STRIDE: u64 = 1 << 20;

/// How much of a volume stays free: the larger of a share and of a number of bytes, which counts
/// for no more than another share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floor {
    /// Thousandths of the volume.
    pub share: u64,
    /// Bytes.
    pub bytes: u64,
    /// Thousandths of the volume that `bytes` is bounded by.
    pub most: u64,
}

static FLOOR: Mutex<Floor> = Mutex::new(Floor { share: 0, bytes: 0, most: 1000 });

/// Space of a volume, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free, for a process without privileges.
    pub free: u64,
    /// What of it has to stay free.
    pub floor: u64,
}

/// Set the floor for all writers of this process. Without it, there is none.
pub fn set_floor(floor: Floor) {
    *lock(&FLOOR) = floor;
}

/// The space of the volume that `path` is on.
///
/// # Errors
/// [`Error::Io`].
pub fn space(path: &Path) -> Result<Space> {
    Ok(of(&statvfs(path).map_err(|e| Error::io(path, e))?))
}

/// Check that `more` bytes can be written below `path` without going below the floor.
///
/// # Errors
/// [`Error::NoSpace`], [`Error::Io`].
pub fn check(path: &Path, more: u64) -> Result<()> {
    permit(path, space(path)?, more)
}

/// As [`check`], for the volume of an open file; `path` is for the message.
///
/// # Errors
/// As [`check`].
pub fn check_file(file: impl AsFd, path: &Path, more: u64) -> Result<()> {
    let found = fstatvfs(file).map_err(|e| Error::io(path, e))?;
    permit(path, of(&found), more)
}

fn of(found: &StatVfs) -> Space {
    let floor = *lock(&FLOOR);
    let size = found.f_blocks.saturating_mul(found.f_frsize);
    let share = |thousandths: u64| (u128::from(size) * u128::from(thousandths) / 1000) as u64;
    let floor = share(floor.share).max(floor.bytes.min(share(floor.most)));
    Space { free: found.f_bavail.saturating_mul(found.f_frsize), floor }
}

fn permit(path: &Path, Space { free, floor }: Space, more: u64) -> Result<()> {
    if floor == 0 || free >= floor.saturating_add(more) {
        return Ok(());
    }
    Err(Error::NoSpace { path: path.to_string_lossy().into_owned(), free, floor, more })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Space, permit};
    use crate::Error;

    #[test]
    fn what_is_written_stays_above_the_floor() {
        let check = |free, floor, more| permit(Path::new("/d"), Space { free, floor }, more);
        check(100, 50, 50).unwrap();
        check(0, 0, 50).unwrap();
        for (free, floor, more) in [(100, 50, 51), (49, 50, 0), (100, 1, u64::MAX)] {
            assert!(matches!(check(free, floor, more), Err(Error::NoSpace { .. })));
        }
    }
}
