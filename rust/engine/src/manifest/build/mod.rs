//! Making a manifest: every file below a directory with its digest, each byte read once at most.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

mod hashing;
mod links;
mod queue;
mod write;

use self::links::share;
use self::queue::{Queue, wanting};
use self::write::write;
use super::fingerprint::Fingerprint;
use super::journal::{Journal, Past, Plan};
use super::record::{Chunks, Entry, Type};
use super::reuse::{Known, accept, previous, resume, reuse};
use super::stamps::now_ns;
use super::survey::{Survey, link, survey};
use super::totals::{Counts, Problem};
use crate::digest::Algorithm;
use crate::read::{self, Device, ReadOptions};
use crate::tree::confine::{device, stat};
use crate::tree::patterns::Patterns;
use crate::tree::skips::{LeftOut, Reason};
use crate::{Error, Progress, Result, Root, RootPath};

/// What to make a manifest of, how, and where to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A root, or a directory below it.
    pub place: RootPath,
    /// Directories to leave out.
    pub exclude: Vec<PathBuf>,
    /// What to list; everything if there are none.
    pub include_patterns: Vec<String>,
    /// What not to list.
    pub exclude_patterns: Vec<String>,
    /// By which digest.
    pub algorithm: Algorithm,
    /// The record file to write; its directory exists.
    pub destination: PathBuf,
    /// The results so far, for a later run if this one is killed.
    pub journal: PathBuf,
    /// Manifests made here, by preference: the digests of unchanged files are taken over from the
    /// first one that is of the same directory and algorithm.
    pub previous: Vec<PathBuf>,
    /// Bytes of one to decompress at most.
    pub max_bytes: u64,
    /// More members for the header.
    pub header: BTreeMap<String, serde_json::Value>,
    /// At most this many bytes each second.
    pub bytes_per_second: Option<u64>,
    /// Give way above this pressure.
    pub pressure: Option<crate::pressure::Limit>,
    /// By which of the ways of reading.
    #[serde(default)]
    pub reader: read::Preference,
    /// Whether what is mounted below the directory belongs to it.
    #[serde(default)]
    pub across_mounts: bool,
}

/// What was recorded.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// What the manifest has.
    #[serde(flatten)]
    pub counts: Counts,
    /// Files without a digest by name, up to the limit.
    pub problems: Vec<Problem>,
    /// Whether the list is complete.
    pub problems_all: bool,
    /// Bytes hashed in this run, holes included.
    pub hashed_bytes: u64,
    /// What needed no reading.
    #[serde(flatten)]
    pub known: Known,
    /// Why the previous manifest was of no use.
    pub previous_unusable: Option<String>,
    /// Size of the record file.
    pub record_bytes: u64,
    /// What was left out, by reason.
    pub skipped: BTreeMap<Reason, u64>,
    /// The same with some names.
    pub left_out: BTreeMap<Reason, LeftOut>,
    /// How it was read.
    #[serde(flatten)]
    pub reading: read::Report,
    /// What the lines are about, for the comparison with another manifest of the same tree.
    #[serde(skip)]
    pub fingerprint: Fingerprint,
}

struct Build<'a> {
    base: &'a Root,
    algorithm: Algorithm,
    progress: &'a Progress,
    entries: Mutex<Vec<Entry>>,
    waiting: Mutex<Queue>,
    /// Files that were written to a moment before they were opened first.
    deferred: Mutex<HashSet<u32>>,
    second: Mutex<HashSet<u32>>,
    /// Where to resume files that an earlier run had started.
    partial: Mutex<HashMap<u32, Chunks>>,
    journal: Mutex<Journal>,
}

/// Make a manifest.
///
/// # Errors
/// [`Error::Io`] if the directory cannot be read or the manifest not be written,
/// [`Error::Invalid`] for malformed patterns, [`Error::Cancelled`]. No manifest is left then; the
/// journal is.
pub fn build(request: &Request, progress: &Progress) -> Result<Outcome> {
    build_of(request, |_| Ok(()), progress)
}

