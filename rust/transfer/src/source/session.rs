//! The connections of one destination: one that asks, and some that carry data.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_engine::manifest::record::{Entry, Type};
use holdfast_engine::read::{self, Device, ReadOptions};
use holdfast_engine::tree::confine::{device, stat};
use holdfast_engine::{Progress, Root};

use super::alive::{ALIVE, while_alive};
use super::offer::{Offer, Offering};
use super::queue::{Item, Popped, Queue};
use super::reading::Reading;
use super::turns::Turns;
use super::{Shared, completion, listing, lock, repair};
use crate::channel::{Channel, Stop};
use crate::clock::{now_seconds, processor_time};
use crate::message::{self, BlockHead, Kind, LIMIT, Names, Reply, Request, Spent, Stamp, Want};
use crate::{Error, Proof, Result, owners, statistics};

/// How long the destination may be silent between two requests: it flushes, plans and deletes.
const SILENCE: Duration = Duration::from_secs(3600);
/// Bytes of a listing in one message, about.
const BATCH: usize = 256 << 10;
/// How often the destination hears of the time spent, in milliseconds.
const REPORT_MS: u64 = 1000;
/// Files of a round at most.
const MOST_WANTS: usize = 1 << 26;

/// One round: what the destination wants is read and sent once.
struct Round {
    queue: Queue,
    number: u64,
    begin: Instant,
    proof: Proof,
    processor: Duration,
    sending: Mutex<Duration>,
    limited: Mutex<Duration>,
    /// Milliseconds from the beginning until the destination last heard of the time spent.
    reported: AtomicU64,
}

/// What was listed last, by keyed hashes: of each path, and of what it was.
#[derive(Debug, Default)]
pub struct Listed(pub HashMap<u64, u64>);

impl Listed {
    /// Take in a listing.
    pub fn of(entries: &[Entry], keys: &RandomState) -> Self {
        Self(
            entries.iter().map(|entry| (keys.hash_one(&*entry.path), print(entry, keys))).collect(),
        )
    }

    /// Return whether there was something of this name.
    pub fn names(&self, entry: &Entry, keys: &RandomState) -> bool {
        self.0.contains_key(&keys.hash_one(&*entry.path))
    }

    /// Return whether something is what it was.
    pub fn has(&self, entry: &Entry, keys: &RandomState) -> bool {
        self.0.get(&keys.hash_one(&*entry.path)) == Some(&print(entry, keys))
    }
}

fn print(entry: &Entry, keys: &RandomState) -> u64 {
    // The times of directories add nothing to their names.
    let stamp = (entry.kind != Type::Directory).then(|| Stamp::from(&entry.identity));
    keys.hash_one((entry.kind, stamp, entry.target()))
}

/// The connections of one destination.
pub struct Session {
    /// What it may fetch.
    pub offering: Arc<Offering>,
    /// Its turns beside those of other destinations.
    pub turns: Turns,
    ended: AtomicBool,
    round: Mutex<Option<Arc<Round>>>,
    started: Condvar,
}

