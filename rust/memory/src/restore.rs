//! Puts a save together in the staging directory of a root, and verifies every byte of it.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_engine::manifest::record::chunk_size;
use holdfast_engine::read::{self, Device, End, Opened, Outcome as Reading, ReadOptions};
use holdfast_engine::tree::confine::{OpenFile, device, open_directory, stat};
use holdfast_engine::xxh64::Xxh64;
use holdfast_engine::{Error, Progress, Result, Root};
use holdfast_transfer::Unmapped;
use holdfast_transfer::message::Metadata;
use holdfast_transfer::metadata::{self, Of};
use holdfast_transfer::owners::Owners;
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, linkat, mkdirat, openat2};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::record::{self, Chunk, DATA, Entry, INDEX, Index};
use crate::save::{shown, zeros};
use crate::staging::{self, Staging, split};
use crate::{commit, engine_error, open_root};

/// What to restore, and where.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The root, on tmpfs.
    pub root: PathBuf,
    /// The directory of the save.
    pub save: PathBuf,
    /// Where `passwd` and `group` are.
    pub names: PathBuf,
    /// Whether files that are there are replaced.
    #[serde(default)]
    pub replace: bool,
    /// Read at most this many bytes each second.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// What was staged.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Regular files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of the files, with holes.
    pub bytes: u64,
    /// Bytes that are no holes.
    pub data_bytes: u64,
    /// How they were read.
    pub reader: String,
    /// Owners without a name here, which keep their numbers.
    pub unmapped_owners: Unmapped,
    /// Files whose extended attributes could not all be set.
    pub unset_attributes: u64,
}

/// A save that was opened and whose index was checked.
#[derive(Debug)]
pub struct Save {
    /// What it has.
    pub index: Index,
    /// The file with the content.
    pub data: OpenFile,
}

/// Open a save.
///
/// # Errors
/// [`Error::Record`] if it cannot be trusted, [`Error::Io`], [`Error::Cancelled`].
pub fn open(directory: &Path, progress: &Progress) -> Result<Save> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())
        .map_err(|errno| Error::io(directory, errno))?;
    let file = |name| record::open_file_of(opened.as_fd(), directory, name, progress);
    let data = file(DATA)?;
    let index = record::read(file(INDEX)?, &directory.join(INDEX), data.stat.stx_size, progress)?;
    Ok(Save { index, data })
}

/// Build a save in the staging directory of a root and verify all of it. Nothing else in the root
/// changes; [`commit::commit`] puts it in place.
///
/// # Errors
/// [`Error::Record`] if the save is damaged, [`Error::Invalid`] if something is in its way,
/// [`Error::Io`], [`Error::Cancelled`]. Nothing is left in the root then.
pub fn stage(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("checking");
    let save = open(&request.save, progress)?;
    let root = open_root(&request.root)?;
    let meeting = commit::meet(&root, &save.index)?;
    let in_the_way =
        meeting.foreign.first().or(meeting.present.first().filter(|_| !request.replace));
    if let Some(path) = in_the_way {
        let path = shown(root.path(), path);
        return Err(Error::Invalid(format!("{} is there already", path.display())));
    }
    let staging = Staging::create(&root)?;
    let staged = build(request, &root, &staging, save, progress).and_then(|outcome| {
        let plan = commit::plan(&root, &staging, &meeting)?;
        let plan = serde_json::to_vec(&plan).expect("a plan has only text for keys");
        staging.plan(&plan).map_err(|error| Error::io(root.path(), error))?;
        Ok(outcome)
    });
    if staged.is_err() {
        // The reason counts more than what is left, which the next call removes.
        let _ = staging::remove(&root);
    }
    staged
}

