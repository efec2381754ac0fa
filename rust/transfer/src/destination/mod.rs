//! The destination: fetches in passes, writes, flushes, proves, completes once.

mod completion;
pub(crate) mod connect;
mod flush;
#[cfg(test)]
mod hostile;
mod journal;
pub mod manifest;
mod pass;
mod receive;
pub mod repair;
mod staging;

pub use pass::limited::Limited;
pub use staging::{is_staging, split};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use holdfast_engine::Progress;
use holdfast_engine::RootPath;
use holdfast_engine::image::sha256::Sha256;
use holdfast_engine::record::PathText;
use serde::{Deserialize, Serialize};

use crate::message::Loss;
use crate::{Error, Result, Ticket, Unmapped};
use completion::{Completion, complete};
use flush::{Ledger, lock};
use journal::{Journal, Record};
use pass::Fetching;
use staging::Staging;

/// The longest pause between two attempts.
const PAUSE: Duration = Duration::from_secs(5);

/// How far a transfer proves what it wrote.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Proof {
    /// Each byte arrived as it was sent.
    Wire,
    /// And is flushed to the device.
    #[default]
    Flushed,
    /// And was read back from it.
    Media,
}

/// What to fetch, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The source's ticket.
    pub ticket: Ticket,
    /// The destination: a directory below a root, which is made if only its last name is missing.
    pub place: RootPath,
    /// A directory for what is known of this transfer, private to it; it exists.
    pub state: PathBuf,
    /// Data connections to begin with, 1 to 32.
    #[serde(default = "connections")]
    pub connections: u8,
    /// Data connections at most, up to 32: some are added as long as the rate grows with them.
    #[serde(default = "most_connections")]
    pub most_connections: u8,
    /// How far to prove.
    #[serde(default)]
    pub proof: Proof,
    /// At most this many bytes each second.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Passes at most.
    #[serde(default = "passes")]
    pub passes: u32,
    /// Stop after a pass that leaves at most this many bytes: as many as it fetched, and the files
    /// that it could not fetch whole.
    #[serde(default)]
    pub until_remaining: u64,
    /// Whether the last pass completes the transfer: the source is at rest.
    #[serde(default)]
    pub complete: bool,
    /// Complete although the source found files open for writing: handed to the source, which
    /// decides.
    #[serde(default)]
    pub overrule_writers: bool,
    /// A file to write the source's record of the page cache to, if it has one, before the transfer
    /// completes.
    #[serde(default)]
    pub page_cache: Option<PathBuf>,
    /// Whether owners are found by their names instead of their numbers; the same in all calls of
    /// one transfer.
    #[serde(default)]
    pub map_owners: bool,
    /// The directory of `passwd` and `group`.
    #[serde(default = "crate::source::accounts")]
    pub accounts: PathBuf,
    /// The manifest to make when it is complete.
    #[serde(default)]
    pub manifest: Option<manifest::Request>,
    /// Give up after this many seconds without progress.
    #[serde(default = "patience")]
    pub patience_seconds: u64,
}

fn connections() -> u8 {
    8
}

fn most_connections() -> u8 {
    32
}

fn passes() -> u32 {
    1
}

fn patience() -> u64 {
    600
}

