//! Paths in JSON: text where they are UTF-8, and their bytes beside it where they are not.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// A path as JSON members `path` and, if it is not UTF-8, `path_b64`, which then is what counts:
/// `path` is for people and has U+FFFD in place of what cannot be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathText {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
}

impl PathText {
    /// Represent the bytes of a path.
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { path: text.to_owned(), path_b64: None },
            Err(_) => Self {
                path: String::from_utf8_lossy(bytes).into_owned(),
                path_b64: Some(STANDARD.encode(bytes)),
            },
        }
    }

    /// The bytes, or `None` where they are not valid base64.
    pub fn into_bytes(self) -> Option<Vec<u8>> {
        match self.path_b64 {
            None => Some(self.path.into_bytes()),
            Some(text) => STANDARD.decode(text).ok(),
        }
    }
}
