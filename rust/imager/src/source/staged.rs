//! An image on a data disk: found by its file system's UUID, mounted so that nothing on it changes.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::ahead::Ahead;
use crate::disk::Disk;
use crate::mount::{self, Mounted};
use crate::pipeline::Supply;
use crate::{Context as _, Fault, Result, array, devices, job, say, superblock};

/// How long the file system's device may take to appear.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// A file of packed bytes that can be read again and again.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    // In this order they are dropped: an array can only be stopped when nothing is mounted.
    mounted: Option<Mounted>,
    array: Option<array::Running>,
}

impl Staged {
    /// A file that can be reached already.
    pub fn at(path: PathBuf) -> Self {
        Self { path, mounted: None, array: None }
    }

    /// Find the file system, mount it and find the file; `target` is the disk not to look on.
    ///
    /// # Errors
    /// A sentence about what is missing or what the kernel refused.
    pub fn find(
        path: &str,
        kind: &str,
        uuid: &str,
        array: Option<&job::Array>,
        target: &str,
    ) -> Result<Self> {
        let array = array.map(|wanted| array::assemble(wanted, target)).transpose()?;
        let device = find_file_system(kind, uuid, target)?;
        say!("mounting {} ({kind}) read-only, without its journal", device.display());
        let mounted = mount::data(&device, kind, Path::new("/data"))?;
        let staged = Self { path: mounted.path().join(path), mounted: Some(mounted), array };
        // So that one that is not there is told from one that cannot be unpacked.
        staged.open_file()?;
        Ok(staged)
    }

    /// Unmount, and stop the array.
    ///
    /// # Errors
    /// The system's.
    pub fn release(mut self) -> Result<()> {
        let result = self.mounted.take().map_or(Ok(()), Mounted::unmount);
        drop(self.array.take());
        result
    }

    fn open_file(&self) -> Result<File> {
        let whole = || format!("the staged image {}", self.path.display());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let open = |flags: OFlags| -> rustix::io::Result<OwnedFd> {
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            openat2(rustix::fs::CWD, &self.path, flags, Mode::empty(), resolve)
        };
        // Some file systems know no O_DIRECT.
        let fd = open(flags | OFlags::DIRECT).or_else(|_| open(flags)).context(whole())?;
        let file = File::from(fd);
        if file.metadata().context(whole())?.is_file() {
            Ok(file)
        } else {
            Err(Fault(format!("{} is not a regular file", whole())))
        }
    }
}

impl Supply for Staged {
    fn name(&self) -> String {
        format!("the staged image {}", self.path.display())
    }

    fn open(&self) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Ahead::new(self.open_file()?)))
    }

    fn is_local(&self) -> bool {
        true
    }
}

fn find_file_system(kind: &str, uuid: &str, target: &str) -> Result<PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    let wanted = superblock::digits(uuid);
    loop {
        let mut found = Vec::new();
        for device in devices::all() {
            if device.name == target || device.disk.as_deref() == Some(target) {
                continue;
            }
            // What cannot be read holds no data that could be used.
            let Ok(signatures) = Disk::open(&device.path).and_then(|disk| superblock::look(&disk))
            else {
                continue;
            };
            // The file system of a RAID1's member looks like that of the array.
            let ours = signatures.file_system.is_some_and(|found| found.uuid == wanted);
            if ours && signatures.member.is_none() {
                found.push(device.path);
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
