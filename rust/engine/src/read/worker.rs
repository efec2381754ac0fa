//! One thread that reads: fills its queue, waits, and hands on what came, in order.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::access::{self, Access};
use super::buffers::{Buffer, Buffers};
use super::extents::{Extents, Part};
use super::queue::{Completion, Queue, Request};
use super::{End, Opened, Outcome, Shared, Source, Stream, Way};
use crate::pagecache::pages::PageSet;
use crate::progress::lock;
use crate::tree::confine::OpenFile;
use crate::{Error, Result};

/// How long a wait may be at most before the thread looks whether it was cancelled.
const TICK: Duration = Duration::from_millis(100);
/// Zeros of a hole that are handed on before the thread looks after its queue again.
const ZEROS: u64 = 16 << 20;

/// A file of which this thread reads.
struct Active<S> {
    id: u64,
    file: Arc<OpenFile>,
    name: Arc<str>,
    stream: S,
    extents: Extents,
    access: Access,
    alignment: u64,
    size: u64,
    /// What was asked for and not yet handed on, in order.
    pieces: VecDeque<Piece>,
    /// The number of the first of them.
    first: u64,
}

enum Piece {
    Reading,
    Data { buffer: Buffer, length: usize },
    Zeros(u64),
}

/// A read in flight.
struct Flight {
    active: u64,
    piece: u64,
    offset: u64,
    length: usize,
    got: usize,
    access: Access,
    /// What was in memory before, where it is this thread that must drop the rest.
    resident: Option<PageSet>,
}

/// Why no more reads are started just now.
enum Blocked {
    Rate(Duration),
    Pressure(Duration),
}

struct Worker<'a, 'b, S: Source> {
    source: &'a S,
    end: End,
    shared: &'a Shared<'b>,
    queue: Box<dyn Queue>,
    wanted: Access,
    buffers: Buffers,
    active: VecDeque<Active<S::Stream>>,
    flights: HashMap<u64, Flight>,
    /// Buffers in flight or waiting to be handed on.
    outstanding: usize,
    exhausted: bool,
    counter: u64,
    bytes: [u64; 3],
    note: Option<String>,
    rate_wait: Duration,
    pressure_wait: Duration,
}

/// Counts a thread as one that works.
struct Working<'a, 'b>(&'a Shared<'b>);

impl Drop for Working<'_, '_> {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Read from a source until it has nothing left.
///
/// # Errors
/// As [`super::read`].
pub(super) fn work<S: Source>(source: &S, end: End, shared: &Shared<'_>) -> Result<()> {
    let _working = Working(shared);
    let Way { queue, engine, access: wanted, note } = Way::open(shared.preference, shared.depth)?;
    let mut worker = Worker {
        source,
        end,
        shared,
        queue,
        wanted,
        buffers: Buffers::new(shared.depth, shared.block as usize)?,
        active: VecDeque::new(),
        flights: HashMap::new(),
        outstanding: 0,
        exhausted: false,
        counter: 0,
        bytes: [0; 3],
        note,
        rate_wait: Duration::ZERO,
        pressure_wait: Duration::ZERO,
    };
    worker.run()?;
    let mut tally = lock(&shared.tally);
    for access in [Access::Direct, Access::DontCache, Access::Buffered] {
        let bytes = worker.bytes[access as usize];
        if bytes > 0 {
            *tally.bytes.entry(format!("{engine} {}", access.name())).or_default() += bytes;
        }
    }
    tally.note = tally.note.take().or(worker.note);
    tally.rate_wait = tally.rate_wait.max(worker.rate_wait);
    tally.pressure_wait = tally.pressure_wait.max(worker.pressure_wait);
    Ok(())
}

impl<S: Source> Worker<'_, '_, S> {
    fn run(&mut self) -> Result<()> {
        let mut ended = Vec::new();
        loop {
            self.shared.progress.check()?;
            let blocked = self.fill()?;
            self.queue.submit().map_err(broken)?;
            if self.deliver()? {
                continue;
            }
            if self.flights.is_empty() {
                match blocked {
                    None if self.exhausted => return Ok(()),
                    None => {}
                    Some(blocked) => self.rest(&blocked),
                }
                continue;
            }
            let timeout = match blocked {
                None => TICK,
                Some(Blocked::Rate(wait) | Blocked::Pressure(wait)) => wait.min(TICK),
            };
            self.queue.wait(timeout, &mut ended).map_err(broken)?;
            for completion in ended.drain(..) {
                self.ended(completion)?;
            }
        }
    }

