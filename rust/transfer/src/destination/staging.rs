//! The destination directory, and the place in it where files are put together.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_engine::Root;
use holdfast_engine::RootPath;
use holdfast_engine::tree::confine::{open_directory, stat};
use rustix::fs::{
    AtFlags, Dir, Mode, OFlags, RenameFlags, Statx, StatxFlags, mkdirat, openat, removexattr,
    renameat, renameat_with, statx, unlinkat,
};
use rustix::io::Errno;

use crate::metadata::magic;
use crate::{Error, Result};

/// The staging directory, in the destination directory so that a rename places a file.
pub const STAGING: &str = ".holdfast-transfer";

/// Split a path in the directory and the name in it.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The destination directory.
#[derive(Debug)]
pub struct Staging {
    root: Root,
    directory: OwnedFd,
    counter: AtomicU64,
}

impl Staging {
    /// Open the destination, which is made if only its last name is missing, and the staging
    /// directory in it.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn open(place: &RootPath) -> Result<Self> {
        let root = Root::open(&place.root)?;
        if !place.path.as_os_str().is_empty() {
            let path = place.path.as_os_str().as_bytes();
            let (parent, name) = split(path);
            let shown = place.root.join(&place.path);
            let parent = open_directory(root.fd(), parent).map_err(|e| Error::io(&shown, e))?;
            match mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::io(&shown, errno)),
            }
        }
        let root = root.below(&place.path)?;
        let shown = root.path().join(STAGING);
        match mkdirat(root.fd(), STAGING, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::io(&shown, errno)),
        }
        let directory = open_directory(root.fd(), STAGING.as_bytes());
        let directory = directory.map_err(|e| Error::io(&shown, e))?;
        // New files have no attributes: a default list of access control would be inherited.
        match removexattr(magic(&directory), "system.posix_acl_default") {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(Error::io(&shown, errno)),
        }
        Ok(Self { root, directory, counter: AtomicU64::new(0) })
    }

    /// The destination directory.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// The staging directory.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Return a path below the destination for messages.
    pub fn shown(&self, path: &[u8]) -> PathBuf {
        self.root.path().join(Path::new(OsStr::from_bytes(path)))
    }

    /// Return the error for a name that no transfer made.
    pub fn occupied(&self, path: &[u8]) -> Error {
        Error::Occupied { path: self.shown(path).to_string_lossy().into_owned() }
    }

    /// Move a file from the staging directory to its place. `new` if no transfer made the name: then
    /// nothing is replaced.
    ///
    /// # Errors
    /// The system's error; `EEXIST` if the name is taken.
    pub fn place(
        &self,
        from: &str,
        into: impl AsFd,
        name: &[u8],
        new: bool,
    ) -> rustix::io::Result<()> {
        if new {
            match renameat_with(&self.directory, from, &into, name, RenameFlags::NOREPLACE) {
                // Not every file system can.
                Err(Errno::INVAL | Errno::NOSYS) => {
                    if stat_at(into.as_fd(), name).is_ok() {
                        return Err(Errno::EXIST);
                    }
                }
                other => return other,
            }
        }
        renameat(&self.directory, from, into, name)
    }

    /// Return the name of a number in the staging directory.
    pub fn name(number: u64) -> String {
        format!("{number:016x}")
    }

    /// Return a number that no file there has.
    pub fn number(&self) -> u64 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }

    /// Remove all files that the predicate does not keep, and number new ones beyond those.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn clear(&self, keep: impl Fn(u64) -> bool) -> Result<()> {
        let failed = |errno| Error::io(self.root.path().join(STAGING), errno);
        for entry in Dir::read_from(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let number = name.to_str().ok().and_then(|name| u64::from_str_radix(name, 16).ok());
            match number {
                Some(number) if keep(number) => {
                    self.counter.fetch_max(number + 1, Ordering::Relaxed);
                }
                _ => unlinkat(&self.directory, name, AtFlags::empty()).map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Remove the staging directory, which is empty.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn remove(&self) -> Result<()> {
        self.clear(|_| false)?;
        unlinkat(self.root.fd(), STAGING, AtFlags::REMOVEDIR)
            .map_err(|errno| Error::io(self.root.path().join(STAGING), errno))
    }

    /// Open a directory below the destination.
    ///
    /// # Errors
    /// The system's error.
    pub fn directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        open_directory(self.root.fd(), path)
    }

    /// Return the state of a name below the destination, of a link itself; `None` if there is none.
    ///
    /// # Errors
    /// The system's error.
    pub fn stat(&self, path: &[u8]) -> rustix::io::Result<Option<Statx>> {
        if path.is_empty() {
            return stat(self.root.fd()).map(Some);
        }
        let (parent, name) = split(path);
        let found = match parent {
            b"" => stat_at(self.root.fd(), name),
            _ => match self.directory(parent) {
                Ok(parent) => stat_at(parent.as_fd(), name),
                Err(errno) => Err(errno),
            },
        };
        match found {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Open something below the destination itself, with `O_PATH`.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_path(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        if path.is_empty() {
            return self.directory(b"");
        }
        let (parent, name) = split(path);
        let parent = self.directory(parent)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&parent, name, flags, Mode::empty())
    }
}

/// Return whether a path is in the staging directory, or is it.
pub fn is_staging(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').next() == Some(STAGING.as_bytes())
}

/// Looks up names in the order of their paths, and opens each directory once.
#[derive(Debug)]
pub struct Names<'a> {
    staging: &'a Staging,
    parent: Option<(Box<[u8]>, OwnedFd)>,
}

impl<'a> Names<'a> {
    /// Begin.
    pub fn new(staging: &'a Staging) -> Self {
        Self { staging, parent: None }
    }

    /// The destination.
    pub fn staging(&self) -> &'a Staging {
        self.staging
    }

    /// Return the state of a name below the destination, of a link itself; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn stat(&mut self, path: &[u8]) -> Result<Option<Statx>> {
        let (parent, name) = split(path);
        let directory = match &self.parent {
            Some((known, fd)) if **known == *parent => fd,
            _ => match self.staging.directory(parent) {
                Ok(fd) => &self.parent.insert((parent.into(), fd)).1,
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(errno) => return Err(Error::io(self.staging.shown(parent), errno)),
            },
        };
        match stat_at(directory.as_fd(), name) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io(self.staging.shown(path), errno)),
        }
    }
}

fn stat_at(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    statx(directory, name, flags, StatxFlags::BASIC_STATS)
}
