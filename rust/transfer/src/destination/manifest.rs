//! The manifest of a completed destination: made by the engine, from digests that are proven.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use holdfast_engine::RootPath;
use holdfast_engine::digest::Algorithm;
use holdfast_engine::manifest::build::{self, Outcome, build};
use holdfast_engine::manifest::record::{Entry, Type};
use holdfast_engine::manifest::survey::{describe, survey};
use holdfast_engine::read::Preference;
use holdfast_engine::tree::patterns::Patterns;
use serde::Deserialize;

use super::flush::{Ledger, lock};
use super::journal::Item;
use crate::destination::pass::plan::is_held;
use crate::{Error, Result, known};

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
    /// Return the build that takes digests over from a manifest of what is known.
    pub(crate) fn build(&self, place: &RootPath, known: &Path) -> build::Request {
        build::Request {
            place: place.clone(),
            exclude: self.exclude.clone(),
            include_patterns: self.include_patterns.clone(),
            exclude_patterns: self.exclude_patterns.clone(),
            algorithm: Algorithm::Xxh64,
            destination: self.destination.clone(),
            journal: self.journal.clone(),
            previous: vec![known.to_owned()],
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
///
/// # Errors
/// As [`build`].
pub fn make(ledger: &Ledger<'_>, place: &RootPath, request: &Request) -> Result<Outcome> {
    let staging = ledger.staging;
    let patterns = Patterns::new(&request.include_patterns, &request.exclude_patterns)?;
    let found = survey(staging.root(), &request.exclude, &patterns, ledger.progress)?;
    let mut entries: Vec<Entry> = Vec::new();
    for entry in found.entries {
        if entry.kind != Type::File {
            continue;
        }
        let state = lock(ledger.state);
        let Some(Item::File(held)) = state.items.get(&entry.path) else { continue };
        let failed = |errno| Error::io(staging.shown(&entry.path), errno);
        let Some(stat) = staging.stat(&entry.path).map_err(failed)? else { continue };
        if held.ctime_ns == 0 || !is_held(held, &stat) {
            continue;
        }
        let mut known = Entry { path: entry.path.clone(), kind: Type::File, ..Entry::default() };
        describe(&mut known, &stat);
        known::set(&mut known, held.digest, held.table.as_deref());
        entries.push(known);
    }
    let from = known::write(place, request, entries.into_iter())?;
    Ok(build(&request.build(place, from.path()), ledger.progress)?)
}
