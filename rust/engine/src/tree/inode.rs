//! Distinguishes two names of one file from two files.
//!
//! On most file systems a device and an inode number name one file. Where they do not (see
//! [`Filesystem::stable_inodes`]) the kernel's file handle does: on an overlay it has the layer's
//! UUID and the layer's own handle, so that equal inode numbers of two btrfs subvolumes below it
//! stay apart. Where there is no handle either, no two names are taken for one file.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

use rustix::fs::Statx;

use crate::tree::confine::identity;
use crate::tree::filesystem::Filesystem;

/// `AT_HANDLE_FID`, Linux 6.5: a handle to compare, also of file systems that cannot open by one.
const HANDLE_FID: libc::c_int = 0x200;
/// `MAX_HANDLE_SZ` (`include/linux/exportfs.h`).
const MOST: usize = 128;

/// `struct file_handle`.
#[repr(C)]
struct FileHandle {
    bytes: libc::c_uint,
    kind: libc::c_int,
    handle: [u8; MOST],
}

/// What names a file among others of one mount.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// Its device and inode number.
    Number(u64, u64),
    /// The kind of its handle, and the handle.
    Handle(i32, Vec<u8>),
}

/// The key of an open file (with an empty name), or of a name in an open directory; `None` where
/// nothing names it for certain.
pub fn key(
    filesystem: &Filesystem,
    directory: impl AsFd,
    name: &CStr,
    stat: &Statx,
) -> Option<Key> {
    if filesystem.stable_inodes {
        let (device, ino) = identity(stat);
        return Some(Key::Number(device, ino));
    }
    handle(directory, name)
}

/// The handle of a name in a directory, or of an open file.
fn handle(directory: impl AsFd, name: &CStr) -> Option<Key> {
    let mut found = FileHandle { bytes: MOST as libc::c_uint, kind: 0, handle: [0; MOST] };
    let mut mount: libc::c_int = 0;
    let flags = if name.is_empty() { HANDLE_FID | libc::AT_EMPTY_PATH } else { HANDLE_FID };
    // SAFETY: the handle has space for as many bytes as it states, and all pointers outlive the
    // call. A trailing symbolic link is not followed without `AT_SYMLINK_FOLLOW`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            directory.as_fd().as_raw_fd(),
            name.as_ptr(),
            &raw mut found,
            &raw mut mount,
            flags,
        )
    };
    let length = found.bytes as usize;
    (result == 0 && length <= MOST)
        .then(|| Key::Handle(found.kind, found.handle[..length].to_vec()))
}

/// Numbers for keys, so that what is kept of a file is small.
#[derive(Debug, Default)]
pub struct Numbers(HashMap<Key, u64>);

impl Numbers {
    /// The number of a key: the same one for the same key.
    pub fn of(&mut self, key: Key) -> u64 {
        let next = self.0.len() as u64;
        *self.0.entry(key).or_insert(next)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::{Key, handle, key};
    use crate::tree::confine::{open_file, stat};
    use crate::tree::filesystem::{Filesystem, Pages};

    #[test]
    fn names_of_one_file_have_one_key_and_other_files_another() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("a"), "same").unwrap();
        std::fs::write(path("c"), "same").unwrap();
        std::fs::hard_link(path("a"), path("b")).unwrap();
        let top = std::fs::File::open(directory.path()).unwrap();
        for stable_inodes in [true, false] {
            let filesystem = Filesystem::new("test", Pages::Counted, stable_inodes);
            let of = |name: &str| {
                let file = std::fs::File::open(path(name)).unwrap();
                key(&filesystem, &top, &CString::new(name).unwrap(), &stat(&file).unwrap())
            };
            if !stable_inodes && of("a").is_none() {
                return; // Before Linux 6.5.
            }
            assert_eq!(of("a"), of("b"));
            assert_ne!(of("a"), of("c"));
            assert_eq!(matches!(of("a"), Some(Key::Number(..))), stable_inodes);
        }
        let open =
            open_file(std::os::fd::AsFd::as_fd(&top), b"a", &crate::Progress::default()).unwrap();
        assert_eq!(handle(&open.fd, c""), handle(&top, c"b"));
    }
}
