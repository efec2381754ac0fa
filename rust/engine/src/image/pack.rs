//! Packing a raw disk image with zstd.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Error, Progress, Result};

/// Bytes that are packed at once.
const STEP: usize = 1 << 20;
/// The default of `zstd`; its window is well within what can be unpacked again.
const LEVEL: i32 = 3;

/// An image to pack.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// A raw disk image.
    pub file: PathBuf,
    /// Where it is packed to. It must not exist.
    pub output: PathBuf,
}

/// A packed image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Packed {
    /// Bytes of the raw image.
    pub size_bytes: u64,
    /// Bytes of the packed one.
    pub content_bytes: u64,
}

/// Pack an image as one zstd frame with its size and a checksum; on the disk when this returns. What a
/// failure leaves at `output` is the caller's to remove.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`].
pub fn pack(request: &Request, progress: &Progress) -> Result<Packed> {
    let (from, to) = (request.file.as_path(), request.output.as_path());
    let mut file = File::open(from).map_err(|e| Error::io(from, e))?;
    let size_bytes = file.metadata().map_err(|e| Error::io(from, e))?.len();
    progress.enter("packing");
    progress.expect(size_bytes, 1);
    let output = File::create_new(to).map_err(|e| Error::io(to, e))?;
    let io = |e| Error::io(to, e);
    let mut encoder =
        zstd::Encoder::new(BufWriter::with_capacity(STEP, output), LEVEL).map_err(io)?;
    encoder.include_checksum(true).map_err(io)?;
    encoder.set_pledged_src_size(Some(size_bytes)).map_err(io)?;
    let mut buffer = vec![0; STEP];
    loop {
        progress.check()?;
        let length = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(Error::io(from, error)),
        };
        encoder.write_all(&buffer[..length]).map_err(io)?;
        progress.add_bytes(length as u64);
    }
    let output = encoder.finish().map_err(io)?.into_inner().map_err(|e| io(e.into_error()))?;
    output.sync_all().map_err(io)?;
    let content_bytes = output.metadata().map_err(io)?.len();
    Ok(Packed { size_bytes, content_bytes })
}
