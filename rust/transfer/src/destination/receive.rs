//! One round: what was asked for arrives on all connections and is written.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_engine::confine::stat;
use holdfast_engine::manifest::record::chunk_size;
use holdfast_engine::manifest::survey::identity_of;
use holdfast_engine::read::buffers::Buffers;
use holdfast_engine::{Progress, space};
use rustix::fs::{Mode, OFlags, Statx, openat};
use xxhash_rust::xxh3::xxh3_64;

use super::flush::{Chunk, Finished, Flusher, Ledger, lock};
use super::journal::{Held, Record, Staged};
use super::plan::{Start, Wanted};
use super::staging::Staging;
use super::target::Target;
use crate::channel::Channel;
use crate::message::{
    BLOCK, BLOCK_HEAD, BlockHead, End, Kind, Loss, Reply, SMALL, Small, Spent, Stamp, Table, unpack,
};
use crate::metadata::{self, Of, Unset};
use crate::owners::Owners;
use crate::{Error, Result, statistics};

/// Bytes of small files between two checks of the free space.
const STRIDE: u64 = 16 << 20;
/// A want is asked for,
const ASKED: u8 = 0;
/// has arrived whole,
const ARRIVED: u8 = 1;
/// or was lost.
const LOST: u8 = 2;

/// What the connections of a round share.
pub struct Round<'a> {
    /// Where data go.
    pub staging: &'a Staging,
    /// What is recorded.
    pub ledger: &'a Ledger<'a>,
    /// What flushes.
    pub flusher: &'a Flusher,
    /// What was asked for.
    pub wants: &'a [Wanted],
    /// Whose files they become.
    owners: &'a Owners,
    /// For people.
    pub progress: &'a Progress,
    status: Vec<AtomicU8>,
    targets: Mutex<HashMap<u32, Arc<Target>>>,
    /// What did not arrive, and why.
    pub lost: Mutex<Vec<(u32, Loss)>>,
    /// Set once any connection failed.
    pub failed: AtomicBool,
    /// Bytes received, of files.
    pub received: AtomicU64,
    small_bytes: AtomicU64,
    /// Time that connections spent writing, each for itself.
    pub writing: Mutex<Duration>,
    /// What the source spent.
    pub spent: Mutex<Spent>,
    /// Files of which metadata could not be set.
    pub unset: Mutex<BTreeMap<&'static str, u64>>,
}

impl<'a> Round<'a> {
    /// Begin a round.
    pub fn new(
        ledger: &'a Ledger<'a>,
        flusher: &'a Flusher,
        wants: &'a [Wanted],
        owners: &'a Owners,
    ) -> Self {
        Self {
            staging: ledger.staging,
            ledger,
            flusher,
            wants,
            owners,
            progress: ledger.progress,
            status: wants.iter().map(|_| AtomicU8::new(ASKED)).collect(),
            targets: Mutex::default(),
            lost: Mutex::default(),
            failed: AtomicBool::new(false),
            received: AtomicU64::new(0),
            small_bytes: AtomicU64::new(0),
            writing: Mutex::default(),
            spent: Mutex::default(),
            unset: Mutex::default(),
        }
    }

    /// Return the wants that neither arrived nor were lost, when all connections are done.
    pub fn missing(&self) -> usize {
        self.status.iter().filter(|status| status.load(Ordering::Relaxed) == ASKED).count()
    }

    /// Receive on one connection until the source has sent all of the round.
    ///
    /// # Errors
    /// Whatever ended it; the round has failed then.
    pub fn receive(&self, channel: &mut Channel) -> Result<()> {
        let result = self.run(channel);
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }

    fn must_stop(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.progress.cancelled()
    }

