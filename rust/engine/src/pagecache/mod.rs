//! Which pages of files are in memory: looking, recording, loading, dropping.

pub mod dump;
pub mod evict;
pub mod happycache;
mod hotness;
pub mod load;
pub mod pages;
pub mod probe;
pub mod record;
pub mod residency;
mod sparse;

use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde::Deserialize;

use crate::skips::Summary;
use crate::walk::Start;
use crate::{Error, Result, Root};

/// A root and, if only a part of it is meant, a file or directory below it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The root's path.
    pub root: PathBuf,
    /// Relative to the root; empty for all of it.
    #[serde(default)]
    pub path: PathBuf,
}

impl Place {
    /// The whole path of something in it, from its path relative to the root.
    pub(crate) fn absolute(&self, relative: &[u8]) -> Vec<u8> {
        absolute(&self.root, relative)
    }
}

/// The whole path of something below a root.
pub(crate) fn absolute(root: &Path, relative: &[u8]) -> Vec<u8> {
    let mut path = bytes(root).to_vec();
    if !relative.is_empty() {
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(relative);
    }
    path
}

/// What a path is that must belong to a root: `directory`, `file` or `other`.
///
/// # Errors
/// [`Error::Io`]: `EXDEV` where something else is mounted on the way.
pub fn kind_of(root: &Path, path: &Path) -> Result<&'static str> {
    let kind = Root::open(root)?.kind(bytes(path)).map_err(|e| Error::io(root.join(path), e))?;
    Ok(match kind {
        FileType::Directory => "directory",
        FileType::RegularFile => "file",
        _ => "other",
    })
}

/// Open the root of each place; places of one root share nothing but the path.
pub(crate) fn open_roots(places: &[Place]) -> Result<Vec<Root>> {
    places.iter().map(|place| Root::with_page_cache(&place.root)).collect()
}

/// Refuse to answer for roots in which the pages of some files do not show, if nothing else is there.
pub(crate) fn refuse_unseen(roots: &[Root], skips: &Summary, files: u64) -> Result<()> {
    match roots.first().filter(|_| files == 0 && skips.has_uncached()) {
        Some(root) => Err(root.unsupported()),
        None => Ok(()),
    }
}

/// Where walks of these places begin.
pub(crate) fn starts<'a>(places: &[Place], roots: &'a [Root]) -> Vec<Start<'a>> {
    places
        .iter()
        .zip(roots)
        .map(|(place, root)| Start { root, path: bytes(&place.path).to_vec() })
        .collect()
}

pub(crate) fn bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}

/// Threads for work that mostly waits for metadata or for small calls into the kernel: a few per
/// processor, so that cold directories do not leave processors idle.
pub(crate) fn walkers() -> usize {
    (crate::pool::processors() * 2).clamp(2, 32)
}

/// Parse a request.
///
/// # Errors
/// [`Error::Invalid`].
pub fn request<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::Invalid(format!("malformed request: {e}")))
}
