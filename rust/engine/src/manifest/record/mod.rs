//! Manifests as record files: their header and their lines.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Algorithm;

mod chunks;
mod entry;
mod line;
mod reader;

pub use self::chunks::{CHUNK, Chunks, MOST_CHUNKS, chunk_size};
pub use self::entry::{Entry, FileKey, Identity, Rare, Status, Type, is_plain};
pub use self::reader::Manifest;

/// What the header calls this kind of record.
pub const FORMAT: &str = "holdfast-manifest";
/// The version written, and the highest one read.
pub const VERSION: u64 = 1;

/// The first line of a manifest. Members that this version does not know are kept in `other`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u64,
    /// By which digest.
    pub algorithm: Algorithm,
    /// The root it was made in.
    pub root: String,
    /// The directory below the root that it is of; empty for the root itself.
    #[serde(default)]
    pub path: String,
    /// What was listed; everything if there are no patterns.
    #[serde(default)]
    pub include: Vec<String>,
    /// What was not listed.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// When the walk began, in nanoseconds since the epoch.
    #[serde(default)]
    pub scan_started_ns: i64,
    /// Whether dirty pages were written back before each file was read, so that a digest still
    /// holds for a file that looks the same.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub written_back: bool,
    /// Further members of its maker: id, host, boot id, time.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}
