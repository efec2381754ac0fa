//! Which part of a root a request is about.

use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use serde::Deserialize;

use crate::{Error, Result, Root};

/// A root and, if only a part of it is meant, a file or directory below it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootPath {
    /// The root's path.
    pub root: PathBuf,
    /// Relative to the root; empty for all of it.
    #[serde(default)]
    pub path: PathBuf,
}

impl RootPath {
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

/// A path as the system has it.
pub(crate) fn bytes(path: &Path) -> &[u8] {
    std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str())
}
