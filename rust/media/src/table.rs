//! Partition tables of a disk: GPT (`gpt.rs`) and MBR with extended boot records.

use crate::ReadAt;
use crate::bytes::u32_le;
use crate::gpt;
use crate::superblock::probe;
use crate::{Source, Window};

/// Sizes of sectors that disks have.
pub const SECTORS: [u64; 2] = [512, 4096];
/// The most entries of a GPT that count; 128 are usual.
const ENTRIES: u32 = 512;
/// The most logical partitions that are read.
const LOGICAL: u32 = 128;
/// Where the four entries of an MBR are.
const MBR_ENTRIES: usize = 446;
/// Types of extended partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The type of the entry that keeps tools away which do not know GPT.
const PROTECTIVE: u8 = 0xee;

/// The kinds of tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    /// GUID partition table.
    Gpt,
    /// Master boot record.
    Mbr,
}

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as in the names of the kernel's devices.
    pub number: u32,
    /// Where it begins on the disk.
    pub start_bytes: u64,
    /// How long it is.
    pub size_bytes: u64,
    /// GPT: a GUID in lower case; MBR: two hexadecimal digits.
    pub kind: String,
    /// Its name in a GPT; empty in an MBR.
    pub name: String,
    /// What `PARTUUID=` of a kernel's command line names.
    pub part_uuid: String,
    /// Marked for a BIOS to boot: active in an MBR, bit 2 of a GPT's attributes.
    pub bootable: bool,
}

impl Partition {
    /// Where it ends.
    pub fn end_bytes(&self) -> u64 {
        self.start_bytes.saturating_add(self.size_bytes)
    }

    /// Whether it only holds other partitions.
    pub fn is_extended(&self) -> bool {
        u8::from_str_radix(&self.kind, 16).is_ok_and(|kind| EXTENDED.contains(&kind))
    }

    /// Its bytes on a disk.
    pub fn on(&self, disk: &Source) -> Source {
        Window::of(disk, self.start_bytes, self.size_bytes)
    }
}

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its kind.
    pub kind: TableKind,
    /// The unit of its places, in bytes.
    pub sector_bytes: u64,
    /// GPT: the disk's GUID in lower case; MBR: the signature, eight hexadecimal digits.
    pub id: String,
    /// In the order of the table.
    pub partitions: Vec<Partition>,
}

/// A table, and what contradicts it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Read {
    /// The table that a kernel uses.
    pub table: Option<Table>,
    /// Sentences about why what is on the disk cannot be used.
    pub problems: Vec<String>,
    /// Sentences about what is odd.
    pub notes: Vec<String>,
}

/// Read the partition table of a disk.
pub fn read(disk: &Source) -> Read {
    let mut read = Read::default();
    let mbr = disk.bytes(0, 512).filter(|sector| sector[510..512] == [0x55, 0xaa]);
    let entries = mbr.as_deref().map_or_else(Vec::new, |sector| {
        (0..4).filter_map(|index| MbrEntry::of(sector, index)).collect::<Vec<_>>()
    });
    let protective = entries.iter().any(|entry| entry.kind == PROTECTIVE);
    let others = entries.iter().any(|entry| entry.kind != PROTECTIVE && entry.sane);
    let headers = SECTORS.map(|sector| gpt(&**disk, sector));
    let mut whole = headers.iter().filter_map(|header| match header {
        Header::Whole(table) => Some(table.clone()),
        Header::None | Header::Damaged(_) => None,
    });
    if let Some(table) = whole.next() {
        if !protective && others {
            read.problems.push(
                "it has a GPT and, in sector 0, an MBR with other partitions and without the \
                 protective entry (type ee): a kernel uses the MBR, and firmware the GPT; remove \
                 one of them"
                    .to_owned(),
            );
        } else if !protective {
            read.notes.push(
                "Sector 0 has no protective entry (type ee), without which kernels and firmware \
                 do not use the GPT."
                    .to_owned(),
            );
        }
        if whole.next().is_some() {
            read.notes.push(
                "It has a GPT for sectors of 512 bytes and another for sectors of 4096.".to_owned(),
            );
        }
        read.table = Some(table);
    } else if let Some(why) = headers.iter().find_map(Header::damage)
        && (protective || !others)
    {
        read.notes.push(format!(
            "Its GPT is damaged, so a kernel does not use it: {why}. See `sgdisk --verify`."
        ));
    } else if let Some(sector) = mbr
        && !protective
    {
        read.table = SECTORS
            .into_iter()
            .map(|unit| mbr_of(disk, &sector, unit))
            .max_by_key(|table| {
                // Without superblocks that show otherwise, sectors have 512 bytes.
                table.as_ref().map(|table| (recognised(disk, table), table.sector_bytes == 512))
            })
            .flatten();
    }
    if let Some(table) = &read.table {
        read.problems.extend(contradictions(table, disk.size()));
    }
    read
}

