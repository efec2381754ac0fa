//! Physical volumes: the label, and the areas of metadata that it names (`lib/format_text/layout.h`).

use std::rc::Rc;

use crate::bytes::{index, u32_le, u64_le};
use crate::superblock::{lvm_label, lvm_uuid};
use crate::{ReadAt, Source};

/// The most bytes of metadata.
const METADATA: u64 = 4 << 20;
pub(super) const SECTOR: u64 = 512;
/// Bytes of an area's header, and of the sector that has a label.
pub(super) const HEADER: usize = 512;
/// Where the header of an area locates the newest text: place, length, checksum and flags.
pub(super) const LOCATION: usize = 40;
/// What is read for the label.
pub(super) const HEAD: usize = 4096;

/// A physical volume.
pub(super) struct Physical {
    pub uuid: String,
    pub device: Source,
    /// Of its areas that have one, the text that is valid, or else any.
    pub metadata: Option<Metadata>,
}

/// A text in an area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub text: String,
    /// Whether the checksums of the area and of the text are right.
    pub valid: bool,
}

/// Where the parts of a physical volume are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// Where the label's sector begins.
    pub label: usize,
    /// Where the header begins.
    pub header: usize,
    /// As LVM prints it.
    pub uuid: String,
    /// Beginnings and lengths of areas of metadata.
    pub areas: Vec<(u64, u64)>,
}

impl Layout {
    pub fn of(head: &[u8]) -> Option<Self> {
        let label = lvm_label(head)?;
        let header = label + u32_le(head, label + 20)? as usize;
        let uuid = lvm_uuid(std::str::from_utf8(head.get(header..header.checked_add(32)?)?).ok()?);
        // Lists of areas end with a zero: first those of data, then those of metadata.
        let area = |at: usize| Some((u64_le(head, at)?, u64_le(head, at + 8)?));
        let mut at = header + 40;
        while area(at)?.0 != 0 {
            at += 16;
        }
        at += 16;
        let mut areas = Vec::new();
        while let Some(found) = area(at).filter(|(offset, _)| *offset != 0) {
            areas.push(found);
            at += 16;
        }
        Some(Self { label, header, uuid, areas })
    }
}

impl Physical {
    pub fn on(device: &Source) -> Option<Self> {
        let layout = Layout::of(&device.bytes_up_to(0, HEAD))?;
        let mut texts: Vec<_> =
            layout.areas.iter().filter_map(|(offset, _)| metadata(&**device, *offset)).collect();
        texts.sort_by_key(|text| !text.valid);
        let metadata = texts.into_iter().next();
        Some(Self { uuid: layout.uuid, device: Rc::clone(device), metadata })
    }
}

/// The newest text in an area of metadata, which is a ring after its header.
pub(super) fn metadata(device: &dyn ReadAt, area: u64) -> Option<Metadata> {
    let header = device.bytes(area, HEADER)?;
    (&header[4..20] == b" LVM2 x[5A%r0N*>").then_some(())?;
    let ring = u64_le(&header, 32)?;
    let (offset, length) = (u64_le(&header, LOCATION)?, u64_le(&header, LOCATION + 8)?);
    (offset >= SECTOR && length <= METADATA && offset <= ring).then_some(())?;
    let first = length.min(ring - offset);
    let mut bytes = device.bytes(area.checked_add(offset)?, index(first))?;
    bytes.extend(device.bytes(area + SECTOR, index(length - first))?);
    let valid = u32_le(&header, 0) == Some(checksum(&header[4..]))
        && u32_le(&header, LOCATION + 16) == Some(checksum(&bytes));
    Some(Metadata { text: String::from_utf8(bytes).ok()?, valid })
}

/// LVM's checksum (`lib/misc/crc.c`): CRC-32 from a beginning of its own, and not inverted.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    const INITIAL: u32 = 0xf597_a6cf;
    let mut crc = crc32fast::Hasher::new_with_initial(!INITIAL);
    crc.update(bytes);
    !crc.finalize()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checksum_is_lvms() {
        // Of a label that pvcreate 2.03.16 wrote, from its offset on.
        let mut label = vec![0; 492];
        label[..12].copy_from_slice(b"\x20\0\0\0LVM2 001");
        label[12..44].copy_from_slice(b"N1c5ddINqDP24zMHx6BdfU7mr7UwnceN");
        label[44..52].copy_from_slice(&134_217_728_u64.to_le_bytes());
        label[52..60].copy_from_slice(&1_048_576_u64.to_le_bytes());
        label[84..92].copy_from_slice(&4096_u64.to_le_bytes());
        label[92..100].copy_from_slice(&1_044_480_u64.to_le_bytes());
        label[116..124].copy_from_slice(b"\x02\0\0\0\x01\0\0\0");
        assert_eq!(super::checksum(&label), 0x06fb_3db2);
    }
}
