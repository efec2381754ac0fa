//! Partition tables: GPT (UEFI specification, section 5.3) and MBR with extended boot records.

use super::descriptor::{Partition, PartitionTable, SECTOR, TableKind};

/// The most entries of a GPT that are looked at; everybody makes 128.
const ENTRIES: usize = 512;
/// The most logical partitions that are looked for.
const LOGICAL: u32 = 128;
/// Where the four entries of an MBR are.
const MBR_ENTRIES: usize = 446;
/// Types of extended partitions.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];
/// The type of the one entry that keeps tools which do not know GPT away.
const PROTECTIVE: u8 = 0xee;

/// The GPT at the beginning of a disk, if there is one whose checksums fit.
pub(super) fn gpt(disk: &[u8]) -> Option<PartitionTable> {
    [SECTOR, 4096].into_iter().find_map(|sector| gpt_of(disk, sector))
}

fn gpt_of(disk: &[u8], sector: u64) -> Option<PartitionTable> {
    let at = usize::try_from(sector).ok()?;
    let header = disk.get(at..at.checked_add(at)?)?;
    if !header.starts_with(b"EFI PART") {
        return None;
    }
    let size = usize::try_from(u32_at(header, 12)?).ok()?;
    let mut covered = header.get(..size).filter(|_| size >= 92)?.to_vec();
    covered[16..20].fill(0);
    if crc32(&covered) != u32_at(header, 16)? {
        return None;
    }
    let first = usize::try_from(u64_at(header, 72)?.checked_mul(sector)?).ok()?;
    let count = usize::try_from(u32_at(header, 80)?).ok()?;
    let size = usize::try_from(u32_at(header, 84)?).ok().filter(|size| *size >= 128)?;
    let entries = disk.get(first..first.checked_add(count.checked_mul(size)?)?)?;
    if crc32(entries) != u32_at(header, 88)? {
        return None;
    }
    let partitions = (1..).zip(entries.chunks_exact(size)).take(ENTRIES);
    Some(PartitionTable {
        kind: TableKind::Gpt,
        id: guid(header.get(56..72)?),
        partitions: partitions
            .filter_map(|(number, entry)| gpt_entry(number, entry, sector))
            .collect(),
    })
}

fn gpt_entry(number: u32, entry: &[u8], sector: u64) -> Option<Partition> {
    let kind = entry.get(..16).filter(|kind| kind.iter().any(|byte| *byte != 0))?;
    let first = u64_at(entry, 32)?;
    let sectors = u64_at(entry, 40)?.checked_sub(first)?.checked_add(1)?;
    let units: Vec<u16> = entry
        .get(56..128)?
        .as_chunks::<2>()
        .0
        .iter()
        .map(|unit| u16::from_le_bytes(*unit))
        .take_while(|unit| *unit != 0)
        .collect();
    Some(Partition {
        name: printable(&String::from_utf16_lossy(&units)),
        ..partition(number, first.checked_mul(sector)?, sectors.checked_mul(sector)?, guid(kind))
    })
}

/// The MBR at the beginning of a disk that ends with its signature, and where to look for more.
pub(super) fn mbr(disk: &[u8]) -> (Option<PartitionTable>, Option<Chain>) {
    let Some(id) = u32_at(disk, 440) else { return (None, None) };
    let mut partitions = Vec::new();
    let mut chain = None;
    for number in 1..=4 {
        let Some(entry) = MbrEntry::of(disk, number - 1) else { continue };
        // A GPT that is damaged, or the boot sector of a file system without a table.
        if entry.kind == PROTECTIVE || !entry.sane {
            return (None, None);
        }
        if EXTENDED.contains(&entry.kind) {
            chain.get_or_insert(Chain {
                extended: entry.first,
                at: entry.first,
                found: 0,
                end: false,
            });
        }
        partitions.push(entry.partition(number as u32, 0));
    }
    if partitions.is_empty() {
        return (None, None);
    }
    (Some(PartitionTable { kind: TableKind::Mbr, id: format!("{id:08x}"), partitions }), chain)
}

/// Where the chain of extended boot records goes on.
pub(super) struct Chain {
    /// First sector of the extended partition.
    extended: u64,
    /// Sector of the next record.
    at: u64,
    found: u32,
    end: bool,
}

impl Chain {
    /// Where the next record is, in bytes.
    pub fn next_at(&self) -> u64 {
        self.at * SECTOR
    }

    /// Whether there is no next record.
    pub fn ended(&self) -> bool {
        self.end
    }

    /// Take in a record: the logical partition in it. Only links that lead forward are followed, so
    /// that a chain ends.
    pub fn follow(&mut self, record: &[u8]) -> Option<Partition> {
        let at = self.at;
        let next = MbrEntry::of(record, 1).filter(|entry| EXTENDED.contains(&entry.kind));
        let next = next.map(|entry| self.extended + entry.first).filter(|next| *next > at);
        self.at = next.unwrap_or(at);
        self.found += 1;
        self.end =
            next.is_none() || self.found >= LOGICAL || record.get(510..512) != Some(&[0x55, 0xaa]);
        if record.get(510..512) != Some(&[0x55, 0xaa]) {
            return None;
        }
        Some(MbrEntry::of(record, 0)?.partition(self.found + 4, at))
    }
}

struct MbrEntry {
    kind: u8,
    first: u64,
    sectors: u64,
    sane: bool,
}

impl MbrEntry {
    /// The entry at `index`, unless it is empty.
    fn of(sector: &[u8], index: usize) -> Option<Self> {
        let entry = sector.get(MBR_ENTRIES + 16 * index..MBR_ENTRIES + 16 * (index + 1))?;
        let (first, sectors) = (u32_at(entry, 8)?.into(), u32_at(entry, 12)?.into());
        // Only these two bits ever meant anything: boot this one, or not.
        let sane = entry[0] & 0x7f == 0 && first > 0;
        (entry[4] != 0 && sectors > 0).then_some(Self { kind: entry[4], first, sectors, sane })
    }

    fn partition(&self, number: u32, base: u64) -> Partition {
        let kind = format!("{:02x}", self.kind);
        partition(number, (base + self.first) * SECTOR, self.sectors * SECTOR, kind)
    }
}

fn partition(number: u32, start_bytes: u64, size_bytes: u64, kind: String) -> Partition {
    let name = String::new();
    Partition {
        number,
        start_bytes,
        size_bytes,
        kind,
        name,
        file_system: None,
        uuid: None,
        label: None,
    }
}

/// A GUID as text: the first three fields are little-endian.
fn guid(bytes: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mixed: Vec<u8> = order.iter().filter_map(|index| bytes.get(*index).copied()).collect();
    uuid(&mixed)
}

/// A UUID as text.
pub(super) fn uuid(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, byte) in bytes.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Text without what would disturb a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).collect()
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// A little-endian number.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
