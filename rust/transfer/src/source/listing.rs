//! What is below the offered directory, as the destination learns it.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};

use holdfast_engine::manifest::record::{Entry, Status, Type};
use holdfast_engine::manifest::survey::{Survey, describe, link, survey};
use holdfast_engine::tree::confine::stat;
use holdfast_engine::tree::patterns::Patterns;
use holdfast_engine::{Error, Progress, Result, Root};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::offer::{Mounts, Offering};
use crate::destination::is_staging;
use crate::message::{Listed, Metadata, Stamp};
use crate::metadata;

/// Everything that is offered.
#[derive(Debug)]
pub struct Listing {
    /// In the order of the paths' bytes.
    pub entries: Vec<Entry>,
    /// Names left out, by reason.
    pub left_out: Vec<(String, u64)>,
}

/// Open the offered directory.
///
/// # Errors
/// [`Error::Io`].
pub fn open_base(offering: &Offering) -> Result<Root> {
    let place = &offering.offer.place;
    let base = Root::open(&place.root)?.below(&place.path)?;
    Ok(if offering.offer.mounts == Mounts::Include { base.across_mounts() } else { base })
}

/// Walk the offered directory.
///
/// # Errors
/// [`Error::Io`]; [`Error::Invalid`] where other file systems are in the way; [`Error::Cancelled`].
pub fn list(offering: &Offering, base: &Root, progress: &Progress) -> Result<Listing> {
    let offer = &offering.offer;
    let excluding = Patterns::new(&[], &offer.exclude_patterns)?;
    let Survey { mut entries, left_out, mounts } =
        survey(base, &offer.exclude, &excluding, progress)?;
    if let Some(mount) = mounts.iter().min()
        && offer.mounts != Mounts::LeaveOut
    {
        let shown = String::from_utf8_lossy(mount);
        return Err(Error::Invalid(match offer.mounts {
            Mounts::Include => format!(
                "{shown} is on a file system that cannot be included, since not every change of a \
                 file leaves a trace there; offer it by itself, or leave such file systems out"
            ),
            _ => format!(
                "{} other file systems are mounted below the offered directory, the first at \
                 {shown}; offer them by themselves, or include them or leave them out by choice",
                mounts.len()
            ),
        }));
    }
    let mut left_out: Vec<(String, u64)> =
        left_out.skipped.iter().map(|(reason, count)| (reason_name(reason), *count)).collect();
    let vanished = select(offering, &mut entries)?;
    if vanished > 0 {
        left_out.push(("vanished".to_owned(), vanished));
    }
    link(&mut entries);
    Ok(Listing { entries, left_out })
}

/// Keep what is offered of all that was found. Returns how many names were gone again.
///
/// # Errors
/// [`Error::Invalid`] for malformed patterns.
pub fn select(offering: &Offering, entries: &mut Vec<Entry>) -> Result<u64> {
    let offer = &offering.offer;
    // Directories on the way to something that is included are carried as well.
    let including = Patterns::new(&offer.include_patterns, &[])?;
    entries.retain(|entry| !is_staging(&entry.path));
    if !offer.include_patterns.is_empty() || offering.files.is_some() {
        keep(entries, |entry| {
            including.includes(&entry.path)
                && offering.files.as_ref().is_none_or(|files| files.contains(&entry.path))
        });
    }
    let before = entries.len();
    entries.retain(|entry| entry.status != Status::Vanished);
    Ok((before - entries.len()) as u64)
}

fn reason_name(reason: &holdfast_engine::tree::skips::Reason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "other".to_owned(),
    }
}

/// Keep what is wanted, and the directories on the way to it.
fn keep(entries: &mut Vec<Entry>, wanted: impl Fn(&Entry) -> bool) {
    let mut on_the_way: HashSet<Box<[u8]>> = HashSet::new();
    let kept: Vec<bool> = entries.iter().map(wanted).collect();
    for (entry, _) in entries.iter().zip(&kept).filter(|(_, kept)| **kept) {
        let slashes = entry.path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
        for (end, _) in slashes {
            if !on_the_way.insert(entry.path[..end].into()) {
                break;
            }
        }
    }
    let mut kept = kept.into_iter();
    entries.retain(|entry| {
        let kept = kept.next().unwrap_or(false);
        kept || (entry.kind == Type::Directory && on_the_way.contains(&entry.path))
    });
}

/// Return the offered directory itself as a line.
///
/// # Errors
/// [`Error::Io`].
pub fn top(base: &Root) -> Result<Listed> {
    let failed = |errno| Error::io(base.path(), errno);
    let found = stat(base.fd()).map_err(failed)?;
    let metadata = metadata::read(base.fd(), &found).map_err(failed)?;
    let mut entry = Entry { kind: Type::Directory, ..Entry::default() };
    describe(&mut entry, &found);
    Ok(listed(&entry, Some(Box::new(metadata))))
}

/// Return an entry as it crosses the wire.
pub fn line(base: &Root, entry: &Entry) -> Listed {
    let metadata = matches!(entry.kind, Type::Directory | Type::Symlink).then(|| {
        // A directory that went meanwhile is listed without attributes; the next pass sees it.
        let found = open(base, entry).and_then(|fd| metadata::read(&fd, &stat(&fd)?));
        Box::new(found.unwrap_or_else(|_| Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime_ns: Stamp::from(&entry.identity).mtime_ns,
            attributes: Vec::new(),
        }))
    });
    listed(entry, metadata)
}

fn listed(entry: &Entry, metadata: Option<Box<Metadata>>) -> Listed {
    Listed {
        path: entry.path.clone(),
        kind: entry.kind,
        stamp: Stamp::from(&entry.identity),
        metadata,
        link: entry.target().or(entry.hardlink_of()).map(Into::into),
    }
}

/// Open a directory or a symbolic link itself.
fn open(base: &Root, entry: &Entry) -> rustix::io::Result<OwnedFd> {
    if entry.kind == Type::Directory {
        return base.open_directory(&entry.path);
    }
    let (parent, name) = crate::destination::split(&entry.path);
    let parent = base.open_directory(parent)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    openat2(parent.as_fd(), name, flags, Mode::empty(), resolve)
}
