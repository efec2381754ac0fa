//! The work from beginning to end, in the order that keeps the old system whole until the image is
//! proven: disks, outcome record, source, verify, and only then write (`pipeline/replace.rs`). Booted from
//! the lifeboat there is no old system any more, and no outcome record: it tries until it is done.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_engine::image::describe::Names;
use holdfast_engine::image::rules::{Facts, carried_root};
use holdfast_engine::image::{Descriptor, Sha256};
use serde_json::json;

use crate::disk::Disk;
use crate::disk::devices::Device;
use crate::disk::target::{self, Claimed};
use crate::identity::Identity;
use crate::initramfs::armed::Armed;
use crate::initramfs::modules;
use crate::initramfs::watchdog;
use crate::job::{Job, SavePrevious, Source};
use crate::lifeboat::Lifeboat;
use crate::network::{self, Network};
use crate::outcome::recorder;
use crate::outcome::{Outcome, State};
use crate::pipeline::{Digests, Supply, WriteOptions, replace::replace, verify::verify_with_head};
use crate::retry::{fault_limit, until_done};
use crate::source::download::Download;
use crate::source::http::{self, Client};
use crate::source::staged::Staged;
use crate::source::url::Url;
use crate::source::volume::{Volume, Wanted};
use crate::status::server::{self, Access};
use crate::status::{Phase, Status};
use crate::systems::marker::Subject;
use crate::systems::new_system::{self, NewSystem};
use crate::systems::previous;
use crate::{Context as _, Fault, Result, clock, say, threads};

/// How often to report progress.
const NARRATION: Duration = Duration::from_secs(5);
/// How long the network that the image comes through may take.
const NETWORK_PATIENCE: Duration = Duration::from_secs(600);
/// The word on the kernel's command line of a boot from the lifeboat.
const FROM_LIFEBOAT: &str = "holdfast.lifeboat";
/// Where the new system's root is mounted.
const NEW_ROOT: &str = "/target";

/// How it ended, if not with a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// The image is on the disk.
    Written,
    /// The imager was started before with this arming, so nothing was done.
    StartedBefore,
    /// The disk boots the lifeboat, and only faults came: a reset may help.
    Faulty,
}

/// Do everything but the reboot.
///
/// # Errors
/// Why nothing was written: once something was, it continues until the disk has the image, or until a
/// reset may help.
pub fn run(armed: &Armed) -> Result<Completion> {
    let job = armed.job()?;
    say!("armed as {} by {} at {}", job.nonce, job.operation, job.hostname);
    if clock::not_before(&job.time) {
        say!("the machine's clock was behind; it is set to {}", job.time);
    }
    let status = Arc::new(Status::new());
    modules::load(&armed.directory().join("modules"), &job.modules);
    if job.lifeboat.is_some() {
        watchdog::start(job.watchdog, &status);
    }
    let words = fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?;
    let from_lifeboat = words.split_whitespace().any(|word| word == FROM_LIFEBOAT);
    let claimed = if from_lifeboat {
        until_done(&status, Some(fault_limit(0)), || match target::claim(&job)? {
            Claimed { lifeboat: None, .. } => {
                Err(Fault::new("this was booted from the lifeboat, and the target boots none"))
            }
            claimed => Ok(claimed),
        })
    } else {
        target::claim(&job).inspect_err(|fault| recorder::leave_word(&job, fault))
    };
    let result = claimed.and_then(|Claimed { device, disk, lifeboat }| {
        say!("the target is {}", device.describe());
        let disk = Arc::new(disk);
        match lifeboat {
            None => begin(armed, &job, &device, disk, &words, &status),
            Some(lifeboat) => resume(armed, &job, &device, disk, &lifeboat, &status),
        }
    });
    status.end();
    match result {
        // Here a refusal would be a lie, and the old system is not there to read it.
        Err(fault) if from_lifeboat || status.first_write() => {
            say!("{fault}");
            Ok(Completion::Faulty)
        }
        result => result,
    }
}

/// Start with a machine whose old system is whole.
fn begin(
    armed: &Armed,
    job: &Job,
    device: &Device,
    disk: Arc<Disk>,
    words: &str,
    status: &Arc<Status>,
) -> Result<Completion> {
    let outcome = Outcome::read(&disk, job.outcome, &job.nonce)?;
    if outcome.started > 0 || outcome.state != State::Armed {
        return Ok(Completion::StartedBefore);
    }
    let outcome = Outcome {
        started: outcome.started + 1,
        state: State::Started,
        descriptor_sha256: Some(job.descriptor_sha256),
        ..outcome
    };
    outcome.write(&disk, job.outcome)?;
    recorder::keep(&disk, job.outcome, outcome, status);
    check_nonce(&job.nonce, words)?;
    let lifeboat = match job.lifeboat {
        Some(range) => Some(Lifeboat::read(&*disk, range, &job.nonce)?),
        None if job.options.allow_unprotected => None,
        None => {
            return Err(Fault::new(
                "the job has no lifeboat, and does not allow a write that a power cut would make \
                 fatal (options.allow_unprotected)",
            ));
        }
    };
    let image = armed.image(job, &disk)?;
    if let Some(lifeboat) = &lifeboat {
        lifeboat.check_fit(&image, &*disk)?;
        lifeboat.check_parts(&*disk)?;
    }
    let identity = armed.identity()?;
    new_system::check(&image, &identity)?;
    let work = Work {
        armed,
        job,
        image: &image,
        identity: &identity,
        device,
        lifeboat: lifeboat.as_ref(),
        resumed: false,
        status,
    };
    work.announce();
    work.replace(disk).map(|()| Completion::Written)
}

