//! `holdfast._engine`: converts types and releases the GIL, nothing else.
//!
//! Requests and results cross as JSON text. The Python side writes requests from dataclasses with
//! the fields that are parsed here, and reads results with the models of its HTTP interface.

mod errors;
mod progress;
mod transfer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use holdfast_engine::disk::fat;
use holdfast_engine::disk::fat_place;
use holdfast_engine::disk::gpt;
use holdfast_engine::image::{self, Descriptor, Encoding};
use holdfast_engine::manifest;
use holdfast_engine::pagecache::{self, happycache, record};
use holdfast_engine::parse_request;
use holdfast_engine::signature;
use holdfast_engine::space::{self, Floor};
use holdfast_engine::tree::patterns::Patterns;
use holdfast_media::table;
use holdfast_memory as memory;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::errors::{EngineError, to_python};
use crate::progress::Progress;

/// Parse the request, do the work without the GIL, and return the result as JSON.
fn call<R, T>(
    py: Python<'_>,
    json: &str,
    progress: &Progress,
    work: impl FnOnce(&R, &holdfast_engine::Progress) -> holdfast_engine::Result<T> + Send,
) -> PyResult<String>
where
    R: DeserializeOwned + Sync,
    T: Serialize,
{
    let inner = progress.inner();
    // A panic is a bug; it must end this call and not pass for an exit of the interpreter.
    let result = py.detach(|| {
        catch_unwind(AssertUnwindSafe(|| {
            let request: R = parse_request(json)?;
            let outcome = work(&request, inner)?;
            Ok(serde_json::to_string(&outcome).expect("results have only text for keys"))
        }))
    });
    match result {
        Ok(outcome) => outcome.map_err(to_python),
        Err(_) => Err(EngineError::new_err("the engine panicked; its last words are on stderr")),
    }
}

#[pymodule]
mod _engine {
    use super::*;

    #[pymodule_export]
    use crate::errors::{CancelledError, EngineError, NotPermittedError, RecordError};
    #[pymodule_export]
    use crate::progress::Progress;
    #[pymodule_export]
    use crate::transfer::{TransferError, TransferServer};

    #[pymodule_export]
    #[expect(non_upper_case_globals, reason = "Python's name for it")]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pyfunction]
    fn page_size() -> u64 {
        holdfast_engine::sys::page_size()
    }

    #[pyfunction]
    fn set_free_space_floor(share: u64, amount: u64, most: u64) {
        space::set_floor(Floor { share, bytes: amount, most });
    }

    #[pyfunction]
    fn free_space(py: Python<'_>, path: PathBuf) -> PyResult<(u64, u64)> {
        let found = py.detach(|| space::space(&path)).map_err(to_python)?;
        Ok((found.free, found.floor))
    }

    #[pyfunction]
    fn check_free_space(py: Python<'_>, path: PathBuf, more: u64) -> PyResult<()> {
        py.detach(|| space::check(&path, more)).map_err(to_python)
    }

    #[pyfunction]
    fn has_cachestat() -> bool {
        holdfast_engine::sys::has_cachestat()
    }

    #[pyfunction]
    fn kind_of(py: Python<'_>, root: PathBuf, path: PathBuf) -> PyResult<&'static str> {
        py.detach(|| holdfast_engine::tree::root_path::kind_of(&root, &path)).map_err(to_python)
    }

    #[pyfunction]
    fn measure_residency(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, pagecache::residency::residency)
    }

