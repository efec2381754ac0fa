//! Growing a mounted file system to the size of its partition, by the kernel's own means.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use crate::{Context as _, Fault, Result};

// fs/ext4/ext4.h: EXT4_IOC_RESIZE_FS, _IOW('f', 16, __u64).
const EXT4_RESIZE: u32 = 0x4008_6610;
// fs/xfs/libxfs/xfs_fs.h: XFS_IOC_FSGEOMETRY_V1, _IOR('X', 100, struct xfs_fsop_geom_v1), which has 112
// bytes, and XFS_IOC_FSGROWFSDATA, _IOW('X', 110, struct xfs_growfs_data).
const XFS_GEOMETRY: u32 = 0x8070_5864;
const XFS_GROW: u32 = 0x4010_586e;

// include/uapi/linux/btrfs.h: BTRFS_IOC_RESIZE, _IOW(0x94, 3, struct btrfs_ioctl_vol_args).
const BTRFS_RESIZE: u32 = 0x5000_9403;

/// `struct btrfs_ioctl_vol_args`; the name is the size.
#[repr(C)]
pub(crate) struct Volume {
    pub(crate) fd: i64,
    pub(crate) name: [u8; 4088],
}

/// The start of `xfs_fsop_geom_v1`, and space for the rest.
#[repr(C)]
#[derive(Default)]
struct Geometry {
    block_bytes: u32,
    others: [u32; 6],
    inodes_percent: u32,
    data_blocks: u64,
    rest: [u64; 9],
}

#[repr(C)]
struct Grow {
    blocks: u64,
    inodes_percent: u32,
}

/// Grow the file system that is mounted there to `bytes` bytes; return how many it then has for
/// data.
///
/// # Errors
/// The kernel's, or that this kind cannot be grown here. The file system is as it was then.
pub fn grow(mounted: &Path, kind: &str, bytes: u64) -> Result<u64> {
    let root = File::open(mounted).context(mounted.display())?;
    let before = size(mounted)?;
    match kind {
        "ext2" | "ext3" | "ext4" => {
            let statistics = rustix::fs::statvfs(mounted).context(mounted.display())?;
            let blocks = bytes / statistics.f_frsize;
            request(&root, EXT4_RESIZE, &raw const blocks)?;
        }
        "xfs" => {
            let mut geometry = Geometry::default();
            request(&root, XFS_GEOMETRY, &raw mut geometry)?;
            let blocks = bytes / u64::from(geometry.block_bytes.max(512));
            if blocks > geometry.data_blocks {
                let grow = Grow { blocks, inodes_percent: geometry.inodes_percent };
                request(&root, XFS_GROW, &raw const grow)?;
            }
        }
        "btrfs" => {
            let mut volume = Volume { fd: 0, name: [0; 4088] };
            volume.name[..3].copy_from_slice(b"max");
            request(&root, BTRFS_RESIZE, &raw const volume)?;
        }
        _ => return Err(Fault(format!("{kind} cannot be grown here"))),
    }
    let after = size(mounted)?;
    if after > before { Ok(after) } else { Err(Fault(format!("it has {after} bytes as before"))) }
}

fn size(mounted: &Path) -> Result<u64> {
    let statistics = rustix::fs::statvfs(mounted).context(mounted.display())?;
    Ok(statistics.f_blocks * statistics.f_frsize)
}

pub(crate) fn request<T>(file: &File, request: u32, argument: *const T) -> Result<()> {
    // SAFETY: the argument points to the structure that the request reads or fills, of its size.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), request as _, argument) };
    if done < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        .context("the kernel refuses it")
}
