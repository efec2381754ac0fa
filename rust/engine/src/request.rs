//! Requests of the binding, which are JSON.

use serde::Deserialize;

use crate::{Error, Result};

/// Parse a request.
///
/// # Errors
/// [`Error::Invalid`].
pub fn parse_request<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T> {
    serde_json::from_str(json).map_err(|e| Error::Invalid(format!("malformed request: {e}")))
}
