//! FAT: the boot sector with its BIOS parameter block (Microsoft's FAT specification, section 3).

use super::{Kind, Signature};
use crate::bytes::{label, u16_le, u32_le};

/// A boot sector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fat {
    /// The serial number, as blkid prints it.
    pub serial: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// Bits of an entry of the table: 12, 16 or 32.
    pub bits: u8,
    /// Bytes of a sector, and of a cluster.
    pub(crate) sector_bytes: u64,
    pub(crate) cluster_bytes: u64,
    /// Where the first table, the root directory of FAT12 and FAT16, and the first cluster are.
    pub(crate) table_at: u64,
    pub(crate) root_at: u64,
    pub(crate) root_bytes: u64,
    pub(crate) data_at: u64,
    /// How many clusters there are, and the root directory's first one of FAT32.
    pub(crate) clusters: u32,
    pub(crate) root_cluster: u32,
    /// Bytes of a table.
    pub(crate) table_bytes: u64,
    magic_at: u64,
}

impl Fat {
    /// The boot sector at the beginning of a device.
    pub fn parse(head: &[u8]) -> Option<Self> {
        if head.get(510..512)? != [0x55, 0xaa] {
            return None;
        }
        // The serial number, the label and the name follow each other: in FAT32 at another place.
        let (magic, at) = if head.get(82..87)? == b"FAT32" {
            (82, 67)
        } else if head.get(54..58)? == b"FAT1" {
            (54, 39)
        } else {
            return None;
        };
        let serial = u32_le(head, at)?;
        let found = Self::numbers(head)?;
        let bits = if magic == 82 { 32 } else { found.bits };
        Some(Self {
            serial: Some(format!("{:04X}-{:04X}", serial >> 16, serial & 0xffff)),
            label: label(&head[at + 4..at + 15]).filter(|label| label != "NO NAME"),
            bits,
            root_cluster: if bits == 32 { u32_le(head, 44)? } else { 0 },
            magic_at: magic,
            ..found
        })
    }

    /// The boot sector at the beginning of a device, whatever it calls itself, if its numbers agree
    /// with each other: without a serial number and a label.
    pub(crate) fn by_numbers(head: &[u8]) -> Option<Self> {
        let found = Self::numbers(head).filter(|_| head.get(510..512) == Some(&[0x55, 0xaa]))?;
        // FAT32 has the length of its table in a field of its own, and no fixed root directory.
        let large = u16_le(head, 22)? == 0;
        (large == (found.bits == 32)).then_some(found)
    }

    fn numbers(head: &[u8]) -> Option<Self> {
        let sector = u64::from(u16_le(head, 11)?);
        let per_cluster = u64::from(*head.get(13)?);
        let reserved = u64::from(u16_le(head, 14)?);
        let tables = u64::from(*head.get(16)?);
        let sensible = matches!(sector, 512 | 1024 | 2048 | 4096)
            && per_cluster.is_power_of_two()
            && reserved > 0
            && matches!(tables, 1 | 2);
        if !sensible {
            return None;
        }
        let root_bytes = u64::from(u16_le(head, 17)?) * 32;
        let either = |short: usize, long: usize| match u16_le(head, short)? {
            0 => u32_le(head, long),
            value => Some(value.into()),
        };
        let total = u64::from(either(19, 32)?);
        let table_sectors = u64::from(either(22, 36)?);
        let root_at = (reserved + tables * table_sectors) * sector;
        let data_at = root_at + root_bytes.div_ceil(sector) * sector;
        let clusters = total.checked_sub(data_at / sector)? / per_cluster;
        let bits = match clusters {
            0..4085 => 12,
            4085..65525 => 16,
            _ => 32,
        };
        Some(Self {
            serial: None,
            label: None,
            bits,
            sector_bytes: sector,
            cluster_bytes: sector * per_cluster,
            table_at: reserved * sector,
            root_at,
            root_bytes,
            data_at,
            clusters: u32::try_from(clusters).ok()?,
            root_cluster: if bits == 32 { u32_le(head, 44)? } else { 0 },
            magic_at: 0,
            table_bytes: table_sectors * sector,
        })
    }

    pub(super) fn signature(&self) -> Signature {
        Signature::new(Kind::Fat, self.magic_at).uuid(self.serial.clone()).label(self.label.clone())
    }
}
