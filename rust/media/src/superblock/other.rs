//! btrfs, SquashFS, EROFS, LVM, LUKS, swap, ZFS and dm-verity, as far as distinguishing them needs.

use super::{Kind, Signature};
use crate::bytes::{crc32c, label, u16_le, u32_le, u64_le, uuid};

/// btrfs: the first superblock (`include/uapi/linux/btrfs_tree.h`).
pub(super) const BTRFS: usize = 64 << 10;

pub(super) fn btrfs(head: &[u8]) -> Option<Signature> {
    let superblock = head.get(BTRFS..BTRFS + 4096)?;
    (&superblock[64..72] == b"_BHRfS_M").then_some(())?;
    Some(
        Signature::new(Kind::Btrfs, BTRFS as u64 + 64)
            .uuid(Some(uuid(&superblock[32..48])))
            .label(label(&superblock[299..555])),
    )
}

/// SquashFS 4 (`fs/squashfs/squashfs_fs.h`): little-endian only.
pub(super) fn squashfs(head: &[u8]) -> Option<Signature> {
    (head.starts_with(b"hsqs") && u16_le(head, 28)? == 4).then_some(())?;
    Some(Signature::new(Kind::Squashfs, 0))
}

/// EROFS (`fs/erofs/erofs_fs.h`).
pub(super) fn erofs(head: &[u8]) -> Option<Signature> {
    let superblock = head.get(1024..1152)?;
    (u32_le(superblock, 0)? == 0xe0f5_e1e2 && (9..=16).contains(&superblock[12])).then_some(())?;
    Some(
        Signature::new(Kind::Erofs, 1024)
            .uuid(Some(uuid(&superblock[48..64])))
            .label(label(&superblock[64..80])),
    )
}

/// LVM2: a label in one of the first four sectors (`lib/format_text/layout.h` of LVM).
pub(super) fn lvm(head: &[u8]) -> Option<Signature> {
    let at = lvm_label(head)?;
    let id = head.get(at + 32..at + 64).filter(|id| id.iter().all(u8::is_ascii_alphanumeric));
    let uuid = id.and_then(|id| std::str::from_utf8(id).ok()).map(lvm_uuid);
    Some(Signature::new(Kind::Lvm, at as u64).uuid(uuid))
}

/// Where LVM's label is.
pub(crate) fn lvm_label(head: &[u8]) -> Option<usize> {
    (0..4).map(|sector| sector * 512).find(|at| {
        // wipefs clears the type, which LVM wants as well.
        let label = head.get(*at..at + 32);
        label.is_some_and(|label| label.starts_with(b"LABELONE") && label.ends_with(b"LVM2 001"))
    })
}

/// A UUID as LVM prints it: 32 letters and digits in groups of 6, 4, 4, 4, 4, 4 and 6.
pub(crate) fn lvm_uuid(id: &str) -> String {
    let mut at = 0;
    let groups = [6, 4, 4, 4, 4, 4, 6].map(|length| {
        at += length;
        id.get(at - length..at).unwrap_or_default()
    });
    groups.join("-")
}

/// LUKS 1 and 2, which have the UUID at the same place.
pub(super) fn luks(head: &[u8]) -> Option<Signature> {
    head.starts_with(b"LUKS\xba\xbe").then_some(())?;
    let name = if *head.get(7)? == 2 { label(head.get(24..72)?) } else { None };
    Some(Signature::new(Kind::Luks, 0).uuid(label(head.get(168..208)?)).label(name))
}

/// Swap space: its magic is at the end of a page, whose size is the machine's that made it.
pub(super) fn swap(head: &[u8]) -> Option<Signature> {
    let at = [4096, 8192, 16384, 65536].into_iter().map(|page| page - 10).find(|at| {
        matches!(head.get(*at..*at + 10), Some(b"SWAPSPACE2" | b"SWAP-SPACE" | b"S1SUSPEND\0"))
    })?;
    let id = head.get(1036..1052).filter(|id| id.iter().any(|byte| *byte != 0));
    Some(
        Signature::new(Kind::Swap, at as u64)
            .uuid(id.map(uuid))
            .label(label(head.get(1052..1068)?)),
    )
}

/// ZFS: an uberblock in the first label, of either byte order.
pub(super) fn zfs(head: &[u8]) -> Option<Signature> {
    const MAGIC: u64 = 0x00ba_b10c;
    const FIRST: usize = 128 << 10;
    let at = (FIRST..head.len()).step_by(1024).find(|at| {
        let magic = u64_le(head, *at);
        magic == Some(MAGIC) || magic.map(u64::swap_bytes) == Some(MAGIC)
    })?;
    Some(Signature::new(Kind::Zfs, at as u64))
}

/// dm-verity's superblock (`cryptsetup`, lib/verity/verity.c).
pub(super) fn verity(head: &[u8]) -> Option<Signature> {
    (head.starts_with(b"verity\0\0") && u32_le(head, 8)? == 1).then_some(())?;
    Some(Signature::new(Kind::Verity, 0).uuid(Some(uuid(head.get(16..32)?))))
}

/// Whether the checksum of btrfs' superblock is right; true for kinds of checksums not known here.
pub(crate) fn btrfs_checksum_ok(superblock: &[u8]) -> Option<bool> {
    Some(
        u16_le(superblock, 196)? != 0
            || crc32c(superblock.get(32..4096)?) == u32_le(superblock, 0)?,
    )
}