/// What one pass did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Pass {
    /// Files on the source, each once.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that were fetched, whole or in part.
    pub fetched_files: u64,
    /// Bytes of files that crossed the wire, those of attempts that failed included.
    pub sent_bytes: u64,
    /// Files that were here already.
    pub unchanged_files: u64,
    /// Names that were removed, since the source has them no more.
    pub removed: u64,
    /// How long it took.
    pub seconds: f64,
    /// What limited it for the longest time; nothing if there was nothing to fetch.
    pub limited_by: Option<Limited>,
    /// Seconds by what limited them.
    pub limited_seconds: BTreeMap<Limited, f64>,
    /// Data connections at the end.
    pub connections: usize,
    /// Connections that failed and were made again.
    pub reconnects: u64,
    /// Files that were read back and differed, and were fetched again: the destination's device.
    pub differed_on_media: u64,
    /// Blocks that arrived damaged although the channel proved them: memory of either end.
    pub damaged_blocks: u64,
    /// Files that could not be fetched whole.
    pub unfinished_files: u64,
    /// Some of them by name, with the reason.
    pub unfinished: Vec<Unfinished>,
    /// Their bytes.
    #[serde(skip)]
    pub unfinished_bytes: u64,
    /// Files that were read back and are what they should be.
    #[serde(skip)]
    pub proven_files: u64,
    /// FIFOs, sockets and devices, which are not made, by type.
    pub specials: BTreeMap<String, u64>,
    /// Some of them by name.
    pub special_names: Vec<PathText>,
    /// Names that the source left out, by reason.
    pub left_out: BTreeMap<String, u64>,
    /// Files, directories and links of which the owner, the mode, the modification time or extended
    /// attributes could not be set, by which of them.
    pub unset: BTreeMap<String, u64>,
    /// Owners that were to be found by name and keep their numbers.
    pub unmapped_owners: Unmapped,
}

impl Pass {
    fn remaining_bytes(&self) -> u64 {
        self.sent_bytes.saturating_add(self.unfinished_bytes)
    }
}

/// A file that could not be fetched whole.
#[derive(Debug, Clone, Serialize)]
pub struct Unfinished {
    /// Its path.
    #[serde(flatten)]
    pub path: PathText,
    /// Why.
    pub reason: String,
}

/// What a call did.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Each pass.
    pub passes: Vec<Pass>,
    /// How far it is proven.
    pub proof: Proof,
    /// Whether the transfer is complete, and cannot be written again.
    pub complete: bool,
    /// Bytes that another pass may have to fetch: as many as the last one fetched, and the files that
    /// it could not fetch whole.
    pub remaining_bytes: u64,
    /// The manifest, if one was made.
    pub manifest: Option<holdfast_engine::manifest::build::Outcome>,
    /// What the lines of the manifest have in common with the source's: one SHA-256 of all.
    pub manifest_digest: Option<Sha256>,
    /// The source's own manifest, if there is one.
    pub source_manifest: Option<SourceManifest>,
    /// Bytes of the source's record of the page cache, if it has one and it was asked for.
    pub page_cache_bytes: Option<u64>,
}

/// The manifest that the source made of what it read.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct SourceManifest {
    /// SHA-256 of what its lines have in common with the destination's.
    pub digest: Sha256,
    /// Whether the destination's manifest has the same.
    pub equal: bool,
}

/// Fetch what a ticket offers.
///
/// A call that fails or is killed leaves what it has proven; the next one with the same `state`
/// continues. Nothing in the destination that no transfer made is changed.
///
/// # Errors
/// [`Error::Complete`], [`Error::Busy`], [`Error::Occupied`], [`Error::Refused`],
/// [`Error::Protocol`]; [`Error::Writers`] and [`Error::Unfinished`] from a pass that was to complete; [`Error::Wire`] and
/// [`Error::Damaged`] if attempts failed for as long as `patience_seconds`; [`Error::Engine`].
pub fn pull(request: &Request, progress: &Progress) -> Result<Outcome> {
    let invalid = |reason: &str| holdfast_engine::Error::Invalid(reason.to_owned());
    let connections = 1..=32;
    if !connections.contains(&request.connections)
        || !connections.contains(&request.most_connections)
    {
        return Err(invalid("connections are 1 to 32").into());
    }
    if request.passes == 0 {
        return Err(invalid("a transfer has one pass at least").into());
    }
    progress.enter("opening");
    let shown = request.place.root.join(&request.place.path);
    let durable = request.proof != Proof::Wire;
    let (journal, state, puller) = Journal::open(&request.state, durable, &shown)?;
    if state.complete {
        return Err(Error::Complete { path: shown.to_string_lossy().into_owned() });
    }
    let staging = Staging::open(&request.place)?;
    let (journal, state) = (Mutex::new(journal), Mutex::new(state));
    let ledger = Ledger {
        staging: &staging,
        journal: &journal,
        state: &state,
        proof: request.proof,
        progress,
    };
    if lock(&state).mapped.is_some_and(|mapped| mapped != request.map_owners) {
        return Err(invalid("map_owners is the same in all calls of one transfer").into());
    }
    ledger.record(vec![Record::Mapped(request.map_owners)], true)?;
    let fetching = Fetching { request, puller: &puller, ledger: &ledger };
    fetching.settle()?;
    let mut passes = Vec::new();
    loop {
        let last = passes.len() as u32 + 1 == request.passes;
        let (pass, end) = attempt(&fetching, last, progress)?;
        let remaining_bytes = pass.remaining_bytes();
        passes.push(pass);
        let Some(end) = end else { continue };
        return Ok(Outcome {
            passes,
            proof: request.proof,
            complete: request.complete,
            remaining_bytes,
            manifest_digest: end.manifest.as_ref().map(|manifest| end.digest(manifest, request)),
            source_manifest: end.source_manifest(request),
            page_cache_bytes: end.page_cache_bytes,
            manifest: end.manifest,
        });
    }
}

