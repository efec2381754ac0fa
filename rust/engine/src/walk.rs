//! Walking trees in parallel, on one file system, through no link.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, FileType, RawDir, StatxFlags, statx};

use crate::confine::{OpenFile, Refusal, identity, is_dax, open_directory, open_file, stat};
use crate::pool::{self, Queue};
use crate::progress::lock;
use crate::skips::Reason;
use crate::{Error, Progress, Result, Root};

/// File names that one task takes: enough to make the queue's cost vanish, few enough to share out
/// one large directory.
const BATCH: usize = 256;
/// Files that are open at a time in one thread.
const OPEN: usize = 64;
/// With so many tasks waiting, batches are worked off at once: memory stays bounded.
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

    /// Deal with a part that [`Visit::files`] queued.
    ///
    /// # Errors
    /// Whatever must end the whole walk.
    fn part(&self, part: Self::Part) -> Result<()>;

    /// A file or directory was passed over.
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
    excluded: HashSet<(u64, u64)>,
    linked: Mutex<HashSet<(u64, u64)>>,
}

/// Visit every regular file below `starts` once, on `threads` threads, in no particular order.
///
/// Directories in `exclude` are left out, by identity and not by name, and so are other file
/// systems. A hard-linked file is visited under one of its names.
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
    let excluded = excluded(exclude)?;
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

/// The identities of directories that are to be left out; one that is not there needs no leaving out.
///
/// # Errors
/// [`Error::Io`].
pub(crate) fn excluded(exclude: &[impl AsRef<Path>]) -> Result<HashSet<(u64, u64)>> {
    let mut excluded = HashSet::new();
    for path in exclude {
        match statx(rustix::fs::CWD, path.as_ref(), AtFlags::empty(), StatxFlags::BASIC_STATS) {
            Ok(stat) => _ = excluded.insert(identity(&stat)),
            Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(Error::io(path, errno)),
        }
    }
    Ok(excluded)
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
            Task::Part(part) => self.visitor.part(part),
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
            Some(parent) => open_directory(parent.as_fd(), name.to_bytes()),
            None => open_directory(self.starts[start].root.fd(), &path),
        };
        let opened = opened.and_then(|fd| Ok((stat(&fd)?, fd)));
        let directory = match opened {
            Ok((stat, _)) if self.excluded.contains(&identity(&stat)) => return Ok(()),
            Ok((_, fd)) => Arc::new(fd),
            // What may be written in a namespace that sees all else read-only is a mount there.
            Err(rustix::io::Errno::XDEV) if self.is_excluded(parent, name) => return Ok(()),
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

    fn is_excluded(&self, parent: Option<&OwnedFd>, name: &CStr) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        parent
            .and_then(|parent| statx(parent, name, flags, StatxFlags::BASIC_STATS).ok())
            .is_some_and(|stat| self.excluded.contains(&identity(&stat)))
    }

    fn kind_of(&self, directory: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<FileType> {
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(FileType::from_raw_mode(stat.st_mode))
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

    /// Open a file, unless it is to be passed over.
    fn open(
        &self,
        start: usize,
        parent: BorrowedFd<'_>,
        name: &[u8],
        path: Vec<u8>,
    ) -> Result<Option<Found>> {
        let refusal = match open_file(parent, name) {
            Ok(file) if is_dax(&file.stat) => Refusal { reason: Reason::Dax, detail: None },
            Ok(file) => {
                let linked = file.stat.stx_nlink > 1;
                if !linked || lock(&self.linked).insert(identity(&file.stat)) {
                    return Ok(Some(Found { path, file }));
                }
                Refusal { reason: Reason::Hardlink, detail: None }
            }
            Err(refusal) => refusal,
        };
        self.visitor.skip(start, &path, refusal)?;
        Ok(None)
    }
}
