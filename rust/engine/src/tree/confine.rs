//! Roots, and opening files without ever leaving them.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat2, statx,
};
use rustix::io::Errno;

use crate::tree::filesystem::{Filesystem, Pages};
use crate::tree::skips::Reason;
use crate::{Error, Progress, Result};

/// `STATX_ATTR_DAX`: the file's data does not go through the page cache.
const ATTR_DAX: u64 = 0x0020_0000;

/// `STATX_ATTR_MOUNT_ROOT`, Linux 5.8: the top of a mount.
const ATTR_MOUNT_ROOT: u64 = 0x2000;

/// `STATX_ATTR_AUTOMOUNT`: something is mounted here on access.
const ATTR_AUTOMOUNT: u64 = 0x1000;

/// `STATX_DIOALIGN`, Linux 6.1 (`include/uapi/linux/stat.h`).
pub const DIOALIGN: StatxFlags = StatxFlags::from_bits_retain(0x2000);

/// Bytes that a path may have in one system call, with its NUL (`include/uapi/linux/limits.h`).
const PATH_MAX: usize = 4096;

/// Attempts at a lookup that a rename elsewhere disturbed (`EAGAIN` of openat2(2)).
const LOOKUPS: u32 = 64;

/// The longest pause between two attempts to open a file that is under a lease.
const LEASE_PAUSE: Duration = Duration::from_millis(50);

/// Stay below the directory and in its mount, through no symbolic link.
const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// The same, but through what is mounted below the directory.
const ACROSS: ResolveFlags = BENEATH.difference(ResolveFlags::NO_XDEV);

/// An open directory of state.
///
/// What belongs to it is decided here for every call, by mounts: all that is reached from it through
/// directories of its own mount, whatever devices the files are on (the layers of an overlay, the
/// subvolumes of btrfs), and nothing that is mounted inside, whatever it is (another file system, a
/// bind mount, a mount that waits to be made). Files are opened with `RESOLVE_NO_XDEV`, and names
/// that are not opened are asked about with [`Root::is_elsewhere`].
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    path: PathBuf,
    mount: Option<u64>,
    filesystem: Filesystem,
    /// Whether what is mounted below it belongs to it.
    across: bool,
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
    /// The system's message, where the reason does not contain it.
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
        Self::of(fd, path.to_owned())
    }

    fn of(fd: OwnedFd, path: PathBuf) -> Result<Self> {
        let found = stat(&fd).and_then(|stat| Ok((stat, Filesystem::of(&fd)?)));
        let (stat, filesystem) = found.map_err(|errno| Error::io(&path, errno))?;
        Ok(Self { fd, path, mount: mount_of(&stat), filesystem, across: false })
    }

    /// Open a root whose page cache is meant.
    ///
    /// # Errors
    /// As [`Root::open`], and [`Error::Unsupported`] if its file system has no page cache that could
    /// be dropped and filled.
    pub fn with_page_cache(path: &Path) -> Result<Self> {
        let root = Self::open(path)?;
        if root.filesystem.pages == Pages::Pinned { Err(root.unsupported()) } else { Ok(root) }
    }

    /// That the page cache of its files cannot be worked on.
    pub fn unsupported(&self) -> Error {
        let path = self.path.to_string_lossy().into_owned();
        Error::Unsupported { path, filesystem: self.filesystem.name }
    }

    /// The file system it is on.
    pub fn filesystem(&self) -> &Filesystem {
        &self.filesystem
    }

    /// A directory below it, relative to which everything is then named.
    ///
    /// # Errors
    /// [`Error::Io`] if it is no directory, or something else is mounted there.
    pub fn below(self, path: &Path) -> Result<Self> {
        if path.as_os_str().is_empty() {
            return Ok(self);
        }
        let whole = self.path.join(path);
        let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
        let fd = open_directory(self.fd.as_fd(), bytes).map_err(|e| Error::io(&whole, e))?;
        Self::of(fd, whole)
    }

    /// The same directory with all that is mounted below it, where that keeps track of changes as the
    /// directory's own file system does.
    #[must_use]
    pub fn across_mounts(self) -> Self {
        Self { across: true, ..self }
    }

    /// Open a directory below the root.
    ///
    /// # Errors
    /// The system's error; `EXDEV` where something is mounted there that does not belong to the root.
    pub fn open_directory(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        self.open_directory_in(self.fd.as_fd(), path)
    }

    /// Open a directory below one of the root's directories.
    ///
    /// # Errors
    /// As [`Root::open_directory`].
    pub fn open_directory_in(
        &self,
        parent: BorrowedFd<'_>,
        path: &[u8],
    ) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        open_beneath(parent, path, flags, self.resolve())
    }

    /// Open a regular file of the root, as [`open_file`] does.
    ///
    /// # Errors
    /// As [`open_file`].
    pub fn open_file(
        &self,
        path: &[u8],
        progress: &Progress,
    ) -> std::result::Result<OpenFile, Refusal> {
        open_file_with(self.fd.as_fd(), path, progress, self.resolve())
    }

    fn resolve(&self) -> ResolveFlags {
        if self.across { ACROSS } else { BENEATH }
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether something else is mounted at a name in one of its directories, or would be on
    /// access; `stat` is that of the name, made with [`NAME`].
    pub fn is_elsewhere(&self, directory: impl AsFd, name: &CStr, stat: &Statx) -> bool {
        let attributes = stat.stx_attributes.bits();
        if self.across {
            return attributes & ATTR_AUTOMOUNT != 0
                || (attributes & ATTR_MOUNT_ROOT != 0 && !self.belongs(directory, name));
        }
        if attributes & (ATTR_MOUNT_ROOT | ATTR_AUTOMOUNT) != 0 {
            return true;
        }
        match (self.mount, mount_of(stat)) {
            (Some(root), Some(here)) => root != here,
            // Before Linux 5.8 only an open shows it.
            _ => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat2(directory, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)
                    .is_err_and(|errno| errno == Errno::XDEV)
            }
        }
    }

    /// Whether what is mounted at a name can be carried like the rest.
    fn belongs(&self, directory: impl AsFd, name: &CStr) -> bool {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let filesystem = openat2(directory, name, flags, Mode::empty(), ACROSS)
            .and_then(|fd| Filesystem::of(&fd));
        filesystem.is_ok_and(|other| {
            other.stable_inodes
                && other.true_sizes
                && other.write_back.is_some() >= self.filesystem.write_back.is_some()
        })
    }

    /// What is at a path relative to the root: a directory, a regular file, or something else.
    ///
    /// # Errors
    /// The system's error; `EXDEV` where something else is mounted on the way, `ELOOP` at a symbolic
    /// link.
    pub fn kind(&self, path: &[u8]) -> rustix::io::Result<FileType> {
        let fd =
            open_beneath(self.fd.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, self.resolve())?;
        Ok(FileType::from_raw_mode(stat(&fd)?.stx_mode.into()))
    }
}

