//! Comparing the names on disk with those of the manifest, which finds the files to be read.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use super::findings::Counts;
use crate::digest::Digest;
use crate::manifest::record::{Chunks, Entry, FileKey, Manifest, Status};
use crate::manifest::report::{Finding, FindingKind, Reason, Report};
use crate::{Progress, Result};

/// A file to be checked.
#[derive(Debug)]
pub(super) struct Check {
    /// Its names; more than one where they are one file and are to be the same.
    pub(super) paths: Vec<Box<[u8]>>,
    /// The size in the manifest.
    pub(super) size: u64,
    /// The size it had when it was found.
    pub(super) found: u64,
    pub(super) digest: Digest,
    pub(super) chunks: Option<Chunks>,
    /// How many parts of it are read.
    pub(super) parts: u32,
}

impl Check {
    pub(super) fn chunk_count(&self) -> u32 {
        self.chunks.as_ref().map_or(1, |chunks| chunks.digests.len() as u32)
    }

    /// The chunks that are there whole and to be compared: all, unless the size is another one.
    pub(super) fn comparable(&self) -> u32 {
        let Some(chunks) = &self.chunks else { return u32::from(self.size == self.found) };
        if self.size == self.found {
            return chunks.digests.len() as u32;
        }
        (self.size.min(self.found) / chunks.size) as u32
    }
}

/// Compare the names, and return the files whose content is to be read.
///
/// # Errors
/// [`crate::Error::Record`], [`crate::Error::Io`] if the report cannot be written,
/// [`crate::Error::Cancelled`].
pub(super) fn compare(
    manifest: &mut Manifest,
    entries: Vec<Entry>,
    mounts: &[Box<[u8]>],
    report: &Report,
    counts: &Counts,
    progress: &Progress,
) -> Result<Vec<Check>> {
    let mut checks: Vec<Check> = Vec::new();
    // Where the first name of a file that has several is checked.
    let mut linked: HashMap<FileKey, usize> = HashMap::new();
    let extra = |entry: &Entry| {
        counts.extra.fetch_add(1, Ordering::Relaxed);
        report.add(&Finding::new(&entry.path, FindingKind::Extra, entry.kind))
    };
    let mut present = entries.into_iter().peekable();
    while let Some(line) = manifest.next(progress)? {
        while let Some(entry) = present.next_if(|entry| entry.path < line.path) {
            extra(&entry)?;
        }
        let entry = present.next_if(|entry| entry.path == line.path);
        if line.status == Status::Vanished {
            // It was not there in the end: as if there were no line.
            if let Some(entry) = entry {
                extra(&entry)?;
            }
            continue;
        }
        let finding = |kind| Finding::new(&line.path, kind, line.kind);
        let Some(entry) = entry.filter(|entry| entry.status != Status::Vanished) else {
            counts.missing.fetch_add(1, Ordering::Relaxed);
            let hidden = is_below(mounts, &line.path);
            let detail = hidden.then_some("something else is mounted there now");
            report.add(&finding(FindingKind::Missing).detail(detail))?;
            continue;
        };
        if entry.status == Status::Error {
            counts.unreadable.fetch_add(1, Ordering::Relaxed);
            report.add(&finding(FindingKind::Unreadable).detail(entry.detail()))?;
            continue;
        }
        let reason = if entry.kind != line.kind {
            Some(Reason::Type)
        } else if entry.target() != line.target() {
            Some(Reason::Target)
        } else {
            None
        };
        if let Some(reason) = reason {
            counts.mismatched.fetch_add(1, Ordering::Relaxed);
            report.add(&finding(FindingKind::Mismatched).reason(reason))?;
            continue;
        }
        if line.status != Status::Ok {
            counts.unproven.fetch_add(1, Ordering::Relaxed);
            report.add(&finding(FindingKind::Unproven).detail(line.detail()))?;
            continue;
        }
        let Some(digest) = line.digest else { continue };
        let check = Check {
            paths: vec![line.path],
            size: line.identity.size,
            found: entry.identity.size,
            digest,
            chunks: line.rare.and_then(|rare| rare.chunks),
            parts: 0,
        };
        if entry.nlink > 1 {
            let place = *linked.entry(entry.file()).or_insert(checks.len());
            // One file on disk is read once, unless its names are to differ.
            if let Some(first) = checks.get_mut(place)
                && (first.size, first.digest) == (check.size, check.digest)
            {
                first.paths.extend(check.paths);
                continue;
            }
        }
        checks.push(check);
    }
    present.try_for_each(|entry| extra(&entry))?;
    Ok(checks)
}

/// Whether a path is that of a mount or below one; `mounts` are sorted.
fn is_below(mounts: &[Box<[u8]>], path: &[u8]) -> bool {
    let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
    ends.chain([path.len()]).any(|end| mounts.binary_search_by(|m| (**m).cmp(&path[..end])).is_ok())
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn what_a_mount_hides_is_known_by_whole_names() {
        let mounts: Vec<Box<[u8]>> = vec![b"a/b".as_slice().into(), b"c".as_slice().into()];
        let hidden = |path: &[u8]| is_below(&mounts, path);
        assert!(hidden(b"c") && hidden(b"c/d") && hidden(b"a/b/e/f"));
        assert!(!hidden(b"a") && !hidden(b"a/bc") && !hidden(b"cd"));
    }
}
