//! The end of a transfer at the source: its own manifest, and its record of the page cache.

use std::collections::{HashMap, hash_map::RandomState};

use holdfast_engine::Progress;
use holdfast_engine::manifest::build::build_of;
use holdfast_engine::manifest::record::{Entry, FileKey, Status, Type};
use holdfast_engine::tree::patterns::Patterns;

use super::alive::while_alive;
use super::offer::{Bound, MOST_PAGE_CACHE, Mounts};
use super::session::{Listed, Session};
use super::{Shared, listing};
use crate::channel::{Channel, Stop};
use crate::message::{BLOCK, Reply};
use crate::{Error, ManifestRequest, Result, known};

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
    let found = list(session, progress)?;
    if let Some(moved) = moved(&found, listed, keys) {
        return Ok(moved);
    }
    let request = shared.events.manifest(id).map_err(Error::Refused)?;
    let Some(request) = request else { return Ok(Reply::Completed(None)) };
    let outcome = make(session, &request, found, progress)?;
    if let Some(moved) = moved(&list(session, progress)?, listed, keys) {
        return Ok(moved);
    }
    match shared.events.completed(id, &outcome) {
        Bound::Stored => Ok(Reply::Completed(Some(outcome.fingerprint))),
        Bound::Failed => Err(Error::Refused("the source could not store its manifest".to_owned())),
    }
}

fn list(session: &Session, progress: &Progress) -> Result<Vec<Entry>> {
    let base = listing::open_base(&session.offering)?;
    Ok(listing::list(&session.offering, &base, progress)?.entries)
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

fn make(
    session: &Session,
    request: &ManifestRequest,
    entries: Vec<Entry>,
    progress: &Progress,
) -> Result<crate::ManifestOutcome> {
    let offering = &session.offering;
    let offer = &offering.offer;
    let digests = offering.digests.all()?;
    let known = entries.into_iter().filter(|entry| entry.kind == Type::File).filter_map(|entry| {
        let digested = digests.get(&(entry.identity.dev, entry.identity.ino))?;
        if digested.stamp != crate::message::Stamp::from(&entry.identity) {
            return None;
        }
        let mut known = Entry { path: entry.path, kind: Type::File, ..Entry::default() };
        known.identity = entry.identity;
        known::set(&mut known, digested.digest, digested.table.as_ref());
        Some(Ok(known))
    });
    let from = known::write(&offer.place, request, known)?;
    let mut build = request.build(&offer.place, from.path());
    build.across_mounts = offer.mounts == Mounts::Include;
    build.exclude.clone_from(&offer.exclude);
    // What is included is selected below, with the directories on the way.
    build.include_patterns = Vec::new();
    build.exclude_patterns.clone_from(&offer.exclude_patterns);
    Patterns::new(&offer.include_patterns, &[])?;
    let select = |entries: &mut Vec<Entry>| {
        // The patterns were checked above.
        let _ = listing::select(offering, entries);
        let carried = [Type::File, Type::Directory, Type::Symlink];
        entries.retain(|entry| carried.contains(&entry.kind));
        count_names(entries);
    };
    Ok(build_of(&build, select, progress)?)
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
