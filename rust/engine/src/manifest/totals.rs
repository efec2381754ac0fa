//! What a manifest has, in numbers, and which of its files have no digest.

use serde::Serialize;

use super::record::{Entry, Status, Type};
use crate::record::PathText;

/// Files that are named one by one in the result.
const NAMED: usize = 1000;

/// What a manifest has, in numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Counts {
    /// Lines, of any type.
    pub entries: u64,
    /// Of them regular files,
    pub files: u64,
    /// directories,
    pub directories: u64,
    /// symbolic links,
    pub symlinks: u64,
    /// and everything else.
    pub specials: u64,
    /// Bytes in files, each inode counted once.
    pub bytes: u64,
    /// Names of files beyond their first.
    pub hardlinks: u64,
    /// Files with a digest.
    pub ok: u64,
    /// Files that were being written to, twice.
    pub changed: u64,
    /// Files that went away.
    pub vanished: u64,
    /// Files and directories that could not be read.
    pub errors: u64,
}

impl Counts {
    /// Count a line.
    pub fn count(&mut self, entry: &Entry) {
        self.entries += 1;
        match entry.kind {
            Type::File => {
                self.files += 1;
                if entry.hardlink_of().is_some() {
                    self.hardlinks += 1;
                } else {
                    self.bytes = self.bytes.saturating_add(entry.identity.size);
                }
                self.ok += u64::from(entry.status == Status::Ok);
            }
            Type::Directory => self.directories += 1,
            Type::Symlink => self.symlinks += 1,
            _ => self.specials += 1,
        }
        match entry.status {
            Status::Ok => {}
            Status::Changed => self.changed += 1,
            Status::Vanished => self.vanished += 1,
            Status::Error => self.errors += 1,
        }
    }
}

/// A file that has no digest, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    #[serde(flatten)]
    path: PathText,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Problem {
    /// Name an entry if it is to be named and fits in the limit; false if it does not fit.
    pub fn note(entry: &Entry, problems: &mut Vec<Self>) -> bool {
        if entry.status == Status::Ok {
            return true;
        }
        if problems.len() == NAMED {
            return false;
        }
        problems.push(Self {
            path: PathText::new(&entry.path),
            status: entry.status,
            detail: entry.detail().map(str::to_owned),
        });
        true
    }
}
