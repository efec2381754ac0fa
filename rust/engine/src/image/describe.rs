//! Making the descriptor of an image.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::descriptor::{CHUNK_SIZES, Content, FORMAT, SECTOR, VERSION};
use super::layout::Layout;
use super::scan::{Plan, scan};
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
    let content = Content {
        file: file_name.to_owned(),
        encoding,
        size_bytes: scanned.content_bytes,
        sha256: scanned.content_sha256,
    };
    let describer = Describer {
        chunk_bytes: plan.chunk_bytes,
        size_bytes: scanned.size_bytes,
        digests: scanned.digests,
        layout,
    };
    let names = Names {
        name: request.name.clone(),
        image_version: request.image_version.clone(),
        created: request.created.clone(),
    };
    describer.finish(path, names, content)
}

/// What is noted of an image for people.
#[derive(Debug, Clone)]
pub struct Names {
    /// What it is.
    pub name: String,
    /// Which one of that name.
    pub image_version: String,
    /// The time to note, RFC 3339.
    pub created: String,
}

/// Makes the descriptor of an image that passes by chunk by chunk, in order.
pub struct Describer {
    chunk_bytes: u64,
    size_bytes: u64,
    digests: Vec<Option<Sha256>>,
    layout: Layout,
}

impl std::fmt::Debug for Describer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Describer").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

impl Describer {
    /// Of an image of which `size_bytes` are to come.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            chunk_bytes: chunk_bytes(Some(size_bytes)),
            size_bytes: 0,
            digests: Vec::new(),
            layout: Layout::default(),
        }
    }

    /// How large its chunks are to be.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The next chunk, and its digest: `None` if it is zeros.
    pub fn see(&mut self, bytes: &[u8], digest: Option<Sha256>) {
        if digest.is_some() || self.size_bytes == 0 {
            self.layout.see(self.size_bytes, bytes);
        }
        self.size_bytes += bytes.len() as u64;
        self.digests.push(digest);
    }

    /// The descriptor, once all has passed by; `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Record`] if it is no disk image; [`Error::Invalid`] if what is to be noted is too long
    /// or no text.
    pub fn finish(self, path: &Path, names: Names, content: Content) -> Result<Descriptor> {
        if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(SECTOR) {
            let reason = format!(
                "a disk image is made of sectors of {SECTOR} bytes, and this has {} bytes",
                self.size_bytes
            );
            return Err(Error::record(path, reason));
        }
        let (mapped, chunks) = map(&self.digests, self.size_bytes, self.chunk_bytes);
        let found = self.layout.finish(self.size_bytes);
        let descriptor = Descriptor {
            format: FORMAT.to_owned(),
            version: VERSION,
            name: names.name,
            image_version: names.image_version,
            created: names.created,
            size_bytes: self.size_bytes,
            chunk_bytes: self.chunk_bytes,
            mapped,
            chunks,
            content,
            boot_modes: found.boot_modes,
            root_partition: found.root_partition,
            partition_table: found.table,
        };
        descriptor.validate().map_err(Error::Invalid)?;
        Ok(descriptor)
    }
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
fn map(
    digests: &[Option<Sha256>],
    size_bytes: u64,
    chunk_bytes: u64,
) -> (Vec<(u64, u64)>, Vec<Sha256>) {
    let mut mapped: Vec<(u64, u64)> = Vec::new();
    let mut chunks = Vec::new();
    for (index, digest) in (0_u64..).zip(digests) {
        let Some(digest) = digest else { continue };
        chunks.push(*digest);
        let start = index * chunk_bytes;
        let length = chunk_bytes.min(size_bytes - start);
        match mapped.last_mut() {
            Some((from, bytes)) if *from + *bytes == start => *bytes += length,
            _ => mapped.push((start, length)),
        }
    }
    (mapped, chunks)
}
