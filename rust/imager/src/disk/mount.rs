//! Mounting: data without ever changing it, and the new root.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::{Context as _, Fault, Result, say};

/// How long a mount may stay in use after its last file was closed: a program that another thread starts
/// at that moment has this process's files open until it runs.
const BUSY: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);

/// A mounted file system; it is unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Unmount it, and report whether that worked.
    ///
    /// # Errors
    /// The system's; `EBUSY` if it stays in use for two seconds.
    pub fn unmount(self) -> Result<()> {
        let path = self.path.clone();
        std::mem::forget(self);
        let deadline = Instant::now() + BUSY;
        loop {
            match unmount(&path, UnmountFlags::empty()) {
                Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(PAUSE),
                done => return done.context(format_args!("unmounting {}", path.display())),
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path, UnmountFlags::DETACH) {
            say!("{} cannot be unmounted: {error}", self.path.display());
        }
    }
}

/// Mount a file system of data so that nothing on its devices changes: no journal is replayed.
///
/// # Errors
/// The system's, or that this kind cannot be mounted so.
pub fn data(device: &Path, kind: &str, at: &Path) -> Result<Mounted> {
    let (kind, options) = match kind {
        "xfs" | "ext2" | "ext3" | "ext4" | "btrfs" => still_options(kind),
        _ => None,
    }
    .ok_or_else(|| {
        Fault(format!(
            "data on {kind} cannot be read here: it is not known how to do so without writing"
        ))
    })?;
    // Access times are not written on what is read-only.
    attach(device, kind, MountFlags::RDONLY, options, at)
}

/// The kernel's name of a file system, and the options with which mounting it read-only replays no
/// journal; `None` for kinds that are never mounted.
pub fn still_options(kind: &str) -> Option<(&'static str, &'static str)> {
    match kind {
        "xfs" => Some(("xfs", "norecovery,nouuid")),
        "ext2" | "ext3" | "ext4" => Some(("ext4", "noload")),
        "btrfs" => Some(("btrfs", "rescue=nologreplay")),
        "vfat" => Some(("vfat", "")),
        "squashfs" => Some(("squashfs", "")),
        "erofs" => Some(("erofs", "")),
        _ => None,
    }
}

/// Mount a file system of a root for a trial, read-only and without its journal, or as the imager mounts
/// it: of a btrfs the subvolume that is named.
///
/// # Errors
/// The system's; `EINVAL` also for a kind or a name that is never mounted.
pub fn attempt(
    device: &Path,
    kind: &str,
    subvolume: Option<&str>,
    writable: bool,
    at: &Path,
) -> std::io::Result<Mounted> {
    let known = if writable { root_options(kind).ok() } else { still_options(kind) };
    let (kind, options) = known.ok_or(Errno::INVAL)?;
    let options = match subvolume {
        Some(path) if path.contains([',', '\0']) => return Err(Errno::INVAL.into()),
        Some(path) if kind == "btrfs" && options.is_empty() => format!("subvol={path}"),
        Some(path) if kind == "btrfs" => format!("{options},subvol={path}"),
        _ => options.to_owned(),
    };
    let flags = if writable { MountFlags::empty() } else { MountFlags::RDONLY };
    mount_at(device, kind, flags, &options, at)
}

/// Mount a file system of data so that it can be written to; its journal is replayed, if need be.
///
/// # Errors
/// The system's, or that this kind is not known.
pub fn writable_data(device: &Path, kind: &str, at: &Path) -> Result<Mounted> {
    root(device, kind, at)
}

/// Check that this kernel mounts a root of this kind.
///
/// # Errors
/// A sentence about why not.
pub fn check_root(kind: &str) -> Result<()> {
    let (kind, _) = root_options(kind)?;
    let known = fs::read_to_string("/proc/filesystems").context("/proc/filesystems")?;
    // Each line has a tabulator before the name, and `nodev` before that.
    if known.lines().any(|line| line.split_whitespace().last() == Some(kind)) {
        Ok(())
    } else {
        Err(Fault(format!(
            "a root on {kind} cannot be mounted: this kernel has no such file system"
        )))
    }
}

fn root_options(kind: &str) -> Result<(&'static str, &'static str)> {
    match kind {
        "ext2" | "ext3" | "ext4" => Ok(("ext4", "")),
        "xfs" => Ok(("xfs", "nouuid")),
        "btrfs" => Ok(("btrfs", "")),
        _ => Err(Fault(format!("a root on {kind} cannot be mounted here"))),
    }
}

/// Mount the new system's root.
///
/// # Errors
/// The system's, or that this kind is not known.
pub fn root(device: &Path, kind: &str, at: &Path) -> Result<Mounted> {
    root_of(device, kind, None, at, MountFlags::empty())
}

/// Mount the new system's root: of a btrfs a subvolume, or the default subvolume. With the
/// flag `RDONLY` it is mounted as it was unmounted, which leaves no journal to replay.
///
/// # Errors
/// The system's, or that this kind is not known.
pub fn root_of(
    device: &Path,
    kind: &str,
    subvolume: Option<&str>,
    at: &Path,
    flags: MountFlags,
) -> Result<Mounted> {
    let (kind, options) = root_options(kind)?;
    match subvolume {
        // A comma would begin another option.
        Some(path) if kind == "btrfs" && path.contains([',', '\0']) => {
            Err(Fault(format!("the subvolume {path} has a name that cannot be mounted")))
        }
        Some(path) if kind == "btrfs" => attach(device, kind, flags, &format!("subvol={path}"), at),
        _ => attach(device, kind, flags, options, at),
    }
}

fn attach(
    device: &Path,
    kind: &str,
    flags: MountFlags,
    options: &str,
    at: &Path,
) -> Result<Mounted> {
    mount_at(device, kind, flags, options, at)
        .context(format_args!("mounting {} ({kind})", device.display()))
}

fn mount_at(
    device: &Path,
    kind: &str,
    flags: MountFlags,
    options: &str,
    at: &Path,
) -> std::io::Result<Mounted> {
    fs::create_dir_all(at)?;
    let options = CString::new(options)?;
    let flags = flags | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(device, at, kind, flags, Some(options.as_c_str()))?;
    Ok(Mounted { path: at.to_owned() })
}