    fn rest(&mut self, blocked: &Blocked) {
        let begin = Instant::now();
        let (Blocked::Rate(wait) | Blocked::Pressure(wait)) = *blocked;
        thread::sleep(wait.min(TICK));
        match blocked {
            Blocked::Rate(_) => self.rate_wait += begin.elapsed(),
            Blocked::Pressure(_) => self.pressure_wait += begin.elapsed(),
        }
    }

    /// Begin reads until this thread has its share of the queue.
    fn fill(&mut self) -> Result<Option<Blocked>> {
        let share = self.shared.share();
        while self.outstanding < share {
            let Some(nth) = self.active.iter().position(|active| !active.extents.is_empty()) else {
                // Files that are all hole need no buffer, and must not pile up either.
                if self.exhausted || self.active.len() > share {
                    break;
                }
                match self.source.next(self.end)? {
                    Some(opened) => self.begin(opened),
                    None => self.exhausted = true,
                }
                continue;
            };
            if let Some(wait) = self.shared.pressure.as_ref().and_then(|pressure| pressure.wait()) {
                return Ok(Some(Blocked::Pressure(wait)));
            }
            if let Some(wait) = self.shared.throttle.wanting() {
                return Ok(Some(Blocked::Rate(wait)));
            }
            let Some(buffer) = self.buffers.take() else { break };
            self.read_on(nth, buffer);
        }
        Ok(None)
    }

    fn begin(&mut self, opened: Opened<S::Stream>) {
        let Opened { file, range, stream, name } = opened;
        let (access, alignment) = access::prepare(&file, self.wanted, self.shared.block);
        if access != self.wanted && self.note.is_none() {
            self.note = Some(format!("{name}: its file system has no O_DIRECT for it"));
        }
        let stat = &file.stat;
        let sparse = stat.stx_blocks.saturating_mul(512) < stat.stx_size;
        self.counter += 1;
        let size = range.end - range.start;
        if size > self.shared.block {
            self.shared.begin(stat.stx_size, &name);
        }
        self.active.push_back(Active {
            id: self.counter,
            name,
            stream,
            extents: Extents::new(range.start, range.end, alignment, sparse),
            access,
            alignment,
            size,
            pieces: VecDeque::new(),
            first: 0,
            file,
        });
    }

    /// Begin the next read of a file, or note a hole.
    fn read_on(&mut self, nth: usize, buffer: Buffer) {
        let shared = self.shared;
        let active = &mut self.active[nth];
        let portion = shared.throttle.portion(shared.block) / active.alignment * active.alignment;
        let most = portion.max(active.alignment);
        let (offset, length) = match active.extents.next(&active.file.fd, most) {
            None => return,
            Some(Part::Hole(zeros)) => {
                active.pieces.push_back(Piece::Zeros(zeros));
                return;
            }
            Some(Part::Data { offset, length }) => (offset, length),
        };
        shared.throttle.charge(length);
        let piece = active.first + active.pieces.len() as u64;
        active.pieces.push_back(Piece::Reading);
        let access = active.access;
        let resident = (access == Access::Buffered)
            .then(|| access::before(&active.file, offset, length))
            .flatten();
        let length = length as usize;
        let flight = Flight { active: active.id, piece, offset, length, got: 0, access, resident };
        self.outstanding += 1;
        self.request(nth, flight, buffer);
    }

    fn request(&mut self, nth: usize, flight: Flight, buffer: Buffer) {
        let active = &self.active[nth];
        let left = (flight.length - flight.got) as u64;
        // Past the page cache only whole blocks can be read, also where the file ends in one.
        let length = left.next_multiple_of(active.alignment) as usize;
        self.counter += 1;
        self.queue.push(Request {
            tag: self.counter,
            file: Arc::clone(&active.file),
            offset: flight.offset + flight.got as u64,
            length,
            skip: flight.got,
            flags: flight.access.flags(),
            buffer,
        });
        self.flights.insert(self.counter, flight);
    }

