//! Records as text: for the tools that check digests, and for those that read JSON.

use std::io::{BufWriter, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record::{Manifest, Type};
use crate::record::{RawLines, output_error, output_file};
use crate::{Progress, Result};

/// A record to be written as text.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The record file.
    pub source: PathBuf,
    /// The descriptor of a file or pipe that is open for writing.
    pub output: i32,
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
/// [`Error::Io`], [`Error::Record`], [`Error::Cancelled`], also where the other end of the pipe was
/// closed.
pub fn export(request: &Request, progress: &Progress) -> Result<Outcome> {
    let mut output = BufWriter::with_capacity(256 << 10, output_file(request.output)?);
    let outcome = match request.form {
        Form::Jsonl => lines(request, &mut output, progress)?,
        form => digests(request, form == Form::XxhsumEscaped, &mut output, progress)?,
    };
    output.flush().map_err(output_error)?;
    Ok(outcome)
}

fn lines(request: &Request, output: &mut impl Write, progress: &Progress) -> Result<Outcome> {
    let mut record = RawLines::open(&request.source, request.max_bytes)?;
    let mut outcome = Outcome::default();
    while let Some(line) = record.next(progress)? {
        output.write_all(line).map_err(output_error)?;
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
        output.write_all(&line).map_err(output_error)?;
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
