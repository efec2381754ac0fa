//! Why nothing was done, written down where the old system looks for it: in the outcome record.

use std::sync::{Arc, Mutex};

use crate::disk::Disk;
use crate::disk::devices;
use crate::initramfs::log;
use crate::job::{DiskRange, Job};
use crate::outcome::{Outcome, State};
use crate::status::{Phase, Status, lock};
use crate::{Fault, say};

/// A record that is marked as started, and what to end it with.
struct Recorder {
    disk: Arc<Disk>,
    place: DiskRange,
    outcome: Outcome,
    status: Arc<Status>,
}

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

/// From now on [`refused`] has a place for the reason: this record, which is on the disk already.
pub fn keep(disk: &Arc<Disk>, place: DiskRange, outcome: Outcome, status: &Arc<Status>) {
    let recorder = Recorder { disk: Arc::clone(disk), place, outcome, status: Arc::clone(status) };
    *lock(&RECORDER) = Some(recorder);
}

/// Let go of the disk: there is nothing to be recorded any more.
pub fn release() {
    drop(lock(&RECORDER).take());
}

/// Write down why nothing was done, if nothing was done. Does nothing before [`keep`], nor from the
/// first write on: then there may be another thing in the record's place.
pub fn refused(reason: &str) {
    let Some(recorder) = lock(&RECORDER).take() else { return };
    if recorder.status.first_write() {
        return;
    }
    let outcome = ended(recorder.outcome, recorder.status.phase(), reason);
    match outcome.write(&recorder.disk, recorder.place) {
        Ok(()) => say!("the reason is in the outcome record"),
        Err(fault) => say!("the reason cannot be written down: {fault}"),
    }
}

/// Report to the old system that the target was not found, wherever its disk is now: the record is
/// known by its number, and nothing else on that disk is touched. One that has a reason already
/// keeps it.
pub fn leave_word(job: &Job, fault: &Fault) {
    for device in devices::all().iter().filter(|device| device.partition.is_none()) {
        let written = Disk::open_exclusively(&device.path).and_then(|disk| {
            let found = Outcome::read(&disk, job.outcome, &job.nonce)?;
            if found.state != State::Armed {
                return Ok(false);
            }
            let started = Outcome {
                started: found.started + 1,
                descriptor_sha256: Some(job.descriptor_sha256),
                ..found
            };
            ended(started, Phase::Waiting, &fault.to_string()).write(&disk, job.outcome)?;
            Ok(true)
        });
        if written == Ok(true) {
            say!("the reason is in the outcome record on {}", device.describe());
        }
    }
}

fn ended(started: Outcome, phase: Phase, reason: &str) -> Outcome {
    Outcome {
        state: State::Refused,
        phase: Some(phase.name().to_owned()),
        reason: Some(reason.to_owned()),
        log: log::recent(),
        ..started
    }
}
