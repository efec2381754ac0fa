//! Walking trees in parallel, each in its mount, through no link.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{FileType, Mode, OFlags, RawDir, Statx, statx};

use crate::pool::{self, Queue};
use crate::progress::lock;
use crate::tree::confine::{
    NAME, OpenFile, Refusal, STATE, identity, is_dax, mount_of, open_directory, open_file, stat,
};
use crate::tree::filesystem::Filesystem;
use crate::tree::inode::{self, Key};
use crate::tree::skips::Reason;
use crate::{Error, Progress, Result, Root};

/// File names that one task takes: enough to make the queue's cost vanish, few enough to share out
/// one large directory.
const BATCH: usize = 256;
/// Files that are open at a time in one thread.
const OPEN: usize = 64;
/// With this many tasks waiting, batches are processed at once: memory stays bounded.
const MANY_WAITING: usize = 4096;
/// Directory entries are read in buffers of this many bytes.
pub(crate) const ENTRIES: usize = 64 * 1024;

/// What a walk does with the regular files it finds.
pub trait Visit: Sync {
    /// Work on a part of a file, which a visitor may queue for other threads.
    type Part: Send;

    /// Deal with some files.
    ///
    /// # Errors
    /// Whatever must end the whole walk.
    fn files(&self, root: usize, files: Vec<Found>, parts: &Parts<'_, Self>) -> Result<()>;

    /// Deal with a part that was queued, or queue parts of it.
    ///
    /// # Errors
    /// Whatever must end the whole walk.
    fn part(&self, part: Self::Part, parts: &Parts<'_, Self>) -> Result<()>;

    /// A file or directory was skipped.
    ///
    /// # Errors
    /// If this must end the whole walk.
    fn skip(&self, root: usize, path: &[u8], refusal: Refusal) -> Result<()>;
}

/// A regular file that a walk came to.
#[derive(Debug)]
pub struct Found {
    /// Its path relative to the root.
    pub path: Vec<u8>,
    /// The file.
    pub file: OpenFile,
}

/// Where to begin: a root and a path relative to it (empty for the root itself).
#[derive(Debug)]
pub struct Start<'a> {
    /// The root.
    pub root: &'a Root,
    /// A directory or a file below it.
    pub path: Vec<u8>,
}

/// Lets a visitor share out a large file.
pub struct Parts<'a, V: Visit + ?Sized>(&'a Queue<Task<V::Part>>);

impl<V: Visit + ?Sized> std::fmt::Debug for Parts<'_, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Parts")
    }
}

impl<V: Visit + ?Sized> Parts<'_, V> {
    /// Queue a part.
    pub fn push(&self, part: V::Part) {
        self.0.push(Task::Part(part));
    }
}

enum Task<P> {
    Directory { start: usize, parent: Option<Arc<OwnedFd>>, name: CString, path: Vec<u8> },
    Files { start: usize, directory: Arc<OwnedFd>, path: Vec<u8>, names: Vec<CString> },
    File { start: usize },
    Part(P),
}

struct Walk<'a, V: Visit> {
    starts: &'a [Start<'a>],
    visitor: &'a V,
    progress: &'a Progress,
    excluded: Excluded,
    linked: Mutex<HashSet<(Option<u64>, Key)>>,
}

/// Directories that are to be left out, by identity and not by name. They are kept open, so that
/// their inode numbers stay theirs also on file systems that make these up.
#[derive(Debug)]
pub(crate) struct Excluded(Vec<(OwnedFd, (u64, u64))>);

