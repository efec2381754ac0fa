//! The GUID partition table (UEFI specification, section 5.3): its headers and entries, read with
//! their checksums, and written for a table that is elsewhere on the disk.

use crate::ReadAt;
use crate::bytes::{crc32, guid, guid_bytes, index, printable, u16_le, u32_le, u64_le};
use crate::table::Partition;

/// The type of an EFI system partition.
pub const SYSTEM_PARTITION: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";
/// Entries of a table that is written, and the bytes of each.
pub const ENTRIES: u32 = 128;
/// As above.
pub const ENTRY_BYTES: u32 = 128;

const SIGNATURE: &[u8] = b"EFI PART";
const REVISION: u32 = 0x0001_0000;
/// Bytes of a header that is written, and the fewest of one that is read.
const HEADER_BYTES: usize = 92;
/// The most bytes of all entries; 16 KiB are usual.
const MOST_BYTES: u64 = 1 << 20;

/// What is wrong with a table, as a clause.
pub type Damage = &'static str;

/// A header; its places are numbers of logical sectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Where it is itself.
    pub own: u64,
    /// Where the other one is.
    pub other: u64,
    /// The first sector that partitions may have.
    pub first_usable: u64,
    /// The last one.
    pub last_usable: u64,
    /// The disk's GUID, in lower case.
    pub disk: String,
    /// Where the entries begin.
    pub table: u64,
    /// How many entries there are.
    pub entries: u32,
    /// Bytes of an entry.
    pub entry_bytes: u32,
    /// The checksum of all entries.
    pub checksum: u32,
}

impl Header {
    /// The header in a sector, which is the disk's sector number `own`; `None` where there is none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(sector: &[u8], own: u64) -> Result<Option<Self>, Damage> {
        if !sector.starts_with(SIGNATURE) {
            return Ok(None);
        }
        let size = u32_le(sector, 12).map_or(0, |size| size as usize);
        let mut covered = sector
            .get(..size)
            .filter(|covered| covered.len() >= HEADER_BYTES)
            .ok_or("its header has an impossible size")?
            .to_vec();
        covered[16..20].fill(0);
        if Some(crc32(&covered)) != u32_le(sector, 16) {
            return Err("the checksum of its header is wrong");
        }
        let cut = "its header has an impossible size";
        let long = |at: usize| u64_le(&covered, at).ok_or(cut);
        let short = |at: usize| u32_le(&covered, at).ok_or(cut);
        let found = Self {
            own: long(24)?,
            other: long(32)?,
            first_usable: long(40)?,
            last_usable: long(48)?,
            disk: guid(&covered[56..72]),
            table: long(72)?,
            entries: short(80)?,
            entry_bytes: short(84)?,
            checksum: short(88)?,
        };
        if found.own != own {
            return Err("its header is of another place of the disk");
        }
        Ok(Some(found))
    }

    /// Bytes of all entries.
    ///
    /// # Errors
    /// That the entries are smaller than any, or larger together than any table.
    pub fn table_bytes(&self) -> Result<u64, Damage> {
        let all = u64::from(self.entries) * u64::from(self.entry_bytes);
        if self.entry_bytes < ENTRY_BYTES || all > MOST_BYTES {
            return Err("its entries have an impossible size");
        }
        Ok(all)
    }

    /// The partitions, from the bytes of all entries of a disk with sectors of `sector` bytes.
    ///
    /// # Errors
    /// That the entries are not those of the header.
    pub fn partitions(&self, table: &[u8], sector: u64) -> Result<Vec<Partition>, Damage> {
        if table.len() as u64 != self.table_bytes()? || crc32(table) != self.checksum {
            return Err("the checksum of its entries is wrong");
        }
        Ok((1..)
            .zip(table.chunks_exact(self.entry_bytes as usize))
            .filter_map(|(number, entry)| partition(number, entry, sector))
            .collect())
    }

    /// The sector that has it, with its checksum; `sector_bytes` long. `None` if the disk's is no
    /// GUID.
    pub fn encode(&self, sector_bytes: usize) -> Option<Vec<u8>> {
        let mut header = Vec::with_capacity(sector_bytes.max(HEADER_BYTES));
        header.extend(SIGNATURE);
        for value in [REVISION, HEADER_BYTES as u32, 0, 0] {
            header.extend(value.to_le_bytes());
        }
        for value in [self.own, self.other, self.first_usable, self.last_usable] {
            header.extend(value.to_le_bytes());
        }
        header.extend(guid_bytes(&self.disk)?);
        header.extend(self.table.to_le_bytes());
        for value in [self.entries, self.entry_bytes, self.checksum] {
            header.extend(value.to_le_bytes());
        }
        let checksum = crc32(&header);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        header.resize(sector_bytes.max(HEADER_BYTES), 0);
        Some(header)
    }
}

