//! The work from beginning to end, in the order that keeps the old system whole until the image is
//! proven: disks, outcome record, source, verify, and only then write (`pipeline/replace.rs`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_engine::image::describe::Names;
use holdfast_engine::image::rules::{Facts, carried_root};
use holdfast_engine::image::{Descriptor, Sha256};
use serde_json::json;

use crate::devices::Device;
use crate::disk::Disk;
use crate::identity::Identity;
use crate::job::{Job, SavePrevious, Source};
use crate::marker::Subject;
use crate::network::{self, Network};
use crate::new_system::{self, NewSystem};
use crate::outcome::{Outcome, State};
use crate::pipeline::{Digests, Supply, replace::replace, verify::verify};
use crate::source::download::Download;
use crate::source::http::{self, Client};
use crate::source::staged::Staged;
use crate::source::url::Url;
use crate::source::volume::{Volume, Wanted};
use crate::status::server::{self, Doors};
use crate::status::{Phase, Status};
use crate::{Context as _, Fault, Result, clock, modules, previous, record, say, target, threads};

/// How often to report progress.
const NARRATION: Duration = Duration::from_secs(5);
/// How long the network that the image comes through may take.
const NETWORK_PATIENCE: Duration = Duration::from_secs(600);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Where the new system's root is mounted.
const NEW_ROOT: &str = "/target";

/// How it ended, if not with a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// The image is on the disk.
    Written,
    /// The imager was started before with this arming, so nothing was done.
    StartedBefore,
}

/// What the armed machine left in the initramfs.
#[derive(Debug)]
pub struct Armed {
    directory: PathBuf,
}

impl Armed {
    /// In this directory.
    pub fn in_directory(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        let path = self.directory.join(name);
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
        Ok(Descriptor::parse(&self.directory.join("descriptor.json"), &json)?)
    }

    fn identity(&self) -> Result<Identity> {
        Identity::parse(&self.read("identity.json")?)
    }
}

/// Do everything but the reboot.
///
/// # Errors
/// Why nothing was written: once something was, it continues until the disk has the image.
pub fn run(armed: &Armed) -> Result<Completion> {
    let job = armed.job()?;
    say!("armed as {} by {} at {}", job.nonce, job.operation, job.hostname);
    if clock::not_before(&job.time) {
        say!("the machine's clock was behind; it is set to {}", job.time);
    }
    modules::load(&armed.directory.join("modules"), &job.modules);
    let (device, disk) =
        target::claim(&job).inspect_err(|fault| record::leave_word(&job, fault))?;
    say!("the target is {}", device.describe());
    let disk = Arc::new(disk);
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
    let status = Arc::new(Status::new());
    record::keep(&disk, job.outcome, outcome, &status);
    check_nonce(&job.nonce, &fs::read_to_string("/proc/cmdline").context("/proc/cmdline")?)?;
    let image = armed.descriptor(&job)?;
    say!("the image is {} {}, {} bytes", image.name, image.image_version, image.size_bytes);
    target::check_fit(&image, &disk)?;
    let identity = armed.identity()?;
    new_system::check(&image, &identity)?;
    status.tell(facts(&job, &image, &device));
    let narrator = Arc::clone(&status);
    threads::in_background("telling how far it is", move || narrator.narrate(NARRATION));
    let work = Work {
        armed,
        job: &job,
        image: &image,
        identity: &identity,
        device: &device,
        status: &status,
    };
    let result = work.replace(disk);
    status.end();
    result.map(|()| Completion::Written)
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
    status: &'a Arc<Status>,
}

