//! The rounds of a pass: files are asked for, received on all connections, and read back.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_engine::record::PathText;

use crate::channel::{Channel, Stop};
use crate::destination::connect::Caller;
use crate::destination::flush::{Flusher, Ledger, lock};
use crate::destination::pass::limited::Ledger as LimitedLedger;
use crate::destination::pass::media::Proving;
use crate::destination::pass::plan::{Start, Wanted};
use crate::destination::pass::watch::Watch;
use crate::destination::receive::Round;
use crate::destination::{Pass, Proof, Request, Unfinished, words};
use crate::message::{self, Loss, Stamp, Want};
use crate::owners::Owners;
use crate::{Error, Result};

use super::Fetching;

/// Bytes of wants in one message, about.
const BATCH: usize = 256 << 10;

/// Rounds of one pass: files that changed while they were read are asked for again.
const ROUNDS: usize = 3;
/// Files that are named in a result.
const NAMED: usize = 1000;

/// What the rounds of a pass share.
pub struct Rounds<'a> {
    fetching: &'a Fetching<'a>,
    caller: &'a Caller<'a>,
    /// Whose files they become.
    owners: &'a Owners,
    control: &'a mut Channel,
    /// Data connections.
    channels: Vec<Channel>,
    limits: LimitedLedger,
    /// Files of which metadata could not be set, by which.
    unset: BTreeMap<&'static str, u64>,
}

/// What did not arrive in a round, by the numbers of the wants, and why.
type Lost = Vec<(u32, Loss)>;
/// Files that were read back and differ, with what they are on the source.
type Differing = Vec<(Arc<[u8]>, Stamp)>;

impl<'a> Rounds<'a> {
    /// Begin.
    pub fn new(
        fetching: &'a Fetching<'a>,
        caller: &'a Caller<'a>,
        owners: &'a Owners,
        control: &'a mut Channel,
    ) -> Self {
        Self {
            fetching,
            caller,
            owners,
            control,
            channels: Vec::new(),
            limits: LimitedLedger::default(),
            unset: BTreeMap::new(),
        }
    }

    /// Fetch what is wanted; read it back where that is the proof, and what is here already and
    /// still unproven.
    ///
    /// # Errors
    /// As [`crate::destination::pull`].
    pub fn run(
        &mut self,
        mut wants: Vec<Wanted>,
        mut unproven: Vec<Arc<[u8]>>,
        pass: &mut Pass,
    ) -> Result<()> {
        let ledger = self.fetching.ledger;
        for round in 0..ROUNDS {
            if wants.is_empty() && unproven.is_empty() {
                break;
            }
            self.fetching.base(&mut wants)?;
            let media = self.fetching.request.proof == Proof::Media;
            let (lost, differing) = if media || !unproven.is_empty() {
                let proving = Proving::new(ledger, std::mem::take(&mut unproven))?;
                self.fetch_and_prove(&wants, pass, &proving)?
            } else {
                (self.fetch(&wants, pass, None)?, Vec::new())
            };
            wants = self.after(&wants, lost, differing, pass, round + 1 == ROUNDS);
            let more = wants.iter().map(|want| want.stamp.size).fold(0, u64::saturating_add);
            ledger.progress.expect_more(more);
        }
        Ok(())
    }

