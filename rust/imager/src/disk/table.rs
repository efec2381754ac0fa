//! The partition table of an image on a disk that is larger: the backup of a GPT goes to the disk's end,
//! and the last partition may be extended up to there (UEFI specification, sections 5.2 and 5.3).
//!
//! Only what is understood entirely is changed; anything else is left as the image has it, with a
//! sentence about why. Nothing is written here: both ends of the disk are in memory.

use holdfast_media::bytes::{u32_le, u64_le};

use crate::pipeline::ends::Ends;

/// Partitions are extended to a multiple of this many bytes, the block of most file systems.
const ALIGNMENT: u64 = 4096;
const MBR_ENTRIES: usize = 446;
/// The type of the entry that keeps programs away which do not know GPT.
const PROTECTIVE: u8 = 0xee;
/// Cylinders, heads and sectors of what is too far away for them.
const FAR: [u8; 3] = [0xff, 0xff, 0xff];

/// How a table was made to fit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fitted {
    /// Sentences about what was done, and what was not and why.
    pub notes: Vec<String>,
    /// The new size of the partition that was extended, in bytes.
    pub extended_to: Option<u64>,
}

/// Sizes that a table has to fit.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// The image's.
    pub image_bytes: u64,
    /// The disk's.
    pub disk_bytes: u64,
    /// Where a partition that is extended has to end at the latest, if that is before the disk's end.
    pub limit_bytes: Option<u64>,
}

/// Make the table at a disk's beginning fit a disk in sectors of `sector` bytes (512 or 4096); `grow` is
/// the number of the partition to extend, if any.
pub fn fit(ends: &mut Ends, sizes: Sizes, sector: u64, grow: Option<u32>) -> Fitted {
    let mut fitted = Fitted::default();
    if sizes.disk_bytes <= sizes.image_bytes && grow.is_none() {
        return fitted;
    }
    let header = ends.head.get(sector as usize..).unwrap_or_default();
    let done = if header.starts_with(b"EFI PART") {
        fit_gpt(ends, sizes, sector, grow, &mut fitted)
    } else {
        grow.map_or(Ok(()), |number| extend_mbr(&mut ends.head, sizes, sector, number, &mut fitted))
    };
    if let Err(why) = done {
        fitted.notes.push(why);
    }
    if let (Some(limit), Some(_)) = (sizes.limit_bytes, fitted.extended_to) {
        fitted.notes.push(format!(
            "the root was extended up to byte {limit}, where the lifeboat was; growpart extends it \
             further"
        ));
    }
    fitted
}

fn fit_gpt(
    ends: &mut Ends,
    sizes: Sizes,
    sector: u64,
    grow: Option<u32>,
    fitted: &mut Fitted,
) -> Result<(), String> {
    let left = |why: &str| format!("the image's GPT is left unchanged: {why}");
    let mut gpt = Gpt::read(&ends.head, sector).map_err(left)?;
    let last = sizes.disk_bytes / sector - 1;
    let backup_at = last
        .checked_sub(gpt.entries_sectors())
        .filter(|at| at * sector >= ends.tail_at)
        .ok_or_else(|| left("its entries do not fit in the disk's last mebibyte"))?;
    let last_usable = backup_at - 1;
    if gpt.partitions().any(|(_, _, end)| end > last_usable) {
        return Err(left("a partition reaches to where its backup would be"));
    }
    if let Some(number) = grow {
        let limit = sizes.limit_bytes.map_or(u64::MAX, |limit| (limit / sector).saturating_sub(1));
        match gpt.extend(number, last_usable.min(limit)) {
            Ok(sectors) => fitted.extended_to = Some(sectors * sector),
            Err(why) => fitted.notes.push(why),
        }
    }
    if gpt.u64_at(32) != last {
        fitted.notes.push("the backup of the GPT was moved to the end of the disk".to_owned());
    }
    gpt.put_u64(32, last);
    gpt.put_u64(48, last_usable);
    if !protect(&mut ends.head, last) {
        fitted.notes.push(
            "the MBR beside the GPT has other entries than the protective one, and is left unchanged"
                .to_owned(),
        );
    }
    gpt.write(ends, last, backup_at);
    Ok(())
}

/// The header and the entries of a GPT that is whole.
struct Gpt {
    sector: u64,
    header: Vec<u8>,
    header_bytes: usize,
    entries: Vec<u8>,
    entry_bytes: usize,
    entries_at: usize,
}

