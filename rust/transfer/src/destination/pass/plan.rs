//! What a pass has to do: the source's listing against what the destination has.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::OwnedFd;

use holdfast_engine::manifest::record::{Type, chunk_size, is_plain};
use holdfast_engine::manifest::survey::identity_of;
use holdfast_engine::tree::confine::stat;
use rustix::fs::{FileType, Statx};

use crate::destination::journal::{Chunks, Held, Item, Staged, State};
use crate::destination::staging::{STAGING, Staging, split};
use crate::message::{Have, Listed, Metadata, SMALL, Stamp, Table};
use crate::{Error, Result};

/// Special files that are named in the result.
const NAMED: usize = 100;
/// Names that a listing has at most.
const MOST: u64 = 1 << 26;
/// The largest file.
const LARGEST: u64 = i64::MAX as u64;

/// A file to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Its path.
    pub path: Box<[u8]>,
    /// What it was when it was listed.
    pub stamp: Stamp,
    /// How it begins.
    pub start: Start,
}

/// How a file begins.
#[derive(Debug, Clone)]
pub enum Start {
    /// With nothing.
    New,
    /// With what is in the staging directory.
    Staged(Staged),
    /// With the version that is in place.
    InPlace(Held),
}

/// A link to make: symbolic, or another name of a file.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its path.
    pub path: Box<[u8]>,
    /// The target, or the file's first name.
    pub to: Box<[u8]>,
    /// Of a symbolic link: what is carried.
    pub symlink: Option<Box<Metadata>>,
}

/// What a pass has to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Files to fetch.
    pub wants: Vec<Wanted>,
    /// All directories, a parent before what is in it; the first is the destination itself.
    pub directories: Vec<(Box<[u8]>, Box<Metadata>)>,
    /// All links.
    pub links: Vec<Link>,
    /// What was made and is not there any more, or is something else now.
    pub gone: Vec<Box<[u8]>>,
    /// Files that are being put together and are not wanted any more.
    pub abandoned: Vec<Box<[u8]>>,
    /// Files that were placed before a crash, with the change times that they have.
    pub settled: Vec<(Box<[u8]>, i64)>,
    /// FIFOs, sockets and devices, by type.
    pub specials: BTreeMap<String, u64>,
    /// Some of them by name.
    pub special_names: Vec<Box<[u8]>>,
    /// Files on the source, each once.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are here already.
    pub unchanged: u64,
}

/// Reads a listing, in its order.
pub struct Planner<'a> {
    staging: &'a Staging,
    state: &'a State,
    /// What was made, in the order of the paths' bytes.
    made: std::iter::Peekable<std::vec::IntoIter<&'a [u8]>>,
    directories: HashSet<Box<[u8]>>,
    files: HashSet<Box<[u8]>>,
    parent: Option<(Box<[u8]>, OwnedFd)>,
    last: Option<Box<[u8]>>,
    count: u64,
    plan: Plan,
}

impl<'a> Planner<'a> {
    /// Begin.
    pub fn new(staging: &'a Staging, state: &'a State) -> Self {
        let mut made: Vec<&[u8]> = state.items.keys().map(|path| &**path).collect();
        made.sort_unstable();
        Self {
            staging,
            state,
            made: made.into_iter().peekable(),
            directories: HashSet::new(),
            files: HashSet::new(),
            parent: None,
            last: None,
            count: 0,
            plan: Plan::default(),
        }
    }

