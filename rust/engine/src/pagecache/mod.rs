//! Which pages of files are in memory: looking, recording, loading, dropping.

pub mod dump;
pub mod evict;
pub mod happycache;
pub mod load;
mod mincore;
pub mod pages;
pub mod probe;
pub mod record;
pub mod residency;
mod sparse;
mod stores;

use crate::tree::root_path::{RootPath, bytes};
use crate::tree::skips::Summary;
use crate::tree::walk::Start;
use crate::{Result, Root};

/// Open the root of each place; places of one root share nothing but the path.
pub(crate) fn open_roots(places: &[RootPath]) -> Result<Vec<Root>> {
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
pub(crate) fn starts<'a>(places: &[RootPath], roots: &'a [Root]) -> Vec<Start<'a>> {
    places
        .iter()
        .zip(roots)
        .map(|(place, root)| Start { root, path: bytes(&place.path).to_vec() })
        .collect()
}

/// Threads for work that mostly waits for metadata or for small calls into the kernel: a few per
/// processor, so that cold directories do not leave processors idle.
pub(crate) fn walkers() -> usize {
    (crate::pool::processors() * 2).clamp(2, 32)
}