fn build(
    request: &Request,
    root: &Root,
    staging: &Staging,
    save: Save,
    progress: &Progress,
) -> Result<Outcome> {
    let Save { index, data } = save;
    let mut outcome = Outcome::default();
    let owners = Owners::by_name(&request.names, &index.header.names()).map_err(engine_error)?;
    outcome.unmapped_owners = owners.unmapped();
    make_names(root, staging, &index, &mut outcome, progress)?;
    progress.enter("restoring");
    progress.expect(outcome.data_bytes, outcome.files);
    let device = Device::of(device(&data.stat));
    let source = Source::new(root, staging, &index, Arc::new(data), progress, &request.save);
    let options = ReadOptions {
        bytes_per_second: request.bytes_per_second,
        pressure: None,
        reader: read::Preference::Auto,
    };
    outcome.reader = read::read(&&source, device, &options, progress)?.reader;
    progress.enter("completing");
    // What is in a directory before the directory, whose time it would change.
    for (path, entry) in index.entries.iter().rev() {
        progress.check()?;
        let (Entry::Directory(kept) | Entry::File(kept, ..)) = entry else { continue };
        let directory = matches!(entry, Entry::Directory(_));
        let unset = apply(staging, path, kept, &owners, directory)
            .map_err(|errno| Error::io(shown(root.path(), path), errno))?;
        outcome.unset_attributes += u64::from(unset);
    }
    Ok(outcome)
}

/// Make directories, files of their size without content, and further names of files.
fn make_names(
    root: &Root,
    staging: &Staging,
    index: &Index,
    outcome: &mut Outcome,
    progress: &Progress,
) -> Result<()> {
    for (path, entry) in &index.entries {
        progress.check()?;
        let made = || {
            let (parent, name) = split(path);
            let parent = open_directory(staging.tree(), parent)?;
            match entry {
                Entry::Directory(_) => mkdirat(&parent, name, Mode::RWXU),
                Entry::File(_, size, ..) => {
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
                    let file = open_beneath(parent.as_fd(), name, flags)?;
                    rustix::fs::ftruncate(&file, *size)
                }
                Entry::Link(to) => {
                    let (first, there) = split(to);
                    let first = open_directory(staging.tree(), first)?;
                    linkat(&first, there, &parent, name, AtFlags::empty())
                }
            }
        };
        made().map_err(|errno| Error::io(shown(root.path(), path), errno))?;
        match entry {
            Entry::Directory(_) => outcome.directories += 1,
            Entry::File(_, size, _, chunks) => {
                outcome.files += 1;
                outcome.bytes += size;
                outcome.data_bytes += chunks.iter().map(Chunk::length).sum::<u64>();
            }
            Entry::Link(_) => {}
        }
    }
    Ok(())
}

fn open_beneath(directory: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> rustix::io::Result<File> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = if flags.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    openat2(directory, path, flags, mode, resolve).map(File::from)
}

/// Set what is kept beside the content; returns whether attributes are missing.
fn apply(
    staging: &Staging,
    path: &[u8],
    kept: &Metadata,
    owners: &Owners,
    directory: bool,
) -> rustix::io::Result<bool> {
    let flags = if directory { OFlags::RDONLY | OFlags::DIRECTORY } else { OFlags::RDONLY };
    let file = open_beneath(staging.tree(), path, flags)?;
    let mut kept = kept.clone();
    owners.map(&mut kept);
    let (unset, _) = metadata::apply(&file, &stat(&file)?, &kept, Of::Any)?;
    // A file that its service cannot open is not restored.
    if unset.owner || unset.mode { Err(Errno::PERM) } else { Ok(unset.attributes) }
}

/// Hands out the chunks of all files.
struct Source<'a> {
    root: &'a Root,
    staging: &'a Staging,
    index: &'a Index,
    data: Arc<OpenFile>,
    save: &'a Path,
    progress: &'a Progress,
    /// Entry and chunk.
    waiting: Mutex<VecDeque<(usize, usize)>>,
    names: BTreeMap<usize, Arc<str>>,
}

/// Takes the bytes of one chunk.
struct Part<'a> {
    source: &'a Source<'a>,
    path: &'a [u8],
    chunk: &'a Chunk,
    file: File,
    hash: Xxh64,
    /// What is expected at the end.
    digest: Option<u64>,
    /// Where in the file the hash is.
    position: u64,
    end: u64,
    /// The stretch that bytes go to, and how much of it is there.
    stretch: usize,
    within: u64,
}

