//! The two ends of a transfer, for Python.

use std::net::TcpListener;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use holdfast_transfer::{
    Bound as Owner, Certificate, Error, Events, Limits, ManifestOutcome, ManifestRequest, Offer,
    RepairRequest, Request, Secret, Server, pull, repair,
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
     occupied, complete, busy, unfinished or writers."
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
    holdfast_engine::parse_request(json).map_err(to_python)
}

/// Calls back into Python; all but the first may be missing.
struct Callbacks {
    bind: Py<PyAny>,
    writers: Option<Py<PyAny>>,
    manifest: Option<Py<PyAny>>,
    completed: Option<Py<PyAny>>,
    page_cache: Option<Py<PyAny>>,
    record: Option<Py<PyAny>>,
}

/// What is reported to the destination when a callback raises; the details are the source's.
const RAISED: &str = "the source failed; its log has the reason";

/// Call a callback; an exception is reported to `sys.unraisablehook`.
fn call<T>(
    callback: &Py<PyAny>,
    arguments: impl for<'py> FnOnce(Python<'py>, &Py<PyAny>) -> PyResult<Py<PyAny>>,
    read: impl for<'py> FnOnce(&Bound<'py, PyAny>) -> PyResult<T>,
) -> Option<T> {
    Python::attach(|py| {
        let answer = arguments(py, callback).and_then(|answer| read(answer.bind(py)));
        answer.map_err(|error| error.write_unraisable(py, None)).ok()
    })
}

fn stored(answer: Option<bool>) -> Owner {
    if answer == Some(true) { Owner::Stored } else { Owner::Failed }
}

impl Events for Callbacks {
    fn bind(&self, offer: &str, puller: &str) -> Owner {
        let arguments = |py: Python<'_>, f: &Py<PyAny>| f.call1(py, (offer, puller));
        stored(call(&self.bind, arguments, |answer| answer.extract()))
    }

    fn writers(&self, offer: &str, overrule: bool) -> Option<String> {
        let callback = self.writers.as_ref()?;
        let arguments = |py: Python<'_>, f: &Py<PyAny>| f.call1(py, (offer, overrule));
        let answer = call(callback, arguments, |answer| answer.extract::<Option<String>>());
        // What could not be checked is not at rest.
        answer.unwrap_or_else(|| Some(RAISED.to_owned()))
    }

    fn manifest(&self, offer: &str) -> Result<Option<ManifestRequest>, String> {
        let Some(callback) = &self.manifest else { return Ok(None) };
        let arguments = |py: Python<'_>, f: &Py<PyAny>| f.call1(py, (offer,));
        let answer = call(callback, arguments, |answer| {
            let text: Option<String> = answer.extract()?;
            text.map(|text| parse(&text)).transpose()
        });
        answer.ok_or_else(|| RAISED.to_owned())
    }

    fn completed(&self, offer: &str, outcome: &ManifestOutcome) -> Owner {
        let Some(callback) = &self.completed else { return Owner::Stored };
        let print = outcome.fingerprint;
        let outcome = json(&Completed {
            outcome,
            digest: print.owned.to_string(),
            digest_without_owners: print.unowned.to_string(),
        });
        let arguments = |py: Python<'_>, f: &Py<PyAny>| f.call1(py, (offer, outcome));
        stored(call(callback, arguments, |answer| answer.extract()))
    }

    fn page_cache(&self, offer: &str) -> Result<Option<Vec<u8>>, String> {
        let Some(callback) = &self.page_cache else { return Ok(None) };
        let arguments = |py: Python<'_>, f: &Py<PyAny>| f.call1(py, (offer,));
        let answer = call(callback, arguments, |answer| answer.extract::<Option<Vec<u8>>>());
        answer.ok_or_else(|| RAISED.to_owned())
    }

    fn record(&self, offer: &str) -> Result<Option<(PathBuf, u64)>, String> {
        let Some(callback) = &self.record else { return Ok(None) };
        let arguments = |py: Python<'_>, f: &Py<PyAny>| f.call1(py, (offer,));
        let answer = call(callback, arguments, |answer| answer.extract::<Option<(PathBuf, u64)>>());
        answer.ok_or_else(|| RAISED.to_owned())
    }
}

/// The source's manifest as Python gets it.
#[derive(serde::Serialize)]
struct Completed<'a> {
    #[serde(flatten)]
    outcome: &'a ManifestOutcome,
    digest: String,
    digest_without_owners: String,
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("results have only text for keys")
}

/// Serves offers on one listening socket.
#[pyclass(frozen, module = "holdfast._engine")]
pub struct TransferServer(Mutex<Option<Server>>);

#[pymethods]
impl TransferServer {
    #[new]
    #[pyo3(signature = (
        listener, certificate, key, limits, bind, *, writers=None, manifest=None, completed=None,
        page_cache=None, record=None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "callbacks, by their names")]
    fn new(
        py: Python<'_>,
        listener: i32,
        certificate: Vec<u8>,
        key: Vec<u8>,
        limits: &str,
        bind: Py<PyAny>,
        writers: Option<Py<PyAny>>,
        manifest: Option<Py<PyAny>>,
        completed: Option<Py<PyAny>>,
        page_cache: Option<Py<PyAny>>,
        record: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let limits: Limits = parse(limits)?;
        // SAFETY: the caller hands over a descriptor that nobody else closes.
        let descriptor = unsafe { OwnedFd::from_raw_fd(listener) };
        let listener = TcpListener::from(descriptor);
        let certificate = Certificate { certificate, key };
        let callbacks = Callbacks { bind, writers, manifest, completed, page_cache, record };
        let start = || Server::start(listener, &certificate, limits, Arc::new(callbacks));
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
        Ok(json(&status))
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
    run(py, || pull(&request, inner))
}

/// Fetch what differs from the source's manifest.
pub fn heal(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
    let request: RepairRequest = parse(request)?;
    let inner = progress.inner();
    run(py, || repair(&request, inner))
}

fn run<T: serde::Serialize + Send>(
    py: Python<'_>,
    work: impl FnOnce() -> holdfast_transfer::Result<T> + Send,
) -> PyResult<String> {
    match py.detach(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work))) {
        Ok(Ok(outcome)) => Ok(json(&outcome)),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(EngineError::new_err("the transfer panicked; its last words are on stderr")),
    }
}

/// Return the counters of all transfers of this process.
pub fn statistics() -> String {
    json(&holdfast_transfer::statistics())
}
