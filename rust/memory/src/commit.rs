//! Renames what a restore has put together into place: all of it, or nothing.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use holdfast_engine::record::PathText;
use holdfast_engine::tree::confine::open_directory;
use holdfast_engine::{Error, Progress, Result, Root};
use rustix::fs::{AtFlags, FileType, RenameFlags, Statx, StatxFlags, renameat_with, statx};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::open_root;
use crate::record::{Chunk, Entry, Index};
use crate::save::shown;
use crate::staging::{self, Staging, split};

/// One rename, of a file or of a directory with all that is in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unit {
    #[serde(flatten)]
    path: PathText,
    /// Whether it replaces a file, which is kept until all renames are done.
    exchange: bool,
    /// Inode of what is put in place, by which it is known after a kill.
    ino: u64,
}

/// How what a save has meets what is in the root.
#[derive(Debug, Default)]
pub struct Meeting {
    /// What is renamed: path, whether it replaces a file, its bytes. What is in a directory that is
    /// not there yet comes with it.
    pub units: Vec<(Box<[u8]>, bool, u64)>,
    /// Files that are there already.
    pub present: Vec<Box<[u8]>>,
    /// Names that are there as something else, which is never replaced.
    pub foreign: Vec<Box<[u8]>>,
}

/// Compare the names of a save with those in a root.
///
/// # Errors
/// [`Error::Io`].
pub fn meet(root: &Root, index: &Index) -> Result<Meeting> {
    let mut meeting = Meeting::default();
    // Directories that come with a unit, and those that cannot come at all.
    let mut covered: HashMap<&[u8], Option<usize>> = HashMap::new();
    for (path, entry) in &index.entries {
        let size = match entry {
            Entry::File(_, _, _, chunks) => chunks.iter().map(Chunk::length).sum(),
            _ => 0,
        };
        if let Some(&unit) = covered.get(split(path).0) {
            covered.insert(path, unit);
            if let Some(unit) = unit {
                meeting.units[unit].2 += size;
            }
            continue;
        }
        let found = stat_entry(root, path).map_err(|e| Error::io(shown(root.path(), path), e))?;
        let kind = found.map(|found| FileType::from_raw_mode(found.stx_mode.into()));
        let exchange = match (kind, entry) {
            (None, _) => false,
            (Some(FileType::Directory), Entry::Directory(_)) => continue,
            (Some(FileType::RegularFile), Entry::File(..) | Entry::Link(_)) => {
                meeting.present.push(path.clone());
                true
            }
            (Some(_), _) => {
                meeting.foreign.push(path.clone());
                covered.insert(path, None);
                continue;
            }
        };
        covered.insert(path, Some(meeting.units.len()));
        meeting.units.push((path.clone(), exchange, size));
    }
    // What is small describes what is large, as memcached's metadata do: it comes last.
    meeting.units.sort_by_key(|(_, _, bytes)| std::cmp::Reverse(*bytes));
    Ok(meeting)
}

/// The state of a name in a root; `None` if there is none.
fn stat_entry(root: &Root, path: &[u8]) -> rustix::io::Result<Option<Statx>> {
    let (parent, name) = split(path);
    let parent = match open_directory(root.fd(), parent) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    state(parent.as_fd(), name)
}

fn state(directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Option<Statx>> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    match statx(directory, name, flags, StatxFlags::BASIC_STATS) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Return the plan of what was staged.
///
/// # Errors
/// [`Error::Io`].
pub fn plan(root: &Root, staging: &Staging, meeting: &Meeting) -> Result<Vec<Unit>> {
    let unit = |(path, exchange, _): &(Box<[u8]>, bool, u64)| {
        let found = parents(staging.tree(), path)
            .and_then(|(parent, name)| state(parent.as_fd(), name)?.ok_or(Errno::NOENT));
        let found = found.map_err(|errno| Error::io(shown(root.path(), path), errno))?;
        Ok(Unit { path: PathText::new(path), exchange: *exchange, ino: found.stx_ino })
    };
    meeting.units.iter().map(unit).collect()
}

fn parents<'a>(
    directory: BorrowedFd<'_>,
    path: &'a [u8],
) -> rustix::io::Result<(OwnedFd, &'a [u8])> {
    let (parent, name) = split(path);
    Ok((open_directory(directory, parent)?, name))
}