    fn run(&self, channel: &mut Channel) -> Result<()> {
        let stop = || self.must_stop();
        let buffers = Buffers::new(1, BLOCK).map_err(Error::from)?;
        let mut body = Vec::new();
        loop {
            let (kind, length) = channel.receive_head(&stop)?;
            match kind {
                Kind::Block => {
                    let data = length.checked_sub(BLOCK_HEAD).filter(|&n| n > 0 && n <= BLOCK);
                    let data = data.ok_or_else(|| channel.broken("a block has no such length"))?;
                    let mut head = [0; BLOCK_HEAD];
                    channel.receive(&mut head, &stop)?;
                    let head = BlockHead::parse(&head);
                    let target = self.target(channel, head.want, head.sparse)?;
                    let mut buffer = buffers.take().expect("one buffer for one thread");
                    channel.receive(&mut buffer.all()[..data], &stop)?;
                    self.count(data as u64);
                    let Some(target) = target else { continue };
                    if head.offset.checked_add(data as u64).is_none_or(|end| end > target.size) {
                        return Err(channel.broken("a block lies beyond the end of its file"));
                    }
                    if xxh3_64(buffer.filled(data)) != head.check {
                        return Err(self.damaged(&target.path, head.offset, data as u64));
                    }
                    if !target.wait_until_compared(|| self.must_stop()) {
                        return Err(holdfast_engine::Error::Cancelled.into());
                    }
                    let begin = Instant::now();
                    let written = target.write(&buffer, data, head.offset);
                    written.map_err(|e| Error::io(self.staging.shown(&target.path), e))?;
                    self.spend(begin.elapsed());
                    self.arrived(channel, &target, head.offset, data as u64)?;
                }
                Kind::Pack => {
                    body.resize(length, 0);
                    channel.receive(&mut body, &stop)?;
                    let (files, bytes) = match unpack(&body) {
                        Some(Some(pack)) => pack,
                        Some(None) => return Err(self.damaged(b"small files", 0, length as u64)),
                        None => return Err(channel.broken("a pack is malformed")),
                    };
                    self.small(channel, files, bytes)?;
                }
                Kind::Message => {
                    body.resize(length, 0);
                    channel.receive(&mut body, &stop)?;
                    let message = channel.parse(&body)?;
                    if self.message(channel, message)? {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn damaged(&self, path: &[u8], offset: u64, length: u64) -> Error {
        let path = self.staging.shown(path).to_string_lossy().into_owned();
        Error::Damaged { path, offset, length }
    }

    /// Count bytes of files that arrived.
    fn count(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
        statistics::received(self.ledger.proof, bytes);
    }

    fn spend(&self, time: Duration) {
        *lock(&self.writing) += time;
    }

    /// Take in a message; true at the end of the round.
    fn message(&self, channel: &Channel, message: Reply) -> Result<bool> {
        match message {
            Reply::Wait => {}
            Reply::Spent(spent) => self.take_in(spent),
            Reply::Over(spent) => {
                self.take_in(spent);
                return Ok(true);
            }
            Reply::Hole { want, offset, length } => {
                let Some(target) = self.target(channel, want, true)? else { return Ok(false) };
                if offset.checked_add(length).is_none_or(|end| end > target.size) {
                    return Err(channel.broken("a hole lies beyond the end of its file"));
                }
                if !target.wait_until_compared(|| self.must_stop()) {
                    return Err(holdfast_engine::Error::Cancelled.into());
                }
                let punched = target.punch(offset, length);
                punched.map_err(|e| Error::io(self.staging.shown(&target.path), e))?;
                self.arrived(channel, &target, offset, length)?;
            }
            Reply::Chunk { want, index, digest, state } => {
                let Some(target) = self.target(channel, want, true)? else { return Ok(false) };
                if !target.wait_until_compared(|| self.must_stop()) {
                    return Err(holdfast_engine::Error::Cancelled.into());
                }
                if !target.reported(index, (digest, state)) {
                    return Err(channel.broken("a chunk that no file has"));
                }
                self.advance(&target)?;
            }
            Reply::Compared { want, table, differing } => {
                let Some(target) = self.target(channel, want, true)? else { return Ok(false) };
                self.compared(channel, &target, table, differing)?;
            }
            Reply::End(mut end) => {
                self.owners.map(&mut end.metadata);
                let want = end.want;
                // The metadata does not list holes; by now it is known whether there are any.
                let Some(target) = self.target(channel, want, true)? else { return Ok(false) };
                if end.stamp.size != target.size {
                    return Err(channel.broken("a file has another size at its end"));
                }
                target.state().end = Some(end);
                self.advance(&target)?;
            }
            Reply::Lost(want, loss) => {
                self.settle(channel, want, LOST)?;
                if let Some(target) = lock(&self.targets).remove(&want) {
                    target.state().over = true;
                }
                let size = self.wants[want as usize].stamp.size;
                self.progress.pass_over(size);
                lock(&self.lost).push((want, loss));
            }
            _ => return Err(channel.broken("a message that has no place here")),
        }
        Ok(false)
    }

    /// Take in how the source spent its time; messages of several connections can overtake.
    fn take_in(&self, spent: Spent) {
        let mut known = lock(&self.spent);
        let sum = |spent: &Spent| spent.starved_ms.saturating_add(spent.sending_ms);
        if sum(&spent) >= sum(&known) {
            *known = spent;
        }
    }

    fn settle(&self, channel: &Channel, want: u32, status: u8) -> Result<()> {
        let slot = self.status.get(want as usize);
        let slot = slot.ok_or_else(|| channel.broken("a file that was not asked for"))?;
        let before = slot.swap(status, Ordering::AcqRel);
        if before == ASKED { Ok(()) } else { Err(channel.broken("a file comes twice")) }
    }

    /// Return the target of a want, which is opened when its first bytes come; none once it is lost.
    fn target(&self, channel: &Channel, number: u32, sparse: bool) -> Result<Option<Arc<Target>>> {
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

    fn compared(
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

    fn arrived(
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
    fn advance(&self, target: &Arc<Target>) -> Result<()> {
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

    fn hand_on(&self, chunks: Vec<Chunk>, files: Vec<Finished>) -> Result<()> {
        match self.flusher.add(chunks, files) {
            Some(waited) => {
                self.spend(waited);
                Ok(())
            }
            // The flusher has the reason.
            None => Err(holdfast_engine::Error::Cancelled.into()),
        }
    }

    fn small(&self, channel: &Channel, files: Vec<Small>, mut bytes: &[u8]) -> Result<()> {
        let begin = Instant::now();
        let before = self.small_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if before / STRIDE != (before + bytes.len() as u64) / STRIDE {
            let root = self.staging.root();
            space::check_file(root.fd(), root.path(), STRIDE)?;
        }
        let mut finished = Vec::with_capacity(files.len());
        for Small { mut end, length } in files {
            self.owners.map(&mut end.metadata);
            let (content, rest) = bytes.split_at(length as usize);
            bytes = rest;
            self.settle(channel, end.want, ARRIVED)?;
            let wanted = &self.wants[end.want as usize];
            let size = wanted.stamp.size;
            if size > SMALL || u64::from(length) != size || end.stamp.size != size {
                return Err(channel.broken("a small file has another size"));
            }
            let failed = |errno| Error::io(self.staging.shown(&wanted.path), errno);
            let name = self.staging.number();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let fd = openat(self.staging.fd(), Staging::name(name), flags, mode).map_err(failed)?;
            let mut file = File::from(fd);
            let written = file.write_all(content);
            written.map_err(|error| Error::io(self.staging.shown(&wanted.path), error))?;
            let before = stat(&file).map_err(failed)?;
            let applied = metadata::apply(&file, &before, &end.metadata, Of::NewFile);
            let (unset, now) = applied.map_err(failed)?;
            self.note(unset);
            let held = held(&now, &end, None);
            self.count(size);
            self.progress.add_bytes(size);
            finished.push(Finished { path: wanted.path.clone(), name, target: None, held });
        }
        self.spend(begin.elapsed());
        self.hand_on(Vec::new(), finished)
    }

    fn note(&self, unset: Unset) {
        if unset == Unset::default() {
            return;
        }
        let mut known = lock(&self.unset);
        unset.names().for_each(|name| *known.entry(name).or_default() += 1);
    }
}

fn held(now: &Statx, end: &End, table: Option<Table>) -> Held {
    let stamp = Stamp::from(&identity_of(now));
    Held {
        source: end.stamp,
        digest: end.digest,
        table: table.map(Box::new),
        ino: stamp.ino,
        mtime_ns: stamp.mtime_ns,
        ctime_ns: 0,
    }
}
