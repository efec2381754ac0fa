//! The journal of a lifeboat: how far the work came, for the imager that is booted from it.
//!
//! Each entry has a slot of its own, so that a cut while one is written leaves the one before it. A slot
//! is one line of JSON, a line with the SHA-256 of the first one, and spaces. Nothing depends on it but the
//! digest of the kept old system: what is on the disk is read, and not believed.

use holdfast_engine::image::Sha256;
use serde::{Deserialize, Serialize};

use super::header::SLOT_BYTES;
use crate::Result;
use crate::disk::Buffer;
use crate::job::DiskRange;
use crate::pipeline::{Blocks, put};

const FORMAT: &str = "holdfast-lifeboat-journal";
const VERSION: u64 = 1;

/// How far the work came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Everything is ready for the first switch.
    Placed,
    /// The disk boots the lifeboat.
    Switched,
    /// The image is being written.
    Writing,
    /// The image is on the disk and was read back; identity and marker are being written.
    Carrying,
    /// All is there but what makes the disk boot the new system.
    Written,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    format: String,
    version: u64,
    /// The arming it belongs to.
    pub nonce: String,
    /// Its number; the highest one counts.
    pub sequence: u64,
    /// How far the work came.
    pub state: State,
    /// How many times the imager was booted from the lifeboat.
    pub resumed: u64,
    /// How many bytes of the image were on the disk and read back.
    pub proven_bytes: u64,
    /// The digest of the kept old system's descriptor, if it was kept.
    pub previous_sha256: Option<Sha256>,
}

impl Entry {
    /// The first entry of an arming.
    pub fn first(nonce: &str, previous: Option<Sha256>) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            nonce: nonce.to_owned(),
            sequence: 0,
            state: State::Placed,
            resumed: 0,
            proven_bytes: 0,
            previous_sha256: previous,
        }
    }

    /// Read a slot; `None` unless it is a whole entry of this arming.
    pub fn parse(slot: &[u8], nonce: &str) -> Option<Self> {
        let mut lines = slot.split(|&byte| byte == b'\n');
        let (line, digest) = (lines.next()?, lines.next()?);
        if Sha256::of(line).to_string().as_bytes() != digest {
            return None;
        }
        let entry: Self = serde_json::from_slice(line).ok()?;
        let known = entry.format == FORMAT && entry.version == VERSION && entry.nonce == nonce;
        known.then_some(entry)
    }

    /// The slot's bytes.
    pub fn to_slot(&self) -> Buffer {
        let line = serde_json::to_vec(self).expect("an entry has only text for keys");
        let digest = Sha256::of(&line).to_string();
        let text = [&line[..], b"\n", digest.as_bytes(), b"\n"].concat();
        let mut slot = Buffer::new(SLOT_BYTES as usize);
        slot.fill(b' ');
        // Less than 500 bytes: every member of it is bounded.
        slot[..text.len()].copy_from_slice(&text);
        slot
    }
}

/// Read the newest whole entry of an arming; `range` is that of the journal on the disk.
///
/// # Errors
/// The disk's.
pub fn read(disk: &dyn Blocks, range: DiskRange, nonce: &str) -> Result<Option<Entry>> {
    let mut slots = Buffer::new(range.length_bytes as usize);
    disk.read_at(&mut slots, range.offset_bytes)?;
    let entries = slots.chunks_exact(SLOT_BYTES as usize);
    Ok(entries.filter_map(|slot| Entry::parse(slot, nonce)).max_by_key(|entry| entry.sequence))
}

/// Write an entry into its slot, which is not that of the one before it.
///
/// # Errors
/// The disk's, or that it reads back differently.
pub fn write(disk: &dyn Blocks, range: DiskRange, entry: &Entry) -> Result<()> {
    let slot = entry.sequence % (range.length_bytes / SLOT_BYTES);
    put(disk, &entry.to_slot(), range.offset_bytes + slot * SLOT_BYTES, "journal of the lifeboat")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::{Entry, Sha256, State, read, write};
    use crate::disk::Disk;
    use crate::job::DiskRange;

    const NONCE: &str = "0123456789abcdef0123456789abcdef";
    const RANGE: DiskRange = DiskRange { offset_bytes: 8192, length_bytes: 3 * 4096 };

    fn entry(sequence: u64, state: State) -> Entry {
        Entry { sequence, state, ..Entry::first(NONCE, Some(Sha256::of(b"kept"))) }
    }

    fn disk(path: &Path) -> Disk {
        std::fs::write(path, vec![0; 1 << 16]).unwrap();
        Disk::open_exclusively(path).unwrap()
    }

    #[test]
    fn the_newest_entry_counts_and_a_torn_one_leaves_the_one_before() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("disk");
        let disk = disk(&path);
        assert_eq!(read(&disk, RANGE, NONCE).unwrap(), None);
        let states = [State::Placed, State::Switched, State::Writing, State::Carrying];
        for (sequence, state) in (0..8).zip(states.into_iter().cycle()) {
            let before = read(&disk, RANGE, NONCE).unwrap();
            let old = std::fs::read(&path).unwrap();
            let written = entry(sequence, state);
            write(&disk, RANGE, &written).unwrap();
            assert_eq!(read(&disk, RANGE, NONCE).unwrap().as_ref(), Some(&written));
            let new = std::fs::read(&path).unwrap();
            // A slot of which only some of the eight sectors were written.
            for sectors in 0..=255_u8 {
                let mut torn = old.clone();
                for sector in 0..8 {
                    let at = 8192 + (sequence % 3) as usize * 4096 + sector * 512;
                    if sectors & (1 << sector) != 0 {
                        torn[at..at + 512].copy_from_slice(&new[at..at + 512]);
                    }
                }
                std::fs::write(&path, torn).unwrap();
                let found = read(&disk, RANGE, NONCE).unwrap();
                assert!(found == before || found.as_ref() == Some(&written), "{sectors:b}");
            }
            std::fs::write(&path, new).unwrap();
        }
        assert_eq!(read(&disk, RANGE, &"0".repeat(32)).unwrap(), None, "another arming's");
    }

    #[test]
    fn an_entry_of_the_longest_members_has_space_in_its_slot() {
        let longest = Entry {
            sequence: u64::MAX,
            resumed: u64::MAX,
            proven_bytes: u64::MAX,
            ..entry(0, State::Switched)
        };
        assert_eq!(Entry::parse(&longest.to_slot(), NONCE), Some(longest));
    }

    proptest! {
        #[test]
        fn a_slot_that_was_changed_is_no_entry(at in 0_usize..4096, byte: u8) {
            let mut slot = entry(7, State::Writing).to_slot();
            let whole = slot.clone();
            slot[at] = byte;
            let found = Entry::parse(&slot, NONCE);
            let end = whole.iter().rposition(|&byte| byte == b'\n').unwrap();
            prop_assert_eq!(found.is_some(), at > end || *slot == *whole);
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Entry::parse(&bytes, NONCE), None);
        }
    }
}
