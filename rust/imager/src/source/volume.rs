//! A file system of data: found by its UUID, on an array or not, and mounted so that nothing on it
//! changes; to be written to only where that was asked for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use holdfast_media::digits;

use crate::disk::Disk;
use crate::disk::array;
use crate::disk::devices::{self, Device};
use crate::disk::mount::{self, Mounted};
use crate::disk::superblock;
use crate::{Fault, Result, job, say};

/// How long the file system's device may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// What identifies a file system of data.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// `xfs`, `ext4` and so on.
    pub kind: &'a str,
    /// Its UUID.
    pub uuid: &'a str,
    /// The array it is on, if it is on one.
    pub array: Option<&'a job::Array>,
}

/// A file system of data.
#[derive(Debug)]
pub struct Volume {
    kind: String,
    uuid: String,
    device: Device,
    place: PathBuf,
    // In this order they are dropped: an array can only be stopped when nothing is mounted.
    mounted: Option<Mounted>,
    array: Option<array::Running>,
}

impl Volume {
    /// Find the file system; `target` is the disk not to search, and `number` distinguishes volumes
    /// of one boot.
    ///
    /// # Errors
    /// A sentence about what is missing or what the kernel refused.
    pub fn find(wanted: Wanted<'_>, target: &str, number: u32) -> Result<Self> {
        let Wanted { kind, uuid, array } = wanted;
        let array = array.map(|wanted| array::assemble(wanted, target, number)).transpose()?;
        let device = find_file_system(kind, uuid, target)?;
        let place = Path::new("/").join(format!("data{number}"));
        Ok(Self { kind: kind.to_owned(), uuid: digits(uuid), device, place, mounted: None, array })
    }

    /// Whether it is the file system of this UUID.
    pub fn is(&self, uuid: &str) -> bool {
        self.uuid == digits(uuid)
    }

    /// Where it is mounted, if it is.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Mount it read-only and without its journal, unless it is already.
    ///
    /// # Errors
    /// The system's.
    pub fn mount(&mut self) -> Result<()> {
        if self.mounted.is_none() {
            let (device, kind) = (self.device.path.display(), &self.kind);
            say!("mounting {device} ({kind}) read-only, without its journal");
            self.mounted = Some(mount::data(&self.device.path, kind, &self.place)?);
        }
        Ok(())
    }

    /// Mount it read-write for as long as `work` takes; then it is as it was before.
    ///
    /// # Errors
    /// Those of `work`, and the system's.
    pub fn writable<T>(&mut self, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let was_mounted = self.mounted.is_some();
        self.mounted.take().map_or(Ok(()), Mounted::unmount)?;
        let result = self.written(work);
        let shut = self.set_read_only(true);
        let done = result.and_then(|done| shut.map(|()| done))?;
        if was_mounted {
            self.mount()?;
        }
        Ok(done)
    }

    fn written<T>(&self, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        self.set_read_only(false)?;
        say!("mounting {} ({}) read-write", self.device.path.display(), self.kind);
        let mounted = mount::writable_data(&self.device.path, &self.kind, &self.place)?;
        let result = work(mounted.path());
        let unmounted = mounted.unmount();
        result.and_then(|done| unmounted.map(|()| done))
    }

    fn set_read_only(&self, refuse: bool) -> Result<()> {
        match &self.array {
            Some(array) => array.set_read_only(refuse),
            None => self
                .device
                .set_read_only(refuse)
                .map_err(|error| Fault(format!("{}: {error}", self.device.path.display()))),
        }
    }

    /// Unmount it, and stop the array.
    ///
    /// # Errors
    /// The system's.
    pub fn release(mut self) -> Result<()> {
        let result = self.mounted.take().map_or(Ok(()), Mounted::unmount);
        drop(self.array.take());
        result
    }
}

fn find_file_system(kind: &str, uuid: &str, target: &str) -> Result<Device> {
    let deadline = Instant::now() + PATIENCE;
    let wanted = digits(uuid);
    loop {
        let mut found = Vec::new();
        for device in devices::all() {
            if device.name == target || device.disk.as_deref() == Some(target) {
                continue;
            }
            // What cannot be read holds no data that could be used.
            let Ok(signatures) = Disk::open(&device.path).and_then(|disk| superblock::read(&disk))
            else {
                continue;
            };
            // The file system of a RAID1's member looks like that of the array, and is not the first.
            if signatures.file_system().is_some_and(|found| found == wanted) {
                found.push(device);
            }
        }
        match &found[..] {
            [one] => return Ok(one.clone()),
            [] if Instant::now() < deadline => std::thread::sleep(PAUSE),
            [] => return Err(Fault(format!("no disk has the file system {uuid} ({kind})"))),
            // A btrfs file system has the same UUID on all its devices; any one will do.
            [first, ..] if kind == "btrfs" => return Ok(first.clone()),
            _ => return Err(Fault(format!("several disks have the file system {uuid} ({kind})"))),
        }
    }
}
