//! Writing a record file so that it is there whole or not at all.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{LINE_LIMIT, Trailer};
use crate::space;
use crate::xxh64::Xxh64;
use crate::{Error, Result};

/// zstd's level: its default, quick enough that compressing a dump is hidden behind making it.
const LEVEL: i32 = 3;

/// A record file being written under a temporary name beside its own, which is removed unless
/// [`Writer::finish`] succeeds.
pub struct Writer {
    output: Option<zstd::Encoder<'static, BufWriter<File>>>,
    digest: Xxh64,
    unchecked: u64,
    temporary: PathBuf,
    destination: PathBuf,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("destination", &self.destination).finish_non_exhaustive()
    }
}

impl Writer {
    /// Begin a record with a header line.
    ///
    /// The temporary name is `.<name>.partial`; one left behind by a crash is replaced. The file is
    /// locked, as by flock(2), while it is being written.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`] below the floor of free space.
    pub fn create(destination: &Path, header: &impl Serialize) -> Result<Self> {
        let mut name = OsString::from(".");
        name.push(destination.file_name().unwrap_or_default());
        name.push(".partial");
        let temporary = destination.with_file_name(name);
        space::check(destination.parent().unwrap_or(Path::new(".")), space::STRIDE)?;
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(&temporary, error));
            }
            _ => {}
        }
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|e| Error::io(&temporary, e))?;
        // The lock shows the clean-up after a crash that this one is still being written.
        file.lock().map_err(|e| Error::io(&temporary, e))?;
        let mut writer = Self {
            output: None,
            digest: Xxh64::default(),
            unchecked: 0,
            temporary,
            destination: destination.to_owned(),
        };
        writer.output = Some(
            zstd::Encoder::new(BufWriter::with_capacity(256 << 10, file), LEVEL)
                .map_err(|e| writer.failed(e))?,
        );
        let mut line = Vec::new();
        push_line(&mut line, header)?;
        writer.write(&line)?;
        Ok(writer)
    }

    /// Add whole lines, each made by [`push_line`].
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::NoSpace`] below the floor of free space.
    pub fn write(&mut self, lines: &[u8]) -> Result<()> {
        self.digest.update(lines);
        let output = self.output.as_mut().expect("a writer is not used after finish");
        self.unchecked += lines.len() as u64;
        if self.unchecked >= space::STRIDE {
            self.unchecked = 0;
            space::check_file(output.get_ref().get_ref(), &self.destination, space::STRIDE)?;
        }
        output.write_all(lines).map_err(|e| self.failed(e))
    }

    /// Add the trailer, make everything durable, and give the file its name. Answers its size.
    ///
    /// # Errors
    /// [`Error::Io`]; the file then does not exist.
    pub fn finish(mut self, files: u64, bytes: u64) -> Result<u64> {
        let xxh64 = format!("{:016x}", self.digest.digest());
        let mut line = Vec::new();
        push_line(&mut line, &Trailer { files, bytes, xxh64 })?;
        self.write(&line)?;
        let size = self.publish().map_err(|e| self.failed(e))?;
        Ok(size)
    }

    fn publish(&mut self) -> io::Result<u64> {
        let output = self.output.take().expect("a writer is finished once");
        let file = output.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        let size = file.metadata()?.len();
        std::fs::rename(&self.temporary, &self.destination)?;
        self.temporary = PathBuf::new();
        let directory = self.destination.parent().unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()?;
        Ok(size)
    }

    fn failed(&self, error: io::Error) -> Error {
        Error::io(&self.destination, error)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.temporary.as_os_str().is_empty() {
            // Nothing more can be done about it here; the owner of the directory clears what a
            // crash leaves as well.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Append a value as one line of JSON.
///
/// # Errors
/// [`Error::Invalid`] if the line is longer than readers accept.
pub fn push_line(buffer: &mut Vec<u8>, value: &impl Serialize) -> Result<()> {
    let from = buffer.len();
    serde_json::to_writer(&mut *buffer, value).map_err(|e| Error::Invalid(e.to_string()))?;
    buffer.push(b'\n');
    if buffer.len() - from > LINE_LIMIT {
        buffer.truncate(from);
        return Err(Error::Invalid("a line of a record would be too long".to_owned()));
    }
    Ok(())
}
