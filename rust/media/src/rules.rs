//! The disk that is written: what may be on it. One list, for `plan`, arming and the imager.

use crate::lvm::Membership;
use crate::{Kind, Signature};

/// Why the disk `path` must not be written, by what is on the whole of it; a sentence without a full
/// stop.
///
/// A file system or a member's signature at the beginning of a disk with partitions is most often a
/// stale one, left by an earlier use of the disk.
pub fn whole_disk(path: &str, signatures: &[Signature]) -> Option<String> {
    // GRUB keeps what FAT had in the first sector of a disk; it means nothing there.
    let first = signatures.iter().find(|signature| signature.kind != Kind::Fat)?;
    Some(format!(
        "the whole of {path} is {}, and not a disk with a system; if that is left over from an \
         earlier use, `{}` clears it",
        described(first),
        clearing(path, first)
    ))
}

/// Why a disk must not be written, by what is on its partition `path`; a sentence without a full
/// stop.
pub fn partition(path: &str, signatures: &[Signature]) -> Option<String> {
    let (first, owner) =
        signatures.iter().find_map(|signature| Some((signature, owner(signature.kind)?)))?;
    Some(format!(
        "{path} is {} and belongs to {owner}, which would lose it; if that is left over from an \
         earlier use, `{}` clears it",
        described(first),
        clearing(path, first)
    ))
}

/// The same on a disk whose system runs from volume groups of LVM, which go with it: `own` are their
/// UUIDs, `on_disk` those of all physical volumes on the disk. `group` is that of this partition.
pub fn partition_of_system(
    path: &str,
    signatures: &[Signature],
    group: Option<&Membership>,
    own: &[String],
    on_disk: &[String],
) -> Option<String> {
    let Some(group) = group.filter(|group| own.contains(&group.group)) else {
        return partition(path, signatures);
    };
    if let Some(missing) = group.physical.iter().find(|volume| !on_disk.contains(volume)) {
        return Some(format!(
            "{path} is in the volume group {} of the running system, which also has the physical \
             volume {missing}, and that is not on this disk",
            group.name
        ));
    }
    let rest: Vec<_> =
        signatures.iter().filter(|signature| signature.kind != Kind::Lvm).cloned().collect();
    partition(path, &rest)
}

/// What a device of this kind is a part of.
fn owner(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Md => Some("an md array"),
        Kind::Lvm => Some("an LVM volume group"),
        Kind::Luks => Some("an encrypted container"),
        Kind::Zfs => Some("a ZFS pool"),
        _ => None,
    }
}

fn described(signature: &Signature) -> String {
    match (&signature.kind, &signature.uuid) {
        (Kind::Md, Some(uuid)) => format!("a member of the array {uuid}"),
        (kind, _) => kind.describe().to_owned(),
    }
}

/// The command that clears a signature.
fn clearing(path: &str, signature: &Signature) -> String {
    match signature.kind {
        // It has copies of its label, and many uberblocks in each.
        Kind::Zfs => format!("wipefs --force --all --types zfs_member {path}"),
        // wipefs looks for the type in the label, behind its own magic number.
        Kind::Lvm => format!("wipefs --force --offset {:#x} {path}", signature.offset + 24),
        _ => format!("wipefs --force --offset {:#x} {path}", signature.offset),
    }
}
