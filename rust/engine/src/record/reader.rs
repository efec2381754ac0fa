//! Reading record files that anybody may have written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{LINE_LIMIT, Trailer};
use crate::xxh64::Xxh64;
use crate::{Error, Progress, Result};

/// The largest window a frame may ask for: 2^27 bytes, zstd's own default limit. It bounds the
/// memory that a hostile file can claim.
const WINDOW_LOG_MAX: u32 = 27;

/// A record file, read line by line.
pub struct Reader {
    lines: Box<dyn BufRead + Send>,
    path: PathBuf,
    digest: Xxh64,
    left: u64,
    limit: u64,
    line: Vec<u8>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("path", &self.path).finish_non_exhaustive()
    }
}

/// What every header has.
#[derive(Deserialize)]
struct Format {
    format: String,
    version: u64,
}

impl Reader {
    /// Open a record and read its header, of `format` and at most `version`.
    ///
    /// No more than `limit` bytes are decompressed.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Record`] if it is not such a record.
    pub fn open<H: DeserializeOwned>(
        path: &Path,
        format: &str,
        version: u64,
        limit: u64,
    ) -> Result<(Self, H)> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        Self::new(file, path, format, version, limit)
    }

    /// As [`Reader::open`], from anything that gives bytes; `path` is for messages.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn new<H: DeserializeOwned>(
        input: impl Read + Send + 'static,
        path: &Path,
        format: &str,
        version: u64,
        limit: u64,
    ) -> Result<(Self, H)> {
        let mut reader = Self::begin(input, path, limit)?;
        let found: Format = reader.parse("it does not begin with a header")?;
        if found.format != format {
            return Err(reader.bad(format!("it is a `{}`, not a `{format}`", found.format)));
        }
        if found.version > version {
            return Err(reader.bad(format!(
                "it has version {} and this holdfast reads up to {version}; update holdfast",
                found.version
            )));
        }
        let header = reader.parse("its header is malformed")?;
        reader.digest.update(&reader.line);
        Ok((reader, header))
    }

    /// Read the first line.
    fn begin(input: impl Read + Send + 'static, path: &Path, limit: u64) -> Result<Self> {
        let mut decoder = zstd::Decoder::new(input).map_err(|e| Error::io(path, e))?;
        decoder.window_log_max(WINDOW_LOG_MAX).map_err(|e| Error::io(path, e))?;
        let mut reader = Self {
            lines: Box::new(BufReader::with_capacity(128 << 10, decoder)),
            path: path.to_owned(),
            digest: Xxh64::default(),
            left: limit,
            limit,
            line: Vec::new(),
        };
        if !reader.advance()? {
            return Err(reader.bad("it is empty"));
        }
        Ok(reader)
    }

    /// The entries after the header.
    pub fn entries<T: DeserializeOwned>(self) -> Entries<T> {
        Entries { reader: self, trailer: None, marker: std::marker::PhantomData }
    }

    /// An [`Error::Record`] about this file.
    pub fn bad(&self, reason: impl Into<String>) -> Error {
        Error::record(&self.path, reason)
    }

    /// Read the next line, with its end, into `self.line`; false at the end of the file.
    fn advance(&mut self) -> Result<bool> {
        self.line.clear();
        let most = (LINE_LIMIT as u64).min(self.left).saturating_add(1);
        let read = (&mut self.lines)
            .take(most)
            .read_until(b'\n', &mut self.line)
            .map_err(|e| self.unreadable(&e))? as u64;
        if read > self.left {
            let limit = self.limit;
            return Err(self.bad(format!("it holds more than the {limit} bytes that are allowed")));
        }
        if read > LINE_LIMIT as u64 {
            return Err(self.bad("it has a line that is too long"));
        }
        self.left -= read;
        if read > 0 && !self.line.ends_with(b"\n") {
            return Err(self.torn());
        }
        Ok(read > 0)
    }

    fn parse<T: DeserializeOwned>(&self, otherwise: &str) -> Result<T> {
        serde_json::from_slice(&self.line).map_err(|e| self.bad(format!("{otherwise} ({e})")))
    }

    fn unreadable(&self, error: &io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => self.torn(),
            // Errors of zstd have no number, those of the system do.
            _ if error.raw_os_error().is_none() => {
                self.bad(format!("it is damaged or not a record file ({error})"))
            }
            _ => Error::Io {
                path: self.path.to_string_lossy().into_owned(),
                source: io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)),
            },
        }
    }

    fn damaged(&self) -> Error {
        self.bad("it is damaged: its digest does not fit its content")
    }

    fn torn(&self) -> Error {
        self.bad("it ends in the middle: the file is torn; write or send it again")
    }
}

