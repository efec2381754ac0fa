//! Record files: zstd-compressed JSON lines with a header, and a trailer that proves completeness.
//!
//! A first line with `format` and `version`, then a line per entry, then the trailer: `files`,
//! `bytes` and `xxh64`, the digest of all uncompressed bytes before the trailer's line. Record files
//! travel between nodes and are read as untrusted input: lines and the whole are bounded, and nothing
//! is acted on before the trailer was found to fit.

mod output;
mod path;
mod reader;
mod writer;

pub use output::{output_error, output_file};
pub use path::PathText;
pub use reader::{Entries, RawLines, Reader};
pub use writer::{Writer, push_line};

use serde::{Deserialize, Serialize};

/// The longest line that is written or read, in bytes.
pub const LINE_LIMIT: usize = 2 << 20;

/// The last line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trailer {
    /// Files in the record.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Digest of everything before this line, 16 hexadecimal digits.
    pub xxh64: String,
}
