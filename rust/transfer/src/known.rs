//! Digests that a transfer proved, taken over by the build of a manifest.

use std::time::Duration;

use holdfast_engine::digest::Digest;
use holdfast_engine::manifest::record::{Chunks, Entry, chunk_size};

use crate::message::Table;

/// Times of files are as fine as the kernel's tick, and whole seconds on some file systems: a build
/// takes over only what is older.
const SETTLE: Duration = Duration::from_millis(25);

/// Wait until files that were written just now are older than the build that begins next.
pub fn settle() {
    std::thread::sleep(SETTLE);
}

/// Set what is known of a file.
pub fn set(entry: &mut Entry, digest: u64, table: Option<&Table>) {
    entry.digest = Some(Digest::Xxh64(digest));
    if let Some(table) = table {
        let digests = table.digests.iter().map(|&digest| Digest::Xxh64(digest)).collect();
        let size = chunk_size(entry.identity.size);
        entry.rare_mut().chunks = Some(Chunks { size, digests, states: table.states.clone() });
    }
}
