//! Checking the file of an image against its descriptor.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::descriptor::LIMIT;
use super::scan::{Plan, scan};
use super::{Descriptor, Encoding, Sha256};
use crate::{Error, Progress, Result};

/// Differences that are listed; all are counted.
const LISTED: usize = 100;

/// A file to check.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The image, raw or packed as its descriptor states.
    pub file: PathBuf,
    /// The descriptor.
    pub descriptor: PathBuf,
    /// What the descriptor's digest must be.
    #[serde(default)]
    pub descriptor_sha256: Option<Sha256>,
}

/// How a part of the image differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It has other bytes.
    Differs,
    /// It is zeros, and should not be.
    Zeros,
    /// It should be zeros, and is not.
    NotZeros,
}

/// A chunk that differs from the descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Where it begins in the image, in bytes.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
    /// How it differs.
    pub kind: Kind,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Whether the file is the image, whole and with no difference.
    pub matches: bool,
    /// What is wrong with the file as a whole, as a sentence: then it was not read to its end, or its
    /// packed bytes are others than described.
    pub problem: Option<String>,
    /// The size of the image, unpacked.
    pub size_bytes: u64,
    /// Bytes of it that are not zeros.
    pub mapped_bytes: u64,
    /// Bytes of the file.
    pub content_bytes: u64,
    /// Digest of the packed file, if it was read to its end.
    pub content_sha256: Option<Sha256>,
    /// The number of chunks that differ.
    pub different_chunks: u64,
    /// The first hundred of them.
    pub differences: Vec<Difference>,
}

/// Read the descriptor at `path`, of the digest `sha256` if one is asked for.
///
/// # Errors
/// [`Error::Io`]; [`Error::Record`] if it is not what was asked for, or does not hold together.
pub fn read_descriptor(path: &Path, sha256: Option<Sha256>) -> Result<Descriptor> {
    let mut json = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut json))
        .map_err(|e| Error::io(path, e))?;
    let found = Sha256::of(&json);
    if let Some(expected) = sha256.filter(|expected| *expected != found) {
        return Err(Error::record(path, format!("its SHA-256 is {found} and not {expected}")));
    }
    Descriptor::parse(path, &json)
}

/// Read a file and check whether it is the image of a descriptor. What was read is not
/// left in the page cache.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`]; [`Error::Record`] about the descriptor. A file that is not
/// the image is no error.
pub fn verify(request: &Request, progress: &Progress) -> Result<Outcome> {
    progress.enter("verifying");
    let descriptor = read_descriptor(&request.descriptor, request.descriptor_sha256)?;
    let path = request.file.as_path();
    let (encoding, content_bytes) = packing_of(path, &descriptor)?;
    let plan = Plan {
        encoding,
        chunk_bytes: descriptor.chunk_bytes,
        size_bytes: Some(descriptor.size_bytes),
        drop_cache: true,
    };
    let mut outcome = Outcome {
        matches: false,
        problem: None,
        size_bytes: descriptor.size_bytes,
        mapped_bytes: descriptor.mapped_bytes(),
        content_bytes,
        content_sha256: None,
        different_chunks: 0,
        differences: Vec::new(),
    };
    let scanned = match scan(path, &plan, progress, |_, _| Ok(())) {
        Ok(scanned) => scanned,
        Err(Error::Record { reason, .. }) => {
            outcome.problem = Some(reason);
            return Ok(outcome);
        }
        Err(error) => return Err(error),
    };
    for (piece, found) in descriptor.pieces().zip(&scanned.digests) {
        let kind = match (piece.digest, found) {
            (expected, found) if expected == *found => continue,
            (Some(_), Some(_)) => Kind::Differs,
            (Some(_), None) => Kind::Zeros,
            (None, _) => Kind::NotZeros,
        };
        outcome.different_chunks += 1;
        if outcome.differences.len() < LISTED {
            let (offset, length) = (piece.offset, piece.length);
            outcome.differences.push(Difference { offset, length, kind });
        }
    }
    outcome.content_sha256 = Some(scanned.content_sha256);
    // Another way of packing the same image gives another file, and nobody described that one.
    if encoding == descriptor.content.encoding
        && outcome.different_chunks == 0
        && scanned.content_sha256 != descriptor.content.sha256
    {
        outcome.problem = Some(format!(
            "the image is right, but the SHA-256 of its file is {} and not {}",
            scanned.content_sha256, descriptor.content.sha256
        ));
    }
    outcome.matches = outcome.different_chunks == 0 && outcome.problem.is_none();
    Ok(outcome)
}

/// How the file is packed, and its size. A packed image may also be checked after it was unpacked.
fn packing_of(path: &Path, descriptor: &Descriptor) -> Result<(Encoding, u64)> {
    let io = |e| Error::io(path, e);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    if descriptor.content.encoding == Encoding::Identity {
        return Ok((Encoding::Identity, size));
    }
    let mut head = Vec::new();
    file.take(6).read_to_end(&mut head).map_err(io)?;
    let plain = size == descriptor.size_bytes && Encoding::of(&head) == Encoding::Identity;
    Ok((if plain { Encoding::Identity } else { descriptor.content.encoding }, size))
}
