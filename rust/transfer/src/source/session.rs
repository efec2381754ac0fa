//! The connections of one destination: one that asks, and some that carry data.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use holdfast_engine::confine::{device, stat};
use holdfast_engine::read::{self, Device, Manner};
use holdfast_engine::{Progress, Root};
use xxhash_rust::xxh3::xxh3_64;

use super::offer::Offering;
use super::queue::{Item, Popped, Queue};
use super::reading::Reading;
use super::{Shared, listing, lock};
use crate::channel::Channel;
use crate::clock::processor_time;
use crate::message::{BlockHead, Kind, LIMIT, Reply, Request, Spent, Want};
use crate::{Error, Result};

/// How long the destination may be silent between two requests: it flushes, plans and deletes.
const SILENCE: Duration = Duration::from_secs(3600);
/// How often a connection without data says that the source is alive.
const ALIVE: Duration = Duration::from_secs(5);
/// Bytes of a listing in one message, about.
const BATCH: usize = 256 << 10;
/// Files of a round at most.
const MOST_WANTS: usize = 1 << 26;

/// One round: what the destination wants is read and sent once.
struct Round {
    queue: Queue,
    number: u64,
    processor: Duration,
    sending: Mutex<Duration>,
    limited: Mutex<Duration>,
}

/// The connections of one destination.
pub struct Session {
    /// What it may fetch.
    pub offering: Arc<Offering>,
    ended: AtomicBool,
    round: Mutex<Option<Arc<Round>>>,
    started: Condvar,
}

impl Session {
    /// Begin a session.
    pub fn new(offering: Arc<Offering>) -> Self {
        Self {
            offering,
            ended: AtomicBool::new(false),
            round: Mutex::default(),
            started: Condvar::new(),
        }
    }

    /// End it: all its connections close.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(round) = &*lock(&self.round) {
            round.queue.fail();
        }
        self.started.notify_all();
    }

    fn must_stop(&self, shared: &Shared) -> bool {
        self.ended.load(Ordering::Relaxed)
            || self.offering.revoked.load(Ordering::Relaxed)
            || shared.stopping.load(Ordering::Relaxed)
    }
}

impl Round {
    fn spent(&self) -> Spent {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Spent {
            starved_ms: millis(self.queue.starved()),
            sending_ms: millis(*lock(&self.sending)),
            processor_ms: millis(processor_time().saturating_sub(self.processor)),
            processors: holdfast_engine::pool::processors() as u32,
            limited_ms: millis(*lock(&self.limited)),
        }
    }
}

/// Answer requests until the destination leaves.
///
/// # Errors
/// Whatever ended it.
pub fn control(session: &Session, mut channel: Channel, shared: &Shared) -> Result<()> {
    let stop = || session.must_stop(shared);
    channel.set_patience(SILENCE);
    // Only what was listed can be fetched; a keyed digest of each path is enough to know it again.
    let keys = RandomState::new();
    let mut listed = HashSet::new();
    let mut wants: Vec<Want> = Vec::new();
    let mut number = 0;
    let place = &session.offering.offer.place;
    loop {
        let request = channel.receive_message(LIMIT, &stop)?;
        match request {
            Request::Hello(_) => return Err(channel.broken("a second greeting")),
            Request::Survey => {
                let survey = || {
                    let base = Root::open(&place.root)?.below(&place.path)?;
                    let found = listing::list(&session.offering, &base, &Progress::default())?;
                    Ok((listing::top(&base)?, found, base))
                };
                let (top, found, base) = match survey() {
                    Ok(found) => found,
                    Err(error) => {
                        let error: holdfast_engine::Error = error;
                        channel.send(&Reply::Refused(error.to_string()), &stop)?;
                        return Err(error.into());
                    }
                };
                listed = found.entries.iter().map(|entry| keys.hash_one(&entry.path)).collect();
                let count = found.entries.len() as u64;
                let mut batch = vec![top];
                let mut bytes = 0;
                for entry in found.entries {
                    let line = listing::line(&base, &entry);
                    let attributes = line.metadata.as_ref().map_or(0, |m| {
                        m.attributes.iter().map(|(name, value)| name.len() + value.len()).sum()
                    });
                    let link = line.link.as_ref().map_or(0, |link| link.len());
                    let more = 128 + line.path.len() + link + attributes;
                    if bytes + more > BATCH {
                        channel.send(&Reply::Listed(std::mem::take(&mut batch)), &stop)?;
                        bytes = 0;
                    }
                    bytes += more;
                    batch.push(line);
                }
                channel.send(&Reply::Listed(batch), &stop)?;
                channel.send(&Reply::Surveyed { count, left_out: found.left_out }, &stop)?;
            }
            Request::Want(more) => {
                if wants.len() + more.len() > MOST_WANTS {
                    return Err(channel.broken("too many files in one round"));
                }
                wants.extend(more);
            }
            Request::Go { connections: _, bytes_per_second } => {
                number += 1;
                let wants = std::mem::take(&mut wants);
                let is_listed = |path: &[u8]| {
                    let path: Box<[u8]> = path.into();
                    listed.contains(&keys.hash_one(&path))
                };
                go(session, &wants, &is_listed, number, bytes_per_second, shared)?;
            }
        }
    }
}

