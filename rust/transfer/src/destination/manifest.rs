//! The manifest of a completed destination: made by the engine, from digests that are proven.

use std::collections::BTreeMap;
use std::path::PathBuf;

use holdfast_engine::digest::{Algorithm, Digest};
use holdfast_engine::manifest::build::{self, Outcome, build};
use holdfast_engine::manifest::record::{Chunks, Entry, FORMAT, Header, Type, VERSION, chunk_size};
use holdfast_engine::manifest::stamps::now_ns;
use holdfast_engine::manifest::survey::{describe, survey};
use holdfast_engine::manifest::totals::Counts;
use holdfast_engine::pagecache::Place;
use holdfast_engine::patterns::Patterns;
use holdfast_engine::read::Preference;
use holdfast_engine::record::Writer;
use serde::Deserialize;

use super::flush::{Ledger, lock};
use super::journal::Item;
use super::plan::is_held;
use crate::{Error, Result};

/// Lines are handed to the compressor in batches of about this many bytes.
const BATCH: usize = 1 << 20;
/// Times of files are as fine as the kernel's tick, and whole seconds on some file systems: what is
/// reused must be older.
const SETTLE: std::time::Duration = std::time::Duration::from_millis(25);

/// Where the manifest goes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The record file to write; its directory exists.
    pub destination: PathBuf,
    /// The checkpoint of the build.
    pub journal: PathBuf,
    /// Directories to leave out, as any build of the destination leaves them out.
    #[serde(default)]
    pub exclude: Vec<PathBuf>,
    /// What to list, as the offer has it.
    #[serde(default)]
    pub include_patterns: Vec<String>,
    /// What not to list, as the offer has it.
    #[serde(default)]
    pub exclude_patterns: Vec<String>,
    /// Bytes of a record to decompress at most.
    pub max_bytes: u64,
    /// More members for the header.
    #[serde(default)]
    pub header: BTreeMap<String, serde_json::Value>,
}

/// Build the manifest. Files whose identity is the one that they were placed with are not read.
///
/// # Errors
/// As [`build`].
pub fn make(ledger: &Ledger<'_>, place: &Place, request: &Request) -> Result<Outcome> {
    let known = request.journal.with_extension("known");
    write_known(ledger, place, request, &known)?;
    let outcome = build(
        &build::Request {
            place: place.clone(),
            exclude: request.exclude.clone(),
            include_patterns: request.include_patterns.clone(),
            exclude_patterns: request.exclude_patterns.clone(),
            algorithm: Algorithm::Xxh64,
            destination: request.destination.clone(),
            journal: request.journal.clone(),
            previous: vec![known.clone()],
            max_bytes: request.max_bytes,
            header: request.header.clone(),
            bytes_per_second: None,
            pressure: None,
            reader: Preference::Auto,
        },
        ledger.progress,
    );
    std::fs::remove_file(&known).map_err(|error| Error::io(&known, error))?;
    Ok(outcome?)
}

/// Write what is known as a manifest that the build takes digests from.
fn write_known(
    ledger: &Ledger<'_>,
    place: &Place,
    request: &Request,
    destination: &std::path::Path,
) -> Result<()> {
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
        known.digest = Some(Digest::Xxh64(held.digest));
        if let Some(table) = &held.table {
            let digests = table.digests.iter().map(|&digest| Digest::Xxh64(digest)).collect();
            let size = chunk_size(held.source.size);
            let chunks = Chunks { size, digests, states: table.states.clone() };
            known.rare_mut().chunks = Some(chunks);
        }
        entries.push(known);
    }
    std::thread::sleep(SETTLE);
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        algorithm: Algorithm::Xxh64,
        root: place.root.to_string_lossy().into_owned(),
        path: place.path.to_string_lossy().into_owned(),
        include: request.include_patterns.clone(),
        exclude: request.exclude_patterns.clone(),
        scan_started_ns: now_ns()?,
        written_back: true,
        other: BTreeMap::new(),
    };
    let mut writer = Writer::create(destination, &header)?;
    let mut counts = Counts::default();
    let mut lines = Vec::with_capacity(BATCH);
    for entry in &entries {
        counts.count(entry);
        entry.push(&mut lines)?;
        if lines.len() >= BATCH {
            writer.write(&lines)?;
            lines.clear();
        }
    }
    writer.write(&lines)?;
    writer.finish(counts.entries, counts.bytes)?;
    Ok(())
}
