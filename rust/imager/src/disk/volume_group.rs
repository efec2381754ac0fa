//! LVM on the disk that was written: the physical volume of the root's partition grows with it. What has
//! to be written is worked out by `holdfast-media`.

use holdfast_media::ReadAt;
use holdfast_media::lvm::{self, Extended};

use crate::disk::{Buffer, Disk};
use crate::{Fault, Result};

/// Extend the physical volume on the partition at `start`, which has `bytes` bytes now, and the logical
/// volume `name` on it if that is the last one. All is on the medium, and was read back, when this
/// returns.
///
/// # Errors
/// The disk's, or a clause on why the physical volume is left unchanged.
pub fn extend(disk: &Disk, start: u64, bytes: u64, name: &str) -> Result<Extended> {
    let partition = Aligned { disk, start, length: bytes };
    let extended = lvm::extend(&partition, bytes, name).map_err(Fault)?;
    for (offset, bytes) in &extended.writes {
        partition.write(*offset, bytes)?;
        disk.flush()?;
    }
    for (offset, bytes) in &extended.writes {
        if partition.bytes(*offset, bytes.len()).as_ref() != Some(bytes) {
            return Err(Fault::new("its metadata reads back differently than it was written"));
        }
    }
    Ok(extended)
}

/// A sentence on the outcome for a physical volume that was to be extended.
pub fn note(name: &str, done: &Result<Extended>) -> String {
    match done {
        Ok(Extended { volume_bytes: Some(bytes), .. }) => {
            format!("the logical volume {name} was extended to {bytes} bytes")
        }
        Ok(Extended { added_bytes, .. }) => format!(
            "the volume group of {name} has {added_bytes} bytes more, and the volume is left as it \
             is, since another one is behind it; `lvextend --resizefs --extents +100%FREE {name}` \
             extends it in the new system"
        ),
        Err(why) => format!(
            "the root partition was extended, and the physical volume on it was not: {why}; \
             `pvresize` extends it in the new system"
        ),
    }
}

/// A range of a disk that is read and written in whole sectors.
#[derive(Debug)]
pub(crate) struct Aligned<'a> {
    disk: &'a Disk,
    start: u64,
    length: u64,
}

impl<'a> Aligned<'a> {
    /// All of a disk or a partition.
    pub fn all_of(disk: &'a Disk) -> Self {
        Self { disk, start: 0, length: disk.size_bytes() }
    }

    /// Sectors with this range in them, and where on the disk they begin.
    fn around(&self, offset: u64, length: usize) -> Result<(u64, Buffer)> {
        let unit = self.disk.sector_bytes();
        let from = (self.start + offset) / unit * unit;
        let end = (self.start + offset + length as u64).div_ceil(unit) * unit;
        let mut buffer = Buffer::new((end - from) as usize);
        self.disk.read_at(&mut buffer, from)?;
        Ok((from, buffer))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let (from, mut buffer) = self.around(offset, bytes.len())?;
        buffer[(self.start + offset - from) as usize..][..bytes.len()].copy_from_slice(bytes);
        self.disk.write_at(&buffer, from)
    }
}

impl ReadAt for Aligned<'_> {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let end = offset.checked_add(buffer.len() as u64)?;
        (end <= self.length).then_some(())?;
        let (from, sectors) = self.around(offset, buffer.len()).ok()?;
        buffer.copy_from_slice(&sectors[(self.start + offset - from) as usize..][..buffer.len()]);
        Some(())
    }
}
