//! What is offered, and to whom.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use holdfast_engine::RootPath;
use holdfast_engine::pressure::Limit;
use serde::{Deserialize, Serialize};

use super::digests::Digests;
use crate::{ManifestOutcome, ManifestRequest};

/// The largest record of the page cache that is carried, in bytes.
pub const MOST_PAGE_CACHE: usize = 64 << 20;

/// A directory that is offered.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// Its id: 32 hexadecimal digits.
    pub id: String,
    /// The public key of its ticket: 64 hexadecimal digits. The ticket itself is not stored.
    pub verifier: String,
    /// The public key of the destination that used the ticket, once there is one.
    #[serde(default)]
    pub puller: Option<String>,
    /// What is offered: a root, or a directory below it.
    pub place: RootPath,
    /// Directories to leave out.
    #[serde(default)]
    pub exclude: Vec<PathBuf>,
    /// What to list; everything if there are none.
    #[serde(default)]
    pub include_patterns: Vec<String>,
    /// What not to list.
    #[serde(default)]
    pub exclude_patterns: Vec<String>,
    /// Of these files only, relative to the place, if it is a list.
    #[serde(default)]
    pub files: Option<Vec<PathBuf>>,
    /// What becomes of other file systems below the place.
    #[serde(default)]
    pub mounts: Mounts,
    /// A file, private to this offer, in which digests of what was read are kept for the manifest;
    /// without one the manifest reads everything again.
    #[serde(default)]
    pub digests: Option<PathBuf>,
    /// The directory of `passwd` and `group`.
    #[serde(default = "accounts")]
    pub accounts: PathBuf,
    /// At most this many bytes each second.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Give way above this pressure.
    #[serde(default)]
    pub pressure: Option<Limit>,
    /// When it expires, in seconds since the epoch.
    pub expires_at: u64,
}

/// The directory of `passwd` and `group`.
pub(crate) fn accounts() -> PathBuf {
    "/etc".into()
}

/// What becomes of other file systems below an offered directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mounts {
    /// They are a reason to refuse.
    #[default]
    Refuse,
    /// They are carried as directories, if they keep track of changes as the place's own does.
    Include,
    /// They are counted and left out.
    LeaveOut,
}

/// How an offer is doing.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// Its id.
    pub id: String,
    /// The public key of the destination that used the ticket.
    pub puller: Option<String>,
    /// Connections that are open for it.
    pub connections: usize,
    /// Bytes of files sent, since the server started.
    pub sent_bytes: u64,
}

/// What a source asks of its caller, from the threads that serve connections.
pub trait Events: Send + Sync {
    /// A destination uses a ticket for the first time: store its public key with the offer before
    /// returning. Anything but [`Bound::Stored`] refuses the destination.
    fn bind(&self, offer: &str, puller: &str) -> Bound;

    /// A destination begins a session that may complete the transfer. Return the sentence with which
    /// it is refused, such as which process has a file open for writing. `overrule` is the wish of
    /// the destination's operator to be served anyway.
    fn writers(&self, offer: &str, overrule: bool) -> Option<String> {
        let _ = (offer, overrule);
        None
    }

    /// All of an offer has arrived: return where the source's manifest goes, if it makes one.
    ///
    /// # Errors
    /// Why it cannot make one, as a sentence.
    fn manifest(&self, offer: &str) -> std::result::Result<Option<ManifestRequest>, String> {
        let _ = offer;
        Ok(None)
    }

    /// The source's manifest was made. Anything but [`Bound::Stored`] keeps the transfer from being
    /// completed. It may come again for one offer: a destination that was killed completes again.
    fn completed(&self, offer: &str, outcome: &ManifestOutcome) -> Bound {
        let _ = (offer, outcome);
        Bound::Stored
    }

    /// Return a record of the page cache of what is offered, of at most [`MOST_PAGE_CACHE`] bytes.
    ///
    /// # Errors
    /// Why there is none, as a sentence.
    fn page_cache(&self, offer: &str) -> std::result::Result<Option<Vec<u8>>, String> {
        let _ = offer;
        Ok(None)
    }

    /// Return a manifest of exactly what is offered, made here, against which a destination is
    /// repaired, and how many bytes of it to decompress at most.
    ///
    /// # Errors
    /// Why it cannot be had, as a sentence.
    fn record(&self, offer: &str) -> std::result::Result<Option<(PathBuf, u64)>, String> {
        let _ = offer;
        Ok(None)
    }
}

/// Whether the owner of a ticket was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// It survives a restart.
    Stored,
    /// It could not be stored.
    Failed,
}

/// An offer that is being served.
#[derive(Debug)]
pub struct Offering {
    /// The offer.
    pub offer: Offer,
    /// The key that verifies the ticket.
    pub verifier: [u8; 32],
    /// Who owns the ticket.
    pub puller: Mutex<Option<[u8; 32]>>,
    /// Set when it is withdrawn.
    pub revoked: AtomicBool,
    /// Bytes of files sent.
    pub sent_bytes: AtomicU64,
    /// The files of the list.
    pub files: Option<HashSet<Box<[u8]>>>,
    /// Digests of what was read.
    pub digests: Digests,
}
