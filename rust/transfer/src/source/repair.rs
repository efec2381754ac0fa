//! The source's part of a repair: what its manifest has, and chunks that are read again.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::path::Path;
use std::sync::Arc;

use holdfast_engine::Progress;
use holdfast_engine::digest::{Algorithm, Digest};
use holdfast_engine::manifest::record::{Entry, Manifest, Status, Type};
use holdfast_engine::manifest::survey::identity_of;
use holdfast_engine::tree::confine::stat;
use holdfast_engine::xxh64::xxh64;
use xxhash_rust::xxh3::xxh3_64;

use super::alive::while_alive;
use super::session::{Listed, Session};
use super::{Shared, listing};
use crate::channel::{Channel, Stop};
use crate::chunk::read_chunk;
use crate::message::{BLOCK, BlockHead, Kind, Metadata, Proven, Reply, Reread, Stamp, Verdict};
use crate::{Error, Result, statistics};

/// Bytes of a manifest in one message, about.
const BATCH: usize = 256 << 10;

/// Open the manifest of what is offered.
fn manifest(session: &Session, shared: &Shared) -> Result<Manifest> {
    let offer = &session.offering.offer;
    let record = shared.events.record(&offer.id).map_err(Error::Refused)?;
    let (path, limit) = record.ok_or_else(|| {
        let words = "it has no manifest of what is offered; make one there first";
        Error::Refused(words.to_owned())
    })?;
    let manifest = Manifest::open(&path, limit)?;
    let header = &manifest.header;
    let same =
        Path::new(&header.root) == offer.place.root && Path::new(&header.path) == offer.place.path;
    if !same || header.algorithm != Algorithm::Xxh64 {
        let words = "its manifest is of another directory, or not by XXH64";
        return Err(Error::Refused(words.to_owned()));
    }
    Ok(manifest)
}

/// Return whether a manifest has what is needed to compare a file.
fn usable(entry: &Entry) -> Option<u64> {
    let file = entry.kind == Type::File && entry.status == Status::Ok;
    match entry.digest {
        Some(Digest::Xxh64(digest)) if file && entry.hardlink_of().is_none() => Some(digest),
        _ => None,
    }
}

/// Send what the manifest has of what is offered.
///
/// # Errors
/// [`Error::Refused`] without a manifest; [`Error::Engine`], [`Error::Wire`].
pub fn send_proofs(
    session: &Session,
    channel: &mut Channel,
    shared: &Shared,
    keys: &RandomState,
    stop: Stop<'_>,
) -> Result<Listed> {
    let progress = Progress::default();
    let (mut manifest, entries) = while_alive(channel, &progress, stop, || {
        let manifest = manifest(session, shared)?;
        let base = listing::open_base(&session.offering)?;
        let entries = listing::list(&session.offering, &base, &progress)?.entries;
        Ok::<_, Error>((manifest, entries))
    })??;
    let listed = Listed::of(&entries, keys);
    let now: HashMap<u64, Stamp> = entries
        .iter()
        .filter(|entry| entry.kind == Type::File && entry.hardlink_of().is_none())
        .map(|entry| (keys.hash_one(&*entry.path), Stamp::from(&entry.identity)))
        .collect();
    drop(entries);
    let (mut batch, mut bytes, mut count) = (Vec::new(), 0, 0);
    while let Some(entry) = manifest.next(&progress)? {
        let Some(digest) = usable(&entry) else { continue };
        // What is not offered is not shown, whatever the manifest has.
        let Some(stamp) = now.get(&keys.hash_one(&*entry.path)) else { continue };
        let proven = Proven {
            size: entry.identity.size,
            metadata: Metadata {
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
                mtime_ns: Stamp::from(&entry.identity).mtime_ns,
                attributes: Vec::new(),
            },
            digest,
            digests: entry
                .chunks()
                .map(|c| c.digests.iter().filter_map(number).collect())
                .unwrap_or_default(),
            moved: *stamp != Stamp::from(&entry.identity),
            path: entry.path,
        };
        count += 1;
        bytes += proven.path.len() + 64 + proven.digests.len() * 10;
        batch.push(proven);
        if bytes > BATCH {
            channel.send(&Reply::Proven(std::mem::take(&mut batch)), stop)?;
            bytes = 0;
        }
    }
    let unknown = (now.len() as u64).saturating_sub(count);
    channel.send(&Reply::Proven(batch), stop)?;
    channel.send(&Reply::Proofs(count, unknown), stop)?;
    Ok(listed)
}

