//! Where a file's data is on its device.

use std::os::fd::{AsFd, AsRawFd};

/// `FS_IOC_FIEMAP` (`include/uapi/linux/fs.h`): `_IOWR('f', 11, struct fiemap)`.
const FS_IOC_FIEMAP: libc::Ioctl = 0xC020_660B_u32 as libc::Ioctl;

/// `struct fiemap` with space for one extent (`include/uapi/linux/fiemap.h`).
#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extent: Extent,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// The device address of the data at `offset` or of the next data behind it, in bytes; `None` where
/// the file system does not report it.
pub fn physical_address(fd: impl AsFd, offset: u64) -> Option<u64> {
    let mut map =
        Fiemap { start: offset, length: u64::MAX - offset, extent_count: 1, ..Fiemap::default() };
    // SAFETY: the structure is laid out as the call wants it, has space for the extent that is
    // asked for, and lives as long as the call.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), FS_IOC_FIEMAP, &raw mut map) };
    (result == 0 && map.mapped_extents == 1)
        .then(|| map.extent.physical + offset.saturating_sub(map.extent.logical))
}