/// Continue on a disk that boots the lifeboat.
fn resume(
    armed: &Armed,
    job: &Job,
    device: &Device,
    disk: Arc<Disk>,
    lifeboat: &Lifeboat,
    status: &Arc<Status>,
) -> Result<Completion> {
    status.begin_writing();
    let resumed = lifeboat.resume(&*disk, status);
    status.set_resumed(resumed);
    say!("the disk boots the lifeboat; resuming, boot {resumed} from it");
    if let Err(fault) = lifeboat.check_parts(&*disk) {
        status.problem(fault.to_string());
    }
    let image = armed.image(job, &disk)?;
    let identity = armed.identity()?;
    let work = Work {
        armed,
        job,
        image: &image,
        identity: &identity,
        device,
        lifeboat: Some(lifeboat),
        resumed: true,
        status,
    };
    work.announce();
    work.replace(disk).map(|()| Completion::Written)
}

/// The boot loader's entry must be of the same arming as what it loaded: otherwise one of them was left
/// from an earlier one.
fn check_nonce(nonce: &str, command_line: &str) -> Result<()> {
    let given =
        command_line.split_whitespace().find_map(|word| word.strip_prefix("holdfast.nonce="));
    match given {
        Some(given) if given == nonce => Ok(()),
        Some(_) => Err(Fault::new("the boot loader's entry is of another arming than the job")),
        None => Err(Fault::new("the kernel's command line does not name an arming")),
    }
}

/// What does not change during the work.
fn facts(job: &Job, image: &Descriptor, device: &Device) -> serde_json::Value {
    let mode = match job.source {
        Source::Staged { .. } => "staged",
        Source::Network { .. } => "network",
    };
    json!({
        "operation": job.operation,
        "nonce": job.nonce,
        "hostname": job.hostname,
        "mode": mode,
        "image": {
            "name": image.name,
            "image_version": image.image_version,
            "descriptor_sha256": job.descriptor_sha256,
            "size_bytes": image.size_bytes,
            "mapped_bytes": image.mapped_bytes(),
        },
        "target": {
            "path": device.path,
            "serial": device.serials.first(),
            "model": device.model,
            "size_bytes": device.size_bytes,
        },
    })
}

/// One re-imaging.
struct Work<'a> {
    armed: &'a Armed,
    job: &'a Job,
    image: &'a Descriptor,
    identity: &'a Identity,
    device: &'a Device,
    lifeboat: Option<&'a Lifeboat>,
    /// Whether the lifeboat was booted.
    resumed: bool,
    status: &'a Arc<Status>,
}