fn number(digest: &Digest) -> Option<u64> {
    match digest {
        Digest::Xxh64(digest) => Some(*digest),
        _ => None,
    }
}

/// Read chunks again, and send each that is as the manifest has it.
///
/// # Errors
/// As [`send_proofs`]; [`Error::Protocol`].
pub fn reread(
    session: &Session,
    channel: &mut Channel,
    shared: &Shared,
    is_listed: impl Fn(&[u8]) -> bool,
    wanted: &[Reread],
    stop: Stop<'_>,
) -> Result<()> {
    let mut entries: HashMap<Box<[u8]>, Option<Entry>> =
        wanted.iter().map(|wanted| (wanted.path.clone(), None)).collect();
    let progress = Progress::default();
    while_alive(channel, &progress, stop, || {
        let mut manifest = manifest(session, shared)?;
        while let Some(entry) = manifest.next(&progress)? {
            if let Some(slot) = entries.get_mut(&entry.path) {
                *slot = Some(entry);
            }
        }
        Ok::<_, Error>(())
    })??;
    let base = listing::open_base(&session.offering)?;
    for Reread { path, chunks } in wanted {
        let entry = entries.get(path).and_then(Option::as_ref).filter(|_| is_listed(path));
        let file = match base.open_file(path, &progress) {
            Ok(file) => Ok(Arc::new(file)),
            Err(refusal) => Err(refusal.words()),
        };
        for &index in chunks {
            let lost = |words: &str| (Verdict::Lost(words.to_owned()), Vec::new());
            let (verdict, bytes) = match (entry, &file) {
                (None, _) => lost("the source's manifest does not have it"),
                (_, Err(words)) => lost(words),
                (Some(entry), Ok(file)) => {
                    let judge = || judge(session, entry, file, index, &progress);
                    while_alive(channel, &progress, stop, judge)??
                }
            };
            channel.send(&Reply::Reread(verdict), stop)?;
            let start = entry.map_or(0, |entry| {
                u64::from(index)
                    * holdfast_engine::manifest::record::chunk_size(entry.identity.size)
            });
            for (nth, data) in bytes.chunks(BLOCK).enumerate() {
                let offset = start + (nth * BLOCK) as u64;
                let head = BlockHead { want: 0, offset, sparse: false, check: xxh3_64(data) };
                channel.send_frame(Kind::Block, &[&head.bytes(), data], stop)?;
                statistics::sent(crate::Proof::Media, data.len() as u64);
            }
        }
    }
    Ok(())
}

/// Read a chunk, twice if need be, and compare it with the manifest.
fn judge(
    session: &Session,
    entry: &Entry,
    file: &Arc<holdfast_engine::tree::confine::OpenFile>,
    index: u32,
    progress: &Progress,
) -> Result<(Verdict, Vec<u8>)> {
    let lost = |words: &str| Ok((Verdict::Lost(words.to_owned()), Vec::new()));
    let size = entry.identity.size;
    let chunk = holdfast_engine::manifest::record::chunk_size(size);
    let start = u64::from(index).saturating_mul(chunk);
    let expected = match entry.chunks() {
        Some(chunks) => chunks.digests.get(index as usize).and_then(number),
        None => usable(entry).filter(|_| index == 0),
    };
    let (Some(expected), true) = (expected, start < size) else {
        return lost("the source's manifest has no such chunk");
    };
    let moved = "the file changed on the source since its manifest was made";
    let same = |stat: &rustix::fs::Statx| identity_of(stat) == entry.identity;
    if !same(&file.stat) {
        return lost(moved);
    }
    let limit = session.offering.offer.bytes_per_second;
    for verdict in [Verdict::Good, Verdict::Second] {
        let bytes = read_chunk(file, start..(start + chunk).min(size), limit, progress)?;
        let now = stat(&file.fd).map_err(|errno| Error::io("a file of the offer", errno))?;
        if !same(&now) {
            return lost(moved);
        }
        match bytes {
            None => return lost("the source could not read it"),
            Some(bytes) if xxh64(&bytes) == expected => return Ok((verdict, bytes)),
            Some(_) => {}
        }
    }
    Ok((Verdict::Damaged, Vec::new()))
}
