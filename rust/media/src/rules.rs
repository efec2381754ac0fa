//! The disk that is written: what may be on it. One list, for `plan`, arming and the imager.

use crate::{Kind, Signature};

/// Why the disk `path` must not be written, by what is on the whole of it; a sentence without a full
/// stop.
///
/// A file system or a member's signature at the beginning of a disk with partitions is most often a
/// stale one, left by an earlier use of the disk.
pub fn whole_disk(path: &str, signatures: &[Signature]) -> Option<String> {
    // GRUB keeps what FAT had in the first sector of a disk; it means nothing there.
    let first = signatures.iter().find(|one| one.kind != Kind::Fat)?;
    Some(format!(
        "the whole of {path} is {}, and not a disk with a system; if that is left over from an \
         earlier use, `{}` clears it",
        first.kind.describe(),
        clearing(path, first)
    ))
}

/// Why a disk must not be written, by what is on its partition `path`; a sentence without a full
/// stop.
pub fn partition(path: &str, signatures: &[Signature]) -> Option<String> {
    let first = signatures.iter().find(|one| is_part_of_something(one.kind))?;
    Some(format!(
        "{path} is {}; what it belongs to would lose it. If that is left over from an earlier \
         use, `{}` clears it",
        first.kind.describe(),
        clearing(path, first)
    ))
}

/// Whether a device of this kind belongs to something larger, or needs a key.
fn is_part_of_something(kind: Kind) -> bool {
    matches!(kind, Kind::Md | Kind::Lvm | Kind::Luks | Kind::Zfs)
}

/// The command that clears a signature.
fn clearing(path: &str, signature: &Signature) -> String {
    match signature.kind {
        // It has copies of its label, and many uberblocks in each.
        Kind::Zfs => format!("wipefs --force --all --types zfs_member {path}"),
        _ => format!("wipefs --force --offset {:#x} {path}", signature.offset),
    }
}
