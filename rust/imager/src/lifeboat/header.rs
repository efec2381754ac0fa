//! The header of a lifeboat: one line of JSON at the beginning of its range, written by the armed machine.
//! All places in it are bytes from the beginning of the range.

use holdfast_engine::image::Sha256;
use serde::Deserialize;

use crate::job::DiskRange;
use crate::{Fault, Result};

/// Bytes of the header; also what all of its places are multiples of, but for those of parts.
pub const HEADER_BYTES: u64 = 4096;
/// The most bytes of a lifeboat.
pub const MOST_BYTES: u64 = 64 << 20;
/// Bytes of one slot of the journal.
pub const SLOT_BYTES: u64 = 4096;
/// The most bytes of the journal.
const JOURNAL_BYTES: u64 = 1 << 20;
/// The most parts.
const PARTS: usize = 64;

/// What boots the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// Runs the code in sector 0.
    Bios,
    /// Reads the header of the GPT in sector 1.
    Uefi,
}

impl Firmware {
    /// The sector by which it decides what to boot.
    pub fn switch_sector(self) -> u64 {
        match self {
            Self::Bios => 0,
            Self::Uefi => 1,
        }
    }
}

/// The sector that lets the firmware boot the lifeboat.
#[derive(Debug, Clone, Deserialize)]
pub struct Switch {
    /// Its place on the disk, in sectors.
    pub lba: u64,
    /// Where its content is.
    pub offset_bytes: u64,
    /// The digest of its content, which is one sector.
    pub sha256: Sha256,
}

/// A range that a boot of the lifeboat reads.
#[derive(Debug, Clone, Deserialize)]
pub struct Part {
    /// What it is, for messages.
    pub name: String,
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
    /// Its digest.
    pub sha256: Sha256,
}

/// The header. Members it does not know are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Header {
    /// The arming it belongs to.
    pub nonce: String,
    /// What boots it.
    pub firmware: Firmware,
    /// Bytes of a sector of the disk.
    pub sector_bytes: u64,
    /// Bytes of the whole range.
    pub length_bytes: u64,
    /// The sector that boots it.
    pub switch: Switch,
    /// Where its journal is.
    pub journal: DiskRange,
    /// All else that a boot of it reads.
    pub parts: Vec<Part>,
}