    /// Take in one line.
    ///
    /// # Errors
    /// The outer one as [`Staging`]'s, or [`Error::Occupied`]; the inner one is how the line breaks
    /// the protocol.
    pub fn add(&mut self, line: Listed) -> Result<std::result::Result<(), &'static str>> {
        self.count += 1;
        if self.count > MOST {
            return Ok(Err("it lists too many names"));
        }
        let first = self.last.is_none();
        if first != line.path.is_empty() {
            return Ok(Err("its listing does not begin with the directory itself"));
        }
        if first {
            let (Type::Directory, Some(metadata)) = (line.kind, line.metadata) else {
                return Ok(Err("it does not offer a directory"));
            };
            self.directories.insert(Box::default());
            self.last = Some(Box::default());
            self.plan.directories.push((line.path, metadata));
            return Ok(Ok(()));
        }
        let (parent, _) = split(&line.path);
        if self.last.as_ref().is_some_and(|last| *last >= line.path) {
            return Ok(Err("its listing is not in order"));
        }
        let top = line.path.split(|&byte| byte == b'/').next();
        if !is_plain(&line.path) || top == Some(STAGING.as_bytes()) {
            return Ok(Err("it lists a path that leads elsewhere"));
        }
        if !self.directories.contains(parent) {
            return Ok(Err("it lists a name in a directory that it does not list"));
        }
        if line.stamp.size > LARGEST {
            return Ok(Err("it lists a file that is larger than any"));
        }
        self.last = Some(line.path.clone());
        while let Some(path) = self.made.next_if(|path| **path < *line.path) {
            self.plan.gone.push(path.into());
        }
        let made = self.made.next_if(|path| **path == *line.path).is_some();
        let item = if made { self.state.items.get(&line.path) } else { None };
        let same = match item {
            Some(Item::File(_)) => line.kind == Type::File && line.link.is_none(),
            Some(Item::Directory) => line.kind == Type::Directory,
            Some(Item::Link) => {
                line.kind == Type::Symlink || (line.kind == Type::File && line.link.is_some())
            }
            None => true,
        };
        if !same {
            self.plan.gone.push(line.path.clone());
        }
        self.line(line, item.filter(|_| same), made)
    }

    fn line(
        &mut self,
        line: Listed,
        item: Option<&'a Item>,
        made: bool,
    ) -> Result<std::result::Result<(), &'static str>> {
        match line.kind {
            Type::Directory => {
                let Some(metadata) = line.metadata else {
                    return Ok(Err("it lists a directory without its mode"));
                };
                if !made {
                    self.refuse_all_but_directories(&line.path)?;
                }
                self.directories.insert(line.path.clone());
                self.plan.directories.push((line.path, metadata));
            }
            Type::Symlink => {
                let (Some(to), Some(metadata)) = (line.link, line.metadata) else {
                    return Ok(Err("it lists a symbolic link without a target"));
                };
                if to.is_empty() || to.contains(&0) || to.len() > 4095 {
                    return Ok(Err("it lists a symbolic link with a malformed target"));
                }
                if !made {
                    self.refuse(&line.path)?;
                }
                self.plan.links.push(Link { path: line.path, to, symlink: Some(metadata) });
            }
            Type::File => match line.link {
                Some(to) => {
                    if !self.files.contains(&to) {
                        return Ok(Err("it lists another name of a file that it does not list"));
                    }
                    if !made {
                        self.refuse(&line.path)?;
                    }
                    self.plan.links.push(Link { path: line.path, to, symlink: None });
                }
                None => self.file(line.path, line.stamp, item, made)?,
            },
            Type::Fifo | Type::Socket | Type::Block | Type::Char => {
                let name = serde_json::to_value(line.kind).ok();
                let name = name.and_then(|name| name.as_str().map(str::to_owned));
                *self.plan.specials.entry(name.unwrap_or_default()).or_default() += 1;
                if self.plan.special_names.len() < NAMED {
                    self.plan.special_names.push(line.path);
                }
            }
        }
        Ok(Ok(()))
    }

    fn file(
        &mut self,
        path: Box<[u8]>,
        stamp: Stamp,
        item: Option<&Item>,
        made: bool,
    ) -> Result<()> {
        self.files.insert(path.clone());
        self.plan.files += 1;
        self.plan.bytes = self.plan.bytes.saturating_add(stamp.size);
        let there = self.stat(&path)?;
        let staged = self.state.staged.get(&path);
        let start = match (item, there) {
            (Some(Item::File(held)), Some(stat)) if is_held(held, &stat) => {
                if held.source == stamp {
                    if held.ctime_ns == 0 {
                        let ctime_ns = Stamp::from(&identity_of(&stat)).ctime_ns;
                        self.plan.settled.push((path, ctime_ns));
                    }
                    self.plan.unchanged += 1;
                    return Ok(());
                }
                let alike = chunk_size(held.source.size) == chunk_size(stamp.size);
                // Other names of the file would see it being changed.
                let base = staged.is_none()
                    && alike
                    && stat.stx_nlink == 1
                    && held.source.size.min(stamp.size) > SMALL;
                if base { Start::InPlace(held.clone()) } else { Start::New }
            }
            (None, Some(_)) if !made => {
                return Err(self.occupied(&path));
            }
            _ => Start::New,
        };
        let start = match (start, staged) {
            (Start::New, Some(staged))
                if chunk_size(staged.stamp.size) == chunk_size(stamp.size)
                    && stamp.size > SMALL =>
            {
                Start::Staged(staged.clone())
            }
            (start, _) => start,
        };
        self.plan.wants.push(Wanted { path, stamp, start });
        Ok(())
    }

    /// Return the plan when the listing is complete.
    pub fn finish(mut self, count: u64) -> std::result::Result<Plan, &'static str> {
        if self.count != count.saturating_add(1) {
            return Err("its listing has another length than it declares");
        }
        self.plan.gone.extend(self.made.map(Into::into));
        let continued = |want: &&Wanted| matches!(want.start, Start::Staged(_));
        let continued: HashSet<&[u8]> =
            self.plan.wants.iter().filter(continued).map(|want| &*want.path).collect();
        let staged = self.state.staged.keys();
        let abandoned = staged.filter(|path| !continued.contains(&***path)).cloned().collect();
        self.plan.abandoned = abandoned;
        Ok(self.plan)
    }

    fn occupied(&self, path: &[u8]) -> Error {
        self.staging.occupied(path)
    }

    fn refuse(&mut self, path: &[u8]) -> Result<()> {
        if self.stat(path)?.is_some() { Err(self.occupied(path)) } else { Ok(()) }
    }

    fn refuse_all_but_directories(&mut self, path: &[u8]) -> Result<()> {
        let found = self.stat(path)?;
        let other = found.is_some_and(|stat| {
            FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory
        });
        if other { Err(self.occupied(path)) } else { Ok(()) }
    }

    /// Return the state of a name, opening each directory once.
    fn stat(&mut self, path: &[u8]) -> Result<Option<Statx>> {
        use rustix::fs::{AtFlags, StatxFlags, statx};
        use rustix::io::Errno;
        let (parent, name) = split(path);
        if self.parent.as_ref().is_none_or(|(known, _)| **known != *parent) {
            self.parent = match self.staging.directory(parent) {
                Ok(fd) => Some((parent.into(), fd)),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
                Err(errno) => return Err(Error::io(self.staging.shown(parent), errno)),
            };
        }
        let Some((_, directory)) = &self.parent else { return Ok(None) };
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        match statx(directory, name, flags, StatxFlags::BASIC_STATS) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::io(self.staging.shown(path), errno)),
        }
    }
}