impl Gpt {
    fn read(head: &[u8], sector: u64) -> Result<Self, &'static str> {
        let length = sector as usize;
        let header = head.get(length..2 * length).ok_or("the image is too small")?.to_vec();
        let mut gpt = Self {
            sector,
            header,
            header_bytes: 0,
            entries: Vec::new(),
            entry_bytes: 0,
            entries_at: 0,
        };
        gpt.header_bytes = gpt.u32_at(12) as usize;
        if !(92..=512).contains(&gpt.header_bytes) || gpt.header_checksum() != gpt.u32_at(16) {
            return Err("its header is damaged");
        }
        gpt.entry_bytes = gpt.u32_at(84) as usize;
        let all = (gpt.u32_at(80) as usize).checked_mul(gpt.entry_bytes);
        let place = usize::try_from(gpt.u64_at(72)).ok().and_then(|lba| lba.checked_mul(length));
        let entries = place
            .zip(all)
            .and_then(|(from, length)| head.get(from..from.checked_add(length)?))
            .filter(|_| gpt.entry_bytes >= 128 && gpt.u64_at(72) >= 2 && gpt.u64_at(24) == 1)
            .ok_or("its entries are not where others have them")?;
        if crc32fast::hash(entries) != gpt.u32_at(88) {
            return Err("its entries are damaged");
        }
        gpt.entries = entries.to_vec();
        gpt.entries_at = place.unwrap_or_default();
        Ok(gpt)
    }

    /// Number, first and last sector of each partition.
    fn partitions(&self) -> impl Iterator<Item = (u32, u64, u64)> {
        let used = |entry: &&[u8]| entry[..16].iter().any(|byte| *byte != 0);
        (1..)
            .zip(self.entries.chunks_exact(self.entry_bytes))
            .filter(move |(_, entry)| used(entry))
            .map(|(number, entry)| {
                (
                    number,
                    u64_le(entry, 32).unwrap_or_default(),
                    u64_le(entry, 40).unwrap_or_default(),
                )
            })
    }

    /// Extend a partition; return how many sectors it has then.
    fn extend(&mut self, number: u32, last_usable: u64) -> Result<u64, String> {
        let (_, first, old_end) =
            self.partitions().find(|(one, _, _)| *one == number).ok_or_else(|| missing(number))?;
        if self.partitions().any(|(one, _, end)| one != number && end > first) {
            return Err(not_last(number));
        }
        let step = ALIGNMENT / self.sector;
        let sectors = (last_usable + 1).saturating_sub(first) / step * step;
        let end = (first + sectors).saturating_sub(1);
        if end <= old_end {
            return Err(no_room(number));
        }
        let at = (number as usize - 1) * self.entry_bytes + 40;
        self.entries[at..at + 8].copy_from_slice(&end.to_le_bytes());
        Ok(sectors)
    }

    /// Put table and backup in place, with their checksums.
    fn write(mut self, ends: &mut Ends, last: u64, backup_at: u64) {
        let checksum = crc32fast::hash(&self.entries);
        self.put_u32(88, checksum);
        self.seal();
        ends.head[self.header.len()..][..self.header.len()].copy_from_slice(&self.header);
        ends.head[self.entries_at..][..self.entries.len()].copy_from_slice(&self.entries);
        self.put_u64(24, last);
        self.put_u64(32, 1);
        self.put_u64(72, backup_at);
        self.seal();
        let place = |lba: u64| (lba * self.sector - ends.tail_at) as usize;
        let (header_at, entries_at) = (place(last), place(backup_at));
        ends.tail[entries_at..header_at].fill(0);
        ends.tail[entries_at..][..self.entries.len()].copy_from_slice(&self.entries);
        ends.tail[header_at..][..self.header.len()].copy_from_slice(&self.header);
    }

    fn entries_sectors(&self) -> u64 {
        (self.entries.len() as u64).div_ceil(self.sector)
    }

    fn header_checksum(&self) -> u32 {
        let mut covered = self.header[..self.header_bytes].to_vec();
        covered[16..20].fill(0);
        crc32fast::hash(&covered)
    }

    fn seal(&mut self) {
        let checksum = self.header_checksum();
        self.put_u32(16, checksum);
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32_le(&self.header, at).unwrap_or_default()
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64_le(&self.header, at).unwrap_or_default()
    }

    fn put_u32(&mut self, at: usize, value: u32) {
        self.header[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, at: usize, value: u64) {
        self.header[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}

/// Let the protective MBR cover the whole disk; not if there is anything but the protective entry.
fn protect(head: &mut [u8], last: u64) -> bool {
    let entries = &mut head[MBR_ENTRIES..MBR_ENTRIES + 64];
    let used = |entry: &[u8]| entry[4] != 0;
    let mut ours = None;
    for (index, entry) in entries.chunks_exact(16).enumerate().filter(|(_, entry)| used(entry)) {
        if entry[4] != PROTECTIVE || u32_le(entry, 8) != Some(1) || ours.is_some() {
            return false;
        }
        ours = Some(index * 16);
    }
    let Some(at) = ours else { return false };
    let entry = &mut entries[at..at + 16];
    entry[5..8].copy_from_slice(&FAR);
    entry[12..16].copy_from_slice(&u32::try_from(last).unwrap_or(u32::MAX).to_le_bytes());
    true
}

/// Extend a primary partition of an MBR.
fn extend_mbr(
    head: &mut [u8],
    sizes: Sizes,
    sector: u64,
    number: u32,
    fitted: &mut Fitted,
) -> Result<(), String> {
    if head.get(510..512) != Some(&[0x55, 0xaa]) {
        return Err("the image has no partition table, so nothing was extended".to_owned());
    }
    if number > 4 {
        return Err(format!("partition {number} is in an extended partition and was not extended"));
    }
    let entry = |number: u32| MBR_ENTRIES + 16 * (number as usize - 1);
    let place = |at: usize| {
        let (first, sectors) = (
            u64::from(u32_le(head, at + 8).unwrap_or_default()),
            u64::from(u32_le(head, at + 12).unwrap_or_default()),
        );
        (head[at + 4] != 0 && sectors > 0).then_some((first, sectors))
    };
    let at = entry(number.max(1));
    let (first, old) = place(at).filter(|_| number > 0).ok_or_else(|| missing(number))?;
    let others = (1..=4).filter(|other| *other != number).filter_map(|other| place(entry(other)));
    if others.into_iter().any(|(other, sectors)| other + sectors > first) {
        return Err(not_last(number));
    }
    // A sector further than this has no number in such a table.
    let end = sizes.limit_bytes.unwrap_or(u64::MAX).min(sizes.disk_bytes) / sector;
    let end = end.min(u64::from(u32::MAX));
    let step = ALIGNMENT / sector;
    let sectors = end.saturating_sub(first) / step * step;
    if sectors <= old {
        return Err(no_room(number));
    }
    let count = u32::try_from(sectors).map_err(|_| no_room(number))?;
    head[at + 5..at + 8].copy_from_slice(&FAR);
    head[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
    fitted.extended_to = Some(sectors * sector);
    Ok(())
}

fn missing(number: u32) -> String {
    format!("the image's table has no partition {number}, so none was extended")
}

fn not_last(number: u32) -> String {
    format!("partition {number} is not the last one on the disk, so it was not extended")
}

fn no_room(number: u32) -> String {
    format!("partition {number} reaches to the end of the disk, or of what it may have, already")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Sizes, fit};
    use crate::pipeline::ends::Ends;

    proptest! {
        #[test]
        fn any_beginning_of_a_disk_is_put_up_with(
            start in prop::collection::vec(any::<u8>(), 0..700),
            magic: bool,
            grow in prop::option::of(0_u32..200),
            image in 1_u64..5000,
            more in 0_u64..5000,
            large: bool,
            limit in prop::option::of(0_u64..10_000),
        ) {
            let sector = if large { 4096 } else { 512 };
            let (image, disk) = (image * sector, (image + more) * sector);
            let mut ends = Ends::new(image.min(1 << 20), disk);
            let length = start.len().min(ends.head.len());
            ends.head[..length].copy_from_slice(&start[..length]);
            let header = sector as usize;
            if magic && ends.head.len() >= 2 * header {
                ends.head[header..header + 8].copy_from_slice(b"EFI PART");
                ends.head[510..512].copy_from_slice(&[0x55, 0xaa]);
            }
            let limit_bytes = limit.map(|limit| limit * sector);
            let sizes = Sizes { image_bytes: image, disk_bytes: disk, limit_bytes };
            let _ = fit(&mut ends, sizes, sector, grow);
        }
    }
}