/// Return the error of a pass that was to complete and did not fetch everything.
fn unfinished(pass: &Pass, staging: &Staging) -> Option<Error> {
    let count = pass.unfinished_files;
    let named = pass.unfinished.first().map(|file| {
        let path = file.path.clone().into_bytes().unwrap_or_default();
        (staging.shown(&path).to_string_lossy().into_owned(), file.reason.clone())
    });
    let other = || ("another name of a file".to_owned(), words(&Loss::Vanished));
    let (path, reason) = named.unwrap_or_else(other);
    (count > 0).then_some(Error::Unfinished { count, path, reason })
}

/// Run a pass until it succeeds, or nothing has moved for too long. Returns the end of the transfer
/// if that was the last pass.
fn attempt(
    fetching: &Fetching<'_>,
    last: bool,
    progress: &Progress,
) -> Result<(Pass, Option<Completion>)> {
    let begin = Instant::now();
    let request = fetching.request;
    let patience = Duration::from_secs(request.patience_seconds);
    let mut pass = Pass::default();
    let (mut moved, mut pause) = (Instant::now(), PAUSE / 32);
    loop {
        let before = (pass.sent_bytes, pass.proven_files);
        let result = fetching.pass(&mut pass).and_then(|(plan, control)| {
            if !last && pass.remaining_bytes() > request.until_remaining {
                control.close();
                return Ok(None);
            }
            if !request.complete {
                control.close();
                return Ok(Some(Completion::default()));
            }
            match unfinished(&pass, fetching.ledger.staging) {
                Some(error) => Err(error),
                None => complete(fetching, &plan, control).map(Some),
            }
        });
        match result {
            Ok(end) => {
                pass.seconds = begin.elapsed().as_secs_f64();
                return Ok((pass, end));
            }
            Err(error) if error.is_transient() && !progress.cancelled() => {
                pass.reconnects += 1;
                pass.damaged_blocks += u64::from(matches!(error, Error::Damaged { .. }));
                if (pass.sent_bytes, pass.proven_files) != before {
                    (moved, pause) = (Instant::now(), PAUSE / 32);
                }
                if moved.elapsed() >= patience {
                    return Err(error);
                }
                progress.enter("reconnecting");
                let until = Instant::now() + pause;
                while Instant::now() < until {
                    progress.check()?;
                    std::thread::sleep(Duration::from_millis(20));
                }
                pause = (pause * 2).min(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Return the words for a loss.
fn words(loss: &Loss) -> String {
    match loss {
        Loss::Changed => "it kept changing while it was read".to_owned(),
        Loss::Vanished => "it is gone".to_owned(),
        Loss::Error(words) => format!("the source could not read it: {words}"),
    }
}
