//! What a pass has to do: the source's listing against what the destination has.

use std::collections::{BTreeMap, HashSet, btree_map};
use std::sync::Arc;

use holdfast_engine::manifest::record::{Type, chunk_size, is_plain};
use holdfast_engine::manifest::survey::identity_of;
use holdfast_engine::tree::confine::stat;
use rustix::fs::{FileType, Statx};

use crate::destination::Proof;
use crate::destination::journal::{Chunks, Held, Item, Staged, State};
use crate::destination::staging::{Names, Staging, is_staging, split};
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
    pub path: Arc<[u8]>,
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
    Staged(Box<Staged>),
    /// With the version that is in place.
    InPlace(Box<Held>),
}

/// A link to make: symbolic, or another name of a file.
#[derive(Debug, Clone)]
pub struct Link {
    /// Its path.
    pub path: Arc<[u8]>,
    /// The target, or the file's first name.
    pub to: Arc<[u8]>,
    /// Of a symbolic link: what is carried.
    pub symlink: Option<Box<Metadata>>,
}

/// What a pass has to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Files to fetch.
    pub wants: Vec<Wanted>,
    /// All directories, a parent before what is in it; the first is the destination itself.
    pub directories: Vec<(Arc<[u8]>, Box<Metadata>)>,
    /// All links.
    pub links: Vec<Link>,
    /// What was made and is not there any more, or is something else now.
    pub gone: Vec<Arc<[u8]>>,
    /// Files that are being put together and are not wanted any more.
    pub abandoned: Vec<Arc<[u8]>>,
    /// Files that were placed before a crash, with the change times that they have.
    pub settled: Vec<(Arc<[u8]>, i64)>,
    /// FIFOs, sockets and devices, by type.
    pub specials: BTreeMap<String, u64>,
    /// Some of them by name.
    pub special_names: Vec<Arc<[u8]>>,
    /// Files on the source, each once.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are here already.
    pub unchanged: u64,
    /// Those of them that are still to be read back.
    pub unproven: Vec<Arc<[u8]>>,
}

/// Reads a listing, in its order.
pub struct Planner<'a> {
    names: Names<'a>,
    state: &'a State,
    /// Whether files that are here already must have been read back.
    read_back: bool,
    /// What was made, in the order of the paths' bytes.
    made: std::iter::Peekable<btree_map::Iter<'a, Arc<[u8]>, Item>>,
    last: Option<Arc<[u8]>>,
    count: u64,
    plan: Plan,
}

impl<'a> Planner<'a> {
    /// Begin.
    pub fn new(staging: &'a Staging, state: &'a State, proof: Proof) -> Self {
        Self {
            names: Names::new(staging),
            state,
            read_back: proof == Proof::Media || state.suspect,
            made: state.items.iter().peekable(),
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
            let path = Arc::from(line.path);
            self.last = Some(Arc::clone(&path));
            self.plan.directories.push((path, metadata));
            return Ok(Ok(()));
        }
        let (parent, _) = split(&line.path);
        if self.last.as_ref().is_some_and(|last| **last >= *line.path) {
            return Ok(Err("its listing is not in order"));
        }
        if !is_plain(&line.path) || is_staging(&line.path) {
            return Ok(Err("it lists a path that leads elsewhere"));
        }
        let known = self.plan.directories.binary_search_by(|(path, _)| (**path).cmp(parent));
        if known.is_err() {
            return Ok(Err("it lists a name in a directory that it does not list"));
        }
        if line.stamp.size > LARGEST {
            return Ok(Err("it lists a file that is larger than any"));
        }
        while let Some((path, _)) = self.made.next_if(|(path, _)| ***path < *line.path) {
            self.plan.gone.push(Arc::clone(path));
        }
        let made = self.made.next_if(|(path, _)| ***path == *line.path);
        // Paths are shared with the state: a million of them are to fit into memory.
        let path = made.map_or_else(|| Arc::from(&*line.path), |(path, _)| Arc::clone(path));
        let item = made.map(|(_, item)| item);
        self.last = Some(Arc::clone(&path));
        let same = match item {
            Some(Item::File(_)) => line.kind == Type::File && line.link.is_none(),
            Some(Item::Directory) => line.kind == Type::Directory,
            Some(Item::Link) => {
                line.kind == Type::Symlink || (line.kind == Type::File && line.link.is_some())
            }
            None => true,
        };
        if !same {
            self.plan.gone.push(Arc::clone(&path));
        }
        self.line(line, path, item.filter(|_| same), made.is_some())
    }

