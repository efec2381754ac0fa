//! Writes the files of a root to a directory on a volume.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;

use holdfast_engine::manifest::record::{Entry, Status, Type, chunk_size};
use holdfast_engine::manifest::survey::{identity_of, link, survey};
use holdfast_engine::record::{PathText, Writer, push_line};
use holdfast_engine::throttle::Throttle;
use holdfast_engine::tree::confine::{OpenFile, stat};
use holdfast_engine::tree::patterns::Patterns;
use holdfast_engine::xxh64::Xxh64;
use holdfast_engine::{Error, Progress, Result, Root};
use holdfast_transfer::{metadata, owners};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use holdfast_engine::read::ZEROS;
use holdfast_engine::read::extents::{Extents, Part};

use crate::container::{Container, Filler};
use crate::record::{
    BLOCK, Chunk, DATA, DEEPEST, FORMAT, Header, INDEX, Kept, Line, MOST_SIZE, VERSION,
};
use crate::staging::STAGING;
use crate::{engine_error, open_root};

/// Files that are named in a result.
const NAMED: usize = 20;
/// Bytes of an index for each name, beside its path; for the check of free space.
const INDEXED: u64 = 256;

/// What to save, and where.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The root, on tmpfs.
    pub root: PathBuf,
    /// Directories that are left out, by identity.
    #[serde(default)]
    pub leave_out: Vec<PathBuf>,
    /// Patterns of what is saved; everything if there are none.
    #[serde(default)]
    pub include: Vec<String>,
    /// Patterns of what is not.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// An empty directory on the volume.
    pub directory: PathBuf,
    /// Where `passwd` and `group` are.
    pub names: PathBuf,
    /// Members of the header: id, host, boot id, time.
    pub header: BTreeMap<String, serde_json::Value>,
    /// Whether files that change while they are read are saved as they were read.
    #[serde(default)]
    pub even_if_changed: bool,
    /// At most this many bytes each second.
    #[serde(default)]
    pub bytes_per_second: Option<u64>,
}

/// What was saved.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Regular files, each once.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Their bytes, with holes.
    pub bytes: u64,
    /// Bytes that are no holes.
    pub data_bytes: u64,
    /// Bytes on the volume.
    pub stored_bytes: u64,
    /// Whether they went past the page cache.
    pub direct: bool,
    /// Names left out, by reason.
    pub left_out: BTreeMap<String, u64>,
    /// Some of them.
    pub left_out_names: Vec<PathText>,
    /// Files that changed while they were read.
    pub changed: Vec<PathText>,
}

/// Save a root.
///
/// # Errors
/// [`Error::Invalid`] if the root is not on tmpfs, or a file changes; [`Error::NoSpace`],
/// [`Error::Io`], [`Error::Cancelled`]. What was written then is worth nothing.
pub fn save(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("listing");
    let root = open_root(&request.root)?;
    let mut outcome = Outcome::default();
    let entries = list(request, &root, &mut outcome, progress)?;
    let expected = measure(&root, &entries, progress)?;
    let files = entries.iter().filter(|entry| is_content(entry)).count() as u64;
    let names: u64 = entries.iter().map(|entry| INDEXED + 2 * entry.path.len() as u64).sum();
    progress.expect(expected, files);
    progress.enter("saving");
    let container = Container::create(&request.directory.join(DATA), expected + names)?;
    outcome.direct = container.direct();
    let mut index = Writer::create(&request.directory.join(INDEX), &header(request, &entries)?)?;
    let throttle = Throttle::new(request.bytes_per_second);
    let length = thread::scope(|scope| {
        let mut saving = Saving {
            root: &root,
            request,
            filler: container.fill(scope, progress)?,
            throttle: &throttle,
            outcome: &mut outcome,
            progress,
        };
        let mut lines = Vec::new();
        for entry in &entries {
            lines.clear();
            saving.entry(entry, &mut lines)?;
            index.write(&lines)?;
        }
        saving.filler.end()
    })?;
    progress.enter("flushing");
    container.finish(length)?;
    outcome.stored_bytes = length + index.finish(outcome.files, outcome.bytes)?;
    progress.check()?;
    Ok(outcome)
}