impl<'a> Source<'a> {
    fn new(
        root: &'a Root,
        staging: &'a Staging,
        index: &'a Index,
        data: Arc<OpenFile>,
        progress: &'a Progress,
        save: &'a Path,
    ) -> Self {
        let mut waiting = VecDeque::new();
        let mut names = BTreeMap::new();
        for (nth, (path, entry)) in index.entries.iter().enumerate() {
            let Entry::File(_, size, _, chunks) = entry else { continue };
            if chunks.is_empty() {
                progress.add_files(1);
            }
            if *size > read::BLOCK {
                names.insert(nth, Arc::from(String::from_utf8_lossy(path)));
            }
            waiting.extend((0..chunks.len()).map(|chunk| (nth, chunk)));
        }
        let waiting = Mutex::new(waiting);
        Self { root, staging, index, data, save, progress, waiting, names }
    }

    fn damaged(&self, path: &[u8]) -> Error {
        let path = String::from_utf8_lossy(path).into_owned();
        let reason = format!("the content of {} is damaged", path.escape_debug());
        Error::record(self.save.join(DATA), reason)
    }
}

impl<'a> read::Source for &'a Source<'a> {
    type Stream = Part<'a>;

    fn next(&self, _: End) -> Result<Option<Opened<Part<'a>>>> {
        let next = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let Some((nth, number)) = next else { return Ok(None) };
        let source: &'a Source<'a> = self;
        let (path, entry) = &source.index.entries[nth];
        let Entry::File(_, size, digest, chunks) = entry else { return Ok(None) };
        let file = open_beneath(source.staging.tree(), path, OFlags::WRONLY)
            .map_err(|errno| Error::io(shown(source.root.path(), path), errno))?;
        let begin = number as u64 * chunk_size(*size);
        let chunk = &chunks[number];
        let before = number.checked_sub(1).and_then(|before| chunks[before].state);
        let hash = before.map_or_else(Xxh64::default, |state| Xxh64::resume(state, begin));
        let last = number + 1 == chunks.len();
        let part = Part {
            source,
            path,
            chunk,
            file,
            hash,
            digest: last.then_some(*digest),
            position: begin,
            end: (begin + chunk_size(*size)).min(*size),
            stretch: 0,
            within: 0,
        };
        Ok(Some(Opened {
            file: Arc::clone(&source.data),
            range: chunk.at..chunk.at + chunk.length(),
            stream: part,
            name: source.names.get(&nth).map_or_else(|| Arc::from(""), Arc::clone),
        }))
    }
}

impl read::Stream for Part<'_> {
    fn data(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some(&(offset, length)) = self.chunk.data.get(self.stretch) else {
                return Err(self.source.damaged(self.path));
            };
            if self.within == 0 {
                zeros(&mut self.hash, offset - self.position, self.source.progress)?;
            }
            let left = usize::try_from(length - self.within).unwrap_or(usize::MAX);
            let (here, rest) = bytes.split_at(bytes.len().min(left));
            self.hash.update(here);
            let at = offset + self.within;
            self.file
                .write_all_at(here, at)
                .map_err(|error| Error::io(shown(self.source.root.path(), self.path), error))?;
            self.within += here.len() as u64;
            self.position = offset + self.within;
            if self.within == length {
                self.stretch += 1;
                self.within = 0;
            }
            bytes = rest;
        }
        Ok(())
    }

    fn finish(mut self, end: Reading) -> Result<()> {
        match end {
            Reading::Complete => {}
            Reading::Short => return Err(self.source.damaged(self.path)),
            Reading::Failed { errno, .. } => {
                return Err(Error::io(self.source.save.join(DATA), errno));
            }
        }
        zeros(&mut self.hash, self.end - self.position, self.source.progress)?;
        let fits = match (self.digest, self.chunk.state) {
            (Some(digest), _) => self.hash.digest() == digest,
            (None, state) => Some(self.hash.lanes()) == state,
        };
        if !fits {
            return Err(self.source.damaged(self.path));
        }
        if self.digest.is_some() {
            self.source.progress.add_files(1);
        }
        Ok(())
    }
}