    #[pyfunction]
    fn dump_pages(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, pagecache::dump::dump)
    }

    #[pyfunction]
    fn load_pages(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, pagecache::load::load)
    }

    #[pyfunction]
    fn evict_pages(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, pagecache::evict::evict)
    }

    #[pyfunction]
    fn inspect_dump(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, |request: &InspectRequest, progress| {
            record::inspect(record::Dump::open(&request.record, request.max_bytes)?, progress)
        })
    }

    #[pyfunction]
    fn import_happycache(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, happycache::import)
    }

    #[pyfunction]
    fn export_happycache(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, happycache::export)
    }

    #[pyfunction]
    fn build_manifest(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, manifest::build::build)
    }

    #[pyfunction]
    fn verify_manifest(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, manifest::verify::verify)
    }

    #[pyfunction]
    fn check_patterns(py: Python<'_>, include: Vec<String>, exclude: Vec<String>) -> PyResult<()> {
        py.detach(|| Patterns::new(&include, &exclude)).map(drop).map_err(to_python)
    }

    #[pyfunction]
    fn compare_manifests(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, manifest::compare::compare)
    }

    #[pyfunction]
    fn inspect_manifest(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, manifest::inspect::inspect)
    }

    #[pyfunction]
    fn export_manifest(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, manifest::export::export)
    }

    #[pyfunction]
    fn describe_image(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, image::describe::describe)
    }

    #[pyfunction]
    fn inspect_image(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, image::describe::look_into)
    }

    #[pyfunction]
    fn apply_image_rules(py: Python<'_>, question: &str) -> PyResult<String> {
        let answer = py.detach(|| Ok(image::rules::apply(&parse_request(question)?)));
        let answer = answer.map_err(to_python)?;
        Ok(serde_json::to_string(&answer).expect("an answer has only text for keys"))
    }

    #[pyfunction]
    fn probe_device(py: Python<'_>, path: PathBuf) -> PyResult<String> {
        let report = py.detach(|| image::device::report(&path)).map_err(to_python)?;
        Ok(serde_json::to_string(&report).expect("a report has only text for keys"))
    }

    #[pyfunction]
    fn refused_in_system(
        py: Python<'_>,
        path: PathBuf,
        groups: Vec<String>,
        partitions: Vec<PathBuf>,
    ) -> PyResult<Option<String>> {
        let refused = || image::device::refused_in_system(&path, &groups, &partitions);
        py.detach(refused).map_err(to_python)
    }

    #[pyfunction]
    fn pack_image(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, image::pack::pack)
    }

    #[pyfunction]
    fn verify_image(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, image::verify::verify)
    }

    #[pyfunction]
    fn inspect_descriptor(py: Python<'_>, data: &[u8]) -> PyResult<String> {
        let descriptor = py.detach(|| Descriptor::parse(Path::new("the descriptor"), data));
        let summary = descriptor.map_err(to_python)?.summary();
        Ok(serde_json::to_string(&summary).expect("a summary has only text for keys"))
    }

    #[pyfunction]
    fn ed25519_public<'py>(py: Python<'py>, seed: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let public = signature::public_key(seed).map_err(to_python)?;
        Ok(PyBytes::new(py, &public))
    }

    #[pyfunction]
    fn ed25519_sign<'py>(
        py: Python<'py>,
        seed: &[u8],
        message: &[u8],
    ) -> PyResult<Bound<'py, PyBytes>> {
        let made = signature::sign(seed, message).map_err(to_python)?;
        Ok(PyBytes::new(py, &made))
    }

    #[pyfunction]
    fn ed25519_verify(public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        signature::verify(public_key, message, signature)
    }

    #[pyfunction]
    fn transfer_certificate(
        py: Python<'_>,
    ) -> PyResult<(Bound<'_, PyBytes>, Bound<'_, PyBytes>, String)> {
        transfer::certificate(py)
    }

    #[pyfunction]
    fn transfer_secret(py: Python<'_>) -> PyResult<(String, String)> {
        transfer::secret(py)
    }

    #[pyfunction]
    fn repair_transfer(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        transfer::heal(py, request, progress)
    }

    #[pyfunction]
    fn transfer_statistics() -> String {
        transfer::statistics()
    }

    #[pyfunction]
    fn pull_transfer(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        transfer::fetch(py, request, progress)
    }

    #[pyfunction]
    fn build_fat<'py>(
        py: Python<'py>,
        sector_bytes: u16,
        files: Vec<(String, Vec<u8>)>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| {
            let files: Vec<_> =
                files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
            fat::build(sector_bytes, &files)
        });
        bytes.map(|bytes| PyBytes::new(py, &bytes)).map_err(to_python)
    }

    #[pyfunction]
    fn find_fat_file(py: Python<'_>, device: PathBuf, path: &str) -> PyResult<String> {
        let place = py.detach(|| fat_place::find(&device, path)).map_err(to_python)?;
        Ok(serde_json::to_string(&place).expect("a place has only text for keys"))
    }

    #[pyfunction]
    fn read_gpt(
        py: Python<'_>,
        path: PathBuf,
        lba: u64,
        sector_bytes: u64,
    ) -> PyResult<Option<String>> {
        let found = py.detach(|| gpt::read(&path, lba, sector_bytes)).map_err(to_python)?;
        Ok(found
            .map(|table| serde_json::to_string(&table).expect("a table has only text for keys")))
    }

    #[pyfunction]
    fn mbr_ranges(sector: &[u8]) -> Vec<(u64, u64)> {
        table::mbr_ranges(sector)
    }

    #[pyfunction]
    fn switched_gpt(mbr: &[u8], header: &[u8]) -> PyResult<Option<String>> {
        gpt::switched(mbr, header).map_err(to_python)
    }

    #[pyfunction]
    fn build_gpt<'py>(
        py: Python<'py>,
        request: &str,
    ) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let built = parse_request(request).and_then(|request| gpt::build(&request));
        let [entries, primary, backup] = built.map_err(to_python)?;
        Ok((PyBytes::new(py, &entries), PyBytes::new(py, &primary), PyBytes::new(py, &backup)))
    }

    #[pyfunction]
    fn save_memory(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, memory::save::save)
    }

    #[pyfunction]
    fn inspect_memory_save(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, memory::inspect::inspect)
    }

    #[pyfunction]
    fn stage_memory(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, memory::restore::stage)
    }

    #[pyfunction]
    fn commit_memory(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, memory::commit::commit)
    }

    #[pyfunction]
    fn recover_memory(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, memory::commit::recover)
    }

    #[pyfunction]
    fn discard_memory(py: Python<'_>, request: &str, progress: &Progress) -> PyResult<String> {
        call(py, request, progress, memory::commit::discard)
    }

    #[pyfunction]
    fn decompress<'py>(
        py: Python<'py>,
        data: &[u8],
        encoding: &str,
        max_bytes: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let encoding = match encoding {
            "identity" => Encoding::Identity,
            "zstd" => Encoding::Zstd,
            "gzip" => Encoding::Gzip,
            "xz" => Encoding::Xz,
            _ => return Err(PyValueError::new_err(format!("{encoding}: no such encoding"))),
        };
        let bytes = py.detach(|| image::unpack("packed data", data, encoding, max_bytes));
        bytes.map(|bytes| PyBytes::new(py, &bytes)).map_err(to_python)
    }
}

/// A record to check.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct InspectRequest {
    record: PathBuf,
    max_bytes: u64,
}
