//! The manifest of a completed destination: made by the engine, from digests that are proven.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use holdfast_engine::RootPath;
use holdfast_engine::digest::Algorithm;
use holdfast_engine::manifest::build::{self, Outcome, build_of};
use holdfast_engine::manifest::record::{Entry, Type};
use holdfast_engine::manifest::survey::describe;
use holdfast_engine::read::Preference;
use serde::Deserialize;

use super::flush::{Ledger, lock};
use super::journal::{Held, Item};
use super::staging::{Names, is_staging};
use crate::destination::pass::plan::is_held;
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
/// The items of the ledger are used up: a million files are in memory once at a time.
///
/// # Errors
/// As [`build_of`].
pub fn make(ledger: &Ledger<'_>, place: &RootPath, request: &Request) -> Result<Outcome> {
    let items = std::mem::take(&mut lock(ledger.state).items);
    let mut names = Names::new(ledger.staging);
    let known = items.into_iter().filter_map(|(path, item)| match item {
        Item::File(held) => known(&mut names, &path, &held).transpose(),
        Item::Directory | Item::Link => None,
    });
    let from = known::write(place, request, known)?;
    let select = |entries: &mut Vec<Entry>| entries.retain(|entry| !is_staging(&entry.path));
    Ok(build_of(&request.build(place, from.path()), select, ledger.progress)?)
}

/// Return what is known of a file; nothing if it is not what was placed there.
fn known(names: &mut Names<'_>, path: &[u8], held: &Held) -> Result<Option<Entry>> {
    let found = names.stat(path)?.filter(|stat| held.ctime_ns != 0 && is_held(held, stat));
    let Some(stat) = found else { return Ok(None) };
    let mut entry = Entry { path: path.into(), kind: Type::File, ..Entry::default() };
    describe(&mut entry, &stat);
    known::set(&mut entry, held.digest, held.table.as_deref());
    Ok(Some(entry))
}
