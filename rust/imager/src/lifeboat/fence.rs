//! A disk of which two ranges cannot be written: the lifeboat and the sector that boots it.

use super::Lifeboat;
use crate::job::DiskRange;
use crate::pipeline::Blocks;
use crate::{Fault, Result};

/// A disk between the two switches.
pub struct Fence<'a> {
    disk: &'a dyn Blocks,
    kept: [DiskRange; 2],
}

impl<'a> Fence<'a> {
    /// Keep this lifeboat whole.
    pub fn around(lifeboat: &Lifeboat, disk: &'a dyn Blocks) -> Self {
        Self { disk, kept: [lifeboat.range(), lifeboat.switch_range()] }
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        let end = offset.saturating_add(length);
        let hit = self.kept.iter().find(|kept| {
            offset < kept.offset_bytes.saturating_add(kept.length_bytes) && kept.offset_bytes < end
        });
        match hit {
            None => Ok(()),
            Some(kept) => Err(Fault(format!(
                "a fault of the imager itself: {length} bytes at {offset} would be written over what \
                 the lifeboat has at {}",
                kept.offset_bytes
            ))),
        }
    }
}

impl Blocks for Fence<'_> {
    fn name(&self) -> String {
        self.disk.name()
    }

    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn sector_bytes(&self) -> u64 {
        self.disk.sector_bytes()
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.disk.read_at(buffer, offset)
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        self.check(offset, buffer.len() as u64)?;
        self.disk.write_at(buffer, offset)
    }

    fn zero(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length)?;
        self.disk.zero(offset, length)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}
