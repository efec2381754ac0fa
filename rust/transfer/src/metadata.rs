//! What is carried of a file beside its content: mode, owner, time, extended attributes.

use std::os::fd::{AsFd, AsRawFd};

use holdfast_engine::manifest::survey::identity_of;
use rustix::fs::{
    AtFlags, Gid, Mode, Statx, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, getxattr,
    listxattr, listxattr_query, removexattr, setxattr, utimensat,
};
use rustix::io::Errno;

use crate::message::{MOST_ATTRIBUTES, Metadata, Stamp};

/// Of all names in the namespaces `system` and `security` only these are carried: the others are
/// made up by the file system, or belong to the machine.
const CARRIED: [&[u8]; 3] =
    [b"system.posix_acl_access", b"system.posix_acl_default", b"security.capability"];

/// Read what is carried of something open, also with `O_PATH`.
///
/// # Errors
/// The system's error; `E2BIG` for more attributes than a message takes.
pub fn read(file: impl AsFd, stat: &Statx) -> rustix::io::Result<Metadata> {
    let stamp = Stamp::from(&identity_of(stat));
    Ok(Metadata {
        mode: u32::from(stat.stx_mode) & 0o7777,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        mtime_ns: stamp.mtime_ns,
        attributes: attributes(&magic(file.as_fd()))?,
    })
}

/// The name under which the kernel shows an open file: it leads to that file, whatever it is.
fn magic(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}

fn is_carried(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.") || CARRIED.contains(&name)
}

fn attributes(path: &str) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut total = 0;
    for name in names(path)? {
        if !is_carried(&name) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        match getxattr(path, name.as_slice(), &mut value[..]) {
            Ok(length) => value.truncate(length),
            // Removed meanwhile, or shown to others only.
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => continue,
            Err(errno) => return Err(errno),
        }
        total += name.len() + value.len();
        if total > MOST_ATTRIBUTES {
            return Err(Errno::TOOBIG);
        }
        value.shrink_to_fit();
        found.push((name, value));
    }
    found.sort_unstable();
    Ok(found)
}

fn names(path: &str) -> rustix::io::Result<Vec<Vec<u8>>> {
    // Most files have none: ask for the length first.
    let length = match listxattr_query(path) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let mut list = vec![0_u8; length + 4096];
    let length = listxattr(path, &mut list[..])?;
    let names = list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// What of the metadata could not be set, for the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unset {
    /// The owner.
    pub owner: bool,
    /// An extended attribute.
    pub attributes: bool,
}

/// Set what is carried on something open, also with `O_PATH`. The order matters: a change of the
/// owner clears capabilities and set-id bits, a change of a list of access control the mode.
///
/// # Errors
/// The system's error, other than a lack of rights or support, which is returned.
pub fn apply(
    file: impl AsFd,
    stat: &Statx,
    metadata: &Metadata,
    symlink: bool,
) -> rustix::io::Result<Unset> {
    let path = magic(file.as_fd());
    let path = path.as_str();
    let mut unset = Unset::default();
    set_owner(file.as_fd(), stat, metadata, &mut unset)?;
    set_attributes(path, metadata, &mut unset)?;
    set_rest(&file, path, metadata, symlink)?;
    Ok(unset)
}

fn set_owner(
    file: impl AsFd,
    stat: &Statx,
    metadata: &Metadata,
    unset: &mut Unset,
) -> rustix::io::Result<()> {
    let (uid, gid) = (metadata.uid, metadata.gid);
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    if (stat.stx_uid, stat.stx_gid) != (uid, gid) {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match chownat(file.as_fd(), c"", owner.0, owner.1, AtFlags::EMPTY_PATH) {
            Err(Errno::PERM) => unset.owner = true,
            other => other?,
        }
    }
    Ok(())
}

/// Set mode, owner and time of a regular file, and leave its attributes alone.
///
/// # Errors
/// As [`apply`].
pub fn apply_without_attributes(
    file: impl AsFd,
    stat: &Statx,
    metadata: &Metadata,
) -> rustix::io::Result<Unset> {
    let mut unset = Unset::default();
    set_owner(file.as_fd(), stat, metadata, &mut unset)?;
    set_rest(&file, &magic(file.as_fd()), metadata, false)?;
    Ok(unset)
}

fn set_attributes(path: &str, metadata: &Metadata, unset: &mut Unset) -> rustix::io::Result<()> {
    let there = names(path)?;
    for name in there.iter().filter(|name| is_carried(name)) {
        if !metadata.attributes.iter().any(|(wanted, _)| wanted == name) {
            match removexattr(path, name.as_slice()) {
                Err(Errno::PERM | Errno::ACCESS) => unset.attributes = true,
                Err(Errno::NODATA) => {}
                other => other?,
            }
        }
    }
    for (name, value) in &metadata.attributes {
        if !is_carried(name) {
            return Err(Errno::INVAL);
        }
        match setxattr(path, name.as_slice(), value, XattrFlags::empty()) {
            Err(Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP) => unset.attributes = true,
            other => other?,
        }
    }
    Ok(())
}

fn set_rest(
    file: impl AsFd,
    path: &str,
    metadata: &Metadata,
    symlink: bool,
) -> rustix::io::Result<()> {
    if !symlink {
        chmod(path, Mode::from_raw_mode(metadata.mode & 0o7777))?;
    }
    let modified = Timespec {
        tv_sec: metadata.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: metadata.mtime_ns.rem_euclid(1_000_000_000),
    };
    let times = Timestamps { last_access: modified, last_modification: modified };
    utimensat(file.as_fd(), c"", &times, AtFlags::EMPTY_PATH)
}
