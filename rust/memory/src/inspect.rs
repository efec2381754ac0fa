//! What a restore would need, and what it would meet.

use std::path::PathBuf;

use holdfast_engine::memory::{Sources, headroom};
use holdfast_engine::record::PathText;
use holdfast_engine::{Error, Progress, Result};
use serde::{Deserialize, Serialize};

use crate::record::{BLOCK, Chunk, Entry};
use crate::{commit, open_root, restore};

/// Names in the result.
const NAMED: usize = 20;

/// What to inspect.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The root, on tmpfs.
    pub root: PathBuf,
    /// The directory of the save.
    pub save: PathBuf,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The root that was saved.
    pub saved_root: String,
    /// Memory that all of it takes, in bytes.
    pub needed_bytes: u64,
    /// Inodes that all of it takes.
    pub needed_files: u64,
    /// Bytes free in the tmpfs.
    pub free_bytes: u64,
    /// Inodes free in the tmpfs; none if they have no limit.
    pub free_files: Option<u64>,
    /// Bytes of memory that are available to this process.
    pub memory_bytes: u64,
    /// What limits these: `memory`, or a control group.
    pub memory_limit: String,
    /// Files that are there already.
    pub present: Vec<PathText>,
    /// Names that are there as something else.
    pub foreign: Vec<PathText>,
}

/// Inspect a save and the root that it is to be restored into.
///
/// # Errors
/// [`Error::Record`] if the save cannot be trusted, [`Error::Invalid`] if the root is not on tmpfs,
/// [`Error::Io`], [`Error::Cancelled`].
pub fn inspect(request: &Request, progress: &Progress) -> Result<Outcome> {
    let save = restore::open(&request.save, progress)?;
    let root = open_root(&request.root)?;
    let meeting = commit::meet(&root, &save.index)?;
    let mut needed = 0_u64;
    for (_, entry) in &save.index.entries {
        let content = match entry {
            Entry::File(_, _, _, chunks) => chunks
                .iter()
                .map(|chunk: &Chunk| chunk.length().next_multiple_of(BLOCK))
                .fold(0, u64::saturating_add),
            // Entries of directories are kept elsewhere; this is for their inodes.
            _ => 0,
        };
        needed = needed.saturating_add(content);
    }
    let space = rustix::fs::fstatvfs(root.fd()).map_err(|e| Error::io(root.path(), e))?;
    let memory = headroom(&Sources::default())?;
    let named =
        |paths: &[Box<[u8]>]| paths.iter().take(NAMED).map(|path| PathText::new(path)).collect();
    Ok(Outcome {
        saved_root: save.index.header.root.clone(),
        needed_bytes: needed,
        needed_files: save.index.entries.len() as u64 + 4,
        free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
        free_files: (space.f_files > 0).then_some(space.f_ffree),
        memory_bytes: memory.bytes,
        memory_limit: memory.limit,
        present: named(&meeting.present),
        foreign: named(&meeting.foreign),
    })
}
