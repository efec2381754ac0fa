//! The work from beginning to end, in the order that keeps the old system whole until the image is
//! proven: disks, outcome record, source, verify, and only then write.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_engine::image::{Descriptor, Sha256};
use serde_json::json;

use crate::devices::{self, Device};
use crate::disk::Disk;
use crate::identity::{Identity, Report};
use crate::job::{Job, Place, Source};
use crate::outcome::{Outcome, State};
use crate::pipeline::{Digests, Supply, read_back::read_back, verify::verify, write};
use crate::source::staged::Staged;
use crate::status::{Phase, Status, lock};
use crate::{Context as _, Fault, Result, clock, log, marker, modules, mount, say, target};

/// How often to tell how far it is.
const NARRATION: Duration = Duration::from_secs(5);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a partition's node may take to appear.
const PARTITION_PATIENCE: Duration = Duration::from_secs(10);

/// How it ended, if not with a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The image is on the disk.
    Written,
    /// The imager was started before with this arming, so nothing was done.
    StartedBefore,
}

/// What the armed machine left in the initramfs.
#[derive(Debug)]
pub struct Armed {
    room: PathBuf,
}

impl Armed {
    /// In this directory.
    pub fn in_room(room: &Path) -> Self {
        Self { room: room.to_owned() }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.room.join(name);
        fs::read(&path).context(path.display())
    }

    fn job(&self) -> Result<Job> {
        Job::parse(&self.read("job.json")?)
    }

    fn descriptor(&self, job: &Job) -> Result<Descriptor> {
        let json = self.read("descriptor.json")?;
        if Sha256::of(&json) != job.descriptor_sha256 {
            return Err(Fault::new("the descriptor is not the one that the job names"));
        }
        Ok(Descriptor::parse(&self.room.join("descriptor.json"), &json)?)
    }

    fn identity(&self) -> Result<Identity> {
        Identity::parse(&self.read("identity.json")?)
    }
}

/// What is needed to write down why nothing was done.
struct Recorder {
    disk: Arc<Disk>,
    place: Place,
    outcome: Outcome,
    status: Arc<Status>,
}

static RECORDER: Mutex<Option<Recorder>> = Mutex::new(None);

/// Write down on the target why nothing was done, if nothing was done. Does nothing before the record
/// was found, nor from the first write on: then there may be another thing in its place.
pub fn record_fault(reason: &str) {
    let Some(recorder) = lock(&RECORDER).take() else { return };
    if recorder.status.first_write() {
        return;
    }
    let outcome = Outcome {
        state: State::Refused,
        phase: Some(recorder.status.phase().name().to_owned()),
        reason: Some(reason.to_owned()),
        log: log::recent(),
        ..recorder.outcome
    };
    match outcome.write(&recorder.disk, recorder.place) {
        Ok(()) => say!("the reason is in the outcome record"),
        Err(fault) => say!("the reason cannot be written down: {fault}"),
    }
}

/// Do everything but the reboot.
///
/// # Errors
/// Why nothing was written: once something was, it goes on until the disk has the image.
pub fn run(armed: &Armed) -> Result<Ended> {
    let job = armed.job()?;
    say!("armed as {} by {} at {}", job.nonce, job.operation, job.hostname);
    if clock::not_before(&job.time) {
        say!("the machine's clock was behind; it is set to {}", job.time);
    }
    modules::load(&armed.room.join("modules"), &job.modules);
    let (device, disk) = target::claim(&job)?;
    say!("the target is {}", device.describe());
    let disk = Arc::new(disk);
    let outcome = Outcome::read(&disk, job.outcome, &job.nonce)?;
    if outcome.started > 0 || outcome.state != State::Armed {
        return Ok(Ended::StartedBefore);
    }
    let outcome = Outcome { started: outcome.started + 1, state: State::Started, ..outcome };
    outcome.write(&disk, job.outcome)?;
    let status = Arc::new(Status::new(json!({ "operation": job.operation, "nonce": job.nonce })));
    *lock(&RECORDER) = Some(Recorder {
        disk: Arc::clone(&disk),
        place: job.outcome,
        outcome: outcome.clone(),
        status: Arc::clone(&status),
    });
    let image = armed.descriptor(&job)?;
    say!("the image is {} {}, {} bytes", image.name, image.image_version, image.size_bytes);
    target::check_fit(&image, &disk)?;
    std::thread::scope(|scope| {
        scope.spawn(|| status.narrate(NARRATION));
        let result = replace(armed, &job, &image, &device, disk, &status);
        status.end();
        result.map(|()| Ended::Written)
    })
}