impl Header {
    /// Read a header, and check that it holds together.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Envelope {
            format: String,
            version: u64,
        }
        let end = bytes.iter().position(|&byte| byte == b'\n');
        let line = &bytes[..end.unwrap_or(bytes.len())];
        let envelope: Envelope = serde_json::from_slice(line)
            .map_err(|_| Fault::new("there is no lifeboat where the job places it"))?;
        if envelope.format != "holdfast-lifeboat" || envelope.version != 1 {
            return Err(Fault::new("the lifeboat on the target is of an unknown kind or version"));
        }
        let wrong = |reason: String| Fault(format!("the lifeboat cannot be used: {reason}"));
        let header: Self =
            serde_json::from_slice(line).map_err(|error| wrong(error.to_string()))?;
        header.validate().map_err(wrong)?;
        Ok(header)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        if ![512, 4096].contains(&self.sector_bytes) {
            return Err(format!("it is for sectors of {} bytes", self.sector_bytes));
        }
        if self.switch.lba != self.firmware.switch_sector() {
            return Err(format!("no firmware boots by sector {}", self.switch.lba));
        }
        let length = self.length_bytes;
        if !length.is_multiple_of(HEADER_BYTES) || length > MOST_BYTES {
            return Err("length_bytes must be a multiple of 4096 of at most 64 MiB".to_owned());
        }
        let DiskRange { offset_bytes: journal_at, length_bytes: journal } = self.journal;
        if !journal.is_multiple_of(SLOT_BYTES)
            || !(2 * SLOT_BYTES..=JOURNAL_BYTES).contains(&journal)
        {
            return Err("the journal must have between 2 and 256 slots of 4096 bytes".to_owned());
        }
        if !journal_at.is_multiple_of(HEADER_BYTES)
            || !self.switch.offset_bytes.is_multiple_of(HEADER_BYTES)
        {
            return Err("journal and switch must begin at multiples of 4096".to_owned());
        }
        if self.parts.is_empty() || self.parts.len() > PARTS {
            return Err(format!("it has {} parts instead of 1 to {PARTS}", self.parts.len()));
        }
        let mut ranges = vec![
            (0, HEADER_BYTES),
            (journal_at, journal),
            (self.switch.offset_bytes, self.sector_bytes),
        ];
        ranges.extend(self.parts.iter().map(|part| (part.offset_bytes, part.length_bytes)));
        ranges.sort_unstable();
        let mut free_from = 0;
        for (from, bytes) in ranges {
            let end = from.checked_add(bytes).filter(|end| *end <= length && bytes > 0);
            let Some(end) = end else {
                return Err(format!("{bytes} bytes at {from} are not within its {length}"));
            };
            if from < free_from {
                return Err(format!("what begins at {from} overlaps what is before it"));
            }
            free_from = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::Header;

    fn header() -> Value {
        json!({
            "format": "holdfast-lifeboat", "version": 1, "nonce": "0".repeat(32),
            "firmware": "bios", "sector_bytes": 512, "length_bytes": 2 << 20,
            "switch": {"lba": 0, "offset_bytes": 69632, "sha256": "0".repeat(64)},
            "journal": {"offset_bytes": 4096, "length_bytes": 65536},
            "parts": [
                {"name": "core", "offset_bytes": 1 << 20, "length_bytes": 700,
                 "sha256": "0".repeat(64)},
                {"name": "kernel", "offset_bytes": (1 << 20) + 4096, "length_bytes": 9000,
                 "sha256": "0".repeat(64)},
            ],
            "another": 1,
        })
    }

    #[test]
    fn a_header_is_read_up_to_its_newline() {
        let mut text = header().to_string().into_bytes();
        text.extend(b"\n   }");
        let read = Header::parse(&text).unwrap();
        assert_eq!((read.parts.len(), read.journal.length_bytes), (2, 65536));
    }

    #[test]
    fn what_does_not_hold_together_is_refused() {
        for (pointer, wrong) in [
            ("/format", json!("holdfast-job")),
            ("/version", json!(2)),
            ("/firmware", json!("openfirmware")),
            ("/firmware", json!("uefi")),
            ("/sector_bytes", json!(1024)),
            ("/length_bytes", json!((2 << 20) + 512)),
            ("/length_bytes", json!(65_u64 << 20)),
            ("/length_bytes", json!(1 << 20)),
            ("/switch/lba", json!(1)),
            ("/switch/offset_bytes", json!(4096)),
            ("/switch/offset_bytes", json!(69633)),
            ("/switch/offset_bytes", json!(u64::MAX)),
            ("/journal/offset_bytes", json!(0)),
            ("/journal/length_bytes", json!(4096)),
            ("/journal/length_bytes", json!(8193)),
            ("/journal/length_bytes", json!(2 << 20)),
            ("/parts", json!([])),
            ("/parts/0/length_bytes", json!(0)),
            ("/parts/0/length_bytes", json!(4097)),
            ("/parts/1/length_bytes", json!(u64::MAX)),
            ("/parts/1/offset_bytes", json!(2 << 20)),
            ("/parts/1/offset_bytes", json!(4096)),
        ] {
            let mut header = header();
            *header.pointer_mut(pointer).unwrap() = wrong.clone();
            Header::parse(header.to_string().as_bytes()).expect_err(&format!("{pointer}: {wrong}"));
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in 0_usize..1000,
            byte: u8,
        ) {
            let _ = Header::parse(&bytes);
            let mut damaged = header().to_string().into_bytes();
            let at = at % damaged.len();
            damaged[at] = byte;
            let _ = Header::parse(&damaged);
        }

        #[test]
        fn no_numbers_lead_out_of_its_range(
            member in 0_usize..7,
            number in prop_oneof![any::<u64>(), 0_u64..(3 << 20)],
        ) {
            let members = [
                "/length_bytes", "/switch/offset_bytes", "/journal/offset_bytes",
                "/journal/length_bytes", "/parts/0/offset_bytes", "/parts/0/length_bytes",
                "/parts/1/length_bytes",
            ];
            let mut header = header();
            *header.pointer_mut(members[member]).unwrap() = json!(number);
            if let Ok(read) = Header::parse(header.to_string().as_bytes()) {
                let end = |from: u64, bytes: u64| from.checked_add(bytes).unwrap();
                let mut ends = vec![
                    end(read.switch.offset_bytes, read.sector_bytes),
                    end(read.journal.offset_bytes, read.journal.length_bytes),
                ];
                ends.extend(read.parts.iter().map(|part| end(part.offset_bytes, part.length_bytes)));
                prop_assert!(ends.into_iter().all(|end| end <= read.length_bytes));
            }
        }
    }
}