/// Which root to complete a restore in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The root, on tmpfs.
    pub root: PathBuf,
}

/// What was done.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// `nothing`: there was nothing. `discarded`: what was not complete is gone. `completed`.
    pub done: &'static str,
}

/// Rename what was staged into place.
///
/// # Errors
/// [`Error::Io`], `EEXIST` also for what was not there before; the root then is as it was.
pub fn commit(request: &Request, _: &Progress) -> Result<Outcome> {
    let root = open_root(&request.root)?;
    let nothing = || Error::Invalid("nothing was staged".to_owned());
    let staging = Staging::open(&root)?.ok_or_else(nothing)?;
    let failed = |error: std::io::Error| Error::io(root.path(), error);
    let plan = staging.planned(false).map_err(failed)?.ok_or_else(nothing)?;
    staging.begin().map_err(|errno| failed(errno.into()))?;
    forward(&root, &staging, &plan)
}

/// Complete a restore that was killed after its first rename could be made, and discard any other.
///
/// # Errors
/// As [`commit`].
pub fn recover(request: &Request, _: &Progress) -> Result<Outcome> {
    let root = open_root(&request.root)?;
    let Some(staging) = Staging::open(&root)? else { return Ok(Outcome { done: "nothing" }) };
    let failed = |error: std::io::Error| Error::io(root.path(), error);
    match staging.planned(true).map_err(failed)? {
        Some(plan) => forward(&root, &staging, &plan),
        None => {
            staging::remove(&root)?;
            Ok(Outcome { done: "discarded" })
        }
    }
}

/// Discard what was staged.
///
/// # Errors
/// [`Error::Io`].
pub fn discard(request: &Request, _: &Progress) -> Result<Outcome> {
    staging::remove(&open_root(&request.root)?)?;
    Ok(Outcome { done: "discarded" })
}

fn forward(root: &Root, staging: &Staging, plan: &[u8]) -> Result<Outcome> {
    let units: Vec<Unit> = serde_json::from_slice(plan)
        .map_err(|error| Error::Invalid(format!("the plan of a restore is damaged: {error}")))?;
    for (nth, unit) in units.iter().enumerate() {
        if let Err(errno) = place(root, staging, unit, false) {
            let path = unit.path.clone().into_bytes().unwrap_or_default();
            let error = Error::io(shown(root.path(), &path), errno);
            for done in units[..nth].iter().rev() {
                place(root, staging, done, true).map_err(|e| Error::io(root.path(), e))?;
            }
            staging::remove(root)?;
            return Err(error);
        }
    }
    staging::remove(root)?;
    Ok(Outcome { done: "completed" })
}

/// Put a unit in place, unless it is there; or take it back.
fn place(root: &Root, staging: &Staging, unit: &Unit, back: bool) -> rustix::io::Result<()> {
    let path = unit.path.clone().into_bytes().ok_or(Errno::INVAL)?;
    let (from, name) = parents(staging.tree(), &path)?;
    let (to, _) = parents(root.fd(), &path)?;
    let there = state(to.as_fd(), name)?;
    let ours = there.is_some_and(|there| there.stx_ino == unit.ino);
    if ours != back {
        return Ok(());
    }
    if unit.exchange {
        return renameat_with(&from, name, &to, name, RenameFlags::EXCHANGE);
    }
    let (from, to) = if back { (&to, &from) } else { (&from, &to) };
    renameat_with(from, name, to, name, RenameFlags::NOREPLACE)
}
