//! The marker in the new system, by which it learns that it was put there, by what, and how it went.

use std::path::Path;

use holdfast_engine::image::{Descriptor, Sha256};
use serde_json::json;

use crate::identity::place::Root;
use crate::identity::{Report, SUPERUSER};
use crate::job::Job;
use crate::status::Status;
use crate::{Result, clock};

/// Where it is.
pub const PATH: &str = "/etc/holdfast/reimaged.json";

/// Write the marker.
///
/// # Errors
/// The system's.
pub fn write(
    root: &Path,
    job: &Job,
    image: &Descriptor,
    descriptor: &Sha256,
    identity: &Report,
    status: &Status,
) -> Result<()> {
    let marker = json!({
        "format": "holdfast-reimaged",
        "version": 1,
        "nonce": job.nonce,
        "operation": job.operation,
        "image": {
            "name": image.name,
            "image_version": image.image_version,
            "descriptor_sha256": descriptor,
        },
        "finished": clock::timestamp(),
        "phases": status.finished(),
        "bytes_written": status.bytes_written(),
        "bytes_mapped": image.mapped_bytes(),
        "memory_peak_bytes": memory_peak_bytes().unwrap_or(0),
        "notes": status.notes(),
        "identity": identity,
    });
    let mut text = serde_json::to_vec_pretty(&marker).expect("JSON values are always text");
    text.push(b'\n');
    Root::open(root)?.put_file(PATH, &text, 0o644, SUPERUSER)
}

/// The most memory this program had at once, in bytes; `None` if the kernel does not tell.
pub fn memory_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}
