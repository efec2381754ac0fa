//! Reading what a destination wants: once, past the page cache, into digests and the queue.

mod sending;

use std::collections::VecDeque;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};

use holdfast_engine::digest::{Algorithm, Digest};
use holdfast_engine::manifest::hashing::FileHasher;
use holdfast_engine::manifest::record::{Chunks, Identity, chunk_size};
use holdfast_engine::manifest::stamps::{now_ns, size_error, wait_for_trace, write_back};
use holdfast_engine::manifest::survey::identity_of;
use holdfast_engine::read::{End as QueueEnd, Opened, Source};
use holdfast_engine::tree::confine::{OpenFile, Refusal, stat};
use holdfast_engine::tree::skips::Reason;
use holdfast_engine::xxh64::Xxh64;
use holdfast_engine::{Progress, Result, Root};

use crate::message::{End, Have, Loss, Reply, SMALL, Stamp, Table, Want, fits};
use crate::metadata;
use crate::source::block::Block;
use crate::source::digests::{Digested, Digests};
use crate::source::lock;
use crate::source::packer::Packer;
use crate::source::queue::{Item, Queue};

use sending::{Purpose, Sending, Sent};

/// Attempts to open a file when no writer is within the grain of its times.
const QUIET_ATTEMPTS: u32 = 3;
/// Bytes that a file has at least for its holes to be kept.
const LEAST_HOLE: u64 = 4096;

/// One round of reading.
pub struct Reading<'a> {
    base: &'a Root,
    wants: &'a [Want],
    is_listed: &'a (dyn Fn(&[u8]) -> bool + Sync),
    queue: &'a Queue,
    progress: &'a Progress,
    digests: &'a Digests,
    packer: Packer,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    /// Numbers of wants, the largest file first.
    whole: VecDeque<u32>,
    /// Chunks that the destination turned out to lack.
    parts: Vec<(Arc<Compared>, u32)>,
}

/// A file whose chunks were compared with what the destination has.
pub struct Compared {
    want: u32,
    file: Arc<OpenFile>,
    identity: Identity,
    digest: u64,
    table: Table,
    left: AtomicU32,
    changed: AtomicBool,
}

impl<'a> Reading<'a> {
    /// Plan a round.
    pub fn new(
        base: &'a Root,
        wants: &'a [Want],
        is_listed: &'a (dyn Fn(&[u8]) -> bool + Sync),
        queue: &'a Queue,
        progress: &'a Progress,
        digests: &'a Digests,
    ) -> Self {
        let mut whole: Vec<u32> = (0..wants.len() as u32).collect();
        whole.sort_by_key(|&want| std::cmp::Reverse(wants[want as usize].stamp.size));
        let tasks = Mutex::new(Tasks { whole: whole.into(), parts: Vec::new() });
        let packer = Packer::default();
        Self { base, wants, is_listed, queue, progress, digests, packer, tasks }
    }

    /// Queue what waits for a full frame.
    ///
    /// # Errors
    /// As [`Queue::push`].
    pub fn finish(&self) -> Result<()> {
        self.packer.finish(self.queue)
    }

    fn say(&self, message: Reply) -> Result<()> {
        self.queue.push(Item::Message(message))
    }

    fn lose(&self, want: u32, loss: Loss) -> Result<()> {
        self.say(Reply::Lost(want, loss))
    }

    /// Open a file at a moment from which on every write to it changes its identity.
    fn open_quiet(&self, path: &[u8]) -> Result<std::result::Result<Arc<OpenFile>, Loss>> {
        for _ in 0..QUIET_ATTEMPTS {
            let now = now_ns()?;
            let file = match self.base.open_file(path, self.progress) {
                Ok(file) => Arc::new(file),
                Err(refusal) => {
                    self.progress.check()?;
                    return Ok(Err(loss_of(&refusal)));
                }
            };
            let Some(wait) = wait_for_trace(&identity_of(&file.stat), now) else {
                return Ok(Ok(file));
            };
            std::thread::sleep(wait);
        }
        Ok(Err(Loss::Changed))
    }