    /// Close the connections and return the files of which metadata could not be set, by which.
    pub fn finish(self, pass: &mut Pass) -> BTreeMap<&'static str, u64> {
        pass.connections = self.channels.len();
        self.channels.into_iter().for_each(Channel::close);
        let longest = self.limits.seconds.iter().max_by(|(_, one), (_, two)| one.total_cmp(two));
        pass.limited_by = longest.map(|(limited, _)| *limited);
        for (limited, seconds) in self.limits.seconds {
            *pass.limited_seconds.entry(limited).or_default() += seconds;
        }
        self.unset
    }

    /// Fetch, and read back beside it; returns what was lost, and what differs.
    fn fetch_and_prove(
        &mut self,
        wants: &[Wanted],
        pass: &mut Pass,
        proving: &Proving<'_>,
    ) -> Result<(Lost, Differing)> {
        let Fetching { request, ledger: Ledger { progress, .. }, .. } = self.fetching;
        let (fetched, (found, proven)) = std::thread::scope(|scope| {
            let _ended = OnDrop(|| proving.close(true));
            let reading = scope.spawn(|| proving.run());
            let media = request.proof == Proof::Media;
            let fetched = self.fetch(wants, pass, media.then_some(proving));
            progress.enter("proving");
            proving.close(fetched.is_err());
            (fetched, join(reading))
        });
        pass.proven_files += found.proven;
        pass.differed_on_media += found.differed;
        let lost = fetched?;
        proven?;
        Ok((lost, found.differing))
    }

    /// Ask for files, and receive them on all connections; returns what was lost.
    fn fetch(
        &mut self,
        wants: &[Wanted],
        pass: &mut Pass,
        proving: Option<&Proving<'_>>,
    ) -> Result<Lost> {
        if wants.is_empty() {
            return Ok(Lost::new());
        }
        let (request, ledger) = (self.fetching.request, self.fetching.ledger);
        let (caller, owners) = (self.caller, self.owners);
        ledger.progress.enter("fetching");
        if self.channels.is_empty() {
            self.channels = connect(request, caller, wants)?;
        }
        let Self { control, channels, limits, .. } = self;
        send_wants(control, wants, caller.stop)?;
        let go = message::Request::Go {
            connections: request.connections,
            bytes_per_second: request.bytes_per_second,
            proof: request.proof,
        };
        let mut watch = Watch::new(usize::from(request.most_connections), channels.len());
        control.send(&go, caller.stop)?;
        let flusher = Flusher::default();
        let round = Round::new(ledger, &flusher, wants, owners);
        let over = AtomicBool::new(false);
        // Small files of one round fit into a few frames; more connections would find nothing.
        let may_grow = wants.iter().any(|want| want.stamp.size > message::SMALL);
        let receive = |mut channel: Channel| {
            let result = round.receive(&mut channel);
            (channel, result)
        };
        let (flushed, received) = std::thread::scope(|scope| {
            let receive = &receive;
            let _ended = OnDrop(|| {
                over.store(true, Ordering::Relaxed);
                flusher.close();
            });
            let flushing = scope.spawn(|| flusher.run(ledger, proving));
            let receivers: Vec<_> =
                channels.drain(..).map(|channel| scope.spawn(move || receive(channel))).collect();
            let (watch, round, over) = (&mut watch, &round, &over);
            let watching = scope.spawn(move || {
                let mut added = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let more = watch.interval(round, over, limits);
                    // A connection that cannot be made costs speed and nothing else.
                    for _ in 0..if may_grow { more } else { 0 } {
                        match caller.connect(true) {
                            Ok(channel) => added.push(scope.spawn(move || receive(channel))),
                            Err(_) => watch.settle(),
                        }
                    }
                }
                watch.finish(round, limits);
                added
            });
            let mut received: Vec<_> = receivers.into_iter().map(join).collect();
            over.store(true, Ordering::Relaxed);
            received.extend(join(watching).into_iter().map(join));
            flusher.close();
            (join(flushing), received)
        });
        let (open, received): (Vec<_>, Vec<_>) = received.into_iter().unzip();
        *channels = open;
        let sent = round.received.load(Ordering::Relaxed);
        pass.sent_bytes += sent;
        flushed?;
        // The error of a connection given up because another one failed is less specific.
        let mut errors: Vec<Error> = received.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| match error {
            Error::Engine(holdfast_engine::Error::Cancelled) => 2,
            Error::Wire { .. } => 1,
            _ => 0,
        });
        if let Some(error) = errors.into_iter().next() {
            ledger.progress.check()?;
            return Err(match error {
                Error::Engine(holdfast_engine::Error::Cancelled) => {
                    control.broken("a round ended without a reason")
                }
                error => error,
            });
        }
        if round.missing() > 0 {
            return Err(control.broken("files that were asked for never came"));
        }
        for (name, count) in std::mem::take(&mut *lock(&round.unset)) {
            *self.unset.entry(name).or_default() += count;
        }
        Ok(std::mem::take(&mut *lock(&round.lost)))
    }

    /// Return what to ask for again; after the last round, note that it is missing.
    fn after(
        &self,
        wants: &[Wanted],
        lost: Lost,
        differing: Differing,
        pass: &mut Pass,
        last: bool,
    ) -> Vec<Wanted> {
        // What is gone is not in the next listing.
        let lost = lost.into_iter().filter(|(_, loss)| *loss != Loss::Vanished);
        let lost = lost.map(|(number, loss)| (wants[number as usize].clone(), words(&loss)));
        let mut again: Vec<(Wanted, String)> = lost.collect();
        let fetched: HashSet<_> = match differing.len() {
            0 => HashSet::new(),
            _ => wants.iter().map(|want| &want.path).collect(),
        };
        for (path, stamp) in differing {
            if !fetched.contains(&path) {
                pass.unchanged_files = pass.unchanged_files.saturating_sub(1);
                pass.fetched_files += 1;
            }
            let reason = "what was read back differs: the destination's device".to_owned();
            again.push((Wanted { path, stamp, start: Start::New }, reason));
        }
        let state = lock(self.fetching.ledger.state);
        for (want, reason) in &mut again {
            // What is staged is still good.
            want.start = state
                .staged
                .get(&want.path)
                .map_or(Start::New, |staged| Start::Staged(Box::new(staged.clone())));
            if last {
                pass.unfinished_files += 1;
                pass.unfinished_bytes = pass.unfinished_bytes.saturating_add(want.stamp.size);
                if pass.unfinished.len() < NAMED {
                    let path = PathText::new(&want.path);
                    pass.unfinished.push(Unfinished { path, reason: reason.clone() });
                }
            }
        }
        if last { Vec::new() } else { again.into_iter().map(|(want, _)| want).collect() }
    }
}

/// Open the data connections.
fn connect(request: &Request, caller: &Caller<'_>, wants: &[Wanted]) -> Result<Vec<Channel>> {
    // One huge file is sent over all of them; a few small ones fit into one frame each.
    let large = wants.iter().any(|want| want.stamp.size > message::SMALL);
    let most = usize::from(request.connections.min(request.most_connections));
    let connections = if large { most } else { most.min(wants.len()) };
    (0..connections).map(|_| caller.connect(true)).collect()
}

/// Calls a function at the end of its scope, also in a panic: no thread then waits for ever.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    match thread.join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn send_wants(control: &mut Channel, wants: &[Wanted], stop: Stop<'_>) -> Result<()> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    for want in wants {
        let staged = match &want.start {
            Start::Staged(staged) => Some(&**staged),
            _ => None,
        };
        let have = want.have(staged);
        let table = match &have {
            message::Have::Nothing => 0,
            message::Have::Prefix(table) => table.digests.len() * 50,
            message::Have::Chunks(known) => known.len() * 11,
        };
        let more = want.path.len() + 64 + table;
        if bytes + more > BATCH && !batch.is_empty() {
            control.send(&message::Request::Want(std::mem::take(&mut batch)), stop)?;
            bytes = 0;
        }
        bytes += more;
        batch.push(Want { path: (&*want.path).into(), stamp: want.stamp, have });
    }
    control.send(&message::Request::Want(batch), stop)
}
