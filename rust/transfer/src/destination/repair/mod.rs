//! Repair: what differs from the source's manifest is fetched again, chunk by chunk, and each finding
//! names the side that is to blame.

mod compare;
mod fetch;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_engine::RootPath;
use holdfast_engine::record::PathText;
use holdfast_engine::xxh64::xxh64;
use holdfast_engine::{Progress, Root};
use serde::{Deserialize, Serialize};

use crate::channel::{Channel, Stop};
use crate::chunk::read_chunk;
use crate::destination::connect::Caller;
use crate::destination::journal::{Journal, State};
use crate::destination::repair::compare::{Difference, compare};
use crate::message::{self, Proven, Reply};
use crate::ticket::random;
use crate::{Error, Result, Ticket};

/// Findings that are named in the result.
const NAMED: usize = 1000;
/// Files of a manifest at most.
const MOST: usize = 1 << 26;
/// How long nothing may move while the source reads a chunk.
const PATIENCE: Duration = Duration::from_secs(300);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// What to repair.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The source's ticket.
    pub ticket: Ticket,
    /// The destination.
    pub place: RootPath,
    /// The directory with what is known of the transfer into it, or an empty one.
    pub state: PathBuf,
    /// Whether files that were written to since they were transferred are set back to what the
    /// source's manifest has. Without a choice they are, unless the transfer is complete.
    #[serde(default)]
    pub overwrite_written: Option<bool>,
    /// Read at most this many bytes each second.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
    /// Give up after this many seconds without progress.
    #[serde(default = "crate::destination::patience")]
    pub patience_seconds: u64,
}

/// Who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// The source's device: what it reads differs from its own manifest, and nobody wrote to it.
    SourceDisk,
    /// The source's memory: it read the same twice, and only one reading differed.
    SourceMemory,
    /// The wire: what the channel proves did not hold.
    Wire,
    /// Memory of either end, between the channel and the file.
    Memory,
    /// The destination's memory: what it read differed once, and not again.
    DestinationMemory,
    /// The destination's device: what it reads differs from what was transferred.
    DestinationDisk,
}

/// One thing that was found.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The file.
    #[serde(flatten)]
    pub path: PathText,
    /// Where in it, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
    /// Who is to blame; nobody can be named for what could not be compared, or was written to.
    pub side: Option<Side>,
    /// Whether it is as the source's manifest has it now.
    pub repaired: bool,
    /// Whether the file was written to since it was transferred, or is gone.
    pub written_since: bool,
    /// Further notes.
    pub detail: Option<String>,
}

/// What a repair did.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Whether all that could be compared is as the source's manifest has it now.
    pub ok: bool,
    /// Files that were compared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Chunks that were found to differ.
    pub differing_chunks: u64,
    /// Of them those that were repaired.
    pub repaired_chunks: u64,
    /// Bytes that were fetched.
    pub received_bytes: u64,
    /// Files that changed on the source since its manifest was made; they were not compared.
    pub changed_on_source: u64,
    /// Files on the source that its manifest does not have.
    pub unknown_on_source: u64,
    /// Files that were written to since they were transferred, and were left alone.
    pub left_alone: u64,
    /// Connections that failed and were made again.
    pub reconnects: u64,
    /// All findings.
    pub findings_total: u64,
    /// The first of them.
    pub findings: Vec<Finding>,
}

struct Repairing<'a> {
    request: &'a Request,
    base: Root,
    journal: Mutex<(Journal, State)>,
    progress: &'a Progress,
    outcome: Mutex<Outcome>,
}

/// Compare a destination with the source's manifest and fetch the chunks that differ. It writes only
/// what the source has read again and found to be as its manifest has it.
///
/// # Errors
/// As [`crate::destination::pull`], but not for a transfer that is complete.
pub fn repair(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("opening");
    let shown = request.place.root.join(&request.place.path);
    let (journal, state, puller) = Journal::open(&request.state, true, &shown)?;
    let base = Root::open(&request.place.root)?.below(&request.place.path)?;
    let overwrite = request.overwrite_written.unwrap_or(!state.complete);
    let repairing = Repairing {
        request,
        base,
        journal: Mutex::new((journal, state)),
        progress,
        outcome: Mutex::default(),
    };
    let stop = || progress.cancelled();
    let caller = || -> Result<Channel> {
        progress.enter("connecting");
        let session = random()?;
        let (ticket, puller) = (&request.ticket, &puller);
        let control =
            Caller { ticket, puller, session, patience: PATIENCE, stop: &stop }.connect(false)?;
        Ok(control)
    };
    let mut todo: Option<Vec<Difference>> = None;
    let mut moved = Instant::now();
    let patience = Duration::from_secs(request.patience_seconds);
    loop {
        let before = crate::destination::flush::lock(&repairing.outcome).received_bytes;
        let result = caller().and_then(|mut control| {
            let proven = repairing.fetch_proofs(&mut control, &stop)?;
            let left = match &mut todo {
                Some(left) => left,
                // Reading it all takes long; the source need not wait for it.
                None => {
                    progress.enter("comparing");
                    todo.insert(repairing.compare(proven, overwrite)?)
                }
            };
            progress.enter("repairing");
            repairing.fetch(&mut control, left, &stop)?;
            control.close();
            Ok(())
        });
        match result {
            Ok(()) => break,
            Err(error) if error.is_transient() && !progress.cancelled() => {
                let mut outcome = crate::destination::flush::lock(&repairing.outcome);
                outcome.reconnects += 1;
                if outcome.received_bytes > before {
                    moved = Instant::now();
                }
                drop(outcome);
                repairing.blame(&error, todo.as_deref());
                if moved.elapsed() >= patience {
                    return Err(error);
                }
                std::thread::sleep(PAUSE);
                progress.check()?;
            }
            Err(error) => return Err(error),
        }
    }
    let mut outcome = repairing.outcome.into_inner().unwrap_or_else(|e| e.into_inner());
    let differing = outcome.differing_chunks > outcome.repaired_chunks;
    let unrepaired = outcome.findings.iter().any(|finding| {
        !finding.repaired && !matches!(finding.side, Some(Side::Wire | Side::Memory))
    });
    outcome.ok =
        !differing && !unrepaired && outcome.changed_on_source == 0 && outcome.left_alone == 0;
    Ok(outcome)
}

