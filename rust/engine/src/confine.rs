//! Roots, and opening files without ever leaving them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx,
};
use rustix::io::Errno;

use crate::skips::Reason;
use crate::{Error, Result};

/// `f_type` of file systems whose pages cannot be dropped and read back (statfs(2), and for ZFS its
/// own `zfs_vfsops`).
const UNSUPPORTED: [(i64, &str); 4] = [
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x9584_58f6, "hugetlbfs"),
    (0x2fc1_2fc1, "ZFS"),
];

/// `STATX_ATTR_DAX`: the file's data does not go through the page cache.
const ATTR_DAX: u64 = 0x0020_0000;

/// `STATX_DIOALIGN`, Linux 6.1 (`include/uapi/linux/stat.h`).
pub const DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);

/// Stay below the directory and on its file system, through no symbolic link.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// An open directory of state, on one file system.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

/// An open regular file.
#[derive(Debug)]
pub struct OpenFile {
    /// The file.
    pub fd: OwnedFd,
    /// Its state when it was opened.
    pub stat: Statx,
}

/// Why a file could not be opened: a reason for the report, a detail where the reason is `Error`.
#[derive(Debug)]
pub struct Refusal {
    /// The reason.
    pub reason: Reason,
    /// The system's words, where the reason does not say it all.
    pub detail: Option<String>,
}

impl Root {
    /// Open a root.
    ///
    /// # Errors
    /// [`Error::Io`] if it is no directory that can be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|e| Error::io(path, e))?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Open a root whose page cache is meant.
    ///
    /// # Errors
    /// As [`Root::open`], and [`Error::Unsupported`] if its file system has no page cache that could
    /// be dropped and filled.
    pub fn with_page_cache(path: &Path) -> Result<Self> {
        let root = Self::open(path)?;
        let kind = rustix::fs::fstatfs(&root.fd).map_err(|e| Error::io(path, e))?.f_type;
        if let Some(&(_, filesystem)) = UNSUPPORTED.iter().find(|(magic, _)| *magic == kind) {
            return Err(Error::Unsupported {
                path: path.to_string_lossy().into_owned(),
                filesystem,
            });
        }
        Ok(root)
    }

    /// A directory below it, relative to which everything is then named.
    ///
    /// # Errors
    /// [`Error::Io`] if it is no directory, or not on the root's file system.
    pub fn below(self, path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Ok(self);
        }
        let whole = self.path.join(path);
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
        let fd = open_directory(self.fd.as_fd(), bytes).map_err(|e| Error::io(&whole, e))?;
        Ok(Self { fd, path: whole })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// What is at a path relative to the root: a directory, a regular file, or something else.
    ///
    /// # Errors
    /// The system's error; `EXDEV` or `ELOOP` where the path leaves the root or its file system.
    pub fn kind(&self, path: &[u8]) -> rustix::io::Result<FileType> {
        let path = if path.is_empty() { b".".as_slice() } else { path };
        let fd = openat2(&self.fd, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), BENEATH)?;
        Ok(FileType::from_raw_mode(stat(&fd)?.stx_mode.into()))
    }
}

/// Open a directory below another one.
///
/// # Errors
/// The system's error; `EXDEV` where something is mounted there.
pub fn open_directory(parent: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let path = if path.is_empty() { b".".as_slice() } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(parent, path, flags, Mode::empty(), BENEATH)
}

/// Open a regular file below a directory, for reading and without touching its access time.
///
/// Never blocks on a FIFO and never follows a link, also where the name was something else a moment
/// ago.
///
/// # Errors
/// The reason for which it is to be skipped.
pub fn open_file(parent: BorrowedFd<'_>, path: &[u8]) -> std::result::Result<OpenFile, Refusal> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| openat2(parent, path, flags, Mode::empty(), BENEATH);
    let fd = match open(flags | OFlags::NOATIME) {
        // Only an owner may ask for O_NOATIME.
        Err(Errno::PERM) => open(flags),
        other => other,
    }
    .map_err(Refusal::from)?;
    let stat = stat(&fd).map_err(Refusal::from)?;
    if FileType::from_raw_mode(stat.stx_mode.into()) != FileType::RegularFile {
        return Err(Refusal { reason: Reason::NotAFile, detail: None });
    }
    Ok(OpenFile { fd, stat })
}

/// Whether a file's data goes past the page cache (DAX).
pub fn is_dax(stat: &Statx) -> bool {
    stat.stx_attributes.bits() & ATTR_DAX != 0
}

/// The state of an open file.
///
/// # Errors
/// The system's error.
pub fn stat(fd: impl AsFd) -> rustix::io::Result<Statx> {
    statx(fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS | DIOALIGN)
}

/// The device and inode number of a directory, by which it is told from others.
pub fn identity(stat: &Statx) -> (u64, u64) {
    (device(stat), stat.stx_ino)
}

/// The number of the device that a file is on.
pub fn device(stat: &Statx) -> u64 {
    rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// The modification time in milliseconds since the epoch.
pub fn mtime_ms(stat: &Statx) -> i64 {
    let time = stat.stx_mtime;
    time.tv_sec.saturating_mul(1000).saturating_add(i64::from(time.tv_nsec / 1_000_000))
}

impl Refusal {
    /// Why, for people.
    pub fn words(&self) -> String {
        match (&self.detail, self.reason) {
            (Some(detail), _) => detail.clone(),
            (None, Reason::PermissionDenied) => std::io::Error::from(Errno::ACCESS).to_string(),
            (None, Reason::Vanished) => std::io::Error::from(Errno::NOENT).to_string(),
            (None, _) => "it is no regular file any more".to_owned(),
        }
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        let reason = match errno {
            Errno::NOENT | Errno::NOTDIR => Reason::Vanished,
            Errno::ACCESS | Errno::PERM => Reason::PermissionDenied,
            Errno::LOOP => Reason::Symlink,
            Errno::XDEV => Reason::OtherFilesystem,
            Errno::ISDIR => Reason::NotAFile,
            Errno::NXIO | Errno::NODEV => Reason::Special,
            _ => Reason::Error,
        };
        let detail = (reason == Reason::Error).then(|| std::io::Error::from(errno).to_string());
        Self { reason, detail }
    }
}