impl Work<'_> {
    fn replace(&self, disk: Arc<Disk>) -> Result<()> {
        match &self.job.source {
            Source::Staged { path, file_system, uuid, array } => {
                self.network_in_background();
                let wanted = Wanted { kind: file_system, uuid, array: array.as_ref() };
                let volume = Volume::find(wanted, &self.device.name, 0)?;
                let mut staged = Staged::on(volume, path)?;
                let digests = verify(self.image, &staged, self.status)?;
                let previous = self.save_previous(&disk, staged.volume())?;
                self.put(&staged, &digests, previous.as_ref(), disk)?;
                if let Err(fault) = staged.release() {
                    // Nothing on it can have changed: it was mounted read-only.
                    say!("{fault}");
                }
            }
            Source::Network { url } => {
                let url = Url::parse(url)?;
                let network = self.network()?;
                let tls = match self.armed.read("ca.pem") {
                    Ok(pem) => Some(http::trust(&pem)?),
                    Err(_) => None,
                };
                let size = self.image.content.size_bytes;
                let client = Client { network, tls };
                let download = Download::new(client, url, size, Arc::clone(self.status));
                let digests = verify(self.image, &download, self.status)?;
                let previous = self.save_previous(&disk, None)?;
                self.put(&download, &digests, previous.as_ref(), disk)?;
            }
        }
        self.status.enter(Phase::Rebooting, 0);
        Ok(())
    }

    /// Keep the old disk, if that was asked for; `volume` is one that is there already. Returns the
    /// digest of its descriptor.
    fn save_previous(&self, disk: &Disk, volume: Option<&mut Volume>) -> Result<Option<Sha256>> {
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
        digests: &Digests,
        previous: Option<&Sha256>,
        claimed: Arc<Disk>,
    ) -> Result<()> {
        // The table of a root that is not mounted, and so not grown, is left unchanged.
        let root = carried_root(&Facts::from(self.image)).ok();
        let grow = root.filter(|_| self.job.options.grow_root);
        let disk = claimed.shared()?;
        let mut claimed = Some(claimed);
        let system = NewSystem {
            subject: Subject { job: self.job, image: self.image, previous },
            identity: self.identity,
            status: self.status,
        };
        insist(self.status, || {
            replace(self.image, supply, digests, &disk, grow, self.status, |table| {
                // Nobody can mount a partition of a disk that is held exclusively.
                record::release();
                drop(claimed.take());
                system.finish(&disk, table, Path::new(NEW_ROOT))
            })
        });
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
        if let Err(fault) = serve_status(self.job, &self.armed.directory, self.status) {
            self.status.problem(format!("the status cannot be asked for: {fault}"));
        }
        Ok(network)
    }

    /// The status for those who watch, if there is a network; the image does not need it.
    fn network_in_background(&self) {
        let (Some(wanted), Some(_)) = (self.job.network.clone(), &self.job.status) else { return };
        let (job, directory) = (self.job.clone(), self.armed.directory.clone());
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
    let doors = Doors::in_directory(listen, directory)?;
    let address = server::start(&listen.listen, doors, Arc::clone(status))?;
    let scheme = if listen.tls { "https" } else { "http" };
    say!("the status can be asked for at {scheme}://{address}/v1/reimage");
    Ok(())
}

/// Try for ever: there is no system to go back to any more.
fn insist<T>(status: &Status, mut attempt: impl FnMut() -> Result<T>) -> T {
    let mut pause = Duration::from_secs(1);
    loop {
        let fault = match threads::caught(&mut attempt) {
            Ok(done) => return done,
            Err(fault) => fault,
        };
        status.retry();
        status.enter(Phase::Waiting, 0);
        status.problem(format!("writing to the disk has started and must be finished: {fault}"));
        say!("trying again from the beginning in {} s", pause.as_secs());
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::insist;
    use crate::Fault;
    use crate::status::Status;

    #[test]
    fn what_was_begun_is_tried_again_also_after_a_panic() {
        let mut left = vec![Ok(7), Err(Fault::new("the disk fails"))];
        let done = insist(&Status::new(), || match left.len() {
            2 => left.pop().unwrap(),
            1 => {
                left.push(Ok(8));
                panic!("no thread to be had")
            }
            _ => left.pop().unwrap(),
        });
        assert_eq!(done, 8);
    }
}