impl Work<'_> {
    /// Report what does not change, and progress from now on.
    fn announce(&self) {
        self.status.tell(facts(self.job, self.image, self.device));
        let narrator = Arc::clone(self.status);
        threads::in_background("telling how far it is", move || narrator.narrate(NARRATION));
    }

    /// Try once where there is an old system, and else until it is done or a reset may help.
    fn prepare<T>(&self, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        if self.resumed { until_done(self.status, self.fault_limit(), attempt) } else { attempt() }
    }

    /// How long to try before a reset, where that boots the lifeboat.
    fn fault_limit(&self) -> Option<Duration> {
        self.lifeboat.map(|_| fault_limit(self.status.resumed()))
    }

    fn replace(&self, disk: Arc<Disk>) -> Result<()> {
        match &self.job.source {
            Source::Staged { path, file_system, uuid, array } => {
                self.network_in_background();
                let (mut staged, verified) = self.prepare(|| {
                    let wanted = Wanted { kind: file_system, uuid, array: array.as_ref() };
                    let volume = Volume::find(wanted, &self.device.name, 0)?;
                    let staged = Staged::on(volume, path)?;
                    let verified = verify_with_head(self.image, &staged, self.status)?;
                    Ok((staged, verified))
                })?;
                let previous = self.save_previous(&disk, staged.volume())?;
                self.put(&staged, &verified, previous, disk)?;
                if let Err(fault) = staged.release() {
                    // Nothing on it can have changed: it was mounted read-only.
                    say!("{fault}");
                }
            }
            Source::Network { url } => {
                let url = Url::parse(url)?;
                let network = self.prepare(|| self.network())?;
                let tls = match self.armed.read("ca.pem") {
                    Ok(pem) => Some(http::trust(&pem)?),
                    Err(_) => None,
                };
                let size = self.image.content.size_bytes;
                let client = Client { network, tls };
                let download = Download::new(client, url, size, Arc::clone(self.status));
                let verified =
                    self.prepare(|| verify_with_head(self.image, &download, self.status))?;
                let previous = self.save_previous(&disk, None)?;
                self.put(&download, &verified, previous, disk)?;
            }
        }
        self.status.enter(Phase::Rebooting, 0);
        Ok(())
    }

    /// Keep the old disk, if that was asked for; `volume` is one that is there already. Returns the
    /// digest of its descriptor. Once the lifeboat was booted this is done, and the journal has the digest.
    fn save_previous(&self, disk: &Disk, volume: Option<&mut Volume>) -> Result<Option<Sha256>> {
        if let Some(lifeboat) = self.lifeboat.filter(|_| self.resumed) {
            return Ok(lifeboat.previous());
        }
        let Some(wanted) = &self.job.options.save_previous else { return Ok(None) };
        let state = self.job.state_dir.as_ref();
        let state =
            state.ok_or_else(|| Fault::new("the job does not name the owner of the directory"))?;
        let names = Names {
            name: format!("previous-{}", self.job.hostname),
            image_version: self.job.operation.clone(),
            created: clock::timestamp(),
        };
        let keep =
            |at: &Path| previous::save(disk, at, &wanted.directory, state, names, self.status);
        let digest = match volume.filter(|volume| volume.is(&wanted.uuid)) {
            Some(volume) => volume.writable(keep)?,
            None => {
                let SavePrevious { file_system, uuid, array, .. } = wanted;
                let wanted = Wanted { kind: file_system, uuid, array: array.as_ref() };
                let mut volume = Volume::find(wanted, &self.device.name, 1)?;
                let digest = volume.writable(keep)?;
                volume.release()?;
                digest
            }
        };
        self.status.note(format!("the old disk is kept in {} as {digest}", wanted.directory));
        Ok(Some(digest))
    }

    /// Write, prove, and carry over.
    fn put(
        &self,
        supply: &dyn Supply,
        (digests, head): &(Digests, Vec<u8>),
        previous: Option<Sha256>,
        claimed: Arc<Disk>,
    ) -> Result<()> {
        if let Some(lifeboat) = self.lifeboat.filter(|_| !self.resumed) {
            lifeboat.check_parts(&*claimed)?;
            lifeboat.check_beginnings(head, &*claimed)?;
            lifeboat.place(&*claimed, previous)?;
        }
        // The table of a root that is not mounted, and so not grown, is left unchanged.
        let root = carried_root(&Facts::from(self.image)).ok();
        let grow = root.filter(|_| self.job.options.grow_root);
        let disk = claimed.shared()?;
        let mut claimed = Some(claimed);
        let system = NewSystem {
            subject: Subject { job: self.job, image: self.image, previous: previous.as_ref() },
            identity: self.identity,
            status: self.status,
        };
        let options = WriteOptions { grow, lifeboat: self.lifeboat, compare: self.resumed };
        until_done(self.status, self.fault_limit(), || {
            replace(self.image, supply, digests, &disk, options, self.status, |table| {
                // Nobody can mount a partition of a disk that is held exclusively.
                recorder::release();
                drop(claimed.take());
                system.finish(&disk, table, Path::new(NEW_ROOT))
            })
        })?;
        say!("the disk has the image, and was read back");
        Ok(())
    }

    /// A network, and the status on it.
    fn network(&self) -> Result<Network> {
        let wanted = self.job.network.as_ref();
        let wanted = wanted.ok_or_else(|| Fault::new("the job has no network"))?;
        let deadline = Instant::now() + NETWORK_PATIENCE;
        let network = loop {
            match network::bring_up(wanted, &self.job.hostname) {
                Ok(network) => break network,
                Err(fault) if Instant::now() > deadline => return Err(fault),
                Err(fault) => self.status.problem(fault.to_string()),
            }
            std::thread::sleep(Duration::from_secs(1));
        };
        if let Err(fault) = serve_status(self.job, self.armed.directory(), self.status) {
            self.status.problem(format!("the status cannot be asked for: {fault}"));
        }
        Ok(network)
    }

    /// The status for those who watch, if there is a network; the image does not need it.
    fn network_in_background(&self) {
        let (Some(wanted), Some(_)) = (self.job.network.clone(), &self.job.status) else { return };
        let (job, directory) = (self.job.clone(), self.armed.directory().to_owned());
        let status = Arc::clone(self.status);
        threads::in_background("the status", move || {
            let result = network::bring_up(&wanted, &job.hostname)
                .and_then(|_| serve_status(&job, &directory, &status));
            if let Err(fault) = result {
                status.problem(format!("the status cannot be asked for: {fault}"));
            }
        });
    }
}

fn serve_status(job: &Job, directory: &Path, status: &Arc<Status>) -> Result<()> {
    let Some(listen) = &job.status else { return Ok(()) };
    let access = Access::in_directory(listen, directory)?;
    let address = server::start(&listen.listen, access, Arc::clone(status))?;
    let scheme = if listen.tls { "https" } else { "http" };
    say!("the status can be asked for at {scheme}://{address}/v1/reimage");
    Ok(())
}
