//! One round: what was asked for arrives on all connections and is written.

mod arrival;
mod small;
pub mod target;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_engine::Progress;
use holdfast_engine::read::buffers::Buffers;
use xxhash_rust::xxh3::xxh3_64;

use crate::channel::Channel;
use crate::destination::flush::{Flusher, Ledger, lock};
use crate::destination::pass::plan::Wanted;
use crate::destination::receive::target::Target;
use crate::destination::staging::Staging;
use crate::message::{BLOCK, BLOCK_HEAD, BlockHead, Kind, Loss, Reply, Spent, unpack};
use crate::metadata::Unset;
use crate::owners::Owners;
use crate::{Error, Result, statistics};

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

    fn note(&self, unset: Unset) {
        if unset == Unset::default() {
            return;
        }
        let mut known = lock(&self.unset);
        unset.names().for_each(|name| *known.entry(name).or_default() += 1);
    }
}
