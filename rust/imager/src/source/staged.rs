//! An image on a data disk.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::ahead::Ahead;
use super::volume::Volume;
use crate::pipeline::Supply;
use crate::{Context as _, Fault, Result};

/// A file of packed bytes that can be read again and again.
#[derive(Debug)]
pub struct Staged {
    path: PathBuf,
    volume: Option<Volume>,
}

impl Staged {
    /// A file that can be reached already.
    pub fn at(path: PathBuf) -> Self {
        Self { path, volume: None }
    }

    /// Find the file on a volume, which is mounted read-only for it.
    ///
    /// # Errors
    /// A sentence about what is missing or what the kernel refused.
    pub fn on(mut volume: Volume, path: &str) -> Result<Self> {
        volume.mount()?;
        let staged = Self { path: volume.place().join(path), volume: Some(volume) };
        // So that a missing one is distinguished from one that cannot be unpacked.
        staged.open_file()?;
        Ok(staged)
    }

    /// The volume it is on.
    pub fn volume(&mut self) -> Option<&mut Volume> {
        self.volume.as_mut()
    }

    /// Unmount, and stop the array.
    ///
    /// # Errors
    /// The system's.
    pub fn release(mut self) -> Result<()> {
        self.volume.take().map_or(Ok(()), Volume::release)
    }

    fn open_file(&self) -> Result<File> {
        let whole = || format!("the staged image {}", self.path.display());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let open = |flags: OFlags| -> rustix::io::Result<OwnedFd> {
            let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            openat2(rustix::fs::CWD, &self.path, flags, Mode::empty(), resolve)
        };
        // Some file systems know no O_DIRECT.
        let opened = open(flags | OFlags::DIRECT).or_else(|_| open(flags));
        let hint = match opened {
            Err(Errno::NOENT) => {
                " (if its file system was not unmounted in order, it may be only in the journal, \
                 which is not replayed here; stage it again)"
            }
            _ => "",
        };
        let fd = opened.context(whole()).map_err(|Fault(reason)| Fault(reason + hint))?;
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
