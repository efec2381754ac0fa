//! The end of a transfer at the destination: manifests of both ends, the page cache, the last record.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;

use holdfast_engine::image::sha256::Sha256;
use holdfast_engine::manifest::build::Outcome;
use holdfast_engine::manifest::fingerprint::Fingerprint;

use super::flush::lock;
use super::journal::Record;
use super::pass::Fetching;
use super::{Request, SourceManifest, manifest};
use crate::channel::{Channel, Stop};
use crate::destination::pass::finish;
use crate::destination::pass::plan::Plan;
use crate::destination::staging::Staging;
use crate::message::{self, Reply};
use crate::source::MOST_PAGE_CACHE;
use crate::{Error, Result};

/// What the last pass of a call ended with.
#[derive(Debug, Default)]
pub struct Completion {
    /// The destination's manifest.
    pub manifest: Option<Outcome>,
    /// What the source's manifest has.
    source: Option<Fingerprint>,
    /// Bytes of the source's record of the page cache.
    pub page_cache_bytes: Option<u64>,
}

impl Completion {
    /// Return the digest of a manifest that is compared with the source's.
    pub fn digest(&self, manifest: &Outcome, request: &Request) -> Sha256 {
        compared(&manifest.fingerprint, request)
    }

    /// Return what the source's manifest has, and whether the destination's has the same.
    pub fn source_manifest(&self, request: &Request) -> Option<SourceManifest> {
        let digest = compared(self.source.as_ref()?, request);
        let own = self.manifest.as_ref().map(|manifest| self.digest(manifest, request));
        Some(SourceManifest { digest, equal: own == Some(digest) })
    }
}

/// Owners that are found by name have other numbers at each end.
fn compared(fingerprint: &Fingerprint, request: &Request) -> Sha256 {
    if request.map_owners { fingerprint.unowned } else { fingerprint.owned }
}

/// Make the destination final: flushed, without the staging directory, and never written again. Both
/// manifests are made before: when a destination is complete, they exist.
///
/// # Errors
/// [`Error::Unfinished`] if the source changed since it was listed; [`Error::Refused`] if it could
/// not make its manifest; [`Error::Engine`], [`Error::Wire`].
pub fn complete(fetching: &Fetching<'_>, plan: &Plan, mut control: Channel) -> Result<Completion> {
    let (request, ledger) = (fetching.request, fetching.ledger);
    let stop = || ledger.progress.cancelled();
    let mut end = Completion::default();
    if let Some(path) = &request.page_cache {
        ledger.progress.enter("page cache");
        end.page_cache_bytes = fetch_page_cache(&mut control, path, &stop)?;
    }
    control.send(&message::Request::Complete, &stop)?;
    // Both ends make their manifests at the same time.
    if let Some(wanted) = &request.manifest {
        end.manifest = Some(manifest::make(ledger, &request.place, wanted)?);
    }
    ledger.progress.enter("source manifest");
    end.source = match confirmed(&mut control, ledger.staging, &stop) {
        Ok(source) => source,
        Err(error) => {
            // Making the manifest used the state up, and another pass may follow.
            ledger.reload()?;
            return Err(error);
        }
    };
    control.close();
    ledger.progress.enter("finishing");
    let root = ledger.staging.root();
    ledger.staging.remove()?;
    finish::finish_top(ledger.staging, plan)?;
    rustix::fs::syncfs(root.fd()).map_err(|errno| Error::io(root.path(), errno))?;
    let mut journal = lock(ledger.journal);
    journal.append(&[Record::Complete], true)?;
    journal.sync()?;
    Ok(end)
}

/// Receive what the source's manifest has, once it is made.
fn confirmed(
    control: &mut Channel,
    staging: &Staging,
    stop: Stop<'_>,
) -> Result<Option<Fingerprint>> {
    match control.receive_reply(stop)? {
        Reply::Completed(source) => Ok(source),
        Reply::Moved { count, path } => {
            let path = staging.shown(&path).to_string_lossy().into_owned();
            let reason = "the source changed after it was listed".to_owned();
            Err(Error::Unfinished { count, path, reason })
        }
        Reply::Refused(reason) => Err(Error::Refused(reason)),
        _ => Err(control.broken("an answer that has no place at the end")),
    }
}

/// Write the source's record of the page cache to a file; returns its bytes, if there is one.
fn fetch_page_cache(
    control: &mut Channel,
    path: &std::path::Path,
    stop: Stop<'_>,
) -> Result<Option<u64>> {
    control.send(&message::Request::PageCache, stop)?;
    let mut record = Vec::new();
    let there = loop {
        match control.receive_reply(stop)? {
            Reply::Part(part) => record.extend(part),
            Reply::Parts(there) => break there,
            Reply::Refused(reason) => return Err(Error::Refused(reason)),
            _ => return Err(control.broken("a message that has no place in a record")),
        }
        if record.len() > MOST_PAGE_CACHE {
            return Err(control.broken("its record of the page cache is larger than any"));
        }
    };
    if !there {
        return Ok(None);
    }
    let write = || {
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(&record)?;
        file.sync_all()
    };
    write().map_err(|error| Error::io(path, error))?;
    Ok(Some(record.len() as u64))
}
