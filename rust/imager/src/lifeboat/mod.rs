//! The lifeboat: the imager, its kernel and its job in a range of the target that the image never writes.
//!
//! One sector, the switch, decides what the firmware boots: first the old system, then the lifeboat, at
//! last the new system. Each of the two switches is a write of this sector alone, with a flush before and
//! after it; in between nothing else writes it, nor the range ([`Fence`]).

pub mod fence;
pub mod header;
pub mod journal;

use std::sync::Mutex;

use holdfast_engine::image::{Descriptor, Hasher, Sha256};
use holdfast_media::table::leads_to_gpt;

pub use fence::Fence;
use header::{Firmware, HEADER_BYTES, Header};
use journal::{Entry, State};

use crate::disk::Buffer;
use crate::job::DiskRange;
use crate::pipeline::{Blocks, HEAD_BYTES, head_bytes, put};
use crate::status::{Status, lock};
use crate::{Fault, Result};

/// Bytes that are read at once.
const BLOCK: usize = 1 << 20;
/// What of the switch decides, whatever the size of a sector.
const DECIDING_BYTES: usize = 512;

/// A lifeboat that is on a disk.
#[derive(Debug)]
pub struct Lifeboat {
    range: DiskRange,
    header: Header,
    /// The switch that boots it.
    switch: Buffer,
    entry: Mutex<Entry>,
}

impl Lifeboat {
    /// Read the lifeboat of an arming: its header, its switch and its journal.
    ///
    /// # Errors
    /// The disk's, or that no lifeboat of this arming is in this range.
    pub fn read(disk: &dyn Blocks, range: DiskRange, nonce: &str) -> Result<Self> {
        let mut bytes = Buffer::new(HEADER_BYTES as usize);
        disk.read_at(&mut bytes, range.offset_bytes)?;
        let header = Header::parse(&bytes)?;
        if header.nonce != nonce {
            return Err(Fault::new("the lifeboat on the target is of another arming"));
        }
        if header.length_bytes != range.length_bytes {
            return Err(Fault::new("the lifeboat has another length than the job names"));
        }
        if header.sector_bytes != disk.sector_bytes() {
            return Err(Fault(format!(
                "the lifeboat is for sectors of {} bytes, and {} has sectors of {}",
                header.sector_bytes,
                disk.name(),
                disk.sector_bytes()
            )));
        }
        let mut switch = Buffer::new(header.sector_bytes as usize);
        disk.read_at(&mut switch, range.offset_bytes + header.switch.offset_bytes)?;
        if Sha256::of(&switch) != header.switch.sha256 {
            return Err(Fault::new("the boot sector of the lifeboat is damaged"));
        }
        let sound = match header.firmware {
            Firmware::Bios => switch[510..512] == [0x55, 0xaa],
            Firmware::Uefi => switch.starts_with(b"EFI PART"),
        };
        if !sound {
            return Err(Fault::new("no firmware boots the boot sector of the lifeboat"));
        }
        let at = DiskRange {
            offset_bytes: range.offset_bytes + header.journal.offset_bytes,
            length_bytes: header.journal.length_bytes,
        };
        let entry = journal::read(disk, at, nonce)?;
        let entry = Mutex::new(entry.unwrap_or_else(|| Entry::first(nonce, None)));
        Ok(Self { range, header, switch, entry })
    }

    /// Its range of the disk.
    pub fn range(&self) -> DiskRange {
        self.range
    }

    /// The digest of the kept old system's descriptor, if the old system was kept.
    pub fn previous(&self) -> Option<Sha256> {
        lock(&self.entry).previous_sha256
    }

    /// Bytes at the disk's beginning that are written at last, each sector by itself: those up to the
    /// switch.
    pub fn kept_bytes(&self) -> u64 {
        (self.header.switch.lba + 1) * self.header.sector_bytes
    }

    /// Where the switch is on the disk, and how long it is.
    fn switch_range(&self) -> DiskRange {
        let sector = self.header.sector_bytes;
        DiskRange { offset_bytes: self.header.switch.lba * sector, length_bytes: sector }
    }

    /// Whether the firmware boots it now.
    ///
    /// # Errors
    /// The disk's.
    pub fn boots(&self, disk: &dyn Blocks) -> Result<bool> {
        let mut sector = Buffer::new(self.switch.len());
        disk.read_at(&mut sector, self.switch_range().offset_bytes)?;
        Ok(sector[..DECIDING_BYTES] == self.switch[..DECIDING_BYTES])
    }

    /// Check that the disk has every byte that a boot of it reads.
    ///
    /// # Errors
    /// The disk's, or what is damaged.
    pub fn check_parts(&self, disk: &dyn Blocks) -> Result<()> {
        let mut buffer = Buffer::new(BLOCK);
        for part in &self.header.parts {
            let mut hasher = Hasher::default();
            let begin = self.range.offset_bytes + part.offset_bytes;
            let end = begin + part.length_bytes;
            // The disk reads whole sectors only; the range begins and ends with one.
            let mut at = begin / HEADER_BYTES * HEADER_BYTES;
            while at < end {
                let length = (end.next_multiple_of(HEADER_BYTES) - at).min(BLOCK as u64);
                let block = &mut buffer[..length as usize];
                disk.read_at(block, at)?;
                let from = begin.saturating_sub(at) as usize;
                let to = (end - at).min(length) as usize;
                hasher.update(&block[from..to]);
                at += length;
            }
            if hasher.digest() != part.sha256 {
                return Err(Fault(format!("the {} of the lifeboat is damaged", part.name)));
            }
        }
        Ok(())
    }

