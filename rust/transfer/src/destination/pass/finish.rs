//! What is no content: directories, links, metadata of both, and what the source has no more.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use holdfast_engine::manifest::survey::identity_of;
use holdfast_engine::tree::confine::stat;
use rustix::fs::{
    AtFlags, FileType, Mode, Statx, linkat, mkdirat, readlinkat, renameat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::destination::flush::{Ledger, lock};
use crate::destination::journal::{Item, Record};
use crate::destination::pass::plan::{Link, Plan, is_held};
use crate::destination::staging::{Staging, split};
use crate::message::{Metadata, Stamp};
use crate::metadata::{self, Of};
use crate::{Error, Result};

/// Records in one frame.
const BATCH: usize = 1024;

/// Give up files that are being put together and that the source has no more, and their space.
///
/// # Errors
/// [`Error::Engine`].
pub fn abandon(ledger: &Ledger<'_>, abandoned: &[Arc<[u8]>]) -> Result<()> {
    let name = |path| lock(ledger.state).staged.get(path).map(|staged| staged.name);
    let names: Vec<u64> = abandoned.iter().filter_map(name).collect();
    for paths in abandoned.chunks(BATCH) {
        ledger.record(paths.iter().cloned().map(Record::Abandoned).collect(), true)?;
    }
    for name in names {
        ledger.progress.check()?;
        match unlinkat(ledger.staging.fd(), Staging::name(name), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Error::io(ledger.staging.root().path(), errno)),
        }
    }
    Ok(())
}

/// Remove what a transfer made and the source has no more. What is something else by now stays.
/// Returns how many names were removed.
///
/// # Errors
/// [`Error::Engine`].
pub fn remove_gone(ledger: &Ledger<'_>, gone: &mut Vec<Arc<[u8]>>) -> Result<u64> {
    // What is in a directory before the directory.
    gone.sort_unstable_by(|one, other| other.cmp(one));
    let mut records = Vec::new();
    let mut removed = 0;
    let mut inodes = HashSet::new();
    for path in gone.drain(..) {
        ledger.progress.check()?;
        let item = lock(ledger.state).items.get(&path).cloned();
        let Some(item) = item else { continue };
        removed += u64::from(remove(ledger.staging, &path, &item, &mut inodes)?);
        records.push(Record::Removed(path));
        if records.len() == BATCH {
            ledger.record(std::mem::take(&mut records), false)?;
        }
    }
    ledger.record(records, true)?;
    if !inodes.is_empty() {
        stamp_again(ledger, &inodes)?;
    }
    Ok(removed)
}

/// Record the change times of files that lost a name.
fn stamp_again(ledger: &Ledger<'_>, inodes: &HashSet<u64>) -> Result<()> {
    let mut records = Vec::new();
    for (path, item) in &lock(ledger.state).items {
        let Item::File(held) = item else { continue };
        if !inodes.contains(&held.ino) {
            continue;
        }
        let failed = |errno| Error::io(ledger.staging.shown(path), errno);
        if let Some(now) = ledger.staging.stat(path).map_err(failed)? {
            records.push(Record::Placed(path.clone(), ctime_ns(&now)));
        }
    }
    ledger.record(records, false)
}

fn ctime_ns(stat: &Statx) -> i64 {
    Stamp::from(&identity_of(stat)).ctime_ns
}

fn remove(staging: &Staging, path: &[u8], item: &Item, inodes: &mut HashSet<u64>) -> Result<bool> {
    let failed = |errno| Error::io(staging.shown(path), errno);
    let Some(found) = staging.stat(path).map_err(failed)? else { return Ok(false) };
    let kind = FileType::from_raw_mode(found.stx_mode.into());
    let (ours, flags) = match item {
        Item::Directory => (kind == FileType::Directory, AtFlags::REMOVEDIR),
        Item::Link => (kind != FileType::Directory, AtFlags::empty()),
        Item::File(held) => {
            (found.stx_ino == held.ino && kind == FileType::RegularFile, AtFlags::empty())
        }
    };
    if !ours {
        return Ok(false);
    }
    let (parent, name) = split(path);
    let parent = staging.directory(parent).map_err(failed)?;
    match unlinkat(&parent, name, flags) {
        Ok(()) => {
            if kind == FileType::RegularFile && found.stx_nlink > 1 {
                inodes.insert(found.stx_ino);
            }
            Ok(true)
        }
        // Something that no transfer made is in it.
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(failed(errno)),
    }
}

