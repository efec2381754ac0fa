//! The outcome record: a file of the old system that the imager reads and writes in place, knowing
//! where it is on the disk, so that the old system learns what happened if it comes back.

pub mod recorder;

use holdfast_engine::image::Sha256;
use serde::{Deserialize, Serialize};

use crate::disk::{Buffer, Disk};
use crate::job::{DiskRange, OUTCOME_BYTES};
use crate::{Fault, Result};

const FORMAT: &str = "holdfast-outcome";
const VERSION: u64 = 1;

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// `holdfast-outcome`.
    pub format: String,
    /// 1.
    pub version: u64,
    /// The arming it belongs to.
    pub nonce: String,
    /// The digest of the descriptor of the image that was to be written.
    #[serde(default)]
    pub descriptor_sha256: Option<Sha256>,
    /// How many times the imager began with it.
    pub started: u64,
    /// How far it came.
    pub state: State,
    /// In which phase it gave up.
    #[serde(default)]
    pub phase: Option<String>,
    /// Why it gave up, in a sentence.
    #[serde(default)]
    pub reason: Option<String>,
    /// The last lines of its log.
    #[serde(default)]
    pub log: Vec<String>,
}

/// How far the imager came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It was never started.
    Armed,
    /// It was started.
    Started,
    /// It gave up before the first write.
    Refused,
}

impl Outcome {
    /// Read a record; it is followed by a newline and spaces.
    ///
    /// # Errors
    /// A sentence about what it is instead.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let end = bytes.iter().position(|&b| b == b'\n');
        let line = end.map_or(bytes, |end| &bytes[..end]);
        let outcome: Self = serde_json::from_slice(line)
            .map_err(|_| Fault::new("there is no outcome record where the job places it"))?;
        if outcome.format != FORMAT || outcome.version != VERSION {
            return Err(Fault::new("the outcome record is of an unknown kind or version"));
        }
        Ok(outcome)
    }

    /// The record's bytes. Of its log the oldest lines go, and then the end of the reason, until it
    /// fits.
    pub fn to_bytes(&self) -> Buffer {
        let most = OUTCOME_BYTES as usize;
        let mut record = self.clone();
        let text = loop {
            let text = serde_json::to_vec(&record).expect("a record has only text for keys");
            if text.len() < most {
                break text;
            }
            if record.log.is_empty() {
                let reason = record.reason.take().unwrap_or_default();
                // Each character takes at most 6 bytes in JSON.
                record.reason = Some(reason.chars().take(most / 16).collect());
                record.phase = record.phase.map(|phase| phase.chars().take(64).collect());
            } else {
                record.log.remove(0);
            }
        };
        let mut bytes = Buffer::new(most);
        bytes.fill(b' ');
        bytes[..text.len()].copy_from_slice(&text);
        bytes[text.len()] = b'\n';
        bytes
    }

    /// Read the record of this arming from the disk.
    ///
    /// # Errors
    /// The disk's, or that another thing is there: then it is the wrong disk.
    pub fn read(disk: &Disk, place: DiskRange, nonce: &str) -> Result<Self> {
        let mut bytes = Buffer::new(OUTCOME_BYTES as usize);
        disk.read_at(&mut bytes, place.offset_bytes)?;
        let outcome = Self::parse(&bytes)?;
        if outcome.nonce != nonce {
            return Err(Fault::new("the outcome record on the target is of another arming"));
        }
        Ok(outcome)
    }

    /// Write the record, and check that the disk has it.
    ///
    /// # Errors
    /// The disk's, or that it reads back differently.
    pub fn write(&self, disk: &Disk, place: DiskRange) -> Result<()> {
        let bytes = self.to_bytes();
        disk.write_at(&bytes, place.offset_bytes)?;
        disk.flush()?;
        let mut back = Buffer::new(bytes.len());
        disk.read_at(&mut back, place.offset_bytes)?;
        if *back == *bytes {
            Ok(())
        } else {
            Err(Fault::new("the outcome record reads back differently than it was written"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{FORMAT, OUTCOME_BYTES, Outcome, Sha256, State};
    use crate::disk::Disk;
    use crate::job::DiskRange;

    fn outcome(reason: String, log: Vec<String>) -> Outcome {
        Outcome {
            format: FORMAT.to_owned(),
            version: 1,
            nonce: "0".repeat(32),
            descriptor_sha256: Some(Sha256::of(b"descriptor")),
            started: 1,
            state: State::Refused,
            phase: Some("verify".to_owned()),
            reason: Some(reason),
            log,
        }
    }

    #[test]
    fn a_record_is_written_in_place_and_nothing_else_is() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, vec![7; 65536]).unwrap();
        let disk = Disk::open_exclusively(&path).unwrap();
        let place = DiskRange { offset_bytes: 8192, length_bytes: OUTCOME_BYTES };
        Outcome::read(&disk, place, &"0".repeat(32)).unwrap_err();
        let record = outcome("no".to_owned(), vec!["one\ntwo".to_owned()]);
        record.write(&disk, place).unwrap();
        assert_eq!(Outcome::read(&disk, place, &"0".repeat(32)).unwrap(), record);
        Outcome::read(&disk, place, &"1".repeat(32)).unwrap_err();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[..8192].iter().chain(&bytes[8192 + 16384..]).all(|&b| b == 7));
    }

    proptest! {
        #[test]
        fn a_record_always_fits_and_is_read_back(
            reason in ".{0,20000}",
            log in prop::collection::vec(".{0,900}", 0..50),
        ) {
            let record = outcome(reason, log);
            let bytes = record.to_bytes();
            prop_assert_eq!(bytes.len() as u64, OUTCOME_BYTES);
            let read = Outcome::parse(&bytes).unwrap();
            prop_assert!(record.log.ends_with(&read.log));
            prop_assert!(record.reason.unwrap().starts_with(&read.reason.unwrap()));
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Outcome::parse(&bytes);
        }
    }
}
