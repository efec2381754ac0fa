//! The two ends of a transfer, for Python.

use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_transfer::{
    Bound as Owner, Certificate, Error, Events, Limits, Offer, Request, Secret, Server, pull,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::de::DeserializeOwned;

use crate::errors::{EngineError, to_python};
use crate::progress::Progress;

pyo3::create_exception!(
    holdfast._engine,
    TransferError,
    EngineError,
    "A transfer failed. Its arguments are a sentence and the kind: wire, refused, protocol, damaged, \
     occupied, complete, busy or unfinished."
);

/// The exception for an error.
fn failed(error: Error) -> PyErr {
    let message = error.to_string();
    match (error.kind(), error) {
        (_, Error::Engine(error)) => to_python(error),
        (kind, _) => TransferError::new_err((message, kind)),
    }
}

fn parse<T: DeserializeOwned>(json: &str) -> PyResult<T> {
    holdfast_engine::pagecache::request(json).map_err(to_python)
}

/// Calls back into Python.
struct Binder(Py<PyAny>);

impl Events for Binder {
    fn bind(&self, offer: &str, puller: &str) -> Owner {
        Python::attach(|py| {
            let stored = self.0.call1(py, (offer, puller)).and_then(|answer| answer.extract(py));
            match stored {
                Ok(true) => Owner::Stored,
                Ok(false) => Owner::Failed,
                Err(error) => {
                    error.write_unraisable(py, None);
                    Owner::Failed
                }
            }
        })
    }
}

/// Serves offers on one listening socket.
#[pyclass(frozen, module = "holdfast._engine")]
pub struct TransferServer(Mutex<Option<Server>>);

#[pymethods]
impl TransferServer {
    #[new]
    fn new(
        py: Python<'_>,
        listener: i32,
        certificate: Vec<u8>,
        key: Vec<u8>,
        limits: &str,
        bind: Py<PyAny>,
    ) -> PyResult<Self> {
        let limits: Limits = parse(limits)?;
        // SAFETY: the caller hands over a descriptor that nobody else closes.
        let descriptor = unsafe { OwnedFd::from_raw_fd(listener) };
        let listener = TcpListener::from(descriptor);
        let certificate = Certificate { certificate, key };
        let start = || Server::start(listener, &certificate, limits, Arc::new(Binder(bind)));
        py.detach(start).map(|server| Self(Mutex::new(Some(server)))).map_err(failed)
    }

    fn offer(&self, py: Python<'_>, offer: &str) -> PyResult<()> {
        let offer: Offer = parse(offer)?;
        py.detach(|| self.with(|server| server.offer(offer)))?.map_err(failed)
    }

    fn revoke(&self, py: Python<'_>, offer: &str) -> PyResult<bool> {
        py.detach(|| self.with(|server| server.revoke(offer)))
    }

    fn status(&self, py: Python<'_>) -> PyResult<String> {
        let status = py.detach(|| self.with(Server::status))?;
        Ok(serde_json::to_string(&status).expect("a status has only text for keys"))
    }

    fn close(&self, py: Python<'_>) {
        // A thread that is calling back needs the interpreter to end.
        py.detach(|| drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take()));
    }
}

impl TransferServer {
    fn with<T>(&self, work: impl FnOnce(&Server) -> T) -> PyResult<T> {
        let server = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        server.as_ref().map(work).ok_or_else(|| EngineError::new_err("the server is closed"))
    }
}

/// Make a certificate: itself, its key, its fingerprint.
pub fn certificate(py: Python<'_>) -> PyResult<(Bound<'_, PyBytes>, Bound<'_, PyBytes>, String)> {
    let made = py.detach(Certificate::generate).map_err(failed)?;
    let fingerprint = made.fingerprint();
    Ok((PyBytes::new(py, &made.certificate), PyBytes::new(py, &made.key), fingerprint))
}

/// Make a ticket's key: the key, and what verifies it.
pub fn secret(py: Python<'_>) -> PyResult<(String, String)> {
    let make = || {
        let secret = Secret::generate()?;
        let public = secret.public()?;
        let verifier = public.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok((secret.text(), verifier))
    };
    py.detach(make).map_err(failed)
}

/// Fetch what a ticket offers.
pub fn fetch(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
    let request: Request = parse(request)?;
    let inner = progress.inner();
    let result = py.detach(|| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pull(&request, inner)))
    });
    match result {
        Ok(Ok(outcome)) => {
            Ok(serde_json::to_string(&outcome).expect("results have only text for keys"))
        }
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(EngineError::new_err("the transfer panicked; its last words are on stderr")),
    }
}