/// Open a directory below another one.
///
/// # Errors
/// The system's error; `EXDEV` where something is mounted there.
pub fn open_directory(parent: BorrowedFd<'_>, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_beneath(parent, path, flags, BENEATH)
}

/// Open a regular file below a directory, for reading and without touching its access time.
///
/// Never blocks on a FIFO and never follows a link, also where the name was something else a moment
/// ago. A file under a lease (fcntl(2) `F_SETLEASE`, as Samba and NFS servers take them) is waited
/// for as any reader waits: until its holder gives way, at most for as long as the kernel lets it.
///
/// # Errors
/// The reason for which it is to be skipped; `EAGAIN` where `progress` was cancelled meanwhile.
pub fn open_file(
    parent: BorrowedFd<'_>,
    path: &[u8],
    progress: &Progress,
) -> std::result::Result<OpenFile, Refusal> {
    open_file_with(parent, path, progress, BENEATH)
}

fn open_file_with(
    parent: BorrowedFd<'_>,
    path: &[u8],
    progress: &Progress,
    resolve: ResolveFlags,
) -> std::result::Result<OpenFile, Refusal> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = |flags| wait_for_lease(progress, || open_beneath(parent, path, flags, resolve));
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

/// Open what is at `path` below `parent`, step by step where the path is longer than one system
/// call takes. An empty path is the parent itself.
fn open_beneath(
    parent: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut directory: Option<OwnedFd> = None;
    let mut rest = path;
    while rest.len() >= PATH_MAX {
        let cut = rest[..PATH_MAX].iter().rposition(|&byte| byte == b'/');
        let cut = cut.ok_or(Errno::NAMETOOLONG)?;
        let from = directory.as_ref().map_or(parent, AsFd::as_fd);
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        directory = Some(look_up(from, &rest[..cut], step, resolve)?);
        rest = &rest[cut + 1..];
    }
    let from = directory.as_ref().map_or(parent, AsFd::as_fd);
    look_up(from, if rest.is_empty() { b"." } else { rest }, flags, resolve)
}

fn look_up(
    parent: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let mut attempts = 0;
    loop {
        match openat2(parent, path, flags, Mode::empty(), resolve) {
            // With O_NONBLOCK it can be a lease as well, for which the caller waits.
            Err(Errno::AGAIN) if attempts < LOOKUPS && !flags.contains(OFlags::NONBLOCK) => {
                attempts += 1;
            }
            other => return other,
        }
    }
}

/// Repeat an opening with `O_NONBLOCK` while a lease is in its way (`EWOULDBLOCK`, open(2)).
fn wait_for_lease(
    progress: &Progress,
    open: impl Fn() -> rustix::io::Result<OwnedFd>,
) -> rustix::io::Result<OwnedFd> {
    let mut opened = open();
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    while let Err(Errno::AGAIN) = opened {
        if progress.cancelled() || begin.elapsed() > lease_limit() {
            break;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LEASE_PAUSE);
        opened = open();
    }
    opened
}

/// After so long the kernel breaks a lease that its holder does not give up (proc_sys_fs(5)).
fn lease_limit() -> Duration {
    static LIMIT: OnceLock<Duration> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/fs/lease-break-time").unwrap_or_default();
        Duration::from_secs(text.trim().parse().unwrap_or(45)) + Duration::from_secs(2)
    })
}

/// Whether a file's data goes past the page cache (DAX).
pub fn is_dax(stat: &Statx) -> bool {
    stat.stx_attributes.bits() & ATTR_DAX != 0
}

/// Flags with which names are asked about: themselves, without having anything mounted.
pub const NAME: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

/// What is asked of names. Not [`DIOALIGN`], for which the kernel looks up the device of a node.
pub const STATE: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// The number of the mount that something was reached through; `None` before Linux 5.8.
pub fn mount_of(stat: &Statx) -> Option<u64> {
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}

/// The state of an open file.
///
/// # Errors
/// The system's error.
pub fn stat(fd: impl AsFd) -> rustix::io::Result<Statx> {
    statx(fd, c"", AtFlags::EMPTY_PATH, STATE | DIOALIGN)
}

/// The device and inode number of a file, which identify it where they are stable.
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
            (None, Reason::OtherFilesystem) => "something else is mounted there".to_owned(),
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
