//! The marker in the new system, by which it learns that it was put there, by what, and how it went.
//!
//! Only the superuser may read it: it has the secret that proves to the agent which arming it is of.

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
/// Its permission bits.
const MODE: u32 = 0o600;

/// What the marker is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The job that was done.
    pub job: &'a Job,
    /// The image that was written.
    pub image: &'a Descriptor,
    /// The digest of the kept old system's descriptor, if it was kept.
    pub previous: Option<&'a Sha256>,
}

/// Build the marker's text.
pub fn text(subject: Subject<'_>, identity: &Report, status: &Status) -> Vec<u8> {
    let Subject { job, image, previous } = subject;
    let marker = json!({
        "format": "holdfast-reimaged",
        "version": 1,
        "nonce": job.nonce,
        "secret": job.secret,
        "operation": job.operation,
        "image": {
            "name": image.name,
            "image_version": image.image_version,
            "descriptor_sha256": job.descriptor_sha256,
        },
        "previous": previous.map(|digest| json!({ "descriptor_sha256": digest })),
        "state_dir": job.state_dir,
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
    text
}

/// Write the marker.
///
/// # Errors
/// The system's.
pub fn write(root: &Path, text: &[u8]) -> Result<()> {
    Root::open(root)?.put_file(PATH, text, MODE, SUPERUSER)
}

/// The most memory this program had at once, in bytes; `None` if the kernel does not tell.
pub fn memory_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}