/// Return everything to save in the order of the paths, and count what is left out.
fn list(
    request: &Request,
    root: &Root,
    outcome: &mut Outcome,
    progress: &Progress,
) -> Result<Vec<Entry>> {
    let excluding = Patterns::new(&[], &request.exclude)?;
    let including = Patterns::new(&request.include, &[])?;
    let found = survey(root, &request.leave_out, &excluding, progress)?;
    let mut entries = found.entries;
    for (reason, count) in found.left_out.skipped {
        let name = serde_json::to_value(reason).ok();
        let name = name.and_then(|name| name.as_str().map(str::to_owned));
        *outcome.left_out.entry(name.unwrap_or_else(|| "other".to_owned())).or_default() += count;
    }
    entries
        .retain(|entry| entry.path.split(|&byte| byte == b'/').next() != Some(STAGING.as_bytes()));
    let mut on_the_way: HashSet<Box<[u8]>> = HashSet::new();
    for entry in entries.iter().filter(|entry| including.includes(&entry.path)) {
        let slashes = entry.path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        on_the_way.extend(slashes.map(|(end, _)| Box::from(&entry.path[..end])));
    }
    entries.retain(|entry| {
        including.includes(&entry.path)
            || (entry.kind == Type::Directory && on_the_way.contains(&entry.path))
    });
    let mut kept = Vec::with_capacity(entries.len());
    for entry in entries {
        if entry.path.iter().filter(|&&byte| byte == b'/').count() > DEEPEST {
            let whole = shown(&request.root, &entry.path);
            let advice = format!("is deeper than {DEEPEST} directories; exclude it");
            return Err(Error::Invalid(format!("{} {advice}", whole.display())));
        }
        match (entry.kind, entry.status) {
            (_, Status::Vanished) => {}
            (_, Status::Error) => {
                let whole = shown(&request.root, &entry.path);
                let detail = entry.detail().unwrap_or("cannot be read");
                return Err(Error::Invalid(format!("{}: {detail}", whole.display())));
            }
            (Type::File | Type::Directory, _) => kept.push(entry),
            (kind, _) => {
                let kind = serde_json::to_value(kind).ok();
                let kind = kind.and_then(|kind| kind.as_str().map(str::to_owned));
                *outcome.left_out.entry(kind.unwrap_or_default()).or_default() += 1;
                if outcome.left_out_names.len() < NAMED {
                    outcome.left_out_names.push(PathText::new(&entry.path));
                }
            }
        }
    }
    link(&mut kept);
    Ok(kept)
}

/// Whether an entry is a file under its first name.
fn is_content(entry: &Entry) -> bool {
    entry.kind == Type::File && entry.hardlink_of().is_none()
}

/// Return the bytes that the content takes at most.
fn measure(root: &Root, entries: &[Entry], progress: &Progress) -> Result<u64> {
    let mut total = 0_u64;
    for entry in entries.iter().filter(|entry| is_content(entry)) {
        let file = open(root, entry, progress)?;
        // Small holes are read like data, and what is in swap counts as blocks too.
        let blocks = file.stat.stx_blocks.saturating_mul(512);
        let size = file.stat.stx_size.next_multiple_of(BLOCK);
        total = total.saturating_add(blocks.next_multiple_of(BLOCK).min(size));
    }
    Ok(total)
}

fn open(root: &Root, entry: &Entry, progress: &Progress) -> Result<OpenFile> {
    let whole = || shown(root.path(), &entry.path);
    root.open_file(&entry.path, progress).map_err(|refusal| {
        progress.check().err().unwrap_or_else(|| {
            Error::Invalid(format!("{}: {}", whole().display(), refusal.words()))
        })
    })
}

fn header(request: &Request, entries: &[Entry]) -> Result<Header> {
    let users: BTreeSet<u32> = entries.iter().map(|entry| entry.uid).collect();
    let groups: BTreeSet<u32> = entries.iter().map(|entry| entry.gid).collect();
    let mut names = owners::names(&request.names, &users, &groups).map_err(engine_error)?;
    // What has no name keeps its number.
    names.users.retain(|(_, name)| !name.is_empty());
    names.groups.retain(|(_, name)| !name.is_empty());
    Ok(Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        root: request.root.to_string_lossy().into_owned(),
        users: names.users,
        groups: names.groups,
        other: request.header.clone(),
    })
}

struct Saving<'a> {
    root: &'a Root,
    request: &'a Request,
    filler: Filler<'a>,
    throttle: &'a Throttle,
    outcome: &'a mut Outcome,
    progress: &'a Progress,
}

