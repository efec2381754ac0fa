//! Where a file's bytes are on a device of this machine with a FAT file system.

use std::path::Path;

use holdfast_media::tree::{NoPlace, Run, runs};
use serde::Serialize;

use crate::disk::past_cache::PastCache;
use crate::{Error, Result};

/// The most bytes of a device that are read: a table of 64 MiB, and directories.
const BUDGET: u64 = 128 << 20;

/// A run: bytes of the file, where they are on the device, and how many.
pub type Triple = (u64, u64, u64);

/// Where a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "found", content = "runs")]
pub enum Place {
    /// Whole clusters, neighbours joined; none of an empty file.
    File(Vec<Triple>),
    /// There is no such file.
    Missing,
    /// Something on the way to it is a file.
    NotDirectory,
}

/// Find a file, past the page cache; `path` begins at the file system's root.
///
/// # Errors
/// [`Error::Invalid`], with a clause about the file system, for one that is damaged or no FAT;
/// [`Error::Io`].
pub fn find(device: &Path, path: &str) -> Result<Place> {
    match PastCache::open(device, BUDGET)?.read(|device| runs(device, path))? {
        Ok(runs) => Ok(Place::File(
            runs.into_iter().map(|Run { offset, place, length }| (offset, place, length)).collect(),
        )),
        Err(NoPlace::Missing) => Ok(Place::Missing),
        Err(NoPlace::NotDirectory) => Ok(Place::NotDirectory),
        Err(NoPlace::Damaged(why)) => Err(Error::Invalid(why.to_owned())),
    }
}