impl Excluded {
    /// Open the directories; one that is not there needs no leaving out.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(paths: &[impl AsRef<Path>]) -> Result<Self> {
        let mut excluded = Vec::new();
        for path in paths {
            let opened =
                rustix::fs::open(path.as_ref(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            match opened.and_then(|fd| Ok((identity(&stat(&fd)?), fd))) {
                Ok((identity, fd)) => excluded.push((fd, identity)),
                Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(Error::io(path, errno)),
            }
        }
        Ok(Self(excluded))
    }

    /// Whether a name in a directory, or an open directory with an empty name, is one of them.
    pub fn has(
        &self,
        filesystem: &Filesystem,
        directory: impl AsFd,
        name: &CStr,
        stat: &Statx,
    ) -> bool {
        self.0.iter().any(|(fd, known)| {
            *known == identity(stat)
                && (filesystem.stable_inodes || {
                    let [one, other] = [
                        inode::key(filesystem, fd, c"", stat),
                        inode::key(filesystem, directory.as_fd(), name, stat),
                    ];
                    // Where there are no handles, numbers are all there is.
                    one.is_none() || other.is_none() || one == other
                })
        })
    }
}

/// Visit every regular file below `starts` once, on `threads` threads, in no particular order.
///
/// Directories in `exclude` are left out, by identity and not by name, and so is what is mounted
/// inside a start's mount. A hard-linked file is visited under one of its names.
///
/// # Errors
/// [`Error::Cancelled`], the visitor's error, or [`Error::Io`] if a start cannot be opened.
pub fn walk<V: Visit>(
    starts: &[Start<'_>],
    exclude: &[impl AsRef<Path>],
    threads: usize,
    visitor: &V,
    progress: &Progress,
) -> Result<()> {
    let excluded = Excluded::open(exclude)?;
    let mut seed = Vec::new();
    for (index, start) in starts.iter().enumerate() {
        let whole = start.root.path().join(std::path::PathBuf::from(os(&start.path)));
        let kind = start.root.kind(&start.path).map_err(|e| Error::io(&whole, e))?;
        seed.push(match kind {
            FileType::Directory => Task::Directory {
                start: index,
                parent: None,
                name: CString::default(),
                path: start.path.clone(),
            },
            FileType::RegularFile => Task::File { start: index },
            _ => {
                let path = whole.display();
                return Err(Error::Invalid(format!("{path} is neither a directory nor a file")));
            }
        });
    }
    let walk = Walk { starts, visitor, progress, excluded, linked: Mutex::default() };
    pool::run(threads, seed, |task, queue| walk.work(task, queue))
}

fn os(path: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(path)
}

/// The path of a name in a directory.
pub(crate) fn join(directory: &[u8], name: &CStr) -> Vec<u8> {
    let name = name.to_bytes();
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

impl<V: Visit> Walk<'_, V> {
    fn work(&self, task: Task<V::Part>, queue: &Queue<Task<V::Part>>) -> Result<()> {
        self.progress.check()?;
        match task {
            Task::Directory { start, parent, name, path } => {
                self.directory(start, parent.as_deref(), &name, path, queue)
            }
            Task::Files { start, directory, path, names } => {
                self.files(start, directory.as_fd(), &path, names, queue)
            }
            Task::File { start } => {
                let Start { root, path } = &self.starts[start];
                let found = self.open(start, root.fd(), path, path.clone())?;
                self.visitor.files(start, Vec::from_iter(found), &Parts(queue))
            }
            Task::Part(part) => self.visitor.part(part, &Parts(queue)),
        }
    }

    fn directory(
        &self,
        start: usize,
        parent: Option<&OwnedFd>,
        name: &CStr,
        path: Vec<u8>,
        queue: &Queue<Task<V::Part>>,
    ) -> Result<()> {
        let opened = match parent {
            Some(parent) => self.descend(start, parent.as_fd(), name),
            None => open_directory(self.starts[start].root.fd(), &path),
        };
        let opened = opened.and_then(|fd| Ok((stat(&fd)?, fd)));
        let directory = match opened {
            Ok((stat, fd)) if self.excluded.has(self.filesystem(start), &fd, c"", &stat) => {
                return Ok(());
            }
            Ok((_, fd)) => Arc::new(fd),
            // What may be written in a namespace that sees all else read-only is a mount there.
            Err(rustix::io::Errno::XDEV) if self.is_excluded(start, parent, name) => return Ok(()),
            Err(errno) => return self.visitor.skip(start, &path, errno.into()),
        };
        let mut buffer = vec![MaybeUninit::uninit(); ENTRIES];
        let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
        let mut names = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(errno) => {
                    self.visitor.skip(start, &path, errno.into())?;
                    break;
                }
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.kind_of(directory.as_fd(), name),
                known => Ok(known),
            };
            let reason = match kind {
                Ok(FileType::RegularFile) => {
                    names.push(name.to_owned());
                    if names.len() == BATCH {
                        let names = std::mem::take(&mut names);
                        if queue.waiting() > MANY_WAITING {
                            self.files(start, directory.as_fd(), &path, names, queue)?;
                        } else {
                            let directory = Arc::clone(&directory);
                            let path = path.clone();
                            queue.push(Task::Files { start, directory, path, names });
                        }
                    }
                    continue;
                }
                Ok(FileType::Directory) => {
                    queue.push(Task::Directory {
                        start,
                        parent: Some(Arc::clone(&directory)),
                        name: name.to_owned(),
                        path: join(&path, name),
                    });
                    continue;
                }
                Ok(FileType::Symlink) => Refusal { reason: Reason::Symlink, detail: None },
                Ok(_) => Refusal { reason: Reason::Special, detail: None },
                Err(errno) => errno.into(),
            };
            self.visitor.skip(start, &join(&path, name), reason)?;
        }
        self.files(start, directory.as_fd(), &path, names, queue)
    }