fn replace(
    armed: &Armed,
    job: &Job,
    image: &Descriptor,
    device: &Device,
    disk: Arc<Disk>,
    status: &Status,
) -> Result<()> {
    let identity = armed.identity()?;
    let staged = match &job.source {
        Source::Staged { path, file_system, uuid, array } => {
            Staged::find(path, file_system, uuid, array.as_ref(), &device.name)?
        }
        Source::Network { .. } => return Err(Fault::new("no network yet")),
    };
    let digests = verify(image, &staged, status)?;
    insist(status, || write_and_prove(image, &staged, &digests, &disk, status));
    // Nobody can mount a partition of a disk that is held exclusively, so let go of it entirely.
    drop(lock(&RECORDER).take());
    let report = new_system(job, image, &identity, device, disk, status);
    for problem in report {
        status.problem(problem);
    }
    status.enter(Phase::Rebooting, 0);
    // Only the kernel's own doing: it is mounted read-only.
    if let Err(fault) = staged.release() {
        say!("{fault}");
    }
    Ok(())
}

/// Try for ever: there is no system to go back to any more.
fn insist(status: &Status, mut attempt: impl FnMut() -> Result<()>) {
    let mut pause = Duration::from_secs(1);
    while let Err(fault) = attempt() {
        status.retry();
        status.enter(Phase::Waiting, 0);
        status.problem(format!("the disk was begun to be written and must be finished: {fault}"));
        say!("trying again from the beginning in {} s", pause.as_secs());
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn write_and_prove(
    image: &Descriptor,
    supply: &dyn Supply,
    digests: &Digests,
    disk: &Disk,
    status: &Status,
) -> Result<()> {
    let head = write::write(image, supply, digests, disk, status)?;
    read_back(image, digests, &head, disk, status)?;
    write::complete(&head, disk, status)?;
    say!("the disk has the image, and was read back");
    Ok(())
}

/// Carry over who the machine is, and leave the marker; answers problems. None of them is a reason to
/// undo anything.
fn new_system(
    job: &Job,
    image: &Descriptor,
    identity: &Identity,
    device: &Device,
    disk: Arc<Disk>,
    status: &Status,
) -> Vec<String> {
    status.enter(Phase::Identity, 0);
    let Some(root) = image.root() else {
        return vec![
            "the image has no root partition that could be told, so nothing of the old system \
             was carried over"
                .to_owned(),
        ];
    };
    let kind = root.file_system.as_deref().unwrap_or("an unknown file system");
    let result = (|| {
        disk.reread_partitions()?;
        drop(disk);
        let partition = wait_for_partition(device, root.number)?;
        let mounted = mount::root(&partition, kind, Path::new("/target"))?;
        let report = identity.apply(mounted.path()).unwrap_or_else(|fault| Report {
            problems: vec![fault.to_string()],
            ..Report::default()
        });
        say!("carried over {} files", report.carried.len());
        status.finish();
        let left =
            marker::write(mounted.path(), job, image, &job.descriptor_sha256, &report, status);
        mounted.unmount()?;
        left.context("the marker cannot be written")?;
        Ok(report.problems)
    })();
    result.unwrap_or_else(|fault: Fault| vec![format!("the new system: {fault}")])
}

fn wait_for_partition(device: &Device, number: u32) -> Result<PathBuf> {
    let deadline = std::time::Instant::now() + PARTITION_PATIENCE;
    loop {
        let found = devices::all()
            .into_iter()
            .find(|one| one.disk.as_ref() == Some(&device.name) && one.partition == Some(number));
        match found {
            Some(partition) if partition.path.exists() => return Ok(partition.path),
            _ if std::time::Instant::now() > deadline => {
                return Err(Fault(format!(
                    "the kernel does not see partition {number} of {}",
                    device.path.display()
                )));
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
