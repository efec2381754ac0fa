//! The engine's errors as Python exceptions.

use holdfast_engine::Error;
use holdfast_engine::error::no_space;
use pyo3::exceptions::{PyException, PyOSError, PyValueError};
use pyo3::prelude::*;

pyo3::create_exception!(
    holdfast._engine,
    EngineError,
    PyException,
    "The base of what the engine raises besides OSError and ValueError."
);
pyo3::create_exception!(
    holdfast._engine,
    CancelledError,
    EngineError,
    "The work was cancelled through its Progress; nothing half-written is left."
);
pyo3::create_exception!(
    holdfast._engine,
    RecordError,
    EngineError,
    "A record file is torn, damaged, hostile, or of a kind or version that cannot be read."
);
pyo3::create_exception!(
    holdfast._engine,
    NotPermittedError,
    EngineError,
    "The kernel would not report the true residency of a file to this process."
);

/// The exception for an error.
pub fn to_python(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Io { path, source } => {
            let number = source.raw_os_error().unwrap_or(0);
            // With these three arguments Python picks the subclass, FileNotFoundError and so on.
            Python::attach(|py| match strerror(py, number) {
                Ok(words) if number != 0 => PyOSError::new_err((number, words, path)),
                _ => PyOSError::new_err(message),
            })
        }
        Error::NoSpace { path, free, floor, more } => {
            PyOSError::new_err((libc::ENOSPC, no_space(free, floor, more), path))
        }
        Error::Cancelled => CancelledError::new_err(message),
        Error::Record { .. } => RecordError::new_err(message),
        Error::NotPermitted { .. } => NotPermittedError::new_err(message),
        Error::Unsupported { .. } | Error::Invalid(_) => PyValueError::new_err(message),
    }
}

fn strerror(py: Python<'_>, number: i32) -> PyResult<String> {
    py.import("os")?.call_method1("strerror", (number,))?.extract()
}
