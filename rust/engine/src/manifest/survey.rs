//! What is below a directory: everything by name, kind and state, without opening any file.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rustix::fs::{FileType, RawDir, Statx, readlinkat, statx};
use rustix::io::Errno;

use super::record::{Entry, Identity, Status, Type};
use crate::pool::{self, Queue};
use crate::progress::lock;
use crate::tree::confine::{NAME, Refusal, STATE, device};
use crate::tree::inode::{self, Key, Numbers};
use crate::tree::patterns::Patterns;
use crate::tree::skips::{Reason, Skips, Summary};
use crate::tree::walk::{ENTRIES, Excluded, join};
use crate::{Error, Progress, Result, Root};

/// Entries a thread keeps to itself before it adds them to the others'.
const BATCH: usize = 4096;

/// What was found.
#[derive(Debug, Default)]
pub struct Survey {
    /// Everything, in the order of the paths' bytes.
    pub entries: Vec<Entry>,
    /// What was left out, and why.
    pub left_out: Summary,
    /// Where something else is mounted, in no particular order.
    pub mounts: Vec<Box<[u8]>>,
}

struct Directory {
    parent: Option<Arc<OwnedFd>>,
    name: CString,
    /// Its own line; none for the base.
    entry: Option<Entry>,
}

struct Surveyor<'a> {
    base: &'a Root,
    excluded: Excluded,
    patterns: &'a Patterns,
    progress: &'a Progress,
    found: Mutex<Survey>,
    numbers: Mutex<Numbers>,
    skips: Skips,
}

/// Find everything below `base` in its mount, through no link, but for the directories in `exclude`
/// (by identity) and what the patterns leave out.
///
/// # Errors
/// [`Error::Io`] if the base cannot be read; [`Error::Cancelled`].
pub fn survey(
    base: &Root,
    exclude: &[PathBuf],
    patterns: &Patterns,
    progress: &Progress,
) -> Result<Survey> {
    let surveyor = Surveyor {
        base,
        excluded: Excluded::open(exclude)?,
        patterns,
        progress,
        found: Mutex::default(),
        numbers: Mutex::default(),
        skips: Skips::new(1),
    };
    let seed = vec![Directory { parent: None, name: CString::default(), entry: None }];
    let threads = crate::pagecache::walkers();
    pool::run(threads, seed, |directory, queue| surveyor.directory(directory, queue))?;
    let mut found = surveyor.found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    found.entries.sort_unstable_by(|one, other| one.path.cmp(&other.path));
    found.left_out = surveyor.skips.into_summary();
    Ok(found)
}