/// Read what is wanted, for the data connections to send.
fn go(
    session: &Session,
    wants: &[Want],
    is_listed: &(dyn Fn(&[u8]) -> bool + Sync),
    number: u64,
    bytes_per_second: Option<u64>,
    shared: &Shared,
) -> Result<()> {
    let offer = &session.offering.offer;
    let round = Arc::new(Round {
        queue: Queue::default(),
        number,
        processor: processor_time(),
        sending: Mutex::default(),
        limited: Mutex::default(),
    });
    *lock(&session.round) = Some(Arc::clone(&round));
    session.started.notify_all();
    let base = Root::open(&offer.place.root)?.below(&offer.place.path)?;
    let progress = Progress::default();
    let reading = Reading::new(&base, wants, is_listed, &round.queue, &progress);
    let manner = Manner {
        bytes_per_second: match (offer.bytes_per_second, bytes_per_second) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        },
        pressure: offer.pressure.clone(),
        reader: read::Preference::Auto,
    };
    let top = stat(base.fd()).map_err(|errno| Error::io(base.path(), errno))?;
    let read = read::read(&&reading, Device::of(device(&top)), &manner, &progress)
        .and_then(|report| reading.finish().map(|()| report));
    match read {
        Ok(report) => {
            *lock(&round.limited) = Duration::from_secs_f64(report.rate_wait_seconds);
            round.queue.close();
            Ok(())
        }
        Err(error) => {
            round.queue.fail();
            if session.must_stop(shared) {
                Err(holdfast_engine::Error::Cancelled.into())
            } else {
                Err(error.into())
            }
        }
    }
}

/// Send what is read, round after round.
///
/// # Errors
/// Whatever ended it.
pub fn send(session: &Session, mut channel: Channel, shared: &Shared) -> Result<()> {
    let mut last = 0;
    loop {
        let round = {
            let mut round = lock(&session.round);
            loop {
                if session.must_stop(shared) {
                    return Err(holdfast_engine::Error::Cancelled.into());
                }
                if let Some(round) = round.as_ref().filter(|round| round.number > last) {
                    break Arc::clone(round);
                }
                let wait = session.started.wait_timeout(round, Duration::from_secs(1));
                round = wait.unwrap_or_else(PoisonError::into_inner).0;
            }
        };
        last = round.number;
        let result = send_round(session, &round, &mut channel, shared);
        if result.is_err() {
            // What this connection had taken is lost: the destination begins another session.
            session.end();
            return result;
        }
    }
}

fn send_round(
    session: &Session,
    round: &Round,
    channel: &mut Channel,
    shared: &Shared,
) -> Result<()> {
    let stop = || session.must_stop(shared);
    loop {
        let before = channel.waited().writing;
        let mut sent = 0;
        match round.queue.pop(ALIVE) {
            Popped::Item(Item::Block { want, offset, sparse, data }) => {
                let head = BlockHead { want, offset, sparse, check: xxh3_64(&data) };
                channel.send_frame(Kind::Block, &[&head.bytes(), &data], &stop)?;
                sent = data.len();
                round.queue.give_back(data);
            }
            Popped::Item(Item::Pack(body)) => {
                channel.send_frame(Kind::Pack, &[&body], &stop)?;
                sent = body.len();
            }
            Popped::Item(Item::Message(message)) => channel.send(&message, &stop)?,
            Popped::Nothing => channel.send(&Reply::Wait, &stop)?,
            Popped::Closed => {
                channel.send(&Reply::Over(round.spent()), &stop)?;
                return Ok(());
            }
            Popped::Failed => return Err(holdfast_engine::Error::Cancelled.into()),
        }
        *lock(&round.sending) += channel.waited().writing.saturating_sub(before);
        session.offering.sent_bytes.fetch_add(sent as u64, Ordering::Relaxed);
    }
}
