//! Mounting parts of the copy, and the kernel's message where it refuses.

use std::fs::File;
use std::path::Path;

use super::kernel_log::KernelLog;
use super::loop_device::LoopDevice;
use super::rows::Outcome;
use crate::disk::grow;
use crate::disk::mount::{self, Mounted};

/// A file system that could not be mounted.
pub struct Unmounted {
    /// How bad that is.
    pub outcome: Outcome,
    /// Sentences.
    pub why: String,
}

/// A part of the copy as a device.
///
/// # Errors
/// Why it is not tried.
pub fn attach(
    file: &File,
    start: u64,
    length: u64,
    writable: bool,
) -> std::result::Result<LoopDevice, Unmounted> {
    LoopDevice::attach(file, start, length, writable).map_err(|fault| Unmounted {
        outcome: Outcome::NotTried,
        why: format!("There is no loop device to mount a copy from: {fault}."),
    })
}

/// Mount a device as the imager does, or read-only and without its journal.
///
/// # Errors
/// Why the kernel refuses, with its message.
pub fn attempt(
    device: &LoopDevice,
    kind: &str,
    subvolume: Option<&str>,
    writable: bool,
    at: &Path,
) -> std::result::Result<Mounted, Unmounted> {
    let mut log = KernelLog::from_now();
    mount::attempt(device.path(), kind, subvolume, writable, at).map_err(|error| {
        let outcome = match error.raw_os_error() {
            // This process may not, or the machine cannot at the moment: no fault of the image.
            Some(libc::EPERM | libc::EACCES | libc::ENOMEM | libc::EBUSY) => Outcome::NotTried,
            _ => Outcome::Failed,
        };
        let how = if writable { "for writing" } else { "read-only" };
        let said = log.about(&device.name().to_string_lossy());
        let said = if said.is_empty() {
            String::new()
        } else {
            format!(" The kernel logged: {}.", said.join("; "))
        };
        let why = if error.raw_os_error() == Some(libc::ENODEV) {
            format!("This kernel has no file system {kind}.{said}")
        } else {
            format!("This kernel does not mount the {kind} {how}: {error}.{said}")
        };
        Unmounted { outcome, why }
    })
}

/// Have the kernel forget a device with a btrfs, which it remembers after it is unmounted.
pub fn forget(device: &Path) {
    // include/uapi/linux/btrfs.h: BTRFS_IOC_FORGET_DEV, _IOW(0x94, 5, struct btrfs_ioctl_vol_args).
    const FORGET: u32 = 0x5000_9405;
    let Ok(control) = File::open("/dev/btrfs-control") else { return };
    let name = device.as_os_str().as_encoded_bytes();
    let mut volume = grow::Volume { fd: 0, name: [0; 4088] };
    volume.name[..name.len()].copy_from_slice(name);
    // Kernels before 5.4 cannot; what they remember is replaced when a device of that number comes.
    let _ = grow::request(&control, FORGET, &raw const volume);
}
