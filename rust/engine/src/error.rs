//! What can go wrong, as sentences an operator can act on.

use std::io;
use std::path::Path;

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused something that the call as a whole depends on.
    #[error("{path}: {source}")]
    Io {
        /// The file concerned, for people: bytes that are not UTF-8 are replaced.
        path: String,
        /// The system's answer.
        source: io::Error,
    },
    /// [`Progress::cancel`](crate::Progress::cancel) was called.
    #[error("cancelled")]
    Cancelled,
    /// A record file that must not be trusted.
    #[error("{path}: {reason}")]
    Record {
        /// The record file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The kernel answers questions about this file's residency with a lie for this process.
    #[error(
        "{path}: the kernel reports the residency of a file only to its owner, to who may write it, \
         or with CAP_FOWNER; run as such a user, or ask to skip these files"
    )]
    NotPermitted {
        /// The file concerned.
        path: String,
    },
    /// The file system has no page cache to speak of.
    #[error("{path} is on {filesystem}, whose pages cannot be dropped and read back")]
    Unsupported {
        /// The root concerned.
        path: String,
        /// The file system's name.
        filesystem: &'static str,
    },
    /// Writing more would take space that has to stay free.
    #[error("{path}: {}", no_space(*.free, *.floor, *.more))]
    NoSpace {
        /// What was to be written.
        path: String,
        /// Bytes that are free.
        free: u64,
        /// Bytes that have to stay free.
        floor: u64,
        /// Bytes that were to be written.
        more: u64,
    },
    /// A request that makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// The sentence of [`Error::NoSpace`], without the path.
pub fn no_space(free: u64, floor: u64, more: u64) -> String {
    format!(
        "writing {more} bytes more would leave less free than the {floor} bytes that \
         `data.free_space_floor` keeps; {free} bytes are free"
    )
}

impl Error {
    /// An [`Error::Io`] about `path`.
    pub fn io(path: impl AsRef<Path>, source: impl Into<io::Error>) -> Self {
        Self::Io { path: path.as_ref().to_string_lossy().into_owned(), source: source.into() }
    }

    /// An [`Error::Record`] about `path`.
    pub fn record(path: impl AsRef<Path>, reason: impl Into<String>) -> Self {
        Self::Record { path: path.as_ref().to_string_lossy().into_owned(), reason: reason.into() }
    }
}
