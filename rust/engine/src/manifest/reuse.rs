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

/// Keep the digests that were known beforehand where every change of the file would show.
pub fn accept(entries: &mut [Entry], started: i64, keeps_track: bool) -> Known {
    let mut known = Known::default();
    for entry in entries.iter_mut().filter(|entry| entry.digest.is_some()) {
        if keeps_track && is_usable(entry, started) && has_table(entry) {
            known.reused_files += 1;
            known.reused_bytes += entry.identity.size;
        } else {
            entry.digest = None;
            forget(entry);
        }
    }
    known
}

/// Return whether a digest that was taken before `started` can be that of what is there now.
fn is_usable(entry: &Entry, started: i64) -> bool {
    entry.kind == Type::File
        && entry.status == Status::Ok
        && entry.hardlink_of().is_none()
        && is_settled(&entry.identity, started)
}

/// Return whether a file has its chunks if it is large: they are part of what a manifest is for.
fn has_table(entry: &Entry) -> bool {
    entry.identity.size <= CHUNK || entry.chunks().is_some()
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
        let same = old.kind == Type::File
            && entry.identity == old.identity
            && is_usable(entry, started)
            && has_table(&old);
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

#[cfg(test)]
mod tests {
    use super::accept;
    use crate::digest::Digest;
    use crate::manifest::record::{CHUNK, Chunks, Entry, Identity, Status, Type};

    const STARTED: i64 = 1_000_000_000_000;

    fn file(size: u64, age_ns: i64) -> Entry {
        let time = i128::from(STARTED - age_ns);
        let identity = Identity { dev: 1, ino: 2, size, mtime_ns: time, ctime_ns: time };
        let digest = Some(Digest::Xxh64(7));
        Entry { path: (*b"f").into(), kind: Type::File, identity, digest, ..Entry::default() }
    }

    #[test]
    fn only_digests_after_which_every_change_would_show_are_accepted() {
        let mut long_ago = file(CHUNK, 5_000_000_001);
        let mut just_now = file(CHUNK, 1);
        let mut without_table = file(CHUNK + 1, 5_000_000_001);
        let mut with_table = file(CHUNK + 1, 5_000_000_001);
        with_table.rare_mut().chunks =
            Some(Chunks { size: CHUNK, digests: vec![Digest::Xxh64(1); 2], states: vec![[0; 4]] });
        let mut another_name = file(1, 5_000_000_001);
        another_name.rare_mut().hardlink_of = Some(b"e".to_vec());
        let mut unreadable = file(1, 5_000_000_001);
        unreadable.status = Status::Vanished;
        let accepted = |entry: &mut Entry, keeps_track| {
            let known = accept(std::slice::from_mut(entry), STARTED, keeps_track);
            assert_eq!(known.reused_files, u64::from(entry.digest.is_some()));
            assert!(entry.digest.is_some() || entry.chunks().is_none());
            entry.digest.is_some()
        };
        assert!(accepted(&mut with_table, true));
        for entry in [&mut just_now, &mut without_table, &mut another_name, &mut unreadable] {
            assert!(!accepted(entry, true), "{entry:?}");
        }
        assert!(accepted(&mut long_ago, true));
        assert!(!accepted(&mut long_ago, false), "where changes leave no trace, all is read");
    }
}