/// A header, and the partitions of its table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    /// The header.
    pub header: Header,
    /// In the order of the table.
    pub partitions: Vec<Partition>,
}

/// The table of the header in sector `lba` of a disk with sectors of `sector` bytes; `None` where
/// there is no header, as beyond the end of the disk.
///
/// # Errors
/// What is wrong with it.
pub fn read(disk: &dyn ReadAt, lba: u64, sector: u64) -> Result<Option<Gpt>, Damage> {
    let at = lba.checked_mul(sector);
    let Some(bytes) = at.and_then(|at| disk.bytes(at, index(sector))) else { return Ok(None) };
    let Some(header) = Header::parse(&bytes, lba)? else { return Ok(None) };
    let all = header.table_bytes()?;
    let at = header.table.checked_mul(sector);
    let table = at.and_then(|at| disk.bytes(at, index(all)));
    let table = table.ok_or("its entries are not where they can be")?;
    let partitions = header.partitions(&table, sector)?;
    Ok(Some(Gpt { header, partitions }))
}

fn partition(number: u32, entry: &[u8], sector: u64) -> Option<Partition> {
    let kind = entry.get(..16).filter(|kind| kind.iter().any(|byte| *byte != 0))?;
    let first = u64_le(entry, 32)?;
    // An entry that ends before it begins is kept, empty, to be refused.
    let sectors = u64_le(entry, 40)?.saturating_add(1).saturating_sub(first);
    let units: Vec<u16> = (56..128)
        .step_by(2)
        .filter_map(|at| u16_le(entry, at))
        .take_while(|unit| *unit != 0)
        .collect();
    Some(Partition {
        number,
        start_bytes: first.saturating_mul(sector),
        size_bytes: sectors.saturating_mul(sector),
        kind: guid(kind),
        name: printable(&String::from_utf16_lossy(&units)),
        part_uuid: guid(&entry[16..32]),
        bootable: u64_le(entry, 48)? & 4 != 0,
    })
}

/// One partition of a table that is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its number, from 1.
    pub number: u32,
    /// Its type.
    pub kind: &'a str,
    /// Its own GUID.
    pub part_uuid: &'a str,
    /// Its first sector.
    pub first: u64,
    /// Its last sector.
    pub last: u64,
    /// Its name, of at most 36 characters.
    pub name: &'a str,
}

