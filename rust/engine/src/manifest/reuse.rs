//! What needs no reading: digests of unchanged files from an earlier manifest, and results of an
//! earlier run of the same build.

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;

use super::build::Request;
use super::journal::Past;
use super::record::{CHUNK, Chunks, Entry, Header, Manifest, Status, Type};
use super::stamps::is_settled;
use crate::{Error, Progress, Result};

/// What was known without reading.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Known {
    /// Files whose digest was known from the previous manifest.
    pub reused_files: u64,
    /// Their bytes.
    pub reused_bytes: u64,
    /// Bytes that an earlier run of this operation had hashed.
    pub resumed_bytes: u64,
}

/// The manifest whose digests can be taken over.
pub fn previous(request: &Request) -> Option<Manifest> {
    request.previous.iter().find_map(|path| {
        // One that cannot be opened is of no use, and neither is it in the way.
        let manifest = Manifest::open(path, request.max_bytes).ok()?;
        let Header { algorithm, root, path, written_back, .. } = &manifest.header;
        let same = *written_back
            && *algorithm == request.algorithm
            && Path::new(root) == request.place.root
            && Path::new(path) == request.place.path;
        same.then_some(manifest)
    })
}

/// Take digests of unchanged files over from an earlier manifest; answers why none can be.
pub fn reuse(
    entries: &mut [Entry],
    previous: Manifest,
    progress: &Progress,
    known: &mut Known,
) -> Result<Option<String>> {
    let taken = take_over(entries, previous, progress);
    match taken {
        Ok(taken) => {
            *known = taken;
            Ok(None)
        }
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(error) => {
            // Nothing of a record is to be believed before its end was seen.
            for entry in entries {
                entry.digest = None;
                forget(entry);
            }
            Ok(Some(error.to_string()))
        }
    }
}

/// Forget a chunk table.
fn forget(entry: &mut Entry) {
    if let Some(rare) = &mut entry.rare {
        rare.chunks = None;
    }
}

fn take_over(entries: &mut [Entry], mut manifest: Manifest, progress: &Progress) -> Result<Known> {
    let started = manifest.header.scan_started_ns;
    let mut known = Known::default();
    let mut present = entries.iter_mut().peekable();
    while let Some(old) = manifest.next(progress)? {
        while present.next_if(|entry| entry.path < old.path).is_some() {}
        let Some(entry) = present.next_if(|entry| entry.path == old.path) else { continue };
        let same = entry.kind == Type::File
            && old.kind == Type::File
            && entry.status == Status::Ok
            && entry.hardlink_of().is_none()
            && entry.identity == old.identity
            && is_settled(&old.identity, started)
            // A table is part of what a manifest is for.
            && (entry.identity.size <= CHUNK || old.chunks().is_some());
        if same && old.digest.is_some() {
            entry.digest = old.digest;
            if let Some(chunks) = old.rare.and_then(|rare| rare.chunks) {
                entry.rare_mut().chunks = Some(chunks);
            }
            known.reused_files += 1;
            known.reused_bytes += entry.identity.size;
        }
    }
    Ok(known)
}

/// Take over the results of an earlier run of this build: digests, and places to resume from.
pub fn resume(
    entries: &mut [Entry],
    past: &mut Past,
    started: i64,
    counts: &mut Known,
) -> HashMap<u32, Chunks> {
    let mut partial = HashMap::new();
    for (index, entry) in entries.iter_mut().enumerate() {
        if entry.kind != Type::File || entry.digest.is_some() || entry.hardlink_of().is_some() {
            continue;
        }
        let Some(known) = past.take(&entry.path, &entry.identity) else { continue };
        if !is_settled(&entry.identity, started) {
            continue;
        }
        let size = entry.identity.size;
        match (known.digest, known.chunks) {
            (Some(digest), chunks)
                if size <= CHUNK || chunks.as_ref().is_some_and(|c| c.is_of(size)) =>
            {
                entry.digest = Some(digest);
                if let Some(chunks) = chunks {
                    entry.rare_mut().chunks = Some(chunks);
                }
                counts.resumed_bytes += size;
            }
            (None, Some(chunks))
                if chunks.digests.len() == chunks.states.len()
                    && chunks.size.saturating_mul(chunks.states.len() as u64) < size =>
            {
                counts.resumed_bytes += chunks.size * chunks.states.len() as u64;
                partial.insert(index as u32, chunks);
            }
            _ => {}
        }
    }
    partial
}
