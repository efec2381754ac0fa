//! One pass: survey, plan, fetch in rounds, prove, finish.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_engine::record::PathText;
use rustix::fs::{FileType, renameat};

use super::connect::Caller;
use super::finish::{abandon, finish, make_directories, remove_gone};
use super::flush::{Flusher, Ledger, lock};
use super::journal::{Item, Record, Staged};
use super::limited::Ledger as LimitedLedger;
use super::media::prove;
use super::plan::{Plan, Planner, Start, Wanted, chunks_of, is_held, stamp_of};
use super::receive::Round;
use super::staging::{Staging, split};
use super::watch::Watch;
use super::{Pass, Proof, Request, Unfinished, words};
use crate::channel::{Channel, Stop};
use crate::message::{self, LIMIT, Loss, Reply, Want};
use crate::owners::Owners;
use crate::ticket::random;
use crate::{Error, Result, Secret};

/// Rounds of one pass: files that changed while they were read are asked for again.
const ROUNDS: usize = 3;
/// Bytes of wants in one message, about.
const BATCH: usize = 256 << 10;
/// Files that are named in a result.
const NAMED: usize = 1000;
/// How long nothing may move on a data connection; the source reports that it is alive.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the passes of one call share.
pub struct Fetching<'a> {
    /// What to fetch.
    pub request: &'a Request,
    /// The destination's own key.
    pub puller: &'a Secret,
    /// Where it goes.
    pub ledger: &'a Ledger<'a>,
}