impl Surveyor<'_> {
    fn directory(&self, directory: Directory, queue: &Queue<Directory>) -> Result<()> {
        self.progress.check()?;
        let Directory { parent, name, mut entry } = directory;
        let opened = match &parent {
            Some(parent) => self.base.open_directory_in(parent.as_fd(), name.to_bytes()),
            None => self.base.open_directory(b""),
        };
        let mut found = Vec::new();
        let read = opened.and_then(|fd| {
            let path = entry.as_ref().map_or(&[][..], |entry| &entry.path);
            self.entries(&Arc::new(fd), path, &mut found, queue)
        });
        if let Err(errno) = read {
            match &mut entry {
                None => return Err(Error::io(self.base.path(), errno)),
                // Something was mounted here since its name was read.
                Some(entry) if errno == Errno::XDEV => {
                    self.elsewhere(&entry.path);
                    return Ok(());
                }
                Some(entry) => {
                    let refusal = Refusal::from(errno);
                    self.leave_out(&entry.path, refusal.reason, refusal.detail);
                    fail(entry, errno);
                }
            }
        }
        found.extend(entry.filter(|entry| self.patterns.includes(&entry.path)));
        self.add(&mut found);
        self.progress.check()
    }

    fn entries(
        &self,
        directory: &Arc<OwnedFd>,
        path: &[u8],
        found: &mut Vec<Entry>,
        queue: &Queue<Directory>,
    ) -> rustix::io::Result<()> {
        let mut buffer = vec![MaybeUninit::uninit(); ENTRIES];
        let mut entries = RawDir::new(directory.as_fd(), &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let path = join(path, name);
            if self.patterns.excludes(&path) {
                self.leave_out(&path, Reason::Excluded, None);
                continue;
            }
            let filesystem = self.base.filesystem();
            let mut line = match statx(directory, name, NAME, STATE) {
                Ok(stat) if self.excluded.has(filesystem, directory, name, &stat) => continue,
                Ok(stat) if self.base.is_elsewhere(directory, name, &stat) => {
                    self.elsewhere(&path);
                    continue;
                }
                Ok(stat) => {
                    let mut line = described(path, &stat);
                    self.tell_apart(directory.as_fd(), name, &stat, &mut line);
                    line
                }
                // It went since the directory was read: as if it had never been.
                Err(Errno::NOENT) => continue,
                Err(errno) => {
                    let refusal = Refusal::from(errno);
                    self.leave_out(&path, refusal.reason, refusal.detail);
                    let mut line = Entry { path: path.into(), ..Entry::default() };
                    fail(&mut line, errno);
                    line
                }
            };
            match line.kind {
                Type::Directory => {
                    let parent = Some(Arc::clone(directory));
                    let (name, entry) = (name.to_owned(), Some(line));
                    queue.push(Directory { parent, name, entry });
                    continue;
                }
                Type::Symlink => self.target(directory.as_fd(), name, &mut line),
                _ => {}
            }
            if self.patterns.includes(&line.path) {
                found.push(line);
                if found.len() == BATCH {
                    self.add(found);
                }
            }
            if self.progress.cancelled() {
                break;
            }
        }
        Ok(())
    }

    fn target(&self, directory: BorrowedFd<'_>, name: &CStr, line: &mut Entry) {
        match readlinkat(directory, name, Vec::new()) {
            Ok(target) => line.rare_mut().target = Some(target.into_bytes()),
            Err(errno) => fail(line, errno),
        }
    }

    /// Note what names the file, where its numbers do not.
    fn tell_apart(&self, directory: BorrowedFd<'_>, name: &CStr, stat: &Statx, line: &mut Entry) {
        let filesystem = self.base.filesystem();
        if filesystem.stable_inodes || line.kind != Type::File || line.nlink < 2 {
            return;
        }
        let key = inode::key(filesystem, directory, name, stat);
        // Without a key it is a file by itself: no path is that of another one.
        let key = key.unwrap_or_else(|| Key::Handle(-1, line.path.to_vec()));
        line.rare_mut().file = Some(lock(&self.numbers).of(key));
    }

    fn elsewhere(&self, path: &[u8]) {
        self.leave_out(path, Reason::OtherFilesystem, None);
        lock(&self.found).mounts.push(path.into());
    }

    fn leave_out(&self, path: &[u8], reason: Reason, detail: Option<String>) {
        let mut whole = self.base.path().as_os_str().as_encoded_bytes().to_vec();
        if !whole.ends_with(b"/") {
            whole.push(b'/');
        }
        whole.extend_from_slice(path);
        self.skips.add(0, &whole, reason, detail);
    }

    fn add(&self, entries: &mut Vec<Entry>) {
        let files = entries.iter().filter(|entry| entry.kind == Type::File);
        let (count, bytes) =
            files.fold((0, 0_u64), |(n, sum), f| (n + 1, sum.saturating_add(f.identity.size)));
        let mut found = lock(&self.found);
        self.progress.found(bytes, count);
        found.entries.append(entries);
    }
}

/// Find the names of one file: all but the first refer to the first.
pub fn link(entries: &mut [Entry]) {
    let mut first = HashMap::new();
    for index in 0..entries.len() {
        let entry = &entries[index];
        if entry.kind == Type::File && entry.nlink > 1 && entry.status == Status::Ok {
            let known = *first.entry(entry.file()).or_insert(index);
            if known != index {
                let path = entries[known].path.to_vec();
                entries[index].rare_mut().hardlink_of = Some(path);
            }
        }
    }
}

/// The line of something as the system describes it.
fn described(path: Vec<u8>, stat: &Statx) -> Entry {
    let kind = match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::Directory => Type::Directory,
        FileType::Symlink => Type::Symlink,
        FileType::Fifo => Type::Fifo,
        FileType::Socket => Type::Socket,
        FileType::BlockDevice => Type::Block,
        FileType::CharacterDevice => Type::Char,
        _ => Type::File,
    };
    let mut entry = Entry { path: path.into(), kind, ..Entry::default() };
    describe(&mut entry, stat);
    entry
}

/// Take over the present metadata of a file.
pub fn describe(entry: &mut Entry, stat: &Statx) {
    entry.identity = identity_of(stat);
    entry.mode = u32::from(stat.stx_mode) & 0o7777;
    entry.uid = stat.stx_uid;
    entry.gid = stat.stx_gid;
    entry.nlink = stat.stx_nlink;
}

/// By what a file is known to be unchanged.
pub fn identity_of(stat: &Statx) -> Identity {
    let nanoseconds = |time: rustix::fs::StatxTimestamp| {
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    Identity {
        dev: device(stat),
        ino: stat.stx_ino,
        size: stat.stx_size,
        mtime_ns: nanoseconds(stat.stx_mtime),
        ctime_ns: nanoseconds(stat.stx_ctime),
    }
}

/// Note that something could not be read.
fn fail(entry: &mut Entry, errno: Errno) {
    if matches!(errno, Errno::NOENT | Errno::NOTDIR) {
        entry.status = Status::Vanished;
    } else {
        entry.status = Status::Error;
        entry.rare_mut().detail = Some(std::io::Error::from(errno).to_string());
    }
}