    /// Check that neither the image nor what comes with it on this disk reaches into its range.
    ///
    /// # Errors
    /// A sentence about what does.
    pub fn check_fit(&self, image: &Descriptor, disk: &dyn Blocks) -> Result<()> {
        let DiskRange { offset_bytes: begin, length_bytes } = self.range;
        let end = begin.checked_add(length_bytes);
        let limit = disk.size_bytes().saturating_sub(HEAD_BYTES);
        if begin < image.size_bytes || end.is_none_or(|end| end > limit) {
            return Err(Fault(format!(
                "the lifeboat is not between the image, which ends at {}, and the disk's last MiB",
                image.size_bytes
            )));
        }
        if head_bytes(image) < self.kept_bytes() {
            return Err(Fault::new(
                "the root of the image begins in the sectors by which firmware boots a disk, so \
                 there can be no lifeboat",
            ));
        }
        Ok(())
    }

    /// Check that the switch will decide between the old system, the lifeboat and the new system:
    /// `head` is the image's beginning. UEFI reads sector 0 too, which is written apart from it.
    ///
    /// # Errors
    /// A sentence about why it would not.
    pub fn check_beginnings(&self, head: &[u8], disk: &dyn Blocks) -> Result<()> {
        if self.header.firmware == Firmware::Bios {
            return Ok(());
        }
        let sector = self.header.sector_bytes as usize;
        let mut old = Buffer::new(2 * sector);
        disk.read_at(&mut old, 0)?;
        for (what, bytes) in [("the old system", &old[..]), ("the image", head)] {
            let header = bytes.get(sector..).is_some_and(|rest| rest.starts_with(b"EFI PART"));
            if !header || !leads_to_gpt(bytes) {
                return Err(Fault(format!(
                    "{what} has no GPT with a protective MBR, without which UEFI does not boot the \
                     lifeboat"
                )));
            }
        }
        Ok(())
    }

    /// Note in the journal that all is ready for the first switch, and with which kept old system.
    ///
    /// # Errors
    /// The disk's, or that it reads back differently.
    pub fn place(&self, disk: &dyn Blocks, previous: Option<Sha256>) -> Result<()> {
        let mut entry = Entry::first(&self.header.nonce, previous);
        entry.sequence = lock(&self.entry).sequence.wrapping_add(1);
        journal::write(disk, self.journal(), &entry)?;
        *lock(&self.entry) = entry;
        Ok(())
    }

    /// Note in the journal that it was booted; return how many times it was.
    pub fn resume(&self, disk: &dyn Blocks, status: &Status) -> u64 {
        self.note(disk, status, |entry| entry.resumed = entry.resumed.saturating_add(1));
        lock(&self.entry).resumed
    }

    /// Note in the journal how far the work came, with this many bytes of the image proven. Nothing
    /// depends on that, so a fault is no more than a problem.
    pub fn came_to(&self, state: State, proven_bytes: u64, disk: &dyn Blocks, status: &Status) {
        self.note(disk, status, |entry| {
            entry.state = state;
            entry.proven_bytes = proven_bytes;
        });
    }

    fn note(&self, disk: &dyn Blocks, status: &Status, change: impl FnOnce(&mut Entry)) {
        let mut entry = lock(&self.entry);
        change(&mut entry);
        entry.sequence = entry.sequence.wrapping_add(1);
        if let Err(fault) = journal::write(disk, self.journal(), &entry) {
            status.problem(fault.to_string());
        }
    }

    fn journal(&self) -> DiskRange {
        let DiskRange { offset_bytes, length_bytes } = self.header.journal;
        DiskRange { offset_bytes: self.range.offset_bytes + offset_bytes, length_bytes }
    }

    /// The first switch: from now on the firmware boots the lifeboat. It is written only if the disk has
    /// something else, and on the medium when this returns.
    ///
    /// # Errors
    /// The disk's, or that it reads back differently: then either may boot.
    pub fn switch_to_lifeboat(&self, disk: &dyn Blocks, status: &Status) -> Result<()> {
        // Also what is there already may be in the disk's cache only, after a try that failed.
        disk.flush()?;
        let mut sector = Buffer::new(self.switch.len());
        let at = self.switch_range().offset_bytes;
        if disk.read_at(&mut sector, at).is_ok() && *sector == *self.switch {
            return Ok(());
        }
        put(disk, &self.switch, at, "boot sector of the lifeboat")?;
        status.wrote(self.switch.len() as u64);
        self.came_to(State::Switched, 0, disk, status);
        Ok(())
    }

    /// The last switch: from now on the firmware boots the new system, whose beginning this is. All
    /// else of it must be on the medium.
    ///
    /// # Errors
    /// The disk's, or that it reads back differently: then either may boot.
    pub fn switch_to_image(&self, head: &[u8], disk: &dyn Blocks, status: &Status) -> Result<()> {
        let sector = self.header.sector_bytes as usize;
        for lba in 0..=self.header.switch.lba as usize {
            let bytes = &head[lba * sector..][..sector];
            put(disk, bytes, (lba * sector) as u64, "beginning of the disk")?;
            status.wrote(sector as u64);
        }
        Ok(())
    }

    /// Remove it, once the new system boots; that something of it stays is no fault. Its header goes last:
    /// by that the new system finds what a cut has left of it.
    pub fn wipe(&self, disk: &dyn Blocks, status: &Status) {
        let DiskRange { offset_bytes, length_bytes } = self.range;
        let clear = |from: u64, to: u64| {
            disk.zero(offset_bytes + from, to - from).and_then(|()| disk.flush())
        };
        if let Err(fault) = clear(HEADER_BYTES, length_bytes).and_then(|()| clear(0, HEADER_BYTES))
        {
            status
                .note(format!("the lifeboat is still on the disk, where nothing uses it: {fault}"));
        }
    }
}
