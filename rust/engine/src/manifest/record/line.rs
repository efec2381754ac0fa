//! The lines of a manifest as JSON.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Chunks, Entry, Status, Type};
use crate::digest::{Algorithm, Digest};
use crate::record::{LINE_LIMIT, PathText};
use crate::{Error, Result};

impl Entry {
    /// Append it as a line.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the line is longer than readers accept.
    pub fn push(&self, buffer: &mut Vec<u8>) -> Result<()> {
        let from = buffer.len();
        let (path, path_b64) = text_of(&self.path);
        let line = Line {
            path,
            path_b64,
            kind: self.kind,
            size: self.identity.size,
            mtime_ns: self.identity.mtime_ns,
            ctime_ns: self.identity.ctime_ns,
            dev: self.identity.dev,
            ino: self.identity.ino,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            status: self.status,
            xxh64: self.digest.filter(|digest| digest.algorithm() == Algorithm::Xxh64),
            xxh3_128: self.digest.filter(|digest| digest.algorithm() == Algorithm::Xxh3_128),
            blake3: self.digest.filter(|digest| digest.algorithm() == Algorithm::Blake3),
            hardlink_of: self.hardlink_of().map(PathText::new),
            target: self.target().map(PathText::new),
            detail: self.detail().map(Cow::Borrowed),
            chunks: self.chunks().map(Table::of),
        };
        serde_json::to_writer(&mut *buffer, &line).map_err(|e| Error::Invalid(e.to_string()))?;
        buffer.push(b'\n');
        if buffer.len() - from > LINE_LIMIT {
            buffer.truncate(from);
            return Err(Error::Invalid("a line of a record would be too long".to_owned()));
        }
        Ok(())
    }
}

/// A line in its written form.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Line<'a> {
    pub(super) path: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) path_b64: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: Type,
    #[serde(default)]
    pub(super) size: u64,
    #[serde(default)]
    pub(super) mtime_ns: i128,
    #[serde(default)]
    pub(super) ctime_ns: i128,
    #[serde(default)]
    pub(super) dev: u64,
    #[serde(default)]
    pub(super) ino: u64,
    #[serde(default)]
    pub(super) mode: u32,
    #[serde(default)]
    pub(super) uid: u32,
    #[serde(default)]
    pub(super) gid: u32,
    #[serde(default)]
    pub(super) nlink: u32,
    pub(super) status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "xxh64_text")]
    pub(super) xxh64: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "xxh3_128_text")]
    pub(super) xxh3_128: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "blake3_text")]
    pub(super) blake3: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hardlink_of: Option<PathText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) target: Option<PathText>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) chunks: Option<Table>,
}

/// A chunk table in its written form.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Table {
    pub(super) size: u64,
    pub(super) digests: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) states: Vec<String>,
}

impl Table {
    fn of(chunks: &Chunks) -> Self {
        let state = |[a, b, c, d]: &[u64; 4]| format!("{a:016x}{b:016x}{c:016x}{d:016x}");
        Self {
            size: chunks.size,
            digests: chunks.digests.iter().map(ToString::to_string).collect(),
            states: chunks.states.iter().map(state).collect(),
        }
    }

    pub(super) fn read(self, algorithm: Algorithm, size: u64) -> Option<Chunks> {
        let digest = |text: &String| Digest::parse(algorithm, text);
        let chunks = Chunks {
            size: self.size,
            digests: self.digests.iter().map(digest).collect::<Option<_>>()?,
            states: self.states.iter().map(|text| state(text)).collect::<Option<_>>()?,
        };
        let states = chunks.states.is_empty() == (algorithm != Algorithm::Xxh64);
        (chunks.is_of(size) && states).then_some(chunks)
    }
}

fn state(text: &str) -> Option<[u64; 4]> {
    let mut lanes = [0; 4];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (lane, digits) in lanes.iter_mut().zip(text.as_bytes().as_chunks::<16>().0) {
        *lane = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(lanes)
}

/// Digests as text, one module for each member that can be one.
macro_rules! digest_text {
    ($module:ident, $algorithm:expr) => {
        mod $module {
            use super::{Algorithm, Digest};
            use serde::{Deserializer, Serializer};

            const ALGORITHM: Algorithm = $algorithm;

            pub fn serialize<S: Serializer>(
                digest: &Option<Digest>,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                match digest {
                    Some(digest) => serializer.collect_str(digest),
                    None => serializer.serialize_none(),
                }
            }

            pub fn deserialize<'de, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<Option<Digest>, D::Error> {
                deserializer.deserialize_str(super::DigestText(ALGORITHM)).map(Some)
            }
        }
    };
}

digest_text!(xxh64_text, Algorithm::Xxh64);
digest_text!(xxh3_128_text, Algorithm::Xxh3_128);
digest_text!(blake3_text, Algorithm::Blake3);

/// Reads a digest without keeping its text.
struct DigestText(Algorithm);

impl serde::de::Visitor<'_> for DigestText {
    type Value = Digest;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a digest of {} in hexadecimal", self.0.name())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Digest, E> {
        let unexpected = serde::de::Unexpected::Str(text);
        Digest::parse(self.0, text).ok_or_else(|| E::invalid_value(unexpected, &self))
    }
}

/// A path as the members `path` and, unless it is UTF-8, `path_b64`.
fn text_of(path: &[u8]) -> (Cow<'_, str>, Option<String>) {
    match std::str::from_utf8(path) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(_) => (String::from_utf8_lossy(path), Some(STANDARD.encode(path))),
    }
}
