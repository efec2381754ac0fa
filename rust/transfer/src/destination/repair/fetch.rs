//! Chunks that differ are fetched, written and read back.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use holdfast_engine::Progress;
use holdfast_engine::space;
use holdfast_engine::tree::confine::stat;
use holdfast_engine::xxh64::xxh64;
use rustix::fs::{Mode, OFlags, fsync, openat};
use xxhash_rust::xxh3::xxh3_64;

use crate::channel::{Channel, Stop};
use crate::chunk::read_chunk;
use crate::destination::journal::{Item, Record};
use crate::destination::pass::plan::stamp_of;
use crate::destination::repair::compare::Difference;
use crate::destination::staging::split;
use crate::message::{self, BLOCK, BLOCK_HEAD, BlockHead, Kind, Proven, Reply, Reread, Verdict};
use crate::{Error, Result, metadata, statistics};

use super::{Repairing, Side};

/// Files that are asked for in one message.
const BATCH: usize = 256;

impl Repairing<'_> {
    /// Fetch what differs; what is done is removed from the list.
    pub(super) fn fetch(
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
        match control.receive_reply(stop)? {
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
        let open = Arc::new(holdfast_engine::tree::confine::OpenFile { fd, stat });
        let back = read_chunk(&open, range, None, &Progress::default())?;
        let repaired = back.is_some_and(|back| Some(xxh64(&back)) == proven.chunk(index));
        let mut finding = Self::finding(proven, index, side, repaired);
        finding.written_since = written_since;
        if repaired {
            crate::destination::flush::lock(&self.outcome).repaired_chunks += 1;
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
            crate::destination::flush::lock(&self.outcome).received_bytes += data as u64;
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
        let mut journal = crate::destination::flush::lock(&self.journal);
        let (journal, state) = &mut *journal;
        if let Some((path, Item::File(held))) = state.items.get_key_value(&*proven.path)
            && held.ino == stamp.ino
        {
            let record = Record::Placed(Arc::clone(path), stamp.ctime_ns);
            journal.append(std::slice::from_ref(&record), true)?;
            state.apply(record);
        }
        Ok(())
    }
}
