//! Making the descriptor of an image.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::descriptor::{
    BootMode, CHUNK_SIZES, Content, FORMAT, Inspection, PartitionTable, SECTOR, VERSION,
};
use super::inspect::{Found, inspect};
use super::scan::{Plan, scan};
use super::spool::Spool;
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
    /// The number of the partition that has the root, if that is known better than by looking.
    #[serde(default)]
    pub root_partition: Option<u32>,
}

/// Read an image, look into it, and describe it. Its first bytes show whether it is packed.
///
/// A packed image is kept meanwhile in a file without a name, since its parts are read in another
/// order than they come.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`]; [`Error::Record`] if it is no image that can be described,
/// its partition table contradicts itself, or it changes meanwhile; [`Error::Invalid`] if what is to
/// be noted is too long or no text.
pub fn describe(request: &Request, progress: &Progress) -> Result<Descriptor> {
    let path = request.file.as_path();
    let file_name = path
        .file_name()
        .and_then(|name| name.to_str())
        .ok_or_else(|| Error::Invalid(format!("{} has no usable file name", path.display())))?;
    progress.enter("describing");
    let (encoding, size_bytes) = packing_of(path)?;
    let plan = Plan {
        encoding,
        chunk_bytes: chunk_bytes(size_bytes),
        size_bytes: None,
        drop_cache: false,
    };
    let mut spool = match encoding {
        Encoding::Identity => None,
        _ => Some(Spool::beside(path, plan.chunk_bytes)?),
    };
    let scanned = scan(path, &plan, progress, |offset, bytes| match &mut spool {
        Some(spool) => spool.add(offset, bytes),
        None => Ok(()),
    })?;
    let content = Content {
        file: file_name.to_owned(),
        encoding,
        size_bytes: scanned.content_bytes,
        sha256: scanned.content_sha256,
    };
    check_size(path, scanned.size_bytes)?;
    let wanted = request.root_partition;
    let found = if let Some(spool) = spool {
        inspect(path, scanned.size_bytes, wanted, move |at, to| spool.read_at(at, to))?
    } else {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        inspect(path, scanned.size_bytes, wanted, move |at, to| file.read_exact_at(to, at))?
    };
    if !found.problems.is_empty() {
        return Err(Error::record(path, found.problems.join("; ")));
    }
    let names = Names {
        name: request.name.clone(),
        image_version: request.image_version.clone(),
        created: request.created.clone(),
    };
    descriptor(&scanned.digests, scanned.size_bytes, plan.chunk_bytes, found, names, content)
}

/// An image to look into.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectRequest {
    /// As for [`Request`].
    pub file: PathBuf,
    /// As for [`Request`].
    #[serde(default)]
    pub root_partition: Option<u32>,
}

/// What looking into an image found.
#[derive(Debug, Clone, Serialize)]
pub struct Inspected {
    size_bytes: u64,
    encoding: Encoding,
    boot_modes: Vec<BootMode>,
    partition_table: Option<PartitionTable>,
    root_partition: Option<u32>,
    #[serde(flatten)]
    inspection: Inspection,
    /// Clauses: why it cannot be described.
    problems: Vec<String>,
}

