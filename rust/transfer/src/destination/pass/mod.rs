//! One pass: survey, plan, fetch in rounds, prove, finish.

pub mod finish;
pub mod limited;
pub mod media;
pub mod plan;
mod round;
mod settle;
mod watch;

use std::time::Duration;

use holdfast_engine::record::PathText;
use rustix::fs::renameat;

use crate::channel::{Channel, Stop};
use crate::destination::connect::Caller;
use crate::destination::flush::{Ledger, lock};
use crate::destination::journal::{Record, Staged};
use crate::destination::pass::finish::{abandon, finish, make_directories, remove_gone};
use crate::destination::pass::plan::{Plan, Planner, Start, Wanted, chunks_of};
use crate::destination::pass::round::Rounds;
use crate::destination::staging::{Staging, split};
use crate::destination::{Pass, Proof, Request};
use crate::message::{self, Reply};
use crate::owners::Owners;
use crate::ticket::random;
use crate::{Error, Result, Secret};

/// How long nothing may move on a connection; the source reports that it is alive.
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
    /// Run one pass; what it did is added to `pass` also when it fails.
    ///
    /// # Errors
    /// As [`crate::destination::pull`].
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

        let wants = std::mem::take(&mut plan.wants);
        let unproven = std::mem::take(&mut plan.unproven);
        let bytes = wants.iter().map(|want| want.stamp.size).fold(0, u64::saturating_add);
        progress.restart();
        progress.expect(bytes, wants.len() as u64);
        pass.fetched_files = wants.len() as u64;
        pass.unfinished.clear();
        (pass.unfinished_files, pass.unfinished_bytes) = (0, 0);
        let mut rounds = Rounds::new(self, &caller, &owners, &mut control);
        rounds.run(wants, unproven, pass)?;
        let mut unset = rounds.finish(pass);
        progress.enter("finishing");
        pass.unfinished_files += finish(self.ledger, &plan, &mut unset)?;
        pass.unset = unset.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let root = self.ledger.staging.root();
        if self.request.proof != Proof::Wire {
            rustix::fs::syncfs(root.fd()).map_err(|errno| Error::io(root.path(), errno))?;
            let unflushed = lock(self.ledger.state).unflushed.is_some();
            self.ledger.record(unflushed.then_some(Record::Flushed).into_iter().collect(), true)?;
        }
        lock(self.ledger.journal).append(&[], true)?;
        Ok((plan, control))
    }

    /// Ask the source whether the last pass may begin.
    fn ask_whether_at_rest(&self, control: &mut Channel, stop: Stop<'_>) -> Result<()> {
        let overrule = self.request.overrule_writers;
        control.send(&message::Request::Final { overrule }, stop)?;
        match control.receive_reply(stop)? {
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
        let mut planner = Planner::new(self.ledger.staging, &state, self.request.proof);
        let mut owners = Owners::default();
        loop {
            match control.receive_reply(stop)? {
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
                    Staged { stamp: want.stamp, based: true, ..Staged::clone(staged) }
                }
                _ => continue,
            };
            records.push(Record::Staged(want.path.clone(), staged.clone()));
            want.start = Start::Staged(Box::new(staged));
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
}
