//! Where a record goes in another form: a pipe, as a rule, whose reader may close it at any moment.

use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;

use crate::{Error, Result};

/// What messages call it.
const NAME: &str = "the output";

/// Open a descriptor of the caller once more, for writing.
///
/// # Errors
/// [`Error::Io`] if it is not open.
pub fn output_file(descriptor: i32) -> Result<File> {
    if descriptor < 0 {
        return Err(Error::Invalid("the output is not an open file".to_owned()));
    }
    // SAFETY: the caller keeps its descriptor open while it waits for this call; one that is not
    // open is an error of dup(2).
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    borrowed.try_clone_to_owned().map(File::from).map_err(output_error)
}

/// The error for a failed write: a pipe without a reader means that nobody wants the rest.
pub fn output_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Error::Cancelled,
        _ => Error::io(NAME, error),
    }
}