/// How many partitions of a table begin with something known, on the disk in its present state.
fn recognised(disk: &Source, table: &Table) -> usize {
    let known = |partition: &&Partition| {
        !partition.is_extended()
            && partition.start_bytes < disk.size()
            && !probe(&*partition.on(disk)).is_empty()
    };
    table.partitions.iter().filter(known).count()
}

/// What makes a table impossible.
fn contradictions(table: &Table, size: u64) -> Vec<String> {
    let mut problems = Vec::new();
    for partition in &table.partitions {
        if partition.size_bytes == 0 {
            problems.push(format!("partition {} is empty", partition.number));
        } else if partition.end_bytes() > size {
            problems.push(format!(
                "partition {} ends at byte {}, and the image has {size} bytes: it was cut, or its \
                 table is of a larger disk",
                partition.number,
                partition.end_bytes(),
            ));
        }
    }
    let mut ordered: Vec<_> =
        table.partitions.iter().filter(|partition| !partition.is_extended()).collect();
    ordered.sort_by_key(|partition| partition.start_bytes);
    for pair in ordered.windows(2) {
        if let [first, second] = pair
            && first.end_bytes() > second.start_bytes
        {
            problems.push(format!("partitions {} and {} overlap", first.number, second.number));
        }
    }
    problems
}

enum Header {
    None,
    Damaged(&'static str),
    Whole(Table),
}

impl Header {
    fn damage(&self) -> Option<&'static str> {
        if let Self::Damaged(why) = self { Some(why) } else { None }
    }
}

/// The GPT of a disk with sectors of this size.
fn gpt(disk: &dyn ReadAt, sector: u64) -> Header {
    match gpt::read(disk, 1, sector) {
        Ok(None) => Header::None,
        Err(why) => Header::Damaged(why),
        Ok(Some(found)) => Header::Whole(Table {
            kind: TableKind::Gpt,
            sector_bytes: sector,
            id: found.header.disk,
            partitions: found
                .partitions
                .into_iter()
                .filter(|each| each.number <= ENTRIES)
                .collect(),
        }),
    }
}

/// Whether the first sector of a disk is an MBR with an entry by which firmware searches for a GPT,
/// from sector 1 on; a hybrid one has others beside it.
pub fn leads_to_gpt(sector: &[u8]) -> bool {
    let protects = |entry: &[u8]| entry[4] == PROTECTIVE && entry[8..12] == [1, 0, 0, 0];
    mbr_entries(sector).any(protects)
}

/// Whether the first sector of a disk is an MBR with such an entry and no other.
pub fn is_protective(sector: &[u8]) -> bool {
    leads_to_gpt(sector) && mbr_entries(sector).filter(|entry| entry[4] != 0).count() == 1
}

/// The four entries of a sector with an MBR's signature.
fn mbr_entries(sector: &[u8]) -> impl Iterator<Item = &[u8]> {
    let signed = sector.get(510..512) == Some(&[0x55, 0xaa]);
    let entries = if signed { &sector[MBR_ENTRIES..510] } else { &[] };
    entries.chunks_exact(16)
}

/// First sector and number of sectors of each entry of an MBR, except of one that protects a GPT;
/// an extended partition is one range. Nothing for a sector without the signature.
pub fn mbr_ranges(sector: &[u8]) -> Vec<(u64, u64)> {
    if sector.get(510..512) != Some(&[0x55, 0xaa]) {
        return Vec::new();
    }
    (0..4)
        .filter_map(|index| MbrEntry::of(sector, index))
        .filter(|entry| entry.kind != PROTECTIVE)
        .map(|entry| (entry.first, entry.sectors))
        .collect()
}

