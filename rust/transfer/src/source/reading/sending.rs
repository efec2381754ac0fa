//! What is read of a file on its way into digests, and to the destination.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use holdfast_engine::Result;
use holdfast_engine::digest::Digest;
use holdfast_engine::manifest::hashing::FileHasher;
use holdfast_engine::manifest::record::{Chunks, Identity};
use holdfast_engine::read::{Outcome, Stream, ZEROS};
use holdfast_engine::tree::confine::OpenFile;
use holdfast_engine::xxh64::Xxh64;

use crate::message::{Loss, Reply, Table};
use crate::source::block::Block;
use crate::source::lock;

use super::{Compared, Reading};

/// What becomes of a file's bytes.
pub(super) enum Purpose<'a> {
    /// They are compared with the digests of what the destination has.
    Compare(&'a [Option<u64>]),
    /// They are collected for a pack.
    Small(Vec<u8>),
    /// They are sent.
    Send(Block<'a>),
}

/// A file that is read from its beginning, or from where the destination has it.
pub struct Sending<'a> {
    pub(super) reading: &'a Reading<'a>,
    pub(super) want: u32,
    pub(super) file: Arc<OpenFile>,
    pub(super) identity: Identity,
    pub(super) hasher: FileHasher,
    pub(super) purpose: Purpose<'a>,
}

/// What is read.
pub enum Sent<'a> {
    /// A file.
    Whole(Box<Sending<'a>>),
    /// One chunk of a file that was compared.
    Part {
        /// The round.
        reading: &'a Reading<'a>,
        /// The file.
        compared: Arc<Compared>,
        /// Which chunk.
        index: u32,
        /// Of the chunk by itself.
        hash: Xxh64,
        /// What is sent.
        block: Block<'a>,
    },
}

impl Stream for Sent<'_> {
    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Whole(sending) => sending.data(bytes),
            Self::Part { hash, block, .. } => {
                hash.update(bytes);
                block.add(bytes)
            }
        }
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        match self {
            Self::Whole(sending) => sending.hole(length),
            Self::Part { hash, block, .. } => {
                zeros(length, |zeros| hash.update(zeros));
                block.skip(length)
            }
        }
    }

    fn finish(self, end: Outcome) -> Result<()> {
        match self {
            Self::Whole(sending) => sending.finish(end),
            Self::Part { reading, compared, index, hash, mut block } => {
                block.flush()?;
                let digest = compared.table.digests[index as usize];
                if end == Outcome::Complete && hash.digest() == digest {
                    // What was sent is what was compared: only now the destination believes it.
                    let (want, place) = (compared.want, index as usize);
                    let state = compared.table.states.get(place).copied();
                    reading.say(Reply::Chunk { want, index, digest, state })?;
                } else {
                    compared.changed.store(true, Ordering::Relaxed);
                }
                if compared.left.fetch_sub(1, Ordering::AcqRel) > 1 {
                    return Ok(());
                }
                if compared.changed.load(Ordering::Relaxed) {
                    return reading.lose(compared.want, Loss::Changed);
                }
                let Compared { want, file, identity, digest, table, .. } = &*compared;
                reading.end(*want, file, *identity, *digest, Some(table.clone()))
            }
        }
    }
}

fn zeros(length: u64, mut each: impl FnMut(&[u8])) {
    let mut left = length;
    while left > 0 {
        let portion = left.min(ZEROS.len() as u64);
        each(&ZEROS[..portion as usize]);
        left -= portion;
    }
}

impl Sending<'_> {
    fn hash(&mut self, bytes: &[u8]) -> Result<()> {
        let (reading, want) = (self.reading, self.want);
        let silent = !matches!(self.purpose, Purpose::Send(_));
        let mut said = Ok(());
        self.hasher.update(bytes, |chunk| {
            let Digest::Xxh64(digest) = chunk.digest else { return };
            if said.is_ok() && !silent {
                let (index, state) = (chunk.index as u32, chunk.state);
                said = reading.say(Reply::Chunk { want, index, digest, state });
            }
        });
        said
    }

    fn data(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.purpose {
            Purpose::Compare(_) => {}
            Purpose::Small(content) => content.extend_from_slice(bytes),
            Purpose::Send(block) => block.add(bytes)?,
        }
        self.hash(bytes)
    }

    fn hole(&mut self, length: u64) -> Result<()> {
        match &mut self.purpose {
            Purpose::Compare(_) => {}
            Purpose::Small(content) => content.resize(content.len() + length as usize, 0),
            Purpose::Send(block) => block.skip(length)?,
        }
        let mut hashed = Ok(());
        zeros(length, |zeros| {
            if hashed.is_ok() {
                hashed = self.hash(zeros);
            }
        });
        hashed
    }

    fn finish(self, outcome: Outcome) -> Result<()> {
        let Self { reading, want, file, identity, hasher, purpose } = self;
        match outcome {
            Outcome::Complete => {}
            Outcome::Short => return reading.lose(want, Loss::Changed),
            Outcome::Failed { offset, length, errno } => {
                let error = std::io::Error::from(errno);
                let words = format!("reading {length} bytes at {offset} failed: {error}");
                return reading.lose(want, Loss::Error(words));
            }
        }
        let (digest, chunks) = hasher.finish();
        let Digest::Xxh64(digest) = digest else { return Ok(()) };
        match purpose {
            Purpose::Send(mut block) => {
                block.flush()?;
                reading.end(want, &file, identity, digest, chunks.map(table_of))
            }
            Purpose::Small(content) => match reading.check(&file, identity, digest, want, None) {
                Ok(end) => reading.packer.add(reading.queue, end, &content),
                Err(loss) => reading.lose(want, loss),
            },
            Purpose::Compare(known) => {
                let table = match chunks {
                    None => Table { digests: vec![digest], states: Vec::new() },
                    Some(chunks) => table_of(chunks),
                };
                let differs = |index: &u32| {
                    let index = *index as usize;
                    known.get(index).copied().flatten() != Some(table.digests[index])
                };
                let differing: Vec<u32> = (0..table.digests.len() as u32).filter(differs).collect();
                let parts = differing.clone();
                reading.say(Reply::Compared { want, table: table.clone(), differing })?;
                if parts.is_empty() {
                    return reading.end(want, &file, identity, digest, Some(table));
                }
                let left = AtomicU32::new(parts.len() as u32);
                let changed = AtomicBool::new(false);
                let compared =
                    Arc::new(Compared { want, file, identity, digest, table, left, changed });
                let mut tasks = lock(&reading.tasks);
                for part in parts.into_iter().rev() {
                    tasks.parts.push((Arc::clone(&compared), part));
                }
                Ok(())
            }
        }
    }
}

fn table_of(chunks: Chunks) -> Table {
    Table { digests: chunks.digests.iter().filter_map(number).collect(), states: chunks.states }
}

fn number(digest: &Digest) -> Option<u64> {
    match digest {
        Digest::Xxh64(digest) => Some(*digest),
        _ => None,
    }
}