/// Return whether what is in place is what was put there.
pub fn is_held(held: &Held, stat: &Statx) -> bool {
    let stamp = Stamp::from(&identity_of(stat));
    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile
        && (stamp.ino, stamp.size, stamp.mtime_ns) == (held.ino, held.source.size, held.mtime_ns)
        && (held.ctime_ns == 0 || held.ctime_ns == stamp.ctime_ns)
}

impl Wanted {
    /// Return what the source learns of what is there, given what the staging directory has.
    pub fn have(&self, staged: Option<&Staged>) -> Have {
        let Some(staged) = staged.filter(|staged| !staged.chunks.is_empty()) else {
            return if staged.is_some_and(|staged| staged.based) {
                Have::Chunks(Vec::new())
            } else {
                Have::Nothing
            };
        };
        if staged.based || staged.stamp != self.stamp {
            let last = staged.chunks.keys().next_back().map_or(0, |&index| index as usize + 1);
            let digest = |index: usize| staged.chunks.get(&(index as u32)).map(|chunk| chunk.0);
            return Have::Chunks((0..last).map(digest).collect());
        }
        let mut table = Table::default();
        for (place, (&index, &(digest, state))) in staged.chunks.iter().enumerate() {
            let (true, Some(state)) = (index as usize == place, state) else { break };
            table.digests.push(digest);
            table.states.push(state);
        }
        if table.digests.is_empty() { Have::Nothing } else { Have::Prefix(table) }
    }
}

/// Return the chunks of a file that is in place, as the staging directory records them.
pub fn chunks_of(held: &Held) -> Chunks {
    match &held.table {
        None => [(0, (held.digest, None))].into(),
        Some(table) => (0..)
            .zip(&table.digests)
            .map(|(index, digest)| (index, (*digest, table.states.get(index as usize).copied())))
            .collect(),
    }
}

/// Return the state of an open file as a stamp.
///
/// # Errors
/// The system's error.
pub fn stamp_of(file: impl std::os::fd::AsFd) -> rustix::io::Result<Stamp> {
    Ok(Stamp::from(&identity_of(&stat(file)?)))
}
