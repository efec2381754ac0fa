//! Digests that a transfer proved, written as a manifest from which a build takes them over.

use std::path::{Path, PathBuf};
use std::time::Duration;

use holdfast_engine::RootPath;
use holdfast_engine::digest::{Algorithm, Digest};
use holdfast_engine::manifest::record::{Chunks, Entry, FORMAT, Header, VERSION, chunk_size};
use holdfast_engine::manifest::stamps::now_ns;
use holdfast_engine::manifest::totals::Counts;
use holdfast_engine::record::Writer;

use crate::message::Table;
use crate::{ManifestRequest, Result};

/// Lines are handed to the compressor in batches of about this many bytes.
const BATCH: usize = 1 << 20;
/// Times of files are as fine as the kernel's tick, and whole seconds on some file systems: what is
/// reused must be older.
const SETTLE: Duration = Duration::from_millis(25);

/// A temporary manifest, removed when it is dropped.
#[derive(Debug)]
pub struct Known(PathBuf);

impl Known {
    /// Return where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        // The next build of the same transfer replaces what could not be removed.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Set what is known of a file.
pub fn set(entry: &mut Entry, digest: u64, table: Option<&Table>) {
    entry.digest = Some(Digest::Xxh64(digest));
    if let Some(table) = table {
        let digests = table.digests.iter().map(|&digest| Digest::Xxh64(digest)).collect();
        let size = chunk_size(entry.identity.size);
        entry.rare_mut().chunks = Some(Chunks { size, digests, states: table.states.clone() });
    }
}

/// Write files whose digests are known, in the order of their paths.
///
/// # Errors
/// The first error that `entries` yields; [`crate::Error::Engine`].
pub fn write(
    place: &RootPath,
    request: &ManifestRequest,
    entries: impl Iterator<Item = Result<Entry>>,
) -> Result<Known> {
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
        other: std::collections::BTreeMap::new(),
    };
    let known = Known(request.journal.with_extension("known"));
    let mut writer = Writer::create(known.path(), &header)?;
    let mut counts = Counts::default();
    let mut lines = Vec::with_capacity(BATCH);
    for entry in entries {
        let entry = entry?;
        counts.count(&entry);
        entry.push(&mut lines)?;
        if lines.len() >= BATCH {
            writer.write(&lines)?;
            lines.clear();
        }
    }
    writer.write(&lines)?;
    writer.finish(counts.entries, counts.bytes)?;
    Ok(known)
}