/// Make a manifest of what a function leaves of all that was found. It may set the digests of files
/// that it knows; they are read nevertheless if they may have changed without a trace.
///
/// # Errors
/// As [`build`], and those of the function.
pub fn build_of(
    request: &Request,
    select: impl FnOnce(&mut Vec<Entry>) -> Result<()>,
    progress: &Progress,
) -> Result<Outcome> {
    progress.enter("walking");
    let patterns = Patterns::new(&request.include_patterns, &request.exclude_patterns)?;
    let mut base = Root::open(&request.place.root)?.below(&request.place.path)?;
    if request.across_mounts {
        base = base.across_mounts();
    }
    let plan = Plan {
        version: 1,
        algorithm: request.algorithm,
        base: base.path().to_owned(),
        scan_started_ns: now_ns()?,
    };
    let (journal, mut past) = Journal::open(&request.journal, &plan)?;
    let started = past.scan_started_ns.unwrap_or(plan.scan_started_ns);
    let filesystem = *base.filesystem();
    if !filesystem.keeps_track() {
        past = Past::default();
    }
    let Survey { mut entries, left_out, .. } =
        survey(&base, &request.exclude, &patterns, progress)?;
    select(&mut entries)?;
    link(&mut entries);

    let mut known = accept(&mut entries, plan.scan_started_ns, filesystem.keeps_track());
    let previous_unusable = if filesystem.keeps_track() {
        match previous(request) {
            None => None,
            Some(previous) => reuse(&mut entries, previous, progress, &mut known)?,
        }
    } else {
        (!request.previous.is_empty())
            .then(|| format!("not every change of a file leaves a trace on {}", filesystem.name))
    };
    let partial = resume(&mut entries, &mut past, started, &mut known);
    drop(past);
    let waiting = wanting(&mut entries, request.algorithm, filesystem.true_sizes);
    let left = |index: &u32| {
        let size = entries[*index as usize].identity.size;
        size - partial.get(index).map_or(0, |chunks| chunks.size * chunks.states.len() as u64)
    };
    let bytes = waiting.iter().map(left).fold(0, u64::saturating_add);
    let files = entries.iter().filter(|entry| entry.kind == Type::File).count() as u64;
    progress.expect(bytes, files);
    progress.add_files(files - waiting.len() as u64);

    progress.enter("hashing");
    let build = Build {
        base: &base,
        algorithm: request.algorithm,
        progress,
        entries: Mutex::new(entries),
        waiting: Mutex::new(Queue { first: waiting.into(), again: Vec::new() }),
        deferred: Mutex::default(),
        second: Mutex::default(),
        partial: Mutex::new(partial),
        journal: Mutex::new(journal),
    };
    let options = ReadOptions {
        bytes_per_second: request.bytes_per_second,
        pressure: request.pressure.clone(),
        reader: request.reader,
    };
    let top = stat(base.fd()).map_err(|e| Error::io(base.path(), e))?;
    let reading = read::read(&&build, Device::of(device(&top)), &options, progress)?;

    progress.enter("writing");
    let Build { entries, journal, .. } = build;
    let journal = journal.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
    share(&mut entries);
    let (counts, record_bytes, fingerprint) =
        write(&entries, request, started, filesystem, progress)?;
    journal.remove()?;
    let mut problems = Vec::new();
    let noted = entries.iter().map(|entry| Problem::note(entry, &mut problems));
    let problems_all = noted.fold(true, |all, noted| all & noted);
    Ok(Outcome {
        counts,
        problems,
        problems_all,
        hashed_bytes: progress.bytes_worked(),
        known,
        previous_unusable,
        record_bytes,
        skipped: left_out.skipped,
        left_out: left_out.left_out,
        reading,
        fingerprint,
    })
}