/// Make the directories that are missing, readable only for their maker until the end.
///
/// # Errors
/// [`Error::Engine`].
pub fn make_directories(ledger: &Ledger<'_>, plan: &Plan) -> Result<()> {
    let staging = ledger.staging;
    let mut missing = Vec::new();
    for (path, _) in &plan.directories {
        let failed = |errno| Error::io(staging.shown(path), errno);
        if staging.stat(path).map_err(failed)?.is_none() {
            missing.push(&**path);
        }
    }
    for paths in missing.chunks(BATCH) {
        ledger.progress.check()?;
        let made = |path: &&[u8]| Record::Made((*path).into(), Item::Directory);
        ledger.record(paths.iter().map(made).collect(), true)?;
        for path in paths {
            let failed = |errno| Error::io(staging.shown(path), errno);
            let (parent, name) = split(path);
            let parent = staging.directory(parent).map_err(failed)?;
            match mkdirat(&parent, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }
    Ok(())
}

/// Make links, and set what is carried of symbolic links and directories. Returns how many names of
/// files could not be linked since the file is not there.
///
/// # Errors
/// [`Error::Engine`].
pub fn finish(
    ledger: &Ledger<'_>,
    plan: &Plan,
    unset: &mut BTreeMap<&'static str, u64>,
) -> Result<u64> {
    let mut missing = 0;
    let mut records = Vec::new();
    for link in &plan.links {
        ledger.progress.check()?;
        missing += u64::from(!make_link(ledger, link, &mut records, unset)?);
    }
    ledger.record(records, false)?;
    let staging = ledger.staging;
    // A directory after what is in it, which changes its times.
    for (path, metadata) in plan.directories.iter().rev() {
        let failed = |errno| Error::io(staging.shown(path), errno);
        let fd = staging.directory(path).map_err(failed)?;
        let found = stat(&fd).map_err(failed)?;
        if path.is_empty() {
            // The staging directory is in it, and is removed at the very end.
            set(&fd, &found, metadata, Of::Any, unset).map_err(failed)?;
        } else if differs(&found, metadata) || !metadata.attributes.is_empty() {
            set(&fd, &found, metadata, Of::Any, unset).map_err(failed)?;
        }
    }
    Ok(missing)
}

/// Set what is carried of the destination directory itself.
///
/// # Errors
/// [`Error::Engine`].
pub fn finish_top(staging: &Staging, plan: &Plan) -> Result<()> {
    let Some((path, metadata)) = plan.directories.first() else { return Ok(()) };
    let failed = |errno| Error::io(staging.shown(path), errno);
    let fd = staging.directory(path).map_err(failed)?;
    let found = stat(&fd).map_err(failed)?;
    metadata::apply(&fd, &found, metadata, Of::Any).map(drop).map_err(failed)
}

fn differs(found: &Statx, metadata: &Metadata) -> bool {
    let mtime =
        i128::from(found.stx_mtime.tv_sec) * 1_000_000_000 + i128::from(found.stx_mtime.tv_nsec);
    u32::from(found.stx_mode) & 0o7777 != metadata.mode
        || (found.stx_uid, found.stx_gid) != (metadata.uid, metadata.gid)
        || mtime != i128::from(metadata.mtime_ns)
}

fn set(
    file: impl std::os::fd::AsFd,
    found: &Statx,
    metadata: &Metadata,
    of: Of,
    unset: &mut BTreeMap<&'static str, u64>,
) -> rustix::io::Result<()> {
    let (missed, _) = metadata::apply(file, found, metadata, of)?;
    missed.names().for_each(|name| *unset.entry(name).or_default() += 1);
    Ok(())
}

/// Make one link, unless it is there; false if the file that it names is not.
fn make_link(
    ledger: &Ledger<'_>,
    link: &Link,
    records: &mut Vec<Record>,
    unset: &mut BTreeMap<&'static str, u64>,
) -> Result<bool> {
    let staging = ledger.staging;
    let failed = |errno| Error::io(staging.shown(&link.path), errno);
    let (parent, name) = split(&link.path);
    let parent = staging.directory(parent).map_err(failed)?;
    let found = staging.stat(&link.path).map_err(failed)?;
    if found.is_some() && !lock(ledger.state).items.contains_key(&link.path) {
        // It appeared after the plan was made.
        return Err(staging.occupied(&link.path));
    }
    let temporary = Staging::name(staging.number());
    match &link.symlink {
        Some(metadata) => {
            let same = found.is_some()
                && readlinkat(&parent, name, Vec::new())
                    .is_ok_and(|target| target.as_bytes() == &*link.to);
            if !same {
                ledger.record(vec![Record::Made(link.path.clone(), Item::Link)], false)?;
                symlinkat(&*link.to, staging.fd(), &temporary).map_err(failed)?;
                renameat(staging.fd(), &temporary, &parent, name).map_err(failed)?;
            }
            let fd = staging.open_path(&link.path).map_err(failed)?;
            let found = stat(fd.as_fd()).map_err(failed)?;
            let mut compared = (**metadata).clone();
            // The kernel ignores and does not keep the mode of a symbolic link.
            compared.mode = u32::from(found.stx_mode) & 0o7777;
            if differs(&found, &compared) || !metadata.attributes.is_empty() {
                set(&fd, &found, metadata, Of::Symlink, unset).map_err(failed)?;
            }
        }
        None => {
            let Some(first) = staging.stat(&link.to).map_err(failed)? else { return Ok(false) };
            let held = match lock(ledger.state).items.get(&link.to) {
                Some(Item::File(held)) => held.clone(),
                _ => return Ok(false),
            };
            if found.is_some_and(|found| found.stx_ino == first.stx_ino) {
                return Ok(true);
            }
            if !is_held(&held, &first) {
                return Ok(false);
            }
            ledger.record(vec![Record::Made(link.path.clone(), Item::Link)], false)?;
            let (from, first_name) = split(&link.to);
            let from = staging.directory(from).map_err(failed)?;
            let flags = AtFlags::empty();
            linkat(&from, first_name, staging.fd(), &temporary, flags).map_err(failed)?;
            renameat(staging.fd(), &temporary, &parent, name).map_err(failed)?;
            // Another name changes the change time.
            if let Some(now) = staging.stat(&link.to).map_err(failed)? {
                let record = Record::Placed(link.to.clone(), ctime_ns(&now));
                lock(ledger.state).apply(record.clone());
                records.push(record);
            }
        }
    }
    Ok(true)
}
