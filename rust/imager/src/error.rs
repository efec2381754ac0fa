//! What can go wrong: a sentence for the operator who asks why a machine wasn't re-imaged.

use std::fmt::Display;

/// The imager's result.
pub type Result<T> = std::result::Result<T, Fault>;

/// Why something was not done, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

impl Fault {
    /// A fault with its sentence.
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

impl From<holdfast_engine::Error> for Fault {
    fn from(error: holdfast_engine::Error) -> Self {
        Self(error.to_string())
    }
}

/// Adds what was being done when something failed.
pub trait Context<T> {
    /// The fault is `what: the error`.
    ///
    /// # Errors
    /// The original one, with `what` before it.
    fn context(self, what: impl Display) -> Result<T>;
}

impl<T, E: Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl Display) -> Result<T> {
        self.map_err(|error| Fault(format!("{what}: {error}")))
    }
}