impl Repairing<'_> {
    fn find(&self, finding: Finding) {
        let mut outcome = crate::destination::flush::lock(&self.outcome);
        outcome.findings_total += 1;
        if outcome.findings.len() < NAMED {
            outcome.findings.push(finding);
        }
    }

    fn finding(proven: &Proven, index: u32, side: Option<Side>, repaired: bool) -> Finding {
        let range = proven.range(index);
        Finding {
            path: PathText::new(&proven.path),
            offset: range.start,
            length: range.end - range.start,
            side,
            repaired,
            written_since: false,
            detail: None,
        }
    }

    /// Name the wire or the memory for an attempt that failed.
    fn blame(&self, error: &Error, left: Option<&[Difference]>) {
        let damaged = |source: &std::io::Error| source.kind() == std::io::ErrorKind::InvalidData;
        let side = match error {
            Error::Wire { source, .. } if damaged(source) => Side::Wire,
            Error::Damaged { .. } => Side::Memory,
            _ => return,
        };
        let Some(next) = left.and_then(|left| left.first()) else { return };
        let index = next.chunks.first().copied().unwrap_or(0);
        let mut finding = Self::finding(&next.proven, index, Some(side), true);
        finding.detail = Some(error.to_string());
        self.find(finding);
    }

    fn fetch_proofs(&self, control: &mut Channel, stop: Stop<'_>) -> Result<Vec<Proven>> {
        control.send(&message::Request::Proofs, stop)?;
        let mut proven: Vec<Proven> = Vec::new();
        loop {
            match control.receive_reply(stop)? {
                Reply::Proven(more) if proven.len() + more.len() <= MOST => {
                    for file in &more {
                        let plain = holdfast_engine::manifest::record::is_plain(&file.path);
                        let chunk = holdfast_engine::manifest::record::chunk_size(file.size);
                        let chunks = file.size.div_ceil(chunk);
                        let fits = file.digests.len() as u64 == if chunks > 1 { chunks } else { 0 };
                        if !plain || !fits || file.size > i64::MAX as u64 {
                            return Err(control.broken("its manifest has a file that cannot be"));
                        }
                    }
                    proven.extend(more);
                }
                Reply::Proofs(count, unknown) if count == proven.len() as u64 => {
                    let mut outcome = crate::destination::flush::lock(&self.outcome);
                    outcome.unknown_on_source = unknown;
                    outcome.changed_on_source =
                        proven.iter().filter(|file| file.moved).count() as u64;
                    proven.retain(|file| !file.moved);
                    outcome.files = proven.len() as u64;
                    outcome.bytes =
                        proven.iter().map(|file| file.size).fold(0, u64::saturating_add);
                    self.progress.restart();
                    self.progress.expect(outcome.bytes, outcome.files);
                    return Ok(proven);
                }
                Reply::Refused(reason) => return Err(Error::Refused(reason)),
                _ => return Err(control.broken("a message that has no place in a manifest")),
            }
        }
    }

    /// Return what is to be fetched.
    fn compare(&self, proven: Vec<Proven>, overwrite: bool) -> Result<Vec<Difference>> {
        let limit = self.request.bytes_per_second;
        let differing = compare(&self.base, proven, limit, self.progress)?;
        let mut todo = Vec::new();
        for mut difference in differing {
            self.progress.check()?;
            let written_since = !difference.untouched;
            let proven = &difference.proven;
            crate::destination::flush::lock(&self.outcome).differing_chunks +=
                difference.chunks.len() as u64;
            if let Some(words) = difference.unreadable.clone() {
                let mut finding = Self::finding(proven, 0, Some(Side::DestinationDisk), false);
                (finding.length, finding.detail) = (proven.size, Some(words));
                self.find(finding);
                continue;
            }
            if written_since && !overwrite {
                crate::destination::flush::lock(&self.outcome).left_alone += 1;
                let words = "it was written to since it was transferred, and is left alone";
                let mut finding = Self::finding(proven, 0, None, false);
                (finding.length, finding.written_since) = (proven.size, true);
                finding.detail = Some(words.to_owned());
                self.find(finding);
                continue;
            }
            if difference.untouched {
                self.read_again(&mut difference)?;
            }
            if !difference.chunks.is_empty() {
                todo.push(difference);
            }
        }
        Ok(todo)
    }

    /// Read what differs once more: memory does not err twice alike.
    fn read_again(&self, difference: &mut Difference) -> Result<()> {
        let Ok(file) = self.base.open_file(&difference.proven.path, self.progress) else {
            return Ok(());
        };
        let file = Arc::new(file);
        let proven = &difference.proven;
        let mut still = Vec::new();
        for &index in &difference.chunks {
            self.progress.check()?;
            let bytes = read_chunk(&file, proven.range(index), None, &Progress::default())?;
            if bytes.is_some_and(|bytes| Some(xxh64(&bytes)) == proven.chunk(index)) {
                self.find(Self::finding(proven, index, Some(Side::DestinationMemory), true));
                crate::destination::flush::lock(&self.outcome).repaired_chunks += 1;
            } else {
                still.push(index);
            }
        }
        difference.chunks = still;
        Ok(())
    }
}
