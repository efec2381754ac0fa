//! The manifest of a completed destination: made by the engine, from digests that are proven.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_engine::RootPath;
use holdfast_engine::digest::Algorithm;
use holdfast_engine::manifest::build::{self, Outcome, build_of};
use holdfast_engine::manifest::record::{Entry, Type};
use holdfast_engine::read::Preference;
use serde::Deserialize;

use super::flush::{Ledger, lock};
use super::journal::Item;
use super::staging::is_staging;
use crate::message::Stamp;
use crate::{Result, known};

/// Where a manifest goes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The record file to write; its directory exists.
    pub destination: PathBuf,
    /// The checkpoint of the build.
    pub journal: PathBuf,
    /// Directories to leave out, as any build of the destination leaves them out. A source leaves
    /// out what its offer does.
    #[serde(default)]
    pub exclude: Vec<PathBuf>,
    /// What to list at a destination.
    #[serde(default)]
    pub include_patterns: Vec<String>,
    /// What not to list at a destination.
    #[serde(default)]
    pub exclude_patterns: Vec<String>,
    /// Bytes of a record to decompress at most.
    pub max_bytes: u64,
    /// More members for the header.
    #[serde(default)]
    pub header: BTreeMap<String, serde_json::Value>,
}

impl Request {
    /// Return the build, of all that is below a place.
    pub(crate) fn build(&self, place: &RootPath) -> build::Request {
        build::Request {
            place: place.clone(),
            exclude: self.exclude.clone(),
            include_patterns: self.include_patterns.clone(),
            exclude_patterns: self.exclude_patterns.clone(),
            algorithm: Algorithm::Xxh64,
            destination: self.destination.clone(),
            journal: self.journal.clone(),
            previous: Vec::new(),
            max_bytes: self.max_bytes,
            header: self.header.clone(),
            bytes_per_second: None,
            pressure: None,
            reader: Preference::Auto,
            across_mounts: false,
        }
    }
}

/// Build the manifest. Files that still have the identity that they were placed with are not read.
/// The items of the ledger are used up: a million files are in memory once at a time.
///
/// # Errors
/// As [`build_of`].
pub fn make(ledger: &Ledger<'_>, place: &RootPath, request: &Request) -> Result<Outcome> {
    let items = std::mem::take(&mut lock(ledger.state).items);
    let select = |entries: &mut Vec<Entry>| {
        entries.retain(|entry| !is_staging(&entry.path));
        take_over(entries, items);
        Ok(())
    };
    known::settle();
    Ok(build_of(&request.build(place), select, ledger.progress)?)
}

/// Take over the digests of files; both are in the order of the paths.
fn take_over(entries: &mut [Entry], items: BTreeMap<Arc<[u8]>, Item>) {
    let mut entries = entries.iter_mut().peekable();
    for (path, item) in items {
        while entries.next_if(|entry| *entry.path < *path).is_some() {}
        let Some(entry) = entries.next_if(|entry| *entry.path == *path) else { continue };
        if let Item::File(held) = item
            && entry.kind == Type::File
            && held.ctime_ns != 0
            && held.is(&Stamp::from(&entry.identity))
        {
            known::set(entry, held.digest, held.table.as_deref());
        }
    }
}