    fn line(
        &mut self,
        line: Listed,
        path: Arc<[u8]>,
        item: Option<&'a Item>,
        made: bool,
    ) -> Result<std::result::Result<(), &'static str>> {
        match line.kind {
            Type::Directory => {
                let Some(metadata) = line.metadata else {
                    return Ok(Err("it lists a directory without its mode"));
                };
                if !made {
                    self.refuse_all_but_directories(&path)?;
                }
                self.plan.directories.push((path, metadata));
            }
            Type::Symlink => {
                let (Some(to), Some(metadata)) = (line.link, line.metadata) else {
                    return Ok(Err("it lists a symbolic link without a target"));
                };
                if to.is_empty() || to.contains(&0) || to.len() > 4095 {
                    return Ok(Err("it lists a symbolic link with a malformed target"));
                }
                if !made {
                    self.refuse(&path)?;
                }
                self.plan.links.push(Link { path, to: to.into(), symlink: Some(metadata) });
            }
            Type::File => match line.link {
                Some(to) => {
                    if !self.is_listed_file(&to) {
                        return Ok(Err("it lists another name of a file that it does not list"));
                    }
                    if !made {
                        self.refuse(&path)?;
                    }
                    self.plan.links.push(Link { path, to: to.into(), symlink: None });
                }
                None => self.file(path, line.stamp, item, made)?,
            },
            Type::Fifo | Type::Socket | Type::Block | Type::Char => {
                let name = serde_json::to_value(line.kind).ok();
                let name = name.and_then(|name| name.as_str().map(str::to_owned));
                *self.plan.specials.entry(name.unwrap_or_default()).or_default() += 1;
                if self.plan.special_names.len() < NAMED {
                    self.plan.special_names.push(path);
                }
            }
        }
        Ok(Ok(()))
    }

    fn file(
        &mut self,
        path: Arc<[u8]>,
        stamp: Stamp,
        item: Option<&Item>,
        made: bool,
    ) -> Result<()> {
        self.plan.files += 1;
        self.plan.bytes = self.plan.bytes.saturating_add(stamp.size);
        let there = self.names.stat(&path)?;
        let staged = self.state.staged.get(&path);
        let start = match (item, there) {
            (Some(Item::File(held)), Some(stat)) if is_held(held, &stat) => {
                if held.source == stamp {
                    if self.read_back && !held.proven {
                        self.plan.unproven.push(Arc::clone(&path));
                    }
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
                    && (held.proven || !self.state.suspect)
                    && alike
                    && stat.stx_nlink == 1
                    && held.source.size.min(stamp.size) > SMALL;
                if base { Start::InPlace(Box::new(held.clone())) } else { Start::New }
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
                Start::Staged(Box::new(staged.clone()))
            }
            (start, _) => start,
        };
        self.plan.wants.push(Wanted { path, stamp, start });
        Ok(())
    }

    /// Return whether a file was listed by this name: it is wanted now, or was made before and is
    /// not gone.
    fn is_listed_file(&self, path: &[u8]) -> bool {
        let before = self.last.as_ref().is_some_and(|last| *path < **last);
        let is_wanted = || self.plan.wants.binary_search_by(|want| (*want.path).cmp(path)).is_ok();
        let is_gone = || self.plan.gone.binary_search_by(|gone| (**gone).cmp(path)).is_ok();
        let is_made = || matches!(self.state.items.get(path), Some(Item::File(_)));
        before && (is_wanted() || (is_made() && !is_gone()))
    }

    /// Return the plan when the listing is complete.
    pub fn finish(mut self, count: u64) -> std::result::Result<Plan, &'static str> {
        if self.count != count.saturating_add(1) {
            return Err("its listing has another length than it declares");
        }
        self.plan.gone.extend(self.made.map(|(path, _)| Arc::clone(path)));
        let continued = |want: &&Wanted| matches!(want.start, Start::Staged(_));
        let continued: HashSet<&[u8]> =
            self.plan.wants.iter().filter(continued).map(|want| &*want.path).collect();
        let staged = self.state.staged.keys();
        let abandoned = staged.filter(|path| !continued.contains(&***path)).cloned().collect();
        self.plan.abandoned = abandoned;
        Ok(self.plan)
    }

    fn occupied(&self, path: &[u8]) -> Error {
        self.names.staging().occupied(path)
    }

    fn refuse(&mut self, path: &[u8]) -> Result<()> {
        if self.names.stat(path)?.is_some() { Err(self.occupied(path)) } else { Ok(()) }
    }

    fn refuse_all_but_directories(&mut self, path: &[u8]) -> Result<()> {
        let found = self.names.stat(path)?;
        let other = found.is_some_and(|stat| {
            FileType::from_raw_mode(stat.stx_mode.into()) != FileType::Directory
        });
        if other { Err(self.occupied(path)) } else { Ok(()) }
    }
}

/// Return whether what is in place is what was put there.
pub fn is_held(held: &Held, stat: &Statx) -> bool {
    FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile
        && held.is(&Stamp::from(&identity_of(stat)))
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
        if table.digests.is_empty() { Have::Nothing } else { Have::Prefix(table.into()) }
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
