//! Records as text: for the tools that check digests, and for those that read JSON.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{Manifest, Type};
use crate::record::RawLines;
use crate::{Error, Progress, Result};

/// A record to be written as text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The record file.
    pub source: PathBuf,
    /// The text file, which is there whole in the end or not at all.
    pub destination: PathBuf,
    /// Bytes of the record to decompress at most.
    pub max_bytes: u64,
    /// As which text.
    pub form: Form,
}

/// Forms of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// What `xxhsum -c` reads, and `b3sum -c`: names that need no escaping, which xxhsum before 0.8.2
    /// does not understand.
    Xxhsum,
    /// The other names, escaped.
    XxhsumEscaped,
    /// The record's own lines.
    Jsonl,
}

/// What was written.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Lines.
    pub lines: u64,
    /// Files with a digest whose names are of the other form.
    pub left_out: u64,
}

/// Write a record as text.
///
/// # Errors
/// [`Error::Io`], [`Error::Record`], [`Error::Cancelled`]. No file is left then.
pub fn export(request: &Request, progress: &Progress) -> Result<Outcome> {
    let destination = &request.destination;
    let mut name = OsString::from(".");
    name.push(destination.file_name().unwrap_or_default());
    name.push(".partial");
    let temporary = destination.with_file_name(name);
    let result = write(request, &temporary, progress).and_then(|outcome| {
        std::fs::rename(&temporary, destination).map_err(|e| Error::io(destination, e))?;
        Ok(outcome)
    });
    if result.is_err() {
        // It may never have been made.
        let _ = std::fs::remove_file(&temporary);
    }
    result
}

fn write(request: &Request, temporary: &Path, progress: &Progress) -> Result<Outcome> {
    let failed = |error| Error::io(&request.destination, error);
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(temporary)
        .map_err(failed)?;
    let mut output = BufWriter::with_capacity(256 << 10, file);
    let outcome = match request.form {
        Form::Jsonl => lines(request, &mut output, progress)?,
        form => digests(request, form == Form::XxhsumEscaped, &mut output, progress)?,
    };
    output.flush().map_err(failed)?;
    Ok(outcome)
}

fn lines(request: &Request, output: &mut impl Write, progress: &Progress) -> Result<Outcome> {
    let mut record = RawLines::open(&request.source, request.max_bytes)?;
    let mut outcome = Outcome::default();
    while let Some(line) = record.next(progress)? {
        output.write_all(line).map_err(|e| Error::io(&request.destination, e))?;
        outcome.lines += 1;
    }
    Ok(outcome)
}

fn digests(
    request: &Request,
    escaped: bool,
    output: &mut impl Write,
    progress: &Progress,
) -> Result<Outcome> {
    let mut manifest = Manifest::open(&request.source, request.max_bytes)?;
    let mut outcome = Outcome::default();
    while let Some(entry) = manifest.next(progress)? {
        let (Type::File, Some(digest)) = (entry.kind, entry.digest) else { continue };
        if needs_escape(&entry.path) != escaped {
            outcome.left_out += 1;
            continue;
        }
        // Before a name stands the directory: one that is called `stdin` or `-` means itself then.
        let mut line = Vec::with_capacity(entry.path.len() + 80);
        if escaped {
            line.push(b'\\');
        }
        line.extend(digest.to_string().bytes());
        line.extend(b"  ./");
        escape(&entry.path, &mut line);
        line.push(b'\n');
        output.write_all(&line).map_err(|e: io::Error| Error::io(&request.destination, e))?;
        outcome.lines += 1;
    }
    Ok(outcome)
}

fn needs_escape(path: &[u8]) -> bool {
    path.iter().any(|byte| matches!(byte, b'\n' | b'\r' | b'\\'))
}

fn escape(path: &[u8], line: &mut Vec<u8>) {
    for &byte in path {
        match byte {
            b'\n' => line.extend(b"\\n"),
            b'\r' => line.extend(b"\\r"),
            b'\\' => line.extend(b"\\\\"),
            _ => line.push(byte),
        }
    }
}
