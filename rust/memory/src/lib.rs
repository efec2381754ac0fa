//! State that is in memory: files of a tmpfs written to a volume at the speed of the device, and put
//! back before the service that owns them starts.
//!
//! A save is a directory with two files: [`record::DATA`] has the content without the holes, and
//! [`record::INDEX`] is a record file that names everything with its digest. Both come from a volume
//! and are believed in nothing: a restore checks the whole index first, builds everything in a
//! staging directory of the root, verifies every byte, and only then renames it into place.

pub mod commit;
mod container;
pub mod inspect;
pub mod record;
pub mod restore;
pub mod save;
mod staging;

pub use holdfast_engine::{Error, Progress, Result};

use holdfast_engine::Root;
use std::path::Path;

/// `TMPFS_MAGIC` (`include/uapi/linux/magic.h`).
const TMPFS: i64 = 0x0102_1994;

/// Open a root that must be on tmpfs.
///
/// # Errors
/// [`Error::Io`] if it cannot be opened, [`Error::Invalid`] if it is on something else.
pub fn open_root(path: &Path) -> Result<Root> {
    let root = Root::open(path)?;
    let found = rustix::fs::fstatfs(root.fd()).map_err(|e| Error::io(path, e))?;
    if found.f_type == TMPFS {
        return Ok(root);
    }
    Err(Error::Invalid(format!("{} is not on a tmpfs; mount one there", path.display())))
}

/// Return the engine's error of one of the transfer's helpers.
fn engine_error(error: holdfast_transfer::Error) -> Error {
    match error {
        holdfast_transfer::Error::Engine(error) => error,
        other => Error::Invalid(other.to_string()),
    }
}
