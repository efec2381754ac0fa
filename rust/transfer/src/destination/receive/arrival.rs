//! What arrives of files that are sent in blocks: which target it belongs to, and what is whole by then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use holdfast_engine::manifest::record::chunk_size;
use holdfast_engine::manifest::survey::identity_of;
use holdfast_engine::tree::confine::stat;
use rustix::fs::Statx;

use crate::channel::Channel;
use crate::destination::flush::{Chunk, Finished, lock};
use crate::destination::journal::{Held, Record, Staged};
use crate::destination::pass::plan::Start;
use crate::destination::receive::target::Target;
use crate::message::{End, Stamp, Table};
use crate::metadata::{self, Of};
use crate::{Error, Result};

use super::{ARRIVED, ASKED, LOST, Round};

impl Round<'_> {
    /// Return the target of a want, which is opened when its first bytes come; none once it is lost.
    pub(super) fn target(
        &self,
        channel: &Channel,
        number: u32,
        sparse: bool,
    ) -> Result<Option<Arc<Target>>> {
        let mut targets = lock(&self.targets);
        if let Some(target) = targets.get(&number) {
            return Ok(Some(Arc::clone(target)));
        }
        let wanted = self.wants.get(number as usize);
        let wanted = wanted.ok_or_else(|| channel.broken("a file that was not asked for"))?;
        match self.status[number as usize].load(Ordering::Acquire) {
            ASKED => {}
            // They were on their way on another connection when the file was lost.
            LOST => return Ok(None),
            _ => return Err(channel.broken("bytes of a file that is over")),
        }
        let (path, size) = (wanted.path.clone(), wanted.stamp.size);
        let (name, based, known) = match &wanted.start {
            Start::Staged(staged) if staged.based => (staged.name, true, staged.chunks.clone()),
            Start::Staged(staged) => {
                let prefix = staged.chunks.iter().enumerate();
                let prefix = prefix.take_while(|(place, (index, _))| *place == **index as usize);
                let known = prefix.map(|(_, (&index, &chunk))| (index, chunk)).collect();
                (staged.name, false, known)
            }
            _ => (self.staging.number(), false, BTreeMap::new()),
        };
        let target = Target::open(self.staging, (number, path.clone(), name), size, based, known)?;
        if !based && !sparse {
            target.allocate(&self.staging.shown(&path))?;
        }
        if matches!(wanted.start, Start::New) && size > chunk_size(size) {
            let chunks = BTreeMap::new();
            let staged = Staged { name, stamp: wanted.stamp, based: false, chunks };
            self.ledger.record(vec![Record::Staged(path, staged)], false)?;
        }
        let target = Arc::new(target);
        targets.insert(number, Arc::clone(&target));
        Ok(Some(target))
    }

    pub(super) fn compared(
        &self,
        channel: &Channel,
        target: &Arc<Target>,
        table: Table,
        differing: Vec<u32>,
    ) -> Result<()> {
        if !target.based {
            return Err(channel.broken("a comparison that was not asked for"));
        }
        let spoiled = !differing.is_empty();
        let replaced: u64 = differing
            .iter()
            .filter(|&&index| index < target.chunks())
            .map(|&index| target.chunk_length(index))
            .sum();
        if spoiled {
            let record = Record::Spoiled(target.path.clone(), differing.clone());
            self.ledger.record(vec![record], true)?;
        }
        if !target.compared(table, differing) {
            return Err(channel.broken("a comparison that makes no sense"));
        }
        self.progress.pass_over(target.size - replaced.min(target.size));
        self.advance(target)
    }

    pub(super) fn arrived(
        &self,
        channel: &Channel,
        target: &Arc<Target>,
        offset: u64,
        length: u64,
    ) -> Result<()> {
        self.progress.add_bytes(length);
        let complete = target.arrived(offset, length);
        if self.status[target.want as usize].load(Ordering::Acquire) == LOST {
            return Ok(());
        }
        let complete = complete.ok_or_else(|| channel.broken("bytes of a file come twice"))?;
        if complete.is_empty() { Ok(()) } else { self.advance(target) }
    }

    /// Hand on the chunks that are whole by now, and the file if it is.
    pub(super) fn advance(&self, target: &Arc<Target>) -> Result<()> {
        let mut state = target.state();
        let mut chunks = Vec::new();
        if target.chunks() > 1 {
            let state = &mut *state;
            for (&index, handed_on) in state.whole.iter_mut().filter(|(_, handed_on)| !**handed_on)
            {
                if let Some(&(digest, state)) = state.digests.get(&index) {
                    *handed_on = true;
                    chunks.push(Chunk { target: Arc::clone(target), index, digest, state });
                }
            }
        }
        let mut files = Vec::new();
        let table = if state.over { None } else { target.table(&state) };
        if let Some(table) = table
            && let Some(end) = state.end.take()
        {
            state.over = true;
            drop(state);
            let failed = |errno| Error::io(self.staging.shown(&target.path), errno);
            let fd = target.descriptor().map_err(|e| Error::io("a descriptor", e))?;
            let before = stat(&fd).map_err(failed)?;
            let applied = metadata::apply(&fd, &before, &end.metadata, Of::Any);
            let (unset, now) = applied.map_err(failed)?;
            self.note(unset);
            let held = held(&now, &end, Some(table).filter(|table| !table.digests.is_empty()));
            files.push(Finished {
                path: target.path.clone(),
                name: target.name,
                target: Some(Arc::clone(target)),
                held,
            });
            self.status[target.want as usize].store(ARRIVED, Ordering::Release);
            lock(&self.targets).remove(&target.want);
        } else {
            drop(state);
        }
        if chunks.is_empty() && files.is_empty() {
            return Ok(());
        }
        self.hand_on(chunks, files)
    }

    pub(super) fn hand_on(&self, chunks: Vec<Chunk>, files: Vec<Finished>) -> Result<()> {
        match self.flusher.add(chunks, files) {
            Some(waited) => {
                self.spend(waited);
                Ok(())
            }
            // The flusher has the reason.
            None => Err(holdfast_engine::Error::Cancelled.into()),
        }
    }
}

pub(super) fn held(now: &Statx, end: &End, table: Option<Table>) -> Held {
    let stamp = Stamp::from(&identity_of(now));
    Held {
        source: end.stamp,
        digest: end.digest,
        table: table.map(Box::new),
        ino: stamp.ino,
        mtime_ns: stamp.mtime_ns,
        ctime_ns: 0,
        proven: false,
    }
}
