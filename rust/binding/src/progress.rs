//! Progress for Python.

use pyo3::prelude::*;

/// What a running call has done so far; cheap to read from any thread at any time.
#[pyclass(frozen, module = "holdfast._engine")]
pub struct Progress(holdfast_engine::Progress);

impl Progress {
    /// The engine's own.
    pub fn inner(&self) -> &holdfast_engine::Progress {
        &self.0
    }
}

#[pymethods]
impl Progress {
    #[new]
    fn new() -> Self {
        Self(holdfast_engine::Progress::default())
    }

    #[getter]
    fn phase(&self) -> String {
        self.0.phase().to_string()
    }

    #[getter]
    fn bytes_done(&self) -> u64 {
        self.0.bytes_done()
    }

    #[getter]
    fn bytes_expected(&self) -> Option<u64> {
        self.0.bytes_expected()
    }

    #[getter]
    fn files_done(&self) -> u64 {
        self.0.files_done()
    }

    #[getter]
    fn files_expected(&self) -> Option<u64> {
        self.0.files_expected()
    }

    #[getter]
    fn read_bytes(&self) -> u64 {
        self.0.read_bytes()
    }

    #[getter]
    fn uses_share(&self) -> Option<f64> {
        self.0.uses_share()
    }

    #[getter]
    fn current(&self) -> Option<String> {
        self.0.current().map(|path| path.to_string())
    }

    #[getter]
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }

    fn enter(&self, phase: &str) {
        self.0.enter(phase);
    }

    #[pyo3(signature = (amount))]
    fn expect(&self, amount: Option<u64>) {
        self.0.expect_bytes(amount);
    }

    fn advance(&self, amount: u64) {
        self.0.add_bytes(amount);
    }

    fn restart(&self) {
        self.0.restart();
    }

    fn cancel(&self) {
        self.0.cancel();
    }
}
