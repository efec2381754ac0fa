//! What is offered, and to whom.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64};

use holdfast_engine::pagecache::Place;
use holdfast_engine::pressure::Limit;
use serde::{Deserialize, Serialize};

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
    pub place: Place,
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
    /// Whether other file systems below the place are left out; otherwise they are a refusal.
    #[serde(default)]
    pub leave_out_mounts: bool,
    /// At most this many bytes each second.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Give way above this pressure.
    #[serde(default)]
    pub pressure: Option<Limit>,
    /// When it expires, in seconds since the epoch.
    pub expires_at: u64,
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

/// How often a ticket was used for the first time, and by whom, is for the caller to store.
pub trait Events: Send + Sync {
    /// A destination uses a ticket for the first time: store its public key with the offer before
    /// returning. Anything but [`Bound::Stored`] refuses the destination.
    fn bind(&self, offer: &str, puller: &str) -> Bound;
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
}
