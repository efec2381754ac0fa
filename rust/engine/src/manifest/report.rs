//! The findings of verifying or comparing, each by name: a record file of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;

use super::record::Type;
use crate::Result;
use crate::progress::lock;
use crate::record::{PathText, Writer, push_line};

/// What the header calls this kind of record.
pub const FORMAT: &str = "holdfast-manifest-report";
/// The version written.
pub const VERSION: u64 = 1;
/// Findings that are also in the result of the call.
const NAMED: usize = 1000;
/// Lines are handed to the compressor in batches of about this many bytes.
const BATCH: usize = 256 << 10;

/// The finding about a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The same in both manifests.
    Identical,
    /// Other content, size, target or type in each manifest.
    Differing,
    /// In the left manifest only.
    OnlyLeft,
    /// In the right manifest only.
    OnlyRight,
    /// The same content under another name.
    Moved,
    /// The same content with another owner, mode or time.
    Metadata,
    /// Not as the manifest states.
    Mismatched,
    /// In the manifest only.
    Missing,
    /// On disk only.
    Extra,
    /// Written to while it was read.
    Changed,
    /// The system gave an error.
    Unreadable,
    /// A manifest has no digest of it.
    Unproven,
}

/// In what respect something is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Its content.
    Content,
    /// Its size.
    Size,
    /// It is another kind of thing.
    Type,
    /// Where a symbolic link points to.
    Target,
}

/// One finding.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    #[serde(flatten)]
    path: PathText,
    finding: FindingKind,
    r#type: Type,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ranges: Vec<[u64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved_to: Option<PathText>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fields: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    left_size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    right_size: Option<u64>,
}

impl Finding {
    /// About a path.
    pub fn new(path: &[u8], finding: FindingKind, kind: Type) -> Self {
        Self {
            path: PathText::new(path),
            finding,
            r#type: kind,
            reason: None,
            detail: None,
            ranges: Vec::new(),
            moved_to: None,
            fields: Vec::new(),
            left_size: None,
            right_size: None,
        }
    }

    /// In what respect.
    #[must_use]
    pub fn reason(self, reason: Reason) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// The system's words.
    #[must_use]
    pub fn detail(self, detail: Option<&str>) -> Self {
        Self { detail: detail.map(str::to_owned), ..self }
    }

    /// Which bytes: `[from, to)`, in order.
    #[must_use]
    pub fn ranges(self, ranges: &[[u64; 2]]) -> Self {
        Self { ranges: ranges.to_vec(), ..self }
    }

    /// Its name in the right manifest.
    #[must_use]
    pub fn moved_to(self, path: &[u8]) -> Self {
        Self { moved_to: Some(PathText::new(path)), ..self }
    }

    /// Which members of its line differ.
    #[must_use]
    pub fn fields(self, fields: Vec<&'static str>) -> Self {
        Self { fields, ..self }
    }

    /// Its sizes.
    #[must_use]
    pub fn sizes(self, left: u64, right: u64) -> Self {
        Self { left_size: Some(left), right_size: Some(right), ..self }
    }
}

#[derive(Serialize)]
struct Header<'a> {
    format: &'static str,
    version: u64,
    kind: &'a str,
    #[serde(flatten)]
    other: &'a BTreeMap<String, serde_json::Value>,
}

/// A report being written, by many threads.
#[derive(Debug)]
pub struct Report(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    writer: Writer,
    lines: Vec<u8>,
    count: u64,
    named: Vec<Finding>,
    all: bool,
}

impl Report {
    /// Begin a report; `other` becomes more members of its header.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn create(
        path: &Path,
        kind: &str,
        other: &BTreeMap<String, serde_json::Value>,
    ) -> Result<Self> {
        let writer =
            Writer::create(path, &Header { format: FORMAT, version: VERSION, kind, other })?;
        let inner = Inner { writer, lines: Vec::new(), count: 0, named: Vec::new(), all: true };
        Ok(Self(Mutex::new(inner)))
    }

    /// Add a finding.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn add(&self, finding: &Finding) -> Result<()> {
        let mut inner = lock(&self.0);
        let Inner { writer, lines, count, named, all } = &mut *inner;
        push_line(lines, finding)?;
        *count += 1;
        if finding.finding != FindingKind::Identical {
            if named.len() < NAMED {
                named.push(finding.clone());
            } else {
                *all = false;
            }
        }
        if lines.len() >= BATCH {
            writer.write(lines)?;
            lines.clear();
        }
        Ok(())
    }

    /// Complete the report. Returns the first findings, and whether these are all.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io).
    pub fn finish(self) -> Result<(Vec<Finding>, bool)> {
        let inner = self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Inner { mut writer, lines, count, named, all } = inner;
        writer.write(&lines)?;
        writer.finish(count, 0)?;
        Ok((named, all))
    }
}