impl Fetching<'_> {
    /// Place what was recorded but not placed before a crash, and clear the staging directory.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn settle(&self) -> Result<()> {
        let staging = self.ledger.staging;
        let mut placed = Vec::new();
        let mut kept = Vec::new();
        {
            let state = lock(self.ledger.state);
            for (path, staged) in &state.staged {
                let name = Staging::name(staged.name);
                let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                let basic = rustix::fs::StatxFlags::BASIC_STATS;
                let there = rustix::fs::statx(staging.fd(), &name, flags, basic).ok();
                let Some(Item::File(held)) = state.items.get(path) else {
                    // A base that was to be moved here, and was not, is where it was.
                    if there.is_none() && staged.based && !state.items.contains_key(path) {
                        let (parent, file) = split(path);
                        let failed = |errno| Error::io(staging.shown(path), errno);
                        if staging.stat(path).map_err(failed)?.is_some_and(|found| {
                            FileType::from_raw_mode(found.stx_mode.into()) == FileType::RegularFile
                        }) {
                            let parent = staging.directory(parent).map_err(failed)?;
                            renameat(&parent, file, staging.fd(), &name).map_err(failed)?;
                        }
                    }
                    kept.push(staged.name);
                    continue;
                };
                match there {
                    Some(stat) if stat.stx_ino == held.ino && held.ctime_ns == 0 => {
                        if !is_held(held, &stat) {
                            continue;
                        }
                        let (parent, file) = split(path);
                        let failed = |errno| Error::io(staging.shown(path), errno);
                        let parent = staging.directory(parent).map_err(failed)?;
                        renameat(staging.fd(), &name, &parent, file).map_err(failed)?;
                        placed.push(path.clone());
                    }
                    Some(_) => kept.push(staged.name),
                    None => {}
                }
            }
        }
        let mut records = Vec::new();
        for path in placed {
            let failed = |errno| Error::io(staging.shown(&path), errno);
            let fd = staging.open_path(&path).map_err(failed)?;
            let stamp = stamp_of(&fd).map_err(failed)?;
            records.push(Record::Placed(path, stamp.ctime_ns));
        }
        self.ledger.record(records, true)?;
        kept.sort_unstable();
        staging.clear(|name| kept.binary_search(&name).is_ok())
    }

    /// Run one pass; what it did is added to `pass` also when it fails.
    ///
    /// # Errors
    /// As [`super::pull`].
    pub fn pass(&self, pass: &mut Pass) -> Result<(Plan, Channel)> {
        let progress = self.ledger.progress;
        let stop = || progress.cancelled();
        let stop: Stop<'_> = &stop;
        progress.enter("connecting");
        let caller = Caller {
            ticket: &self.request.ticket,
            puller: self.puller,
            session: random()?,
            patience: PATIENCE,
            stop,
        };
        let mut control = caller.connect(false)?;
        if self.request.complete {
            self.ask_whether_at_rest(&mut control, stop)?;
        }
        progress.enter("surveying");
        let (mut plan, owners) = self.survey(&mut control, pass, stop)?;
        pass.files = plan.files;
        pass.bytes = plan.bytes;
        pass.unchanged_files = plan.unchanged;
        pass.specials = std::mem::take(&mut plan.specials);
        pass.special_names =
            std::mem::take(&mut plan.special_names).iter().map(|p| PathText::new(p)).collect();
        let settled = std::mem::take(&mut plan.settled).into_iter();
        let settled = settled.map(|(path, ctime_ns)| Record::Placed(path, ctime_ns));
        self.ledger.record(settled.collect(), false)?;
        progress.enter("removing");
        abandon(self.ledger, &plan.abandoned)?;
        pass.removed += remove_gone(self.ledger, &mut plan.gone)?;
        make_directories(self.ledger, &plan)?;

        let mut wants = std::mem::take(&mut plan.wants);
        let mut unset = std::collections::BTreeMap::new();
        let bytes = wants.iter().map(|want| want.stamp.size).fold(0, u64::saturating_add);
        progress.restart();
        progress.expect(bytes, wants.len() as u64);
        pass.fetched_files = wants.len() as u64;
        pass.unfinished.clear();
        pass.unfinished_files = 0;
        let mut limits = LimitedLedger::default();
        let mut channels = Vec::new();
        for round in 0..ROUNDS {
            if wants.is_empty() {
                break;
            }
            progress.enter("fetching");
            self.base(&mut wants)?;
            if channels.is_empty() {
                channels = self.connect(&caller, &wants)?;
            }
            let (lost, missed) = self.round(
                &mut channels,
                &mut control,
                &wants,
                pass,
                &caller,
                &owners,
                &mut limits,
            )?;
            for (name, count) in missed {
                *unset.entry(name).or_default() += count;
            }
            wants = self.after(wants, lost, pass, round + 1 == ROUNDS)?;
            let more = wants.iter().map(|want| want.stamp.size).fold(0, u64::saturating_add);
            progress.expect_more(more);
        }
        pass.connections = channels.len();
        channels.into_iter().for_each(Channel::close);
        let longest = limits.seconds.iter().max_by(|(_, one), (_, other)| one.total_cmp(other));
        pass.limited_by = longest.map(|(limited, _)| *limited);
        for (limited, seconds) in limits.seconds {
            *pass.limited_seconds.entry(limited).or_default() += seconds;
        }
        progress.enter("finishing");
        pass.unfinished_files += finish(self.ledger, &plan, &mut unset)?;
        pass.unset = unset.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let root = self.ledger.staging.root();
        if self.request.proof != Proof::Wire {
            rustix::fs::syncfs(root.fd()).map_err(|errno| Error::io(root.path(), errno))?;
        }
        lock(self.ledger.journal).append(&[], true)?;
        Ok((plan, control))
    }

    /// Ask the source whether the last pass may begin.
    fn ask_whether_at_rest(&self, control: &mut Channel, stop: Stop<'_>) -> Result<()> {
        let overrule = self.request.overrule_writers;
        control.send(&message::Request::Final { overrule }, stop)?;
        match control.receive_message(LIMIT, stop)? {
            Reply::Welcome => Ok(()),
            Reply::Writers(sentence) => Err(Error::Writers(sentence)),
            Reply::Refused(reason) => Err(Error::Refused(reason)),
            _ => Err(control.broken("an answer that has no place before a listing")),
        }
    }

    fn survey(
        &self,
        control: &mut Channel,
        pass: &mut Pass,
        stop: Stop<'_>,
    ) -> Result<(Plan, Owners)> {
        control.send(&message::Request::Survey, stop)?;
        let state = lock(self.ledger.state);
        let mut planner = Planner::new(self.ledger.staging, &state);
        let mut owners = Owners::default();
        loop {
            match control.receive_message(LIMIT, stop)? {
                Reply::Names(names) if self.request.map_owners => {
                    owners = Owners::by_name(&self.request.accounts, &names)?;
                }
                Reply::Names(_) => {}
                Reply::Listed(lines) => {
                    for mut line in lines {
                        if let Some(metadata) = &mut line.metadata {
                            owners.map(metadata);
                        }
                        planner.add(line)?.map_err(|reason| control.broken(reason))?;
                    }
                }
                Reply::Surveyed { count, left_out } => {
                    pass.left_out = left_out.into_iter().take(64).collect();
                    pass.unmapped_owners = owners.unmapped();
                    let plan = planner.finish(count).map_err(|reason| control.broken(reason))?;
                    return Ok((plan, owners));
                }
                Reply::Refused(reason) => return Err(Error::Refused(reason)),
                _ => return Err(control.broken("a message that has no place in a listing")),
            }
        }
    }

    /// Move older versions to the staging directory, where the new ones are made of them.
    fn base(&self, wants: &mut [Wanted]) -> Result<()> {
        let staging = self.ledger.staging;
        let mut records = Vec::new();
        let mut moves = Vec::new();
        for (place, want) in wants.iter_mut().enumerate() {
            let staged = match &want.start {
                Start::InPlace(held) => {
                    let chunks = chunks_of(held);
                    moves.push(place);
                    Staged { name: staging.number(), stamp: want.stamp, based: true, chunks }
                }
                Start::Staged(staged) if staged.stamp != want.stamp => {
                    Staged { stamp: want.stamp, based: true, ..staged.clone() }
                }
                _ => continue,
            };
            records.push(Record::Staged(want.path.clone(), staged.clone()));
            want.start = Start::Staged(staged);
        }
        if records.is_empty() {
            return Ok(());
        }
        self.ledger.record(records, true)?;
        for place in moves {
            let Wanted { path, start: Start::Staged(staged), .. } = &wants[place] else { continue };
            let failed = |errno| Error::io(staging.shown(path), errno);
            let (parent, name) = split(path);
            let parent = staging.directory(parent).map_err(failed)?;
            let into = Staging::name(staged.name);
            renameat(&parent, name, staging.fd(), into).map_err(failed)?;
        }
        Ok(())
    }

    /// Open the data connections.
    fn connect(&self, caller: &Caller<'_>, wants: &[Wanted]) -> Result<Vec<Channel>> {
        // One huge file is sent over all of them; a few small ones fit into one frame each.
        let large = wants.iter().any(|want| want.stamp.size > message::SMALL);
        let most = usize::from(self.request.connections.min(self.request.most_connections));
        let connections = if large { most } else { most.min(wants.len()) };
        (0..connections).map(|_| caller.connect(true)).collect()
    }

    /// Ask for files, and receive them on all connections.
    #[expect(clippy::type_complexity, reason = "what was lost, and what could not be set")]
    #[expect(clippy::too_many_arguments, reason = "what the rounds of a pass share")]
    fn round(
        &self,
        channels: &mut Vec<Channel>,
        control: &mut Channel,
        wants: &[Wanted],
        pass: &mut Pass,
        caller: &Caller<'_>,
        owners: &Owners,
        limits: &mut LimitedLedger,
    ) -> Result<(Vec<(u32, Loss)>, std::collections::BTreeMap<&'static str, u64>)> {
        let (request, ledger) = (self.request, self.ledger);
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
            let flushing = scope.spawn(|| flusher.run(ledger));
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
        let lost = std::mem::take(&mut *lock(&round.lost));
        Ok((lost, std::mem::take(&mut *lock(&round.unset))))
    }

    /// Prove what arrived by reading it back, if asked for, and return what to ask for again.
    fn after(
        &self,
        wants: Vec<Wanted>,
        lost: Vec<(u32, Loss)>,
        pass: &mut Pass,
        last: bool,
    ) -> Result<Vec<Wanted>> {
        let mut again: Vec<(Wanted, String)> = Vec::new();
        let mut is_lost = vec![false; wants.len()];
        for (number, loss) in lost {
            is_lost[number as usize] = true;
            // What is gone is not in the next listing.
            if loss != Loss::Vanished {
                again.push((wants[number as usize].clone(), words(&loss)));
            }
        }
        if self.request.proof == Proof::Media {
            self.ledger.progress.enter("proving");
            let arrived = wants.iter().zip(&is_lost).filter(|(_, lost)| !**lost);
            let paths: Vec<_> = arrived.map(|(want, _)| want.path.clone()).collect();
            let differing = prove(self.ledger, &paths)?;
            pass.differed_on_media += differing.len() as u64;
            for path in differing {
                let want = wants.iter().find(|want| want.path == path);
                let reason = "what was read back differs: the destination's device".to_owned();
                again.extend(want.cloned().map(|want| (want, reason)));
            }
        }
        let state = lock(self.ledger.state);
        for (want, reason) in &mut again {
            // What is in place is not what was wanted; what is staged is still good.
            want.start = state
                .staged
                .get(&want.path)
                .map_or(Start::New, |staged| Start::Staged(staged.clone()));
            if last {
                pass.unfinished_files += 1;
                if pass.unfinished.len() < NAMED {
                    let path = PathText::new(&want.path);
                    pass.unfinished.push(Unfinished { path, reason: reason.clone() });
                }
            }
        }
        if last {
            return Ok(Vec::new());
        }
        Ok(again.into_iter().map(|(want, _)| want).collect())
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
            Start::Staged(staged) => Some(staged),
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
        batch.push(Want { path: want.path.clone(), stamp: want.stamp, have });
    }
    control.send(&message::Request::Want(batch), stop)
}