impl Session {
    /// Begin a session.
    pub fn new(offering: Arc<Offering>) -> Self {
        Self {
            offering,
            turns: Turns::default(),
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
            || now_seconds() >= self.offering.offer.expires_at
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
    let mut listed = Listed::default();
    let mut wants: Vec<Want> = Vec::new();
    let mut number = 0;
    let offer = &session.offering.offer;
    loop {
        let request = channel.receive_message(LIMIT, &stop)?;
        match request {
            Request::Hello(_) => return Err(channel.broken("a second greeting")),
            Request::Survey => {
                let progress = Progress::default();
                let survey = || {
                    let base = listing::open_base(&session.offering)?;
                    let found = listing::list(&session.offering, &base, &progress)?;
                    let top = listing::top(&base)?;
                    Ok((names(offer, &top, &found)?, top, found, base))
                };
                let (names, top, found, base) =
                    match while_alive(&mut channel, &progress, &stop, survey)? {
                        Ok(found) => found,
                        Err(error) => {
                            let error: Error = error;
                            channel.send(&Reply::Refused(error.to_string()), &stop)?;
                            return Err(error);
                        }
                    };
                listed = Listed::of(&found.entries, &keys);
                channel.send(&Reply::Names(names), &stop)?;
                send_listing(&mut channel, &base, top, found, &stop)?;
            }
            Request::Final { overrule } => {
                let writers = || shared.events.writers(&offer.id, overrule);
                let writers = while_alive(&mut channel, &Progress::default(), &stop, writers)?;
                let reply = match writers {
                    None => Reply::Welcome,
                    Some(sentence) => Reply::Writers(sentence),
                };
                channel.send(&reply, &stop)?;
            }
            Request::PageCache => {
                completion::send_page_cache(session, &mut channel, shared, &stop)?
            }
            Request::Complete => {
                let progress = Progress::default();
                let complete = || completion::complete(session, shared, &listed, &keys, &progress);
                let reply = while_alive(&mut channel, &progress, &stop, complete)?;
                let refused = |error: Error| Reply::Refused(error.to_string());
                channel.send(&reply.unwrap_or_else(refused), &stop)?;
            }
            Request::Proofs => {
                match repair::send_proofs(session, &mut channel, shared, &keys, &stop) {
                    Ok(names) => listed = names,
                    Err(error) => channel.send(&Reply::Refused(error.to_string()), &stop)?,
                }
            }
            Request::Reread(wanted) => {
                let is_listed = |path: &[u8]| listed.0.contains_key(&keys.hash_one(path));
                repair::reread(session, &mut channel, shared, is_listed, &wanted, &stop)?;
            }
            Request::Want(more) => {
                if wants.len() + more.len() > MOST_WANTS {
                    return Err(channel.broken("too many files in one round"));
                }
                wants.extend(more);
            }
            Request::Go { connections: _, bytes_per_second, proof } => {
                number += 1;
                let wants = std::mem::take(&mut wants);
                let is_listed = |path: &[u8]| listed.0.contains_key(&keys.hash_one(path));
                let round = Round {
                    queue: Queue::default(),
                    number,
                    begin: Instant::now(),
                    proof,
                    processor: processor_time(),
                    sending: Mutex::default(),
                    limited: Mutex::default(),
                    reported: AtomicU64::new(0),
                };
                go(session, round, &wants, &is_listed, bytes_per_second, shared)?;
            }
        }
    }
}

/// Return the names of all owners in a listing.
fn names(offer: &Offer, top: &message::Listed, found: &listing::Listing) -> Result<Names> {
    let top = top.metadata.as_ref().map(|metadata| (metadata.uid, metadata.gid));
    let owners = found.entries.iter().map(|entry| (entry.uid, entry.gid)).chain(top);
    let (users, groups): (BTreeSet<u32>, BTreeSet<u32>) = owners.unzip();
    // A machine that names nobody offers numbers.
    match owners::names(&offer.accounts, &users, &groups) {
        Err(Error::Engine(holdfast_engine::Error::Io { source, .. }))
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(Names::default())
        }
        other => other,
    }
}

fn send_listing(
    channel: &mut Channel,
    base: &Root,
    top: message::Listed,
    found: listing::Listing,
    stop: Stop<'_>,
) -> Result<()> {
    let count = found.entries.len() as u64;
    let mut batch = vec![top];
    let mut bytes = 0;
    for entry in found.entries {
        let line = listing::line(base, &entry);
        let attributes = line
            .metadata
            .as_ref()
            .map_or(0, |m| m.attributes.iter().map(|(name, value)| name.len() + value.len()).sum());
        let link = line.link.as_ref().map_or(0, |link| link.len());
        let more = 128 + line.path.len() + link + attributes;
        if bytes + more > BATCH {
            channel.send(&Reply::Listed(std::mem::take(&mut batch)), stop)?;
            bytes = 0;
        }
        bytes += more;
        batch.push(line);
    }
    channel.send(&Reply::Listed(batch), stop)?;
    channel.send(&Reply::Surveyed { count, left_out: found.left_out }, stop)
}

/// Read what is wanted, for the data connections to send.
fn go(
    session: &Session,
    round: Round,
    wants: &[Want],
    is_listed: &(dyn Fn(&[u8]) -> bool + Sync),
    bytes_per_second: Option<u64>,
    shared: &Shared,
) -> Result<()> {
    let offering = &session.offering;
    let offer = &offering.offer;
    let round = Arc::new(round);
    *lock(&session.round) = Some(Arc::clone(&round));
    session.turns.set_active(true);
    session.started.notify_all();
    let base = listing::open_base(offering)?;
    let progress = Progress::default();
    let reading = Reading::new(&base, wants, is_listed, &round.queue, &progress, &offering.digests);
    let options = ReadOptions {
        bytes_per_second: match (offer.bytes_per_second, bytes_per_second) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        },
        pressure: offer.pressure.clone(),
        reader: read::Preference::Auto,
    };
    let top = stat(base.fd()).map_err(|errno| Error::io(base.path(), errno))?;
    let read = read::read(&&reading, Device::of(device(&top)), &options, &progress)
        .and_then(|report| reading.finish().map(|()| report));
    session.turns.set_active(false);
    offering.digests.flush()?;
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
    session.turns.count(true);
    let result = send_rounds(session, &mut channel, shared);
    session.turns.count(false);
    result
}

fn send_rounds(session: &Session, channel: &mut Channel, shared: &Shared) -> Result<()> {
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
        let result = send_round(session, &round, channel, shared);
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
        if stop() {
            return Err(holdfast_engine::Error::Cancelled.into());
        }
        let Some(turn) = session.turns.take(|| shared.share(), ALIVE) else {
            channel.send(&Reply::Wait, &stop)?;
            continue;
        };
        let before = channel.waited().writing;
        let mut sent = 0;
        match round.queue.pop(ALIVE) {
            Popped::Item(Item::Block { want, offset, sparse, check, data }) => {
                let head = BlockHead { want, offset, sparse, check };
                channel.send_frame(Kind::Block, &[&head.bytes(), &data], &stop)?;
                sent = data.len();
                round.queue.give_back(data);
            }
            Popped::Item(Item::Pack(body)) => {
                channel.send_frame(Kind::Pack, &[&body], &stop)?;
                sent = body.len();
            }
            Popped::Item(Item::Message(message)) => channel.send(&message, &stop)?,
            Popped::Nothing => {
                drop(turn);
                channel.send(&Reply::Wait, &stop)?;
                continue;
            }
            Popped::Closed => {
                channel.send(&Reply::Over(round.spent()), &stop)?;
                return Ok(());
            }
            Popped::Failed => return Err(holdfast_engine::Error::Cancelled.into()),
        }
        drop(turn);
        *lock(&round.sending) += channel.waited().writing.saturating_sub(before);
        session.offering.sent_bytes.fetch_add(sent as u64, Ordering::Relaxed);
        statistics::sent(round.proof, sent as u64);
        // One connection is enough to report.
        let now = u64::try_from(round.begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        let last = round.reported.load(Ordering::Relaxed);
        if now >= last + REPORT_MS
            && round
                .reported
                .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            channel.send(&Reply::Spent(round.spent()), &stop)?;
        }
    }
}
