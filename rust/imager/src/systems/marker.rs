//! The marker in the new system, by which it learns that it was put there, by what, and how it went.
//!
//! Only the superuser may read it: it has the secret that proves to the agent which arming it is of.

use holdfast_engine::image::{Descriptor, Sha256};
use serde_json::json;

use crate::identity::place::Root;
use crate::identity::{Identity, Report, SUPERUSER};
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

/// How much of the marker there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detail {
    Whole,
    /// Without what only people read, for a root that is nearly full.
    Least,
}

/// Build the marker's text.
fn text(subject: Subject<'_>, identity: &Report, status: &Status, detail: Detail) -> Vec<u8> {
    let Subject { job, image, previous } = subject;
    let mut marker = json!({
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
        "lifeboat": job.lifeboat,
        "resumed": status.resumed(),
        "identity": identity,
    });
    let text = if detail == Detail::Whole {
        marker["phases"] = json!(status.finished());
        marker["bytes_written"] = json!(status.bytes_written());
        marker["bytes_mapped"] = json!(image.mapped_bytes());
        marker["memory_peak_bytes"] = json!(memory_peak_bytes().unwrap_or(0));
        marker["notes"] = json!(status.notes());
        serde_json::to_vec_pretty(&marker)
    } else {
        serde_json::to_vec(&marker)
    };
    let mut text = text.expect("JSON values are always text");
    text.push(b'\n');
    text
}

/// Take the space of the marker, before anything else is written into the root; as much as there is.
pub fn reserve(root: &Root, identity: &Identity) {
    let whole = 8192 + 512 * identity.files.len() as u64;
    for bytes in [whole, 4096, 2048] {
        if root.reserve(PATH, bytes).is_ok() {
            return;
        }
    }
}

/// Write the marker, shorter if it has to be; returns its text.
///
/// # Errors
/// The system's.
pub fn write(
    root: &Root,
    subject: Subject<'_>,
    identity: &Report,
    status: &Status,
) -> Result<Vec<u8>> {
    root.release(PATH);
    let put = |detail| {
        let text = text(subject, identity, status, detail);
        root.put_file(PATH, &text, MODE, SUPERUSER).map(|_| text)
    };
    match put(Detail::Whole) {
        Err(failure) if failure.full => put(Detail::Least),
        other => other,
    }
    .map_err(|failure| failure.fault)
}

/// The most memory this program had at once, in bytes; `None` if the kernel does not report it.
pub fn memory_peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
}