    fn begin(&'a self, number: u32) -> Result<Option<Opened<Sent<'a>>>> {
        let want = &self.wants[number as usize];
        if !(self.is_listed)(&want.path) {
            self.lose(number, Loss::Error("it was not listed".to_owned()))?;
            return Ok(None);
        }
        let file = match self.open_quiet(&want.path)? {
            Ok(file) => file,
            Err(loss) => {
                self.lose(number, loss)?;
                return Ok(None);
            }
        };
        let identity = identity_of(&file.stat);
        let size = identity.size;
        let stamp = Stamp::from(&identity);
        let same = stamp == want.stamp;
        if size != want.stamp.size || (!same && matches!(want.have, Have::Prefix(_))) {
            self.lose(number, Loss::Changed)?;
            return Ok(None);
        }
        let written = write_back(*self.base.filesystem(), &file.fd, size, self.progress);
        if let Err(errno) = written {
            self.progress.check()?;
            let error = std::io::Error::from(errno);
            let words = format!("writing its dirty pages back failed: {error}");
            self.lose(number, Loss::Error(words))?;
            return Ok(None);
        }
        let (hasher, known) = match &want.have {
            Have::Prefix(table) if fits(table, size, false) => {
                let digests = table.digests.iter().map(|&digest| Digest::Xxh64(digest)).collect();
                let chunks =
                    Chunks { size: chunk_size(size), digests, states: table.states.clone() };
                (FileHasher::resume(Algorithm::Xxh64, size, chunks), None)
            }
            Have::Chunks(known) => (FileHasher::new(Algorithm::Xxh64, size), Some(known)),
            _ => (FileHasher::new(Algorithm::Xxh64, size), None),
        };
        let position = hasher.position();
        // Fewer blocks than the size needs: some of it is a hole. Smaller files than a block may
        // be kept in their inode.
        let sparse = file.stat.stx_blocks.saturating_mul(512) < size;
        let small = size <= SMALL && !(sparse && size >= LEAST_HOLE);
        let purpose = match known {
            Some(known) => Purpose::Compare(known),
            None if small => Purpose::Small(Vec::with_capacity(size as usize)),
            None => Purpose::Send(Block::new(self.queue, number, position, sparse)),
        };
        let stream = Sending {
            reading: self,
            want: number,
            file: Arc::clone(&file),
            identity,
            hasher,
            purpose,
        };
        let name = String::from_utf8_lossy(&want.path).into_owned().into();
        let stream = Sent::Whole(Box::new(stream));
        Ok(Some(Opened { file, range: position..size, stream, name }))
    }

    fn part(&'a self, compared: Arc<Compared>, index: u32) -> Opened<Sent<'a>> {
        let size = compared.identity.size;
        let chunk = chunk_size(size);
        let start = chunk * u64::from(index);
        let range = start..(start + chunk).min(size);
        let name = String::from_utf8_lossy(&self.wants[compared.want as usize].path);
        let name = name.into_owned().into();
        let block = Block::new(self.queue, compared.want, start, true);
        let file = Arc::clone(&compared.file);
        let hash = Xxh64::default();
        let stream = Sent::Part { reading: self, compared, index, hash, block };
        Opened { file, range, stream, name }
    }
}

fn loss_of(refusal: &Refusal) -> Loss {
    match refusal.reason {
        Reason::Vanished => Loss::Vanished,
        Reason::NotAFile | Reason::Symlink | Reason::Special | Reason::OtherFilesystem => {
            Loss::Changed
        }
        _ => Loss::Error(refusal.words()),
    }
}

impl<'a> Source for &'a Reading<'a> {
    type Stream = Sent<'a>;

    fn next(&self, end: QueueEnd) -> Result<Option<Opened<Sent<'a>>>> {
        let reading = *self;
        loop {
            reading.progress.check()?;
            let next = {
                let mut tasks = lock(&reading.tasks);
                if let Some((compared, index)) = tasks.parts.pop() {
                    return Ok(Some(reading.part(compared, index)));
                }
                match end {
                    QueueEnd::Largest => tasks.whole.pop_front(),
                    QueueEnd::Smallest => tasks.whole.pop_back(),
                }
            };
            let Some(number) = next else { return Ok(None) };
            if let Some(opened) = reading.begin(number)? {
                return Ok(Some(opened));
            }
        }
    }
}

impl Reading<'_> {
    /// Report that a file was sent whole, unless it changed meanwhile.
    fn end(
        &self,
        want: u32,
        file: &OpenFile,
        identity: Identity,
        digest: u64,
        table: Option<Table>,
    ) -> Result<()> {
        match self.check(file, identity, digest, want, table) {
            Ok(end) => self.say(Reply::End(end)),
            Err(loss) => self.lose(want, loss),
        }
    }

    fn check(
        &self,
        file: &OpenFile,
        identity: Identity,
        digest: u64,
        want: u32,
        table: Option<Table>,
    ) -> std::result::Result<End, Loss> {
        let words = |errno| Loss::Error(std::io::Error::from(errno).to_string());
        // The metadata first: a change of it after this is seen in the identity.
        let before = stat(&file.fd).map_err(words)?;
        let metadata = metadata::read(file.fd.as_fd(), &before).map_err(words)?;
        let after = stat(&file.fd).map_err(words)?;
        if identity_of(&before) != identity || identity_of(&after) != identity {
            return Err(Loss::Changed);
        }
        if let Some(detail) = size_error(self.base.filesystem(), &file.fd, identity.size) {
            return Err(Loss::Error(detail));
        }
        let stamp = Stamp::from(&identity);
        let table = table.filter(|table| table.digests.len() > 1);
        let kept = self.digests.add(Digested { stamp, digest, table });
        kept.map_err(|error| Loss::Error(error.to_string()))?;
        Ok(End { want, digest, stamp, metadata })
    }
}