impl Entry<'_> {
    /// The entries of a table that has this partition alone; `None` for a number that no table of 128
    /// entries has, or for what is no GUID.
    pub fn table(&self) -> Option<Vec<u8>> {
        if !(1..=ENTRIES).contains(&self.number) {
            return None;
        }
        let mut entry = Vec::new();
        entry.extend(guid_bytes(self.kind)?);
        entry.extend(guid_bytes(self.part_uuid)?);
        for value in [self.first, self.last, 0] {
            entry.extend(value.to_le_bytes());
        }
        entry.extend(self.name.encode_utf16().take(36).flat_map(u16::to_le_bytes));
        let mut table = vec![0; (ENTRIES * ENTRY_BYTES) as usize];
        let at = ((self.number - 1) * ENTRY_BYTES) as usize;
        table[at..at + entry.len()].copy_from_slice(&entry);
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "a1b2c3d4-0001-0002-0003-0123456789ab";

    /// A disk with one partition, number 3, for sectors of this size.
    fn disk(sector: usize) -> Vec<u8> {
        let kind = SYSTEM_PARTITION;
        let entry = Entry { number: 3, kind, part_uuid: GUID, first: 40, last: 47, name: "boat" };
        let table = entry.table().unwrap();
        let header = Header {
            own: 1,
            other: 9,
            first_usable: 40,
            last_usable: 47,
            disk: "00112233-4455-6677-8899-aabbccddeeff".to_owned(),
            table: 2,
            entries: ENTRIES,
            entry_bytes: ENTRY_BYTES,
            checksum: crc32(&table),
        };
        let mut disk = vec![0; 50 * sector];
        disk[sector..2 * sector].copy_from_slice(&header.encode(sector).unwrap());
        disk[2 * sector..2 * sector + table.len()].copy_from_slice(&table);
        disk
    }

    /// Change bytes of the header, and make its checksum right again.
    fn forged(sector: usize, at: usize, bytes: &[u8]) -> Vec<u8> {
        let mut disk = disk(sector);
        disk[sector + at..sector + at + bytes.len()].copy_from_slice(bytes);
        disk[sector + 16..sector + 20].fill(0);
        let checksum = crc32(&disk[sector..sector + HEADER_BYTES]);
        disk[sector + 16..sector + 20].copy_from_slice(&checksum.to_le_bytes());
        disk
    }

    #[test]
    fn what_is_written_is_read() {
        for sector in [512, 4096] {
            let found = read(&disk(sector), 1, sector as u64).unwrap().unwrap();
            assert_eq!((found.header.own, found.header.other, found.header.table), (1, 9, 2));
            assert_eq!(found.header.disk, "00112233-4455-6677-8899-aabbccddeeff");
            let [partition] = &found.partitions[..] else { panic!("{found:?}") };
            assert_eq!((partition.number, &*partition.part_uuid), (3, GUID));
            assert_eq!(partition.start_bytes, 40 * sector as u64);
            assert_eq!(partition.size_bytes, 8 * sector as u64);
            assert_eq!((&*partition.kind, &*partition.name), (SYSTEM_PARTITION, "boat"));
            assert_eq!(read(&disk(sector), 1, 4608 - sector as u64), Ok(None));
        }
    }

    #[test]
    fn what_is_damaged_is_refused() {
        let refused = |disk: Vec<u8>| read(&disk, 1, 512).unwrap_err();
        let mut torn = disk(512);
        torn[512 + 60] ^= 1;
        assert_eq!(refused(torn), "the checksum of its header is wrong");
        let mut torn = disk(512);
        torn[1024 + 3 * 128 - 1] ^= 1;
        assert_eq!(refused(torn), "the checksum of its entries is wrong");
        assert_eq!(refused(forged(512, 12, &[0; 4])), "its header has an impossible size");
        assert_eq!(refused(forged(512, 12, &[0xff; 4])), "its header has an impossible size");
        assert_eq!(refused(forged(512, 24, &[2])), "its header is of another place of the disk");
        for size in [0_u32, 127, 1 << 30] {
            let disk = forged(512, 84, &size.to_le_bytes());
            assert_eq!(refused(disk), "its entries have an impossible size");
        }
        for table in [49_u64, 1 << 40, u64::MAX] {
            let disk = forged(512, 72, &table.to_le_bytes());
            assert_eq!(refused(disk), "its entries are not where they can be");
        }
    }

    #[test]
    fn a_table_has_no_other_numbers() {
        let kind = SYSTEM_PARTITION;
        let entry = Entry { number: 0, kind, part_uuid: GUID, first: 1, last: 2, name: "" };
        assert_eq!(entry.table(), None);
        assert_eq!(Entry { number: 129, ..entry.clone() }.table(), None);
        assert_eq!(Entry { number: 128, part_uuid: "x", ..entry }.table(), None);
    }
}
