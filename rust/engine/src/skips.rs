//! Files that were passed over: counted by reason, some of them named.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;

use crate::progress::lock;
use crate::record::PathText;

/// How many skipped files a result names; the others are only counted.
const NAMED: usize = 20;

/// Why a file was passed over. The names are part of the HTTP contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A symbolic link: never followed.
    Symlink,
    /// A device, socket or FIFO: never opened.
    Special,
    /// Another name of a file that was dealt with under its first.
    Hardlink,
    /// Something is mounted there.
    OtherFilesystem,
    /// Gone since its directory was read or since the dump.
    Vanished,
    /// It may not be opened.
    PermissionDenied,
    /// The kernel would lie about its residency to this process.
    NotPermitted,
    /// Data that has no page cache (DAX).
    Dax,
    /// No longer a regular file.
    NotAFile,
    /// Its size or modification time differs from the dump's, under the policy `strict`.
    Changed,
    /// Pages beyond the file's present end.
    BeyondEnd,
    /// Pages in a hole: reading them costs no I/O, loading them only memory.
    Hole,
    /// No memory left within the budget.
    Budget,
    /// Memory ran short while loading.
    MemoryPressure,
    /// The system gave an error, named in the detail.
    Error,
}

/// One skipped file.
#[derive(Debug, Clone, Serialize)]
pub struct Skipped {
    #[serde(flatten)]
    path: PathText,
    reason: Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Default)]
struct Counted {
    files: BTreeMap<Reason, u64>,
    named: Vec<Skipped>,
}

/// Collects skipped files from many threads.
#[derive(Debug, Default)]
pub struct Skips(Mutex<Counted>);

impl Skips {
    /// Count a file, and name it if there is room.
    pub fn add(&self, path: &[u8], reason: Reason, detail: Option<String>) {
        let mut counted = lock(&self.0);
        *counted.files.entry(reason).or_default() += 1;
        if counted.named.len() < NAMED {
            counted.named.push(Skipped { path: PathText::new(path), reason, detail });
        }
    }

    /// The counts, and those files that are named, in no particular order.
    pub fn into_parts(self) -> (BTreeMap<Reason, u64>, Vec<Skipped>) {
        let counted = self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        (counted.files, counted.named)
    }
}
