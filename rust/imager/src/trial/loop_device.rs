//! A part of a file as a block device, which the kernel takes away by itself once nobody has it open, so
//! that nothing is left of a process that is killed.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::{Context as _, Fault, Result};

// include/uapi/linux/loop.h
const GET_FREE: u32 = 0x4c82;
const CONFIGURE: u32 = 0x4c0a;
const READ_ONLY: u32 = 1;
const AUTOCLEAR: u32 = 4;
/// How often a device that another process took meanwhile is replaced by the next one.
const ATTEMPTS: usize = 64;

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

/// A loop device; it is gone when this is dropped and nothing has it mounted.
#[derive(Debug)]
pub struct LoopDevice {
    path: PathBuf,
    _open: File,
}

impl LoopDevice {
    /// Attach a range of a file.
    ///
    /// The device stays locked, so that udev does not probe it: links in `/dev/disk` to the machine's
    /// own file systems of the same UUID stay as they are.
    ///
    /// # Errors
    /// The system's: this machine has no loop devices, or not the right to use them.
    pub fn attach(file: &File, offset: u64, length: u64, writable: bool) -> Result<Self> {
        let control = OpenOptions::new().read(true).write(true).open("/dev/loop-control");
        let control = control.context("/dev/loop-control")?;
        for _ in 0..ATTEMPTS {
            // SAFETY: the request takes no argument.
            let number = unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) };
            if number < 0 {
                return Err(std::io::Error::last_os_error()).context("a free loop device");
            }
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let open = OpenOptions::new().read(true).write(writable).open(&path);
            let open = open.context(path.display())?;
            if flock(&open, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            match configure(&open, file, offset, length, writable) {
                Ok(()) => return Ok(Self { path, _open: open }),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
                Err(error) => return Err(error).context(path.display()),
            }
        }
        Err(Fault::new("all loop devices are taken by other processes"))
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name, as the kernel's messages have it.
    pub fn name(&self) -> OsString {
        self.path.file_name().unwrap_or_default().to_owned()
    }
}

fn configure(
    device: &File,
    file: &File,
    offset: u64,
    length: u64,
    writable: bool,
) -> std::io::Result<()> {
    let mut file_name = [0; 64];
    file_name[..14].copy_from_slice(b"holdfast-trial");
    let config = Config {
        fd: file.as_raw_fd().cast_unsigned(),
        block_size: 0,
        info: Info {
            device: 0,
            inode: 0,
            rdevice: 0,
            offset,
            size_limit: length,
            number: 0,
            encrypt_type: 0,
            encrypt_key_size: 0,
            flags: if writable { AUTOCLEAR } else { AUTOCLEAR | READ_ONLY },
            file_name,
            crypt_name: [0; 64],
            encrypt_key: [0; 32],
            init: [0; 2],
        },
        reserved: [0; 8],
    };
    // SAFETY: the request reads the structure, which outlives the call.
    let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const config) };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
