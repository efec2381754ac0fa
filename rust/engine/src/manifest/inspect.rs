//! The summary of a manifest.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::{Header, Manifest, Type};
use super::totals::{Counts, Problem};
use crate::record::PathText;
use crate::{Progress, Result};

/// A manifest to check and to describe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The record file.
    pub record: PathBuf,
    /// Bytes of it to decompress at most.
    pub max_bytes: u64,
    /// How many of the largest files to name.
    #[serde(default)]
    pub largest: usize,
}

/// A file, by size.
#[derive(Debug, Clone, Serialize)]
pub struct Large {
    #[serde(flatten)]
    path: PathText,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

/// A file among the largest; of two of one size the first.
type Candidate = Reverse<(u64, Reverse<Box<[u8]>>, Option<String>)>;

/// The summary of a whole manifest, after all of it was checked.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Its header.
    pub header: Header,
    /// Its totals.
    #[serde(flatten)]
    pub counts: Counts,
    /// Its largest files, the largest first.
    pub largest: Vec<Large>,
    /// Files without a digest by name, up to the limit.
    pub problems: Vec<Problem>,
    /// Whether the list is complete.
    pub problems_all: bool,
}

/// Read all of a manifest and check it.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io), [`Error::Record`](crate::Error::Record),
/// [`Error::Cancelled`](crate::Error::Cancelled).
pub fn inspect(request: &Request, progress: &Progress) -> Result<Outcome> {
    let mut manifest = Manifest::open(&request.record, request.max_bytes)?;
    let mut counts = Counts::default();
    let mut problems = Vec::new();
    let mut problems_all = true;
    // The smallest on top, to be replaced by what is larger.
    let mut largest: BinaryHeap<Candidate> = BinaryHeap::new();
    while let Some(entry) = manifest.next(progress)? {
        counts.count(&entry);
        problems_all &= Problem::note(&entry, &mut problems);
        if entry.kind == Type::File && entry.hardlink_of().is_none() && request.largest > 0 {
            let size = entry.identity.size;
            if largest.len() == request.largest {
                if largest.peek().is_some_and(|Reverse((least, ..))| *least >= size) {
                    continue;
                }
                largest.pop();
            }
            let digest = entry.digest.map(|digest| digest.to_string());
            largest.push(Reverse((size, Reverse(entry.path), digest)));
        }
    }
    let largest = largest
        .into_sorted_vec()
        .into_iter()
        .map(|Reverse((size, Reverse(path), digest))| Large {
            path: PathText::new(&path),
            size,
            digest,
        })
        .collect();
    Ok(Outcome { header: manifest.header, counts, largest, problems, problems_all })
}
