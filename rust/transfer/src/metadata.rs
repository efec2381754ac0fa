//! What is carried of a file beside its content: mode, owner, time, extended attributes.

use std::os::fd::{AsFd, AsRawFd};

use holdfast_engine::manifest::survey::identity_of;
use holdfast_engine::tree::confine;
use rustix::fs::{
    AtFlags, Gid, Mode, Statx, Timespec, Timestamps, Uid, XattrFlags, chmod, chownat, fchmod,
    fstatvfs, getxattr, listxattr, listxattr_query, removexattr, setxattr, utimensat,
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
pub(crate) fn magic(file: impl AsFd) -> String {
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

/// Bits of a mode that lend a file's owner to who runs it.
const SET_ID: u32 = 0o6000;
/// With this many bytes free, an attribute that does not fit is one that the file system refuses.
const FREE: u64 = 1 << 20;

/// What of the metadata could not be set, for the result.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unset {
    /// The owner.
    pub owner: bool,
    /// The mode.
    pub mode: bool,
    /// The modification time, in nanoseconds.
    pub mtime: bool,
    /// An extended attribute.
    pub attributes: bool,
}

impl Unset {
    /// Yield the names of what could not be set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [
            ("owner", self.owner),
            ("mode", self.mode),
            ("mtime", self.mtime),
            ("attributes", self.attributes),
        ];
        all.into_iter().filter(|(_, unset)| *unset).map(|(name, _)| name)
    }
}

/// What metadata are set on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// A regular file that was made just now, which has no attributes, open for writing.
    NewFile,
    /// A regular file or a directory, also with `O_PATH`.
    Any,
    /// A symbolic link, with `O_PATH`. The kernel does not keep its mode.
    Symlink,
}

/// Set what is carried on something open, and read it back. Returns what was not set, and the state
/// that the file has now. The order matters: a change of the owner clears capabilities and set-id
/// bits, a change of a list of access control the mode.
///
/// # Errors
/// The system's error, other than a lack of rights or support, which is returned.
pub fn apply(
    file: impl AsFd,
    stat: &Statx,
    metadata: &Metadata,
    of: Of,
) -> rustix::io::Result<(Unset, Statx)> {
    set_owner(file.as_fd(), stat, metadata)?;
    let attributes = if of == Of::NewFile && metadata.attributes.is_empty() {
        false
    } else {
        set_attributes(file.as_fd(), metadata)?
    };
    let (unset, now) = set_rest(file.as_fd(), metadata, of)?;
    Ok((Unset { attributes, ..unset }, now))
}

fn set_owner(file: impl AsFd, stat: &Statx, metadata: &Metadata) -> rustix::io::Result<()> {
    let (uid, gid) = (metadata.uid, metadata.gid);
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::INVAL);
    }
    if (stat.stx_uid, stat.stx_gid) != (uid, gid) {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match chownat(file.as_fd(), c"", owner.0, owner.1, AtFlags::EMPTY_PATH) {
            // Reading it back shows it. `EINVAL`: the user namespace has no such owner.
            Err(Errno::PERM | Errno::INVAL) => {}
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
    set_owner(file.as_fd(), stat, metadata)?;
    set_rest(file, metadata, Of::Any).map(|(unset, _)| unset)
}

/// Set the attributes, and remove all others. Returns whether one could not be.
fn set_attributes(file: impl AsFd, metadata: &Metadata) -> rustix::io::Result<bool> {
    let path = magic(file.as_fd());
    let path = path.as_str();
    let mut unset = false;
    let there = names(path)?;
    for name in there.iter().filter(|name| is_carried(name)) {
        if !metadata.attributes.iter().any(|(wanted, _)| wanted == name) {
            match removexattr(path, name.as_slice()) {
                Err(Errno::PERM | Errno::ACCESS) => unset = true,
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
            Err(errno) if is_refused(file.as_fd(), errno) => unset = true,
            other => other?,
        }
    }
    Ok(unset)
}

/// Return whether the file system cannot keep an attribute, rather than that it failed.
fn is_refused(file: impl AsFd, errno: Errno) -> bool {
    match errno {
        Errno::PERM
        | Errno::ACCESS
        | Errno::OPNOTSUPP
        | Errno::INVAL
        | Errno::TOOBIG
        | Errno::RANGE => true,
        // ext4 and others also return this for a value that is larger than their attributes are.
        Errno::NOSPC => {
            fstatvfs(file).is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) >= FREE)
        }
        _ => false,
    }
}

fn set_rest(file: impl AsFd, metadata: &Metadata, of: Of) -> rustix::io::Result<(Unset, Statx)> {
    let file = file.as_fd();
    let wanted = metadata.mode & 0o7777;
    if of != Of::Symlink {
        // What a file lends is its owner's; nobody else's.
        let owned = wanted & SET_ID == 0
            || confine::stat(file)
                .is_ok_and(|now| (now.stx_uid, now.stx_gid) == (metadata.uid, metadata.gid));
        let mode = Mode::from_raw_mode(if owned { wanted } else { wanted & !SET_ID });
        let set = match of {
            Of::NewFile => fchmod(file, mode),
            _ => chmod(magic(file).as_str(), mode),
        };
        match set {
            // A file system without modes; reading it back shows it.
            Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            other => other?,
        }
    }
    let modified = Timespec {
        tv_sec: metadata.mtime_ns.div_euclid(1_000_000_000),
        tv_nsec: metadata.mtime_ns.rem_euclid(1_000_000_000),
    };
    let times = Timestamps { last_access: modified, last_modification: modified };
    utimensat(file, c"", &times, AtFlags::EMPTY_PATH)?;
    let now = confine::stat(file)?;
    let unset = Unset {
        owner: (now.stx_uid, now.stx_gid) != (metadata.uid, metadata.gid),
        mode: of != Of::Symlink && u32::from(now.stx_mode) & 0o7777 != wanted,
        mtime: Stamp::from(&identity_of(&now)).mtime_ns != metadata.mtime_ns,
        attributes: false,
    };
    Ok((unset, now))
}
