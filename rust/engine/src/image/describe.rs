//! Making the descriptor of an image.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::descriptor::{CHUNK_SIZES, Content, FORMAT, SECTOR, VERSION};
use super::layout::Layout;
use super::scan::{Plan, Scanned, scan};
use super::{Descriptor, Encoding, Sha256};
use crate::{Error, Progress, Result};

/// Chunks are made larger so that an image has no more than this many.
const CHUNKS: u64 = 16384;
/// Enough of a file to see the header of its first zstd frame.
const HEAD: u64 = 64;

/// An image to describe.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A raw disk image, or one packed with zstd, gzip or xz.
    pub file: PathBuf,
    /// What the image is, for people.
    pub name: String,
    /// Which one of that name it is, for people.
    pub image_version: String,
    /// The time to note, RFC 3339.
    pub created: String,
}

/// Read an image and describe it. Whether it is packed is told by its first bytes.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`]; [`Error::Record`] if it is no image that can be described,
/// or if it changes meanwhile; [`Error::Invalid`] if what is to be noted is too long or no text.
pub fn describe(request: &Request, progress: &Progress) -> Result<Descriptor> {
    let path = request.file.as_path();
    let file_name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Error::Invalid(format!("{} has no usable file name", path.display())))?;
    progress.enter("describing");
    let (encoding, size_bytes) = look(path)?;
    let plan = Plan {
        encoding,
        chunk_bytes: chunk_bytes(size_bytes),
        size_bytes: None,
        drop_cache: false,
    };
    let mut layout = Layout::default();
    let scanned = scan(path, &plan, progress, |offset, bytes| layout.see(offset, bytes))?;
    if scanned.size_bytes == 0 || !scanned.size_bytes.is_multiple_of(SECTOR) {
        let reason = format!(
            "a disk image is made of sectors of {SECTOR} bytes, and this has {} bytes",
            scanned.size_bytes
        );
        return Err(Error::record(path, reason));
    }
    let found = layout.finish(scanned.size_bytes);
    let (mapped, chunks) = map(&scanned, plan.chunk_bytes);
    let descriptor = Descriptor {
        format: FORMAT.to_owned(),
        version: VERSION,
        name: request.name.clone(),
        image_version: request.image_version.clone(),
        created: request.created.clone(),
        size_bytes: scanned.size_bytes,
        chunk_bytes: plan.chunk_bytes,
        mapped,
        chunks,
        content: Content {
            file: file_name.to_owned(),
            encoding,
            size_bytes: scanned.content_bytes,
            sha256: scanned.content_sha256,
        },
        boot_modes: found.boot_modes,
        root_partition: found.root_partition,
        partition_table: found.table,
    };
    descriptor.validate().map_err(Error::Invalid)?;
    Ok(descriptor)
}

/// How a file is packed, and the size of the image in it where that is known.
fn look(path: &Path) -> Result<(Encoding, Option<u64>)> {
    let io = |e| Error::io(path, e);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head).map_err(io)?;
    let encoding = Encoding::of(&head);
    let unpacked = match encoding {
        Encoding::Identity => Some(size),
        Encoding::Zstd => zstd::zstd_safe::get_frame_content_size(&head).ok().flatten(),
        // gzip tells it modulo 4 GiB, and xz at the end only.
        Encoding::Gzip | Encoding::Xz => None,
    };
    Ok((encoding, unpacked))
}

/// The smallest size of chunks of which there are not too many; of an unknown image the largest.
fn chunk_bytes(size_bytes: Option<u64>) -> u64 {
    let fits = |chunk: &&u64| size_bytes.is_some_and(|size| size.div_ceil(**chunk) <= CHUNKS);
    *CHUNK_SIZES.iter().find(fits).unwrap_or(&CHUNK_SIZES[CHUNK_SIZES.len() - 1])
}

/// The ranges that are not zeros, and the digests of their chunks.
fn map(scanned: &Scanned, chunk_bytes: u64) -> (Vec<(u64, u64)>, Vec<Sha256>) {
    let mut mapped: Vec<(u64, u64)> = Vec::new();
    let mut chunks = Vec::new();
    for (index, digest) in (0_u64..).zip(&scanned.digests) {
        let Some(digest) = digest else { continue };
        chunks.push(*digest);
        let start = index * chunk_bytes;
        let length = chunk_bytes.min(scanned.size_bytes - start);
        match mapped.last_mut() {
            Some((from, bytes)) if *from + *bytes == start => *bytes += length,
            _ => mapped.push((start, length)),
        }
    }
    (mapped, chunks)
}