/// Look into an image, without digests. Of one that is not packed only a little is read.
///
/// # Errors
/// As for [`describe`], but what contradicts itself is in the result.
pub fn look_into(request: &InspectRequest, progress: &Progress) -> Result<Inspected> {
    let path = request.file.as_path();
    progress.enter("inspecting");
    let (encoding, size) = packing_of(path)?;
    let wanted = request.root_partition;
    let (found, size_bytes) = if encoding == Encoding::Identity {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let size = file.metadata().map_err(|e| Error::io(path, e))?.len();
        check_size(path, size)?;
        (inspect(path, size, wanted, move |at, to| file.read_exact_at(to, at))?, size)
    } else {
        let chunk_bytes = chunk_bytes(size);
        let mut spool = Spool::beside(path, chunk_bytes)?;
        let plan = Plan { encoding, chunk_bytes, size_bytes: None, drop_cache: false };
        let scanned = scan(path, &plan, progress, |offset, bytes| spool.add(offset, bytes))?;
        check_size(path, scanned.size_bytes)?;
        let read = move |at: u64, to: &mut [u8]| spool.read_at(at, to);
        (inspect(path, scanned.size_bytes, wanted, read)?, scanned.size_bytes)
    };
    Ok(Inspected {
        size_bytes,
        encoding,
        boot_modes: found.boot_modes,
        partition_table: found.table,
        root_partition: found.root_partition,
        inspection: found.inspection,
        problems: found.problems,
    })
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

/// Makes the descriptor of a running system's disk, which passes by chunk by chunk, in order.
pub struct Describer {
    chunk_bytes: u64,
    size_bytes: u64,
    digests: Vec<Option<Sha256>>,
}

impl std::fmt::Debug for Describer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Describer").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

impl Describer {
    /// Of a disk of which `size_bytes` are to come.
    pub fn new(size_bytes: u64) -> Self {
        Self { chunk_bytes: chunk_bytes(Some(size_bytes)), size_bytes: 0, digests: Vec::new() }
    }

    /// How large its chunks are to be.
    pub fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes
    }

    /// The next chunk, and its digest: `None` if it is zeros.
    pub fn see(&mut self, bytes: &[u8], digest: Option<Sha256>) {
        self.size_bytes += bytes.len() as u64;
        self.digests.push(digest);
    }

    /// The descriptor, once all has passed by; the disk is read here and there through `read`, and
    /// `path` is for messages.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::Record`] if it is no disk; [`Error::Invalid`] if
    /// what is to be noted is too long or no text.
    pub fn finish(
        self,
        path: &Path,
        names: Names,
        content: Content,
        read: impl Fn(u64, &mut [u8]) -> io::Result<()> + Clone + 'static,
    ) -> Result<Descriptor> {
        check_size(path, self.size_bytes)?;
        let found = inspect(path, self.size_bytes, None, read.clone())?
            .of_running_disk(&read, self.size_bytes);
        descriptor(&self.digests, self.size_bytes, self.chunk_bytes, found, names, content)
    }
}

fn check_size(path: &Path, size_bytes: u64) -> Result<()> {
    if size_bytes > 0 && size_bytes.is_multiple_of(SECTOR) {
        return Ok(());
    }
    let reason = format!(
        "a disk image is made of sectors of {SECTOR} bytes, and this has {size_bytes} bytes"
    );
    Err(Error::record(path, reason))
}

fn descriptor(
    digests: &[Option<Sha256>],
    size_bytes: u64,
    chunk_bytes: u64,
    found: Found,
    names: Names,
    content: Content,
) -> Result<Descriptor> {
    let (mapped, chunks) = map(digests, size_bytes, chunk_bytes);
    let descriptor = Descriptor {
        format: FORMAT.to_owned(),
        version: VERSION,
        name: names.name,
        image_version: names.image_version,
        created: names.created,
        size_bytes,
        chunk_bytes,
        mapped,
        chunks,
        content,
        boot_modes: found.boot_modes,
        root_partition: found.root_partition,
        partition_table: found.table,
        inspection: found.inspection,
    };
    descriptor.validate().map_err(Error::Invalid)?;
    Ok(descriptor)
}

/// How a file is packed, and the size of the image in it where that is known.
fn packing_of(path: &Path) -> Result<(Encoding, Option<u64>)> {
    let io = |e| Error::io(path, e);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head).map_err(io)?;
    let encoding = Encoding::of(&head);
    let unpacked = match encoding {
        Encoding::Identity => Some(size),
        Encoding::Zstd => zstd::zstd_safe::get_frame_content_size(&head).ok().flatten(),
        // gzip stores it modulo 4 GiB, and xz at the end only.
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