    /// Take in a read that has ended.
    fn ended(&mut self, completion: Completion) -> Result<()> {
        let Completion { tag, buffer, result } = completion;
        let Some(mut flight) = self.flights.remove(&tag) else { return Ok(()) };
        if let Ok(read) = result {
            self.bytes[flight.access as usize] += read as u64;
            self.shared.progress.add_read(read as u64);
        }
        let Some(nth) = self.active.iter().position(|active| active.id == flight.active) else {
            // Of a file that was given up meanwhile.
            self.outstanding -= 1;
            return Ok(());
        };
        let active = &mut self.active[nth];
        match result {
            Ok(read) => {
                flight.got = (flight.got + read).min(flight.length);
                if flight.got < flight.length {
                    // Less than wanted: at the end of the file, or before a place that fails.
                    let direct = flight.access == Access::Direct;
                    if read == 0 || (direct && !(read as u64).is_multiple_of(active.alignment)) {
                        return self.give_up(nth, Outcome::Short);
                    }
                    self.request(nth, flight, buffer);
                    return Ok(());
                }
                if let Some(resident) = &flight.resident {
                    let length = flight.length as u64;
                    access::after(&active.file.fd, resident, flight.offset, length);
                }
                let place = (flight.piece - active.first) as usize;
                active.pieces[place] = Piece::Data { buffer, length: flight.length };
                Ok(())
            }
            Err(Errno::INTR | Errno::AGAIN) => {
                self.request(nth, flight, buffer);
                Ok(())
            }
            Err(errno) => match flight.access.fallback() {
                Some(fallback) if matches!(errno, Errno::INVAL | Errno::OPNOTSUPP) => {
                    if active.access == flight.access {
                        active.access = fallback;
                        access::change(&active.file.fd, fallback);
                        let refused = flight.access.name();
                        self.note.get_or_insert_with(|| {
                            format!("{}: {refused} reads are refused: {errno}", active.name)
                        });
                        if fallback != Access::Buffered {
                            self.wanted = fallback;
                        }
                    }
                    flight.access = active.access;
                    if flight.access == Access::Buffered {
                        let length = flight.length as u64;
                        flight.resident = access::before(&active.file, flight.offset, length);
                    }
                    self.request(nth, flight, buffer);
                    Ok(())
                }
                _ => {
                    let length = (flight.length - flight.got) as u64;
                    let offset = flight.offset + flight.got as u64;
                    self.give_up(nth, Outcome::Failed { offset, length, errno })
                }
            },
        }
    }

    /// Hand on one piece; false if none is there.
    fn deliver(&mut self) -> Result<bool> {
        let ready = |active: &Active<S::Stream>| match active.pieces.front() {
            Some(Piece::Reading) => false,
            Some(_) => true,
            None => active.extents.is_empty(),
        };
        let Some(nth) = self.active.iter().position(ready) else { return Ok(false) };
        let active = &mut self.active[nth];
        let progress = self.shared.progress;
        match active.pieces.front_mut() {
            None => {}
            Some(Piece::Reading) => return Ok(false),
            Some(Piece::Zeros(left)) => {
                let portion = (*left).min(ZEROS);
                *left -= portion;
                let gone = *left == 0;
                active.stream.hole(portion)?;
                self.shared.hole_bytes.fetch_add(portion, Ordering::Relaxed);
                progress.add_bytes(portion);
                if gone {
                    active.pieces.pop_front();
                    active.first += 1;
                }
            }
            Some(Piece::Data { buffer, length }) => {
                active.stream.data(buffer.filled(*length))?;
                progress.add_bytes(*length as u64);
                active.pieces.pop_front();
                active.first += 1;
                self.outstanding -= 1;
            }
        }
        if active.pieces.is_empty() && active.extents.is_empty() {
            self.finish(nth, Outcome::Complete)?;
        }
        Ok(true)
    }

    fn give_up(&mut self, nth: usize, outcome: Outcome) -> Result<()> {
        // The buffer of the read that ended, and those that wait behind it.
        let held = |piece: &&Piece| matches!(piece, Piece::Data { .. });
        self.outstanding -= 1 + self.active[nth].pieces.iter().filter(held).count();
        self.finish(nth, outcome)
    }

    fn finish(&mut self, nth: usize, outcome: Outcome) -> Result<()> {
        let Some(active) = self.active.remove(nth) else { return Ok(()) };
        if active.size > self.shared.block {
            self.shared.end(active.file.stat.stx_size, &active.name);
        }
        // What it was may have to be read once more.
        self.exhausted = false;
        active.stream.finish(outcome)
    }
}

fn broken(errno: Errno) -> Error {
    Error::io("reads in flight", errno)
}
