//! Where a file's bytes are on a device with a FAT file system. A loader that reads sectors goes by
//! this, so that nothing is guessed: what contradicts itself is an error.

use super::fat::Files;
use super::walk::Inodes;
use crate::Source;
use crate::bytes::{index, u16_le, u32_le};
use crate::superblock::Fat;

/// The most bytes of the table: it is read as a whole.
const TABLE: u64 = 64 << 20;

/// Neighbouring bytes of a file, and where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// In the file.
    pub offset: u64,
    /// On the device.
    pub place: u64,
    /// How many; the last run of a file ends with its last cluster.
    pub length: u64,
}

/// Why a file has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoPlace {
    /// There is no such file.
    Missing,
    /// Something on the way to it is a file.
    NotDirectory,
    /// The file system cannot be believed: a clause about it.
    Damaged(&'static str),
}

/// Return the runs of a file, whole clusters, neighbours joined; none of an empty file.
///
/// # Errors
/// See [`NoPlace`].
pub fn runs(device: &Source, path: &str) -> Result<Vec<Run>, NoPlace> {
    let fat = Fat::by_numbers(&device.bytes_up_to(0, 512))
        .ok_or(NoPlace::Damaged("cannot be recognised"))?;
    if fat.table_bytes > TABLE {
        return Err(NoPlace::Damaged("has a table of more than 64 MiB"));
    }
    let table = device.bytes(fat.table_at, index(fat.table_bytes));
    let table = table.ok_or(NoPlace::Damaged("has no table where it can be"))?;
    let table = Table { bits: fat.bits, clusters: fat.clusters, links: table };
    let (data_at, step) = (fat.data_at, fat.cluster_bytes);
    let files = Files::new(device, fat);
    let mut here = files.root();
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if !here.directory {
            return Err(NoPlace::NotDirectory);
        }
        if !here.fixed {
            // A directory that is cut short would have no files.
            table.chain(here.cluster)?;
        }
        let mut found = None;
        let read = files.each(here, &mut |other, node| {
            if files.same(other, name.as_bytes()) {
                found = Some(node);
            }
            found.is_none()
        });
        read.ok_or(NoPlace::Damaged("has a directory that cannot be read"))?;
        here = found.ok_or(NoPlace::Missing)?;
    }
    let mut runs: Vec<Run> = Vec::new();
    if here.size == 0 {
        return Ok(runs);
    }
    for (number, cluster) in (0..).zip(table.chain(here.cluster)?) {
        let place = data_at + u64::from(cluster - 2) * step;
        match runs.last_mut() {
            Some(last) if last.place + last.length == place => last.length += step,
            _ => runs.push(Run { offset: number * step, place, length: step }),
        }
    }
    Ok(runs)
}

/// The table of which cluster follows which.
struct Table {
    bits: u8,
    clusters: u32,
    links: Vec<u8>,
}

impl Table {
    /// The clusters of a chain, which has to end.
    fn chain(&self, first: u32) -> Result<Vec<u32>, NoPlace> {
        let broken = NoPlace::Damaged("has a chain of clusters that is broken");
        let mut found = Vec::new();
        let mut cluster = first;
        while (2..self.clusters.saturating_add(2)).contains(&cluster) {
            found.push(cluster);
            if found.len() as u64 > u64::from(self.clusters) {
                return Err(NoPlace::Damaged("has a chain of clusters without an end"));
            }
            cluster = self.next(cluster).ok_or(broken)?;
        }
        // At the end of a chain is 0xfff8 or above, of as many bits.
        if found.is_empty() || cluster & 0xff8 != 0xff8 { Err(broken) } else { Ok(found) }
    }

    fn next(&self, cluster: u32) -> Option<u32> {
        let at = cluster as usize;
        Some(match self.bits {
            12 => {
                let pair = u32::from(u16_le(&self.links, at * 3 / 2)?);
                if cluster.is_multiple_of(2) { pair & 0xfff } else { pair >> 4 }
            }
            16 => u16_le(&self.links, at * 2)?.into(),
            _ => u32_le(&self.links, at * 4)? & 0x0fff_ffff,
        })
    }
}
