//! What can go wrong, as sentences that an operator can act on.

use std::io;

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a transfer did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system, the engine, or the caller's cancellation.
    #[error(transparent)]
    Engine(#[from] holdfast_engine::Error),
    /// The connection failed. Another attempt may succeed.
    #[error("{peer}: {source}")]
    Wire {
        /// The address of the other end.
        peer: String,
        /// What failed.
        source: io::Error,
    },
    /// The other end refused, with its reason. Another attempt will not succeed.
    #[error("the source refused: {0}")]
    Refused(String),
    /// Files of the source are open for writing, and the pass was to complete.
    #[error("{0}")]
    Writers(String),
    /// The other end broke the protocol. Another attempt will not succeed.
    #[error("{peer} broke the protocol: {reason}")]
    Protocol {
        /// The address of the other end.
        peer: String,
        /// How.
        reason: String,
    },
    /// A byte arrived that differs from what was sent. Another attempt may succeed.
    #[error("{path}: {length} bytes at {offset} differ from what the source sent")]
    Damaged {
        /// The file.
        path: String,
        /// Where in it, in bytes.
        offset: u64,
        /// How many bytes the check covers.
        length: u64,
    },
    /// The destination has something of the same name that no transfer made.
    #[error(
        "{path} exists and was not made by this transfer; move it away or use an empty directory"
    )]
    Occupied {
        /// Its path.
        path: String,
    },
    /// The transfer was completed before.
    #[error("the transfer into {path} is complete; a completed destination is not written again")]
    Complete {
        /// The directory.
        path: String,
    },
    /// Another process is transferring into the same directory.
    #[error("another transfer into {path} is running")]
    Busy {
        /// The directory.
        path: String,
    },
    /// Files that kept changing, or could not be read, in the final pass.
    #[error("{count} files could not be transferred whole; the first is {path}: {reason}")]
    Unfinished {
        /// How many.
        count: u64,
        /// One of them.
        path: String,
        /// Why.
        reason: String,
    },
}

impl Error {
    /// Whether another attempt may succeed without anything being changed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Wire { .. } | Self::Damaged { .. })
    }

    /// Return its kind in one word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Engine(_) => "engine",
            Self::Wire { .. } => "wire",
            Self::Refused(_) => "refused",
            Self::Writers(_) => "writers",
            Self::Protocol { .. } => "protocol",
            Self::Damaged { .. } => "damaged",
            Self::Occupied { .. } => "occupied",
            Self::Complete { .. } => "complete",
            Self::Busy { .. } => "busy",
            Self::Unfinished { .. } => "unfinished",
        }
    }

    /// Build the error of a failed system call about `path`.
    pub(crate) fn io(path: impl AsRef<std::path::Path>, source: impl Into<io::Error>) -> Self {
        holdfast_engine::Error::io(path, source).into()
    }
}
