//! Proving by reading that what is on disk matches a manifest.
//!
//! A file with a table of XXH64 states is checked chunk by chunk, on several processors at once:
//! each chunk, taken in from the state before it, must arrive at the state after it, and the last one
//! at the file's digest. That proves the standard digest of the whole, and shows which chunks
//! differ.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use serde::{Deserialize, Serialize};

mod findings;
mod names;
mod parts;
mod reading;

use self::findings::Counts;
use self::names::Check;
use self::parts::Queue;
use self::reading::State;
use super::record::{Header, Manifest};
use super::report::{Finding, Report};
use super::survey::{Survey, link, survey};
use crate::digest::Algorithm;
use crate::read::{self, Device, ReadOptions};
use crate::tree::confine::{device, stat};
use crate::tree::patterns::Patterns;
use crate::tree::skips::LeftOut;
use crate::{Error, Progress, Result, Root, RootPath};

/// What to verify, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The manifest.
    pub record: PathBuf,
    /// Bytes of it to decompress at most.
    pub max_bytes: u64,
    /// The directory that is to be what the manifest is of.
    pub place: RootPath,
    /// Directories to leave out.
    pub exclude: Vec<PathBuf>,
    /// Read only this share of the chunks, chosen at random.
    pub sample_percent: Option<f64>,
    /// What the choice depends on.
    #[serde(default)]
    pub seed: u64,
    /// The record file to write all findings to; its directory exists.
    pub report: PathBuf,
    /// More members for its header.
    pub header: BTreeMap<String, serde_json::Value>,
    /// At most this many bytes each second.
    pub bytes_per_second: Option<u64>,
    /// Give way above this pressure.
    pub pressure: Option<crate::pressure::Limit>,
    /// By which of the ways of reading.
    #[serde(default)]
    pub reader: read::Preference,
}

/// The result.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Whether nothing differs and everything could be proven.
    pub ok: bool,
    /// Why it is not `ok` although nothing was found to differ.
    pub why: Option<String>,
    /// Files of which at least a part was read.
    pub checked_files: u64,
    /// Of them those of which all that was read is as it should be.
    pub matching: u64,
    /// Files with other content or size, links with another target, names of another type.
    pub mismatched: u64,
    /// In the manifest only.
    pub missing: u64,
    /// On disk only.
    pub extra: u64,
    /// Written to while they were read, twice.
    pub changed: u64,
    /// The system gave an error.
    pub unreadable: u64,
    /// Of which the manifest itself has no digest.
    pub unproven: u64,
    /// Bytes in the ranges that differ.
    pub mismatched_bytes: u64,
    /// What differs by name, up to the limit.
    pub findings: Vec<Finding>,
    /// Whether the list is complete.
    pub findings_all: bool,
    /// Bytes checked, holes included.
    pub bytes: u64,
    /// Chunks checked; a file without a table is one.
    pub chunks_checked: u64,
    /// Chunks there are.
    pub chunks_total: u64,
    /// The share that was asked for.
    pub sample_percent: Option<f64>,
    /// What the choice depended on.
    pub seed: Option<u64>,
    /// What of the directory was left out, by reason.
    pub left_out: BTreeMap<crate::tree::skips::Reason, LeftOut>,
    /// How it was read.
    #[serde(flatten)]
    pub reading: read::Report,
}

struct Verify<'a> {
    base: &'a Root,
    algorithm: Algorithm,
    progress: &'a Progress,
    checks: Vec<Check>,
    waiting: Mutex<Queue>,
    open: Mutex<HashMap<u32, State>>,
    report: Report,
    counts: Counts,
}

/// Verify what is on disk.
///
/// # Errors
/// [`Error::Record`] for a manifest that cannot be trusted, [`Error::Io`] if the directory cannot be
/// read or the report not be written, [`Error::Cancelled`].
pub fn verify(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("walking");
    let mut manifest = Manifest::open(&request.record, request.max_bytes)?;
    let Header { algorithm, include, exclude, .. } = &manifest.header;
    let algorithm = *algorithm;
    let patterns = Patterns::new(include, exclude)?;
    let base = Root::open(&request.place.root)?.below(&request.place.path)?;
    let Survey { mut entries, left_out, mut mounts } =
        survey(&base, &request.exclude, &patterns, progress)?;
    mounts.sort_unstable();
    link(&mut entries);
    let report = Report::create(&request.report, "verify", &request.header)?;
    let counts = Counts::default();
    let checks = names::compare(&mut manifest, entries, &mounts, &report, &counts, progress)?;

    let mut verify = Verify {
        base: &base,
        algorithm,
        progress,
        checks,
        waiting: Mutex::default(),
        open: Mutex::default(),
        report,
        counts,
    };
    let chunks_total = verify.checks.iter().map(|check| u64::from(check.chunk_count())).sum();
    verify.checks.sort_by_key(|check| std::cmp::Reverse(check.found));
    let parts = parts::choose(&mut verify.checks, algorithm, request);
    let chunks_checked = parts.iter().map(|part| verify.chunks_in(*part)).sum();
    progress.expect(verify.bytes_in(&parts), verify.checks.len() as u64);
    verify.waiting = Mutex::new(Queue { first: parts.into(), again: Vec::new() });

    progress.enter("verifying");
    verify.settle_without_reading()?;
    let options = ReadOptions {
        bytes_per_second: request.bytes_per_second,
        pressure: request.pressure.clone(),
        reader: request.reader,
    };
    let top = stat(base.fd()).map_err(|e| Error::io(base.path(), e))?;
    let reading = read::read(&&verify, Device::of(device(&top)), &options, progress)?;

    let Verify { report, counts, .. } = verify;
    let (findings, findings_all) = report.finish()?;
    let count = AtomicU64::into_inner;
    let mut outcome = Outcome {
        ok: false,
        why: None,
        checked_files: count(counts.checked),
        matching: count(counts.matching),
        mismatched: count(counts.mismatched),
        missing: count(counts.missing),
        extra: count(counts.extra),
        changed: count(counts.changed),
        unreadable: count(counts.unreadable),
        unproven: count(counts.unproven),
        mismatched_bytes: count(counts.mismatched_bytes),
        findings,
        findings_all,
        bytes: progress.bytes_worked(),
        chunks_checked,
        chunks_total,
        sample_percent: request.sample_percent,
        seed: request.sample_percent.map(|_| request.seed),
        left_out: left_out.left_out,
        reading,
    };
    outcome.judge();
    Ok(outcome)
}

impl Outcome {
    /// Decide whether all is well, and why not where nothing differs.
    fn judge(&mut self) {
        let Self { mismatched, missing, extra, changed, unreadable, unproven, .. } = *self;
        let differs = mismatched + missing + extra + changed + unreadable + unproven > 0;
        if !differs && self.checked_files == 0 {
            let left: u64 = self.left_out.values().map(|left| left.count).sum();
            // An empty directory is as an empty manifest has it; one of which all was left out is not.
            self.why = (left > 0).then(|| {
                let names = if left == 1 { "1 name" } else { &format!("{left} names") };
                format!(
                    "nothing was verified: the manifest records no file, and {names} in the directory \
                     were left out"
                )
            });
        }
        self.ok = !differs && self.why.is_none();
    }
}