/// The MBR in a sector that ends with its signature.
fn mbr_of(disk: &Source, sector: &[u8], unit: u64) -> Option<Table> {
    let id = format!("{:08x}", u32_le(sector, 440)?);
    let mut partitions = Vec::new();
    let mut extended = None;
    for number in 1..=4 {
        let Some(entry) = MbrEntry::of(sector, number - 1) else { continue };
        // The boot sector of a file system without a table.
        if !entry.sane {
            return None;
        }
        if EXTENDED.contains(&entry.kind) {
            extended.get_or_insert(entry.first);
        }
        partitions.push(entry.partition(number as u32, 0, unit, &id));
    }
    if partitions.is_empty() {
        return None;
    }
    if let Some(first) = extended {
        partitions.extend(logical(disk, first, unit, &id));
    }
    Some(Table { kind: TableKind::Mbr, sector_bytes: unit, id, partitions })
}

/// The logical partitions of an extended one. Only links that lead forward are followed, so that a
/// chain ends.
fn logical(disk: &Source, extended: u64, unit: u64, id: &str) -> Vec<Partition> {
    let mut found = Vec::new();
    let mut at = extended;
    for number in 5..5 + LOGICAL {
        let Some(place) = at.checked_mul(unit) else { break };
        let Some(record) = disk.bytes(place, 512).filter(|r| r[510..512] == [0x55, 0xaa]) else {
            break;
        };
        if let Some(entry) = MbrEntry::of(&record, 0) {
            found.push(entry.partition(number, at, unit, id));
        }
        let next = MbrEntry::of(&record, 1).filter(|entry| EXTENDED.contains(&entry.kind));
        let Some(next) = next.map(|next| extended + next.first).filter(|next| *next > at) else {
            break;
        };
        at = next;
    }
    found
}

struct MbrEntry {
    active: bool,
    kind: u8,
    first: u64,
    sectors: u64,
    sane: bool,
}

impl MbrEntry {
    /// The entry at `index`, unless it is empty.
    fn of(sector: &[u8], index: usize) -> Option<Self> {
        let entry = sector.get(MBR_ENTRIES + 16 * index..MBR_ENTRIES + 16 * (index + 1))?;
        let (first, sectors) = (u32_le(entry, 8)?.into(), u32_le(entry, 12)?.into());
        // Only these two values ever meant anything: boot this one, or not.
        let sane = entry[0] & 0x7f == 0 && first > 0;
        (entry[4] != 0 && sectors > 0).then_some(Self {
            active: entry[0] == 0x80,
            kind: entry[4],
            first,
            sectors,
            sane,
        })
    }

    fn partition(&self, number: u32, base: u64, unit: u64, id: &str) -> Partition {
        Partition {
            number,
            start_bytes: (base + self.first) * unit,
            size_bytes: self.sectors * unit,
            kind: format!("{:02x}", self.kind),
            name: String::new(),
            part_uuid: format!("{id}-{number:02x}"),
            bootable: self.active,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MBR_ENTRIES, PROTECTIVE, is_protective, leads_to_gpt};

    fn mbr(kinds: &[u8], start: u8) -> [u8; 512] {
        let mut sector = [0; 512];
        for (entry, &kind) in sector[MBR_ENTRIES..].chunks_exact_mut(16).zip(kinds) {
            entry[4] = kind;
            entry[8] = start;
        }
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        sector
    }

    #[test]
    fn firmware_searches_for_a_gpt_also_beside_other_entries() {
        for (sector, leads, alone) in [
            (mbr(&[PROTECTIVE], 1), true, true),
            (mbr(&[0, 0, 0, PROTECTIVE], 1), true, true),
            (mbr(&[0x83, PROTECTIVE], 1), true, false),
            (mbr(&[PROTECTIVE, PROTECTIVE], 1), true, false),
            (mbr(&[PROTECTIVE], 2), false, false),
            (mbr(&[0x83], 1), false, false),
        ] {
            assert_eq!((leads_to_gpt(&sector), is_protective(&sector)), (leads, alone));
            let unsigned = &sector[..510];
            assert_eq!((leads_to_gpt(unsigned), is_protective(unsigned)), (false, false));
        }
    }
}