impl Saving<'_> {
    fn entry(&mut self, entry: &Entry, lines: &mut Vec<u8>) -> Result<()> {
        let path = PathText::new(&entry.path);
        let failed = |errno: Errno| Error::io(shown(self.root.path(), &entry.path), errno);
        if entry.kind == Type::Directory {
            let directory = self.root.open_directory(&entry.path).map_err(failed)?;
            let found = stat(&directory).and_then(|stat| metadata::read(&directory, &stat));
            let kept = Kept::new(&found.map_err(failed)?, true);
            self.outcome.directories += 1;
            return push_line(lines, &Line::Directory { path, kept });
        }
        if let Some(first) = entry.hardlink_of() {
            return push_line(lines, &Line::Link { path, to: PathText::new(first) });
        }
        let file = open(self.root, entry, self.progress)?;
        let kept = metadata::read(file.fd.as_fd(), &file.stat).map_err(failed)?;
        let size = file.stat.stx_size;
        if size > MOST_SIZE {
            return Err(self.refused(entry, "is larger than 16 TiB; exclude it"));
        }
        self.progress.work_on(Some(String::from_utf8_lossy(&entry.path).into()));
        let (digest, chunks) = self.content(&file, entry)?;
        let now = stat(&file.fd).map_err(failed)?;
        if identity_of(&now) != identity_of(&file.stat) {
            self.changed(entry)?;
        }
        let xxh64 = format!("{digest:016x}");
        push_line(lines, &Line::File { path, kept: Kept::new(&kept, false), size, xxh64 })?;
        for chunk in chunks {
            push_line(lines, &Line::Chunk(chunk))?;
        }
        self.outcome.files += 1;
        self.outcome.bytes += size;
        self.progress.add_files(1);
        Ok(())
    }

    /// Write the content of a file, and return its digest and its parts.
    fn content(&mut self, file: &OpenFile, entry: &Entry) -> Result<(u64, Vec<Chunk>)> {
        let size = file.stat.stx_size;
        let mut hash = Xxh64::default();
        let mut chunks = Vec::new();
        let mut begin = 0;
        while begin < size {
            let end = (begin + chunk_size(size)).min(size);
            let mut chunk = Chunk { at: self.filler.position(), ..Chunk::default() };
            let mut extents = Extents::new(begin, end, BLOCK, true);
            while let Some(part) = extents.next(&file.fd, end - begin) {
                match part {
                    Part::Hole(length) => zeros(&mut hash, length, self.progress)?,
                    Part::Data { offset, length } => {
                        self.data(file, entry, (offset, length), &mut hash)?;
                        push(&mut chunk.data, offset, length);
                    }
                }
            }
            if end < size {
                chunk.state = Some(hash.lanes());
            }
            self.filler.align();
            chunks.push(chunk);
            begin = end;
        }
        Ok((hash.digest(), chunks))
    }

    fn data(
        &mut self,
        file: &OpenFile,
        entry: &Entry,
        (mut offset, mut left): (u64, u64),
        hash: &mut Xxh64,
    ) -> Result<()> {
        self.outcome.data_bytes += left;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX);
            let mut short = false;
            let whole = || shown(self.root.path(), &entry.path);
            let read = |space: &mut [u8]| {
                let count =
                    rustix::io::retry_on_intr(|| rustix::io::pread(&file.fd, &mut *space, offset))
                        .map_err(|errno| Error::io(whole(), errno))?;
                if count == 0 {
                    // It was cut meanwhile: what is missing is zeros.
                    short = true;
                    space.fill(0);
                    return Ok(space.len());
                }
                Ok(count)
            };
            let count = self.filler.take(most, read, |bytes| hash.update(bytes))? as u64;
            if short {
                self.changed(entry)?;
            }
            offset += count;
            left -= count;
            self.progress.add_bytes(count);
            self.progress.add_read(count);
            self.throttle.wait(count, self.progress)?;
        }
        Ok(())
    }

    /// Note that a file changed, or fail.
    fn changed(&mut self, entry: &Entry) -> Result<()> {
        if !self.request.even_if_changed {
            let advice = "changed while it was read; stop what writes to it, or overrule this with \
                          `even_if_open`";
            return Err(self.refused(entry, advice));
        }
        let path = PathText::new(&entry.path);
        let known = &mut self.outcome.changed;
        if known.last() != Some(&path) && known.len() < NAMED {
            known.push(path);
        }
        Ok(())
    }

    fn refused(&self, entry: &Entry, what: &str) -> Error {
        let whole = shown(self.root.path(), &entry.path);
        Error::Invalid(format!("{} {what}", whole.display()))
    }
}

/// Add a stretch to others, as one where it continues the last.
fn push(data: &mut Vec<(u64, u64)>, offset: u64, length: u64) {
    match data.last_mut() {
        Some((begin, known)) if *begin + *known == offset => *known += length,
        _ => data.push((offset, length)),
    }
}

/// Take in the zeros of a hole.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn zeros(hash: &mut Xxh64, mut left: u64, progress: &Progress) -> Result<()> {
    while left > 0 {
        let portion = left.min(ZEROS.len() as u64);
        hash.update(&ZEROS[..portion as usize]);
        left -= portion;
        if left.is_multiple_of(64 << 20) {
            progress.check()?;
        }
    }
    progress.check()
}

fn os(path: &[u8]) -> &std::ffi::OsStr {
    std::os::unix::ffi::OsStrExt::from_bytes(path)
}

/// Return the whole path of something in a root, for messages.
pub fn shown(root: &Path, path: &[u8]) -> PathBuf {
    root.join(os(path))
}
