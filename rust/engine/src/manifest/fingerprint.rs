//! One digest of all that two manifests of the same tree have in common, on whatever machine.

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::record::{Entry, Type};
use crate::image::sha256::Sha256;

/// SHA-256 of what a comparison of two manifests compares: paths, types, modes, times of files,
/// content, targets and names of one file; neither devices nor inodes nor times of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// With owners by number.
    pub owned: Sha256,
    /// Without owners, for trees whose owners have other numbers.
    pub unowned: Sha256,
}

impl Default for Fingerprint {
    fn default() -> Self {
        Printer::default().finish()
    }
}

/// Takes lines in, in their order.
#[derive(Debug, Default)]
pub struct Printer {
    owned: sha2::Sha256,
    unowned: sha2::Sha256,
}

impl Printer {
    /// Take in a line.
    pub fn add(&mut self, entry: &Entry) {
        let mut line = Vec::with_capacity(entry.path.len() + 128);
        let mut member = |bytes: &[u8]| {
            line.extend((bytes.len() as u64).to_le_bytes());
            line.extend(bytes);
        };
        member(&entry.path);
        member(&[entry.kind as u8, entry.status as u8]);
        if entry.kind != Type::Symlink {
            member(&entry.mode.to_le_bytes());
        }
        if entry.kind == Type::File {
            member(&entry.identity.mtime_ns.to_le_bytes());
            member(&entry.identity.size.to_le_bytes());
            member(entry.digest.map(|digest| digest.to_string()).unwrap_or_default().as_bytes());
        }
        member(entry.target().unwrap_or_default());
        member(entry.hardlink_of().unwrap_or_default());
        self.owned.update(&line);
        self.unowned.update(&line);
        self.owned.update(entry.uid.to_le_bytes());
        self.owned.update(entry.gid.to_le_bytes());
    }

    /// Return the digest of all.
    pub fn finish(self) -> Fingerprint {
        Fingerprint {
            owned: Sha256(self.owned.finalize().into()),
            unowned: Sha256(self.unowned.finalize().into()),
        }
    }
}
