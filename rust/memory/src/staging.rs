//! The directory in a root where a restore is put together, before it is renamed into place.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use holdfast_engine::tree::confine::{open_directory, stat};
use holdfast_engine::{Error, Result, Root};
use rustix::fs::{Mode, OFlags, mkdirat, openat, renameat};
use rustix::io::Errno;

/// Its name. Nothing of it is saved, and no save has anything in it.
pub const STAGING: &str = ".holdfast-restore";
/// What is restored, under its own names.
const TREE: &str = "tree";
/// What is to be renamed, once everything is verified.
const PLAN: &str = "plan.json";
/// The plan from the first rename on.
const JOURNAL: &str = "journal.json";
/// The largest plan that is read, in bytes.
const MOST_PLAN: u64 = 512 << 20;

/// Split a path in the directory and the name in it.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The directory of one restore.
#[derive(Debug)]
pub struct Staging {
    directory: OwnedFd,
    tree: OwnedFd,
}

impl Staging {
    /// Make it, in place of one that was left behind.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(root: &Root) -> Result<Self> {
        remove(root)?;
        let failed = |errno| Error::io(root.path().join(STAGING), errno);
        mkdirat(root.fd(), STAGING, Mode::RWXU).map_err(failed)?;
        let directory = open_directory(root.fd(), STAGING.as_bytes()).map_err(failed)?;
        mkdirat(&directory, TREE, Mode::RWXU).map_err(failed)?;
        Self::of(root, directory)
    }

    /// Open what a restore has put together; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Io`]; `EPERM` if it is another user's.
    pub fn open(root: &Root) -> Result<Option<Self>> {
        let failed = |errno| Error::io(root.path().join(STAGING), errno);
        match open_directory(root.fd(), STAGING.as_bytes()) {
            Ok(directory) => Self::of(root, directory).map(Some),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(errno) => Err(failed(errno)),
        }
    }

    fn of(root: &Root, directory: OwnedFd) -> Result<Self> {
        let failed = |errno| Error::io(root.path().join(STAGING), errno);
        // The root may be writable for others, who could have put another one in its place.
        let found = stat(&directory).map_err(failed)?;
        let ours = found.stx_uid == rustix::process::geteuid().as_raw();
        if !ours || found.stx_mode & 0o077 != 0 {
            return Err(failed(Errno::PERM));
        }
        let tree = open_directory(directory.as_fd(), TREE.as_bytes()).map_err(failed)?;
        Ok(Self { directory, tree })
    }

    /// The directory with what is restored.
    pub fn tree(&self) -> BorrowedFd<'_> {
        self.tree.as_fd()
    }

    /// Keep the plan of the renames.
    ///
    /// # Errors
    /// The system's error.
    pub fn plan(&self, plan: &[u8]) -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.directory, PLAN, flags, Mode::RUSR | Mode::WUSR)?;
        std::io::Write::write_all(&mut std::fs::File::from(file), plan)
    }

    /// Note that the renames begin.
    ///
    /// # Errors
    /// The system's error.
    pub fn begin(&self) -> rustix::io::Result<()> {
        renameat(&self.directory, PLAN, &self.directory, JOURNAL)
    }

    /// Return the plan of renames, which a commit has started or not.
    ///
    /// # Errors
    /// The system's error.
    pub fn planned(&self, started: bool) -> std::io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = if started { JOURNAL } else { PLAN };
        let file = match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        let mut plan = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, MOST_PLAN), &mut plan)?;
        Ok(Some(plan))
    }
}

/// Remove the directory with all that is in it, if it is there. Follows no link.
///
/// # Errors
/// [`Error::Io`].
pub fn remove(root: &Root) -> Result<()> {
    let path = format!("/proc/self/fd/{}/{STAGING}", root.fd().as_raw_fd());
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io(root.path().join(STAGING), error))
        }
        _ => Ok(()),
    }
}
