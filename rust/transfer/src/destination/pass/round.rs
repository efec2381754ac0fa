//! One round of a pass: files are asked for, and received on all connections.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::channel::{Channel, Stop};
use crate::destination::Pass;
use crate::destination::connect::Caller;
use crate::destination::flush::{Flusher, lock};
use crate::destination::pass::limited::Ledger as LimitedLedger;
use crate::destination::pass::plan::{Start, Wanted};
use crate::destination::pass::watch::Watch;
use crate::destination::receive::Round;
use crate::message::{self, Loss, Want};
use crate::owners::Owners;
use crate::{Error, Result};

use super::Fetching;

/// Bytes of wants in one message, about.
const BATCH: usize = 256 << 10;

impl Fetching<'_> {
    /// Open the data connections.
    pub(super) fn connect(&self, caller: &Caller<'_>, wants: &[Wanted]) -> Result<Vec<Channel>> {
        // One huge file is sent over all of them; a few small ones fit into one frame each.
        let large = wants.iter().any(|want| want.stamp.size > message::SMALL);
        let most = usize::from(self.request.connections.min(self.request.most_connections));
        let connections = if large { most } else { most.min(wants.len()) };
        (0..connections).map(|_| caller.connect(true)).collect()
    }

    /// Ask for files, and receive them on all connections.
    #[expect(clippy::type_complexity, reason = "what was lost, and what could not be set")]
    #[expect(clippy::too_many_arguments, reason = "what the rounds of a pass share")]
    pub(super) fn round(
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
