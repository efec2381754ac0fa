//! Putting files into a root that is not ours: symbolic links in it are followed as the new system will
//! follow them, and lead nowhere else. A file is first written beside its place, and then renamed.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use rustix::fs::{
    AtFlags, Dir, FallocateFlags, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, fallocate, fchmod,
    fchown, fstat, mkdirat, openat, openat2, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::labels::{self, Label};
use crate::{Context as _, Fault, Result};

/// The largest file that is read, in bytes.
const READ_LIMIT: u64 = 16 << 20;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An owner and a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
}

/// Why a file is not there.
#[derive(Debug)]
pub struct Failure {
    /// In words.
    pub fault: Fault,
    /// The file system has no space left: no other file can be written either.
    pub full: bool,
}

impl Failure {
    fn at(what: &str, error: io::Error) -> Self {
        let full =
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let fault = if what.is_empty() {
            Fault(error.to_string())
        } else {
            Fault(format!("{what}: {error}"))
        };
        Self { fault, full }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { fault, full: false }
    }
}

/// A file that is complete and on the medium, beside its place.
#[derive(Debug)]
pub struct Staged {
    path: String,
    /// Its SELinux label, if one is known and was set.
    pub label: Option<Label>,
}

/// A file that is in its place, by its directory and name.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Entry(u64, u64, String);

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
        let fd = rustix::fs::open(path, DIRECTORY, Mode::empty()).context(path.display())?;
        Ok(Self { fd })
    }

    /// Open a directory of this root as a root.
    ///
    /// # Errors
    /// The system's.
    pub fn open_below(&self, path: &str) -> Result<Self> {
        Ok(Self { fd: self.resolve(path, DIRECTORY).context(path)? })
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

    /// The status of a path; a symbolic link at its end is not followed. `None` if nothing is there.
    pub fn status(&self, path: &str) -> Option<Stat> {
        let (parent, name) = self.directory_of(path).ok()?;
        statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).ok()
    }

    /// The status of the directory that a path leads to; `None` if there is none.
    pub fn directory_status(&self, path: &str) -> Option<Stat> {
        fstat(self.resolve(path, DIRECTORY).ok()?).ok()
    }

    /// The names in a directory, sorted; none if there is no such directory.
    pub fn names(&self, path: &str) -> Vec<String> {
        let Ok(directory) = self.resolve(path, DIRECTORY) else { return Vec::new() };
        let Ok(entries) = Dir::read_from(&directory) else { return Vec::new() };
        let mut names: Vec<_> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()))
            .filter(|name| name != "." && name != "..")
            .collect();
        names.sort();
        names
    }

    /// The directory of a path, which has to be there, and the path's last part.
    ///
    /// # Errors
    /// The system's, or that the path is none.
    pub fn directory_of<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str)> {
        let (parent, name) = split(path)?;
        Ok((self.resolve(parent, DIRECTORY).context(parent)?, name))
    }

    /// Put a file in place, whole or not at all; what was there before under its name is replaced, also
    /// if it was a symbolic link.
    ///
    /// # Errors
    /// The system's, or that the path is none.
    pub fn put_file(
        &self,
        path: &str,
        content: &[u8],
        mode: u32,
        owner: Owner,
    ) -> std::result::Result<Option<Label>, Failure> {
        let staged = self.stage(path, content, mode, owner, None)?;
        self.commit(&staged)?;
        Ok(staged.label)
    }

    /// Reserve `bytes` bytes, which [`Root::release`] frees, for the file of a path.
    ///
    /// # Errors
    /// The system's, or that the path is none.
    pub fn reserve(&self, path: &str, bytes: u64) -> std::result::Result<(), Failure> {
        let (parent, name) = split(path)?;
        let parent = self.directories(parent)?;
        let temporary = temporary(name);
        let file = fresh(&parent, &temporary)?;
        fallocate(&file, FallocateFlags::empty(), 0, bytes)
            .and_then(|()| rustix::fs::fsync(&file))
            .map_err(|error| {
                // The first fault is to be reported.
                let _ = unlinkat(&parent, &temporary, AtFlags::empty());
                Failure::at("", error.into())
            })
    }

    /// Free the space that [`Root::reserve`] took.
    pub fn release(&self, path: &str) {
        let Ok((parent, name)) = self.directory_of(path) else { return };
        if unlinkat(&parent, temporary(name), AtFlags::empty()).is_ok() {
            // A journal frees blocks once it is written.
            let _ = rustix::fs::syncfs(&parent);
        }
    }

    /// Write a file beside its place, with its mode, owner and label; `kind` matches the names of
    /// files of its kind. Nothing that was there before changes.
    ///
    /// # Errors
    /// The system's, or that the path is none; then nothing is left of it.
    pub fn stage(
        &self,
        path: &str,
        content: &[u8],
        mode: u32,
        owner: Owner,
        kind: Option<&GlobMatcher>,
    ) -> std::result::Result<Staged, Failure> {
        let (parent, name) = split(path)?;
        let parent = self.directories(parent)?;
        let label = labels::choose(&parent, name, kind);
        let temporary = temporary(name);
        let file = fresh(&parent, &temporary)?;
        match fill(file, content, mode, owner, label) {
            Ok(label) => Ok(Staged { path: path.to_owned(), label }),
            Err(error) => {
                // The first fault is to be reported.
                let _ = unlinkat(&parent, &temporary, AtFlags::empty());
                Err(Failure::at("", error))
            }
        }
    }

    /// Move a staged file to its place, over what was there.
    ///
    /// # Errors
    /// The system's; then what was there is as it was.
    pub fn commit(&self, staged: &Staged) -> std::result::Result<Entry, Failure> {
        let (parent, name) = self.directory_of(&staged.path)?;
        if let Err(error) = renameat(&parent, temporary(name), &parent, name) {
            self.discard(staged);
            return Err(Failure::at("", error.into()));
        }
        let status = fstat(&parent).map_err(|error| Failure::at("its directory", error.into()))?;
        File::from(parent)
            .sync_all()
            .map_err(|error| Failure::at("flushing its directory", error))?;
        Ok(Entry(status.st_dev, status.st_ino, name.to_owned()))
    }

    /// Remove a staged file that does not get its place.
    pub fn discard(&self, staged: &Staged) {
        if let Ok((parent, name)) = self.directory_of(&staged.path) {
            // What stays is a file of a name that nothing reads.
            let _ = unlinkat(parent, temporary(name), AtFlags::empty());
        }
    }

    /// Make a directory, with those above it, if it is not there.
    ///
    /// # Errors
    /// The system's, or that the path is none.
    pub fn make_directory(&self, path: &str) -> std::result::Result<(), Failure> {
        self.directories(path).map(drop)
    }

    /// Give a directory this mode and owner.
    ///
    /// # Errors
    /// The system's.
    pub fn own_directory(&self, path: &str, mode: u32, owner: Owner) -> Result<()> {
        let fd = self.resolve(path, DIRECTORY).context(path)?;
        own(&fd, mode, owner).context("setting its owner and mode")
    }

    /// Remove files by a pattern, but for those that were put in place; that there are none is fine.
    /// Directories are left alone.
    ///
    /// # Errors
    /// The system's, or that the pattern is none.
    pub fn remove(&self, pattern: &str, but: &HashSet<Entry>) -> Result<()> {
        let glob = matcher(pattern)?;
        let (parent, _) = split(pattern)?;
        let parent = match self.resolve(parent, DIRECTORY) {
            Ok(parent) => parent,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(Fault(error.to_string())),
        };
        let status = fstat(&parent).context("its directory")?;
        let mut matching = Vec::new();
        for entry in Dir::read_from(&parent).context("listing its directory")? {
            let name = entry.context("listing its directory")?.file_name().to_owned();
            let matches = name.to_str().is_ok_and(|name| {
                glob.is_match(name)
                    && !but.contains(&Entry(status.st_dev, status.st_ino, name.to_owned()))
            });
            if matches {
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

    /// A directory, made with those above it if they are not there; what is made has the label of the
    /// directory that it is in.
    fn directories(&self, path: &str) -> std::result::Result<OwnedFd, Failure> {
        let mut reached = String::from("/");
        let mut directory = self.resolve(&reached, DIRECTORY).context("the root")?;
        for part in parts(path)? {
            reached = format!("{}/{part}", reached.trim_end_matches('/'));
            let whole = reached.clone();
            // By the path from the root, since a link may lead to another place of the root.
            directory = match self.resolve(&reached, DIRECTORY) {
                Err(Errno::NOENT) => {
                    mkdirat(directory.as_fd(), part, Mode::from_raw_mode(0o755))
                        .map_err(|error| Failure::at(&whole, error.into()))?;
                    let made = self.resolve(&reached, DIRECTORY).context(&whole)?;
                    if let Some(label) = labels::choose(&directory, ".", None) {
                        // The files in it show whether labels can be set.
                        let _ = labels::set(&made, &label);
                    }
                    made
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

/// What matches the last part of a pattern.
///
/// # Errors
/// That it is no pattern.
pub fn matcher(pattern: &str) -> Result<GlobMatcher> {
    let (parent, name) = split(pattern)?;
    if parent.contains(['*', '?', '[']) {
        return Err(Fault::new("only the last part of a pattern may have wildcards"));
    }
    let glob = GlobBuilder::new(name).literal_separator(true).build().context("the pattern")?;
    Ok(glob.compile_matcher())
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
///
/// # Errors
/// That the path is none.
pub fn split(path: &str) -> Result<(&str, &str)> {
    let plain = parts(path)?;
    let name = *plain.last().ok_or_else(|| Fault::new("it names no file"))?;
    let end = path.trim_end_matches('/').len() - name.len();
    Ok((&path[..end], name))
}

fn temporary(name: &str) -> String {
    format!(".{name}.holdfast")
}

/// Write a whole file; returns the label that it has.
fn fill(
    file: OwnedFd,
    content: &[u8],
    mode: u32,
    owner: Owner,
    label: Option<Label>,
) -> io::Result<Option<Label>> {
    let mut file = File::from(file);
    file.write_all(content)?;
    own(&file, mode, owner)?;
    let label = label.filter(|label| labels::set(&file, label).is_ok());
    file.sync_all()?;
    Ok(label)
}

/// A new file beside its place; what an earlier attempt left there goes.
fn fresh(parent: &OwnedFd, temporary: &str) -> std::result::Result<OwnedFd, Failure> {
    match unlinkat(parent, temporary, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(Failure::at("", error.into())),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, temporary, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|error| Failure::at("making it", error.into()))
}

fn own(fd: impl std::os::fd::AsFd, mode: u32, owner: Owner) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    fchown(&fd, Some(uid), Some(gid))?;
    // After the owner, which takes away some bits.
    fchmod(&fd, Mode::from_raw_mode(mode & 0o7777))?;
    Ok(())
}
