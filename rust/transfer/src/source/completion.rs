//! The end of a transfer at the source: its own manifest, and its record of the page cache.

use std::collections::{HashMap, hash_map::RandomState};

use holdfast_engine::Progress;
use holdfast_engine::manifest::build::build_of;
use holdfast_engine::manifest::record::{Entry, FileKey, Status, Type};

use super::alive::while_alive;
use super::digests::{Digested, Digests};
use super::offer::{Bound, MOST_PAGE_CACHE, Mounts};
use super::session::{Listed, Session};
use super::{Shared, listing};
use crate::channel::{Channel, Stop};
use crate::message::{BLOCK, Reply, Stamp};
use crate::{Error, ManifestOutcome, ManifestRequest, Result, known};

/// Send the record of the page cache in parts.
///
/// # Errors
/// [`Error::Wire`], [`Error::Refused`].
pub fn send_page_cache(
    session: &Session,
    channel: &mut Channel,
    shared: &Shared,
    stop: Stop<'_>,
) -> Result<()> {
    let id = &session.offering.offer.id;
    let record = || shared.events.page_cache(id);
    let record = match while_alive(channel, &Progress::default(), stop, record)? {
        Ok(record) => record,
        Err(sentence) => return channel.send(&Reply::Refused(sentence), stop),
    };
    if record.as_ref().is_some_and(|record| record.len() > MOST_PAGE_CACHE) {
        let sentence = format!("its page-cache dump has more than {MOST_PAGE_CACHE} bytes");
        return channel.send(&Reply::Refused(sentence), stop);
    }
    for part in record.iter().flat_map(|record| record.chunks(BLOCK)) {
        channel.send(&Reply::Part(part.to_vec()), stop)?;
    }
    channel.send(&Reply::Parts(record.is_some()), stop)
}

/// Make the source's manifest of what was listed last and hand it to the caller, if it wants one.
/// Digests that were computed for the destination are taken over; all else is read. Stops when
/// `progress` is cancelled.
///
/// # Errors
/// [`Error::Engine`]; [`Error::Refused`] if the manifest could not be stored.
pub fn complete(
    session: &Session,
    shared: &Shared,
    listed: &Listed,
    keys: &RandomState,
    progress: &Progress,
) -> Result<Reply> {
    let id = &session.offering.offer.id;
    let request = shared.events.manifest(id).map_err(Error::Refused)?;
    let outcome = match request {
        None => None,
        Some(request) => match make(session, &request, listed, keys, progress)? {
            Made::Outcome(outcome) => Some(outcome),
            Made::Moved(moved) => return Ok(moved),
        },
    };
    let base = listing::open_base(&session.offering)?;
    let now = listing::list(&session.offering, &base, progress)?.entries;
    if let Some(moved) = moved(&now, listed, keys) {
        return Ok(moved);
    }
    let Some(outcome) = outcome else { return Ok(Reply::Completed(None)) };
    match shared.events.completed(id, &outcome) {
        Bound::Stored => Ok(Reply::Completed(Some(outcome.fingerprint))),
        Bound::Failed => Err(Error::Refused("the source could not store its manifest".to_owned())),
    }
}

/// Return what is not as it was listed, if there is anything.
fn moved(now: &[Entry], listed: &Listed, keys: &RandomState) -> Option<Reply> {
    let differing: Vec<_> = now.iter().filter(|entry| !listed.has(entry, keys)).collect();
    let present = now.iter().filter(|entry| listed.names(entry, keys)).count();
    let gone = listed.0.len().saturating_sub(present);
    let count = (differing.len() + gone) as u64;
    let path = differing.first().map(|entry| entry.path.clone()).unwrap_or_default();
    (count > 0).then_some(Reply::Moved { count, path })
}

/// How making a manifest ended.
enum Made {
    /// It is made.
    Outcome(Box<ManifestOutcome>),
    /// What was found is not what was listed.
    Moved(Reply),
}

fn make(
    session: &Session,
    request: &ManifestRequest,
    listed: &Listed,
    keys: &RandomState,
    progress: &Progress,
) -> Result<Made> {
    let offering = &session.offering;
    let offer = &offering.offer;
    let mut build = request.build(&offer.place);
    build.across_mounts = offer.mounts == Mounts::Include;
    build.exclude.clone_from(&offer.exclude);
    // What is included is selected below, with the directories on the way.
    build.include_patterns = Vec::new();
    build.exclude_patterns.clone_from(&offer.exclude_patterns);
    let mut ended = None;
    let select = |entries: &mut Vec<Entry>| {
        listing::select(offering, entries)?;
        if let Some(moved) = moved(entries, listed, keys) {
            ended = Some(Ok(Made::Moved(moved)));
            return Err(holdfast_engine::Error::Cancelled);
        }
        let carried = [Type::File, Type::Directory, Type::Symlink];
        entries.retain(|entry| carried.contains(&entry.kind));
        count_names(entries);
        take_over(entries, &offering.digests).map_err(|error| {
            ended = Some(Err(error));
            holdfast_engine::Error::Cancelled
        })
    };
    known::settle();
    let made = build_of(&build, select, progress);
    ended.unwrap_or_else(|| Ok(Made::Outcome(Box::new(made?))))
}

/// Take over the digests that were computed for the destination; the last one of each file counts.
fn take_over(entries: &mut [Entry], digests: &Digests) -> Result<()> {
    let key = |entry: &Entry| (entry.identity.dev, entry.identity.ino);
    let files = (0..entries.len()).filter(|&index| entries[index].kind == Type::File);
    let mut files: Vec<usize> = files.collect();
    files.sort_unstable_by_key(|&index| key(&entries[index]));
    digests.read(|Digested { stamp, digest, table }| {
        let file = (stamp.dev, stamp.ino);
        let first = files.partition_point(|&index| key(&entries[index]) < file);
        for &index in &files[first..] {
            let entry = &mut entries[index];
            if key(entry) != file {
                break;
            }
            if *stamp == Stamp::from(&entry.identity) {
                known::set(entry, *digest, table.as_ref());
            }
        }
    })
}

/// Count the names of each file among those that are carried: others are of no one's concern.
fn count_names(entries: &mut [Entry]) {
    let mut names: HashMap<FileKey, u32> = HashMap::new();
    let linked =
        |entry: &Entry| entry.kind == Type::File && entry.nlink > 1 && entry.status == Status::Ok;
    for entry in entries.iter().filter(|entry| linked(entry)) {
        *names.entry(entry.file()).or_default() += 1;
    }
    for entry in entries.iter_mut().filter(|entry| linked(entry)) {
        entry.nlink = names.get(&entry.file()).copied().unwrap_or(1);
    }
}
