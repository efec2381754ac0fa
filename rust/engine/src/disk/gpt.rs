//! The GPT of a disk of this machine, as the disk has it, and one that leads to a table elsewhere.

use std::path::Path;

use holdfast_media::bytes::crc32;
use holdfast_media::gpt::{self, Entry, Header};
use holdfast_media::table;
use serde::{Deserialize, Serialize};

use crate::disk::past_cache::PastCache;
use crate::{Error, Result};

/// The most bytes of a disk that are read: a sector, and a table of 1 MiB.
const BUDGET: u64 = 2 << 20;

/// A partition; places are numbers of logical sectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its number, as in the names of the kernel's devices.
    pub number: u32,
    /// Its type: a GUID in lower case.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its own GUID.
    pub uuid: String,
    /// Its first sector.
    pub start: u64,
    /// How many it has; 0 for one that ends before it begins.
    pub sectors: u64,
}

/// A table; places are numbers of logical sectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// Where its header is.
    pub own: u64,
    /// Where the other header is.
    pub other: u64,
    /// Where its entries begin.
    pub entries_at: u64,
    /// Bytes of all entries.
    pub entries_bytes: u64,
    /// In the order of the table.
    pub partitions: Vec<Partition>,
}

/// Read the table of the header in sector `lba` of a disk with logical sectors of `sector_bytes`, past
/// the page cache; `None` where there is no header.
///
/// # Errors
/// [`Error::Invalid`], with a clause, for a table that is damaged; [`Error::Io`].
pub fn read(path: &Path, lba: u64, sector_bytes: u64) -> Result<Option<Table>> {
    let damaged = |why: gpt::Damage| Error::Invalid(why.to_owned());
    let disk = PastCache::open(path, BUDGET)?;
    let found = disk.read(|disk| gpt::read(&**disk, lba, sector_bytes))?.map_err(damaged)?;
    let Some(found) = found else { return Ok(None) };
    Ok(Some(Table {
        own: found.header.own,
        other: found.header.other,
        entries_at: found.header.table,
        entries_bytes: found.header.table_bytes().map_err(damaged)?,
        partitions: found
            .partitions
            .into_iter()
            .map(|partition| Partition {
                number: partition.number,
                kind: partition.kind,
                uuid: partition.part_uuid,
                start: partition.start_bytes / sector_bytes,
                sectors: partition.size_bytes / sector_bytes,
            })
            .collect(),
    }))
}

/// The disk's GUID, if sector 1 alone decides which table is used: sector 0 is a protective MBR, and
/// sector 1 a header; `None` if not.
///
/// # Errors
/// [`Error::Invalid`], with a clause, for a header that is damaged.
pub fn switched(mbr: &[u8], header: &[u8]) -> Result<Option<String>> {
    let found = Header::parse(header, 1).map_err(|why| Error::Invalid(why.to_owned()))?;
    Ok(found.filter(|_| table::is_protective(mbr)).map(|header| header.disk))
}

/// A table with one partition, which two headers lead to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTable {
    /// Bytes of a logical sector.
    pub sector_bytes: usize,
    /// The disk's GUID.
    pub disk: String,
    /// Where the first header's entries are.
    pub table: u64,
    /// Where the second header is.
    pub backup: u64,
    /// Where the second header's entries are.
    pub backup_table: u64,
    /// The partition's number.
    pub number: u32,
    /// The partition's own GUID. Its type is that of a system partition.
    pub part_uuid: String,
    /// Its first sector.
    pub first: u64,
    /// Its last sector.
    pub last: u64,
    /// Its name.
    pub name: String,
}

/// Build a table: the entries, and the sectors of the first header and of the second.
///
/// # Errors
/// [`Error::Invalid`] for a number that no table of 128 entries has, or for what is no GUID.
pub fn build(wanted: &NewTable) -> Result<[Vec<u8>; 3]> {
    let entry = Entry {
        number: wanted.number,
        kind: gpt::SYSTEM_PARTITION,
        part_uuid: &wanted.part_uuid,
        first: wanted.first,
        last: wanted.last,
        name: &wanted.name,
    };
    let entries = entry.table().ok_or_else(|| {
        let NewTable { number, part_uuid, .. } = wanted;
        Error::Invalid(format!("partition {number} ({part_uuid}) has no place in the table"))
    })?;
    let header = |own: u64, other: u64, table: u64| {
        let header = Header {
            own,
            other,
            first_usable: wanted.first,
            last_usable: wanted.last,
            disk: wanted.disk.clone(),
            table,
            entries: gpt::ENTRIES,
            entry_bytes: gpt::ENTRY_BYTES,
            checksum: crc32(&entries),
        };
        let encoded = header.encode(wanted.sector_bytes);
        encoded.ok_or_else(|| Error::Invalid(format!("{} is no GUID of a disk", wanted.disk)))
    };
    let primary = header(1, wanted.backup, wanted.table)?;
    let backup = header(wanted.backup, 1, wanted.backup_table)?;
    Ok([entries, primary, backup])
}