/// The lines of a record of any kind as they are, with header and trailer. Its trailer is checked
/// like that of any other.
#[derive(Debug)]
pub struct RawLines {
    reader: Reader,
    started: bool,
    trailer: Option<Trailer>,
}

impl RawLines {
    /// Open a record, of which at most `limit` bytes are decompressed.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Record`].
    pub fn open(path: &Path, limit: u64) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        Ok(Self { reader: Reader::begin(file, path, limit)?, started: false, trailer: None })
    }

    /// The next line with its end; `None` after the last, when the trailer was checked.
    ///
    /// # Errors
    /// [`Error::Record`] for anything torn or damaged; [`Error::Cancelled`].
    pub fn next(&mut self, progress: &Progress) -> Result<Option<&[u8]>> {
        progress.check()?;
        if self.started && !self.reader.advance()? {
            let digest = format!("{:016x}", self.reader.digest.digest());
            return match &self.trailer {
                None => Err(self.reader.torn()),
                Some(trailer) if trailer.xxh64 != digest => Err(self.reader.damaged()),
                Some(_) => Ok(None),
            };
        }
        self.started = true;
        if self.trailer.is_some() {
            return Err(self.reader.bad("something follows its trailer"));
        }
        self.trailer = serde_json::from_slice(&self.reader.line).ok();
        if self.trailer.is_none() {
            self.reader.digest.update(&self.reader.line);
        }
        Ok(Some(&self.reader.line))
    }
}

/// The entries of a record, an iteration that ends with an error unless the trailer fits.
#[derive(Debug)]
pub struct Entries<T> {
    reader: Reader,
    trailer: Option<Trailer>,
    marker: std::marker::PhantomData<T>,
}

impl<T: DeserializeOwned> Entries<T> {
    /// The next entry; `None` after the last, when the trailer was checked.
    ///
    /// # Errors
    /// [`Error::Record`] for anything malformed, torn or damaged; [`Error::Cancelled`].
    pub fn next(&mut self, progress: &Progress) -> Result<Option<T>> {
        progress.check()?;
        if self.trailer.is_some() {
            return Ok(None);
        }
        if !self.reader.advance()? {
            return Err(self.reader.torn());
        }
        let problem = match self.reader.parse("it has a malformed line") {
            Ok(entry) => {
                self.reader.digest.update(&self.reader.line);
                return Ok(Some(entry));
            }
            Err(problem) => problem,
        };
        // Every kind of entry names a path and a trailer does not, so no line can be both.
        let trailer: Trailer = serde_json::from_slice(&self.reader.line).map_err(|_| problem)?;
        if trailer.xxh64 != format!("{:016x}", self.reader.digest.digest()) {
            return Err(self.reader.damaged());
        }
        if self.reader.advance()? {
            return Err(self.reader.bad("something follows its trailer"));
        }
        self.trailer = Some(trailer);
        Ok(None)
    }

    /// The trailer, after [`Entries::next`] returned `None`.
    pub fn trailer(&self) -> Option<&Trailer> {
        self.trailer.as_ref()
    }

    /// An [`Error::Record`] about this file.
    pub fn bad(&self, reason: impl Into<String>) -> Error {
        self.reader.bad(reason)
    }
}
