//! Putting files into a root that is not ours: symbolic links in it are followed as the new system will
//! follow them, and lead nowhere else.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use globset::GlobBuilder;
use rustix::fs::{
    AtFlags, Dir, Gid, Mode, OFlags, ResolveFlags, Uid, fchmod, fchown, mkdirat, openat, openat2,
    renameat, unlinkat,
};
use rustix::io::Errno;

use crate::{Context as _, Fault, Result};

/// The largest file that is read, in bytes.
const READ_LIMIT: u64 = 16 << 20;

/// An owner and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// The new system's root.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

impl Root {
    /// Open it.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).context(path.display())?;
        Ok(Self { fd })
    }

    /// The content of a file.
    ///
    /// # Errors
    /// The system's.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(self.resolve(path, flags).context(path)?);
        let mut content = Vec::new();
        if file.metadata().context(path)?.is_file() {
            file.take(READ_LIMIT).read_to_end(&mut content).context(path)?;
        }
        Ok(content)
    }

    /// Put a file in place, whole or not at all; what was there before under its name is replaced, also
    /// if it was a symbolic link.
    ///
    /// # Errors
    /// The system's, or that the path is none.
    pub fn put_file(&self, path: &str, content: &[u8], mode: u32, owner: Owner) -> Result<()> {
        let (parent, name) = split(path)?;
        let parent = self.directories(parent)?;
        let temporary = format!(".{name}.holdfast");
        match unlinkat(&parent, &temporary, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(Fault(error.to_string())),
        }
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd =
            openat(&parent, &temporary, flags, Mode::RUSR | Mode::WUSR).context("making it")?;
        let mut file = File::from(fd);
        let write = || -> std::io::Result<()> {
            file.write_all(content)?;
            own(&file, mode, owner)?;
            file.sync_all()?;
            Ok(renameat(&parent, &temporary, &parent, name)?)
        };
        let mut write = write;
        if let Err(error) = write() {
            // The first fault is the one to tell.
            let _ = unlinkat(&parent, &temporary, AtFlags::empty());
            return Err(Fault(error.to_string()));
        }
        File::from(parent).sync_all().context("flushing its directory")
    }

    /// Make a directory, with those above it, or give it this mode and owner if it is there.
    ///
    /// # Errors
    /// The system's, or that the path is none.
    pub fn make_directory(&self, path: &str, mode: u32, owner: Owner) -> Result<()> {
        let fd = self.directories(path)?;
        own(&fd, mode, owner).context("setting its owner and mode")
    }

    /// Remove files by a pattern; that there are none is fine. Directories are left alone.
    ///
    /// # Errors
    /// The system's, or that the pattern is none.
    pub fn remove(&self, pattern: &str) -> Result<()> {
        let (parent, name) = split(pattern)?;
        if parent.contains(['*', '?', '[']) {
            return Err(Fault::new("only the last part of a pattern may have wildcards"));
        }
        let glob = GlobBuilder::new(name).literal_separator(true).build().context("the pattern")?;
        let glob = glob.compile_matcher();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let parent = match self.resolve(parent, flags) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(Fault(error.to_string())),
        };
        let mut matching = Vec::new();
        for entry in Dir::read_from(&parent).context("listing its directory")? {
            let name = entry.context("listing its directory")?.file_name().to_owned();
            if name.to_str().is_ok_and(|name| glob.is_match(name)) {
                matching.push(name);
            }
        }
        for name in matching {
            match unlinkat(&parent, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::ISDIR) => {}
                Err(error) => return Err(Fault(error.to_string())),
            }
        }
        Ok(())
    }

    /// A directory, made with those above it if they are not there.
    fn directories(&self, path: &str) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut reached = String::from("/");
        let mut directory = self.resolve(&reached, flags).context("the root")?;
        for part in parts(path)? {
            reached = format!("{}/{part}", reached.trim_end_matches('/'));
            let whole = reached.clone();
            // By the path from the root, since a link may lead to another place of the root.
            directory = match self.resolve(&reached, flags) {
                Err(Errno::NOENT) => {
                    mkdirat(directory.as_fd(), part, Mode::from_raw_mode(0o755)).context(&whole)?;
                    self.resolve(&reached, flags).context(&whole)?
                }
                other => other.context(&whole)?,
            };
        }
        Ok(directory)
    }

    fn resolve(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        // To the kernel both are the same here. Relative, a path stays below the root by itself.
        let path = match path.trim_start_matches('/') {
            "" => ".",
            relative => relative,
        };
        let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        openat2(&self.fd, path, flags, Mode::empty(), inside)
    }
}

/// The parts of an absolute path; neither `.` nor `..` is one.
fn parts(path: &str) -> Result<Vec<&str>> {
    let rest = path.strip_prefix('/').ok_or_else(|| Fault::new("it is not an absolute path"))?;
    let parts: Vec<_> = rest.split('/').filter(|part| !part.is_empty()).collect();
    if parts.iter().any(|part| [".", ".."].contains(part) || part.contains('\0')) {
        return Err(Fault::new("it is not a plain path"));
    }
    Ok(parts)
}

/// A path's directory and its last part.
fn split(path: &str) -> Result<(&str, &str)> {
    let plain = parts(path)?;
    let name = *plain.last().ok_or_else(|| Fault::new("it names no file"))?;
    let end = path.trim_end_matches('/').len() - name.len();
    Ok((&path[..end], name))
}

fn own(fd: impl std::os::fd::AsFd, mode: u32, owner: Owner) -> std::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    fchown(&fd, Some(uid), Some(gid))?;
    // After the owner, which takes away some bits.
    fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
    Ok(())
}