    /// Open a directory by its name, unless opening it would have something mounted.
    fn descend(
        &self,
        start: usize,
        parent: BorrowedFd<'_>,
        name: &CStr,
    ) -> rustix::io::Result<OwnedFd> {
        let root = self.starts[start].root;
        if root.is_elsewhere(parent, name, &statx(parent, name, NAME, STATE)?) {
            return Err(rustix::io::Errno::XDEV);
        }
        open_directory(parent, name.to_bytes())
    }

    fn filesystem(&self, start: usize) -> &Filesystem {
        self.starts[start].root.filesystem()
    }

    fn is_excluded(&self, start: usize, parent: Option<&OwnedFd>, name: &CStr) -> bool {
        parent.is_some_and(|parent| {
            statx(parent, name, NAME, STATE)
                .is_ok_and(|stat| self.excluded.has(self.filesystem(start), parent, name, &stat))
        })
    }

    fn kind_of(&self, directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<FileType> {
        let stat = statx(directory, name, NAME, STATE)?;
        Ok(FileType::from_raw_mode(stat.stx_mode.into()))
    }

    fn files(
        &self,
        start: usize,
        directory: BorrowedFd<'_>,
        path: &[u8],
        names: Vec<CString>,
        queue: &Queue<Task<V::Part>>,
    ) -> Result<()> {
        for names in names.chunks(OPEN) {
            self.progress.check()?;
            let mut found = Vec::with_capacity(names.len());
            for name in names {
                found.extend(self.open(start, directory, name.to_bytes(), join(path, name))?);
            }
            self.visitor.files(start, found, &Parts(queue))?;
        }
        Ok(())
    }

    /// Open a file, unless it is to be skipped.
    fn open(
        &self,
        start: usize,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<Option<Found>> {
        let refusal = match open_file(parent, name, self.progress) {
            Ok(file) if is_dax(&file.stat) => Refusal { reason: Reason::Dax, detail: None },
            Ok(file) => {
                if file.stat.stx_nlink < 2 || self.is_first(start, &file) {
                    return Ok(Some(Found { path, file }));
                }
                Refusal { reason: Reason::Hardlink, detail: None }
            }
            Err(refusal) => refusal,
        };
        self.visitor.skip(start, &path, refusal)?;
        Ok(None)
    }

    /// Whether this is the first name that is seen of a file with several.
    fn is_first(&self, start: usize, file: &OpenFile) -> bool {
        let Some(key) = inode::key(self.filesystem(start), &file.fd, c"", &file.stat) else {
            return true;
        };
        // Handles are of one mount; device numbers distinguish mounts by themselves.
        let mount = matches!(key, Key::Handle(..)).then(|| mount_of(&file.stat)).flatten();
        lock(&self.linked).insert((mount, key))
    }
}
