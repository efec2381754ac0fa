//! Repair: what differs from the source's manifest is fetched again, chunk by chunk, and each finding
//! names the side that is to blame.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_engine::RootPath;
use holdfast_engine::confine::stat;
use holdfast_engine::record::PathText;
use holdfast_engine::xxh64::xxh64;
use holdfast_engine::{Progress, Root, space};
use rustix::fs::{Mode, OFlags, fsync, openat};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::connect::Caller;
use super::journal::{Item, Journal, Record, State};
use super::plan::stamp_of;
use super::repair_compare::{Difference, compare};
use super::staging::split;
use crate::channel::{Channel, Stop};
use crate::chunk::read_chunk;
use crate::message::{
    self, BLOCK, BLOCK_HEAD, BlockHead, Kind, LIMIT, Proven, Reply, Reread, Verdict,
};
use crate::ticket::random;
use crate::{Error, Result, Ticket, metadata, statistics};

/// Findings that are named in the result.
const NAMED: usize = 1000;
/// Files that are asked for in one message.
const BATCH: usize = 256;
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
    #[serde(default = "super::patience")]
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
/// As [`super::pull`], but not for a transfer that is complete.
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
        let mut control =
            Caller { ticket, puller, session, patience: PATIENCE, stop: &stop }.connect(false)?;
        control.set_patience(PATIENCE);
        Ok(control)
    };
    let mut todo: Option<Vec<Difference>> = None;
    let mut moved = Instant::now();
    let patience = Duration::from_secs(request.patience_seconds);
    loop {
        let before = super::flush::lock(&repairing.outcome).received_bytes;
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
                let mut outcome = super::flush::lock(&repairing.outcome);
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
        let mut outcome = super::flush::lock(&self.outcome);
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
            match control.receive_message(LIMIT, stop)? {
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
                    let mut outcome = super::flush::lock(&self.outcome);
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
            super::flush::lock(&self.outcome).differing_chunks += difference.chunks.len() as u64;
            if let Some(words) = difference.unreadable.clone() {
                let mut finding = Self::finding(proven, 0, Some(Side::DestinationDisk), false);
                (finding.length, finding.detail) = (proven.size, Some(words));
                self.find(finding);
                continue;
            }
            if written_since && !overwrite {
                super::flush::lock(&self.outcome).left_alone += 1;
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
            let bytes = read_chunk(&file, proven.range(index), None)?;
            if bytes.is_some_and(|bytes| Some(xxh64(&bytes)) == proven.chunk(index)) {
                self.find(Self::finding(proven, index, Some(Side::DestinationMemory), true));
                super::flush::lock(&self.outcome).repaired_chunks += 1;
            } else {
                still.push(index);
            }
        }
        difference.chunks = still;
        Ok(())
    }

    /// Fetch what differs; what is done is removed from the list.
    fn fetch(
        &self,
        control: &mut Channel,
        todo: &mut Vec<Difference>,
        stop: Stop<'_>,
    ) -> Result<()> {
        while !todo.is_empty() {
            let wanted: Vec<_> = todo
                .iter()
                .take(BATCH)
                .map(|repair| Reread {
                    path: repair.proven.path.clone(),
                    chunks: repair.chunks.clone(),
                })
                .collect();
            let count = wanted.len();
            control.send(&message::Request::Reread(wanted), stop)?;
            for _ in 0..count {
                let mut file = None;
                while let Some(&index) = todo[0].chunks.first() {
                    self.fetch_chunk(control, &todo[0], index, &mut file, stop)?;
                    todo[0].chunks.remove(0);
                }
                if let Some(file) = &file {
                    self.finish(&todo[0], file)?;
                }
                todo.remove(0);
            }
        }
        Ok(())
    }

    /// Open a file to be repaired, and make it if it is gone.
    fn open(&self, difference: &Difference) -> Result<File> {
        let proven = &difference.proven;
        let shown = self.shown(&proven.path);
        let (parent, name) = split(&proven.path);
        let parent = self.base.open_directory(parent).map_err(|e| Error::io(&shown, e))?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = openat(&parent, name, flags | OFlags::CREATE, mode);
        let file = File::from(fd.map_err(|e| Error::io(&shown, e))?);
        let found = file.metadata().map_err(|error| Error::io(&shown, error))?;
        if !found.is_file() {
            let words = format!("{} is no regular file any more", shown.display());
            return Err(holdfast_engine::Error::Invalid(words).into());
        }
        if found.len() != proven.size {
            space::check_file(&file, &shown, proven.size.saturating_sub(found.len()))?;
            file.set_len(proven.size).map_err(|error| Error::io(&shown, error))?;
        }
        Ok(file)
    }

    fn shown(&self, path: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt as _;
        self.base.path().join(std::ffi::OsStr::from_bytes(path))
    }

    fn fetch_chunk(
        &self,
        control: &mut Channel,
        difference: &Difference,
        index: u32,
        file: &mut Option<File>,
        stop: Stop<'_>,
    ) -> Result<()> {
        let proven = &difference.proven;
        let written_since = !difference.untouched;
        let side = if written_since { None } else { Some(Side::DestinationDisk) };
        match control.receive_message(LIMIT, stop)? {
            Reply::Reread(Verdict::Good) => {}
            Reply::Reread(Verdict::Second) => {
                self.find(Self::finding(proven, index, Some(Side::SourceMemory), true));
            }
            Reply::Reread(Verdict::Damaged) => {
                let mut finding = Self::finding(proven, index, Some(Side::SourceDisk), false);
                let words = "the source reads what its own manifest does not have";
                finding.detail = Some(words.to_owned());
                self.find(finding);
                return Ok(());
            }
            Reply::Reread(Verdict::Lost(words)) => {
                let mut finding = Self::finding(proven, index, side, false);
                (finding.written_since, finding.detail) = (written_since, Some(words));
                self.find(finding);
                return Ok(());
            }
            _ => return Err(control.broken("a message that has no place in a repair")),
        }
        let bytes = self.receive(control, proven, index, stop)?;
        let range = proven.range(index);
        let shown = self.shown(&proven.path);
        if file.is_none() {
            *file = Some(self.open(difference)?);
        }
        let Some(file) = &*file else { return Ok(()) };
        let write = || {
            file.write_all_at(&bytes, range.start)?;
            file.sync_data()
        };
        write().map_err(|error| Error::io(&shown, error))?;
        // What the device has is proven, not what the page cache has.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
        let fd = file.as_fd().try_clone_to_owned().map_err(|e| Error::io(&shown, e))?;
        let stat = stat(&fd).map_err(|errno| Error::io(&shown, errno))?;
        let open = Arc::new(holdfast_engine::confine::OpenFile { fd, stat });
        let back = read_chunk(&open, range, None)?;
        let repaired = back.is_some_and(|back| Some(xxh64(&back)) == proven.chunk(index));
        let mut finding = Self::finding(proven, index, side, repaired);
        finding.written_since = written_since;
        if repaired {
            super::flush::lock(&self.outcome).repaired_chunks += 1;
        } else {
            finding.side = Some(Side::DestinationDisk);
            finding.detail = Some("what was written reads back differently".to_owned());
        }
        self.find(finding);
        Ok(())
    }

    /// Receive the blocks of a chunk, and check them as a whole before anything is written.
    fn receive(
        &self,
        control: &mut Channel,
        proven: &Proven,
        index: u32,
        stop: Stop<'_>,
    ) -> Result<Vec<u8>> {
        let range = proven.range(index);
        let mut bytes = Vec::new();
        let damaged = |offset, length| Error::Damaged {
            path: self.shown(&proven.path).to_string_lossy().into_owned(),
            offset,
            length,
        };
        while (bytes.len() as u64) < range.end - range.start {
            let (kind, length) = control.receive_head(stop)?;
            let at = range.start + bytes.len() as u64;
            let data = length.checked_sub(BLOCK_HEAD).filter(|&data| {
                kind == Kind::Block && (1..=BLOCK).contains(&data) && data as u64 <= range.end - at
            });
            let data =
                data.ok_or_else(|| control.broken("a block that has no place in a chunk"))?;
            let mut head = [0; BLOCK_HEAD];
            control.receive(&mut head, stop)?;
            let head = BlockHead::parse(&head);
            let from = bytes.len();
            bytes.resize(from + data, 0);
            control.receive(&mut bytes[from..], stop)?;
            super::flush::lock(&self.outcome).received_bytes += data as u64;
            statistics::received(crate::Proof::Media, data as u64);
            if head.offset != at {
                return Err(control.broken("a block that has no place in a chunk"));
            }
            if xxh3_64(&bytes[from..]) != head.check {
                return Err(damaged(at, data as u64));
            }
        }
        if Some(xxh64(&bytes)) != proven.chunk(index) {
            return Err(damaged(range.start, bytes.len() as u64));
        }
        Ok(bytes)
    }

    /// Set what is carried beside the content, and record the file's new time of change.
    fn finish(&self, difference: &Difference, file: &File) -> Result<()> {
        let proven = &difference.proven;
        let failed = |errno| Error::io(self.shown(&proven.path), errno);
        let found = stat(file).map_err(failed)?;
        if difference.untouched {
            // Only the times changed.
            let modified = rustix::fs::Timespec {
                tv_sec: proven.metadata.mtime_ns.div_euclid(1_000_000_000),
                tv_nsec: proven.metadata.mtime_ns.rem_euclid(1_000_000_000),
            };
            let times =
                rustix::fs::Timestamps { last_access: modified, last_modification: modified };
            rustix::fs::futimens(file, &times).map_err(failed)?;
        } else {
            metadata::apply_without_attributes(file, &found, &proven.metadata).map_err(failed)?;
        }
        fsync(file).map_err(failed)?;
        let stamp = stamp_of(file).map_err(failed)?;
        let mut journal = super::flush::lock(&self.journal);
        let (journal, state) = &mut *journal;
        if let Some(Item::File(held)) = state.items.get(&proven.path)
            && held.ino == stamp.ino
        {
            let record = Record::Placed(proven.path.clone(), stamp.ctime_ns);
            journal.append(std::slice::from_ref(&record), true)?;
            state.apply(record);
        }
        Ok(())
    }
}
