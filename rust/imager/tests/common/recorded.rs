//! A disk in memory that records what is written to it, and an image for it.

use std::fs;
use std::path::Path;
use std::sync::Mutex;

use holdfast_engine::image::{Descriptor, Encoding};
use holdfast_imager::pipeline::{Blocks, WriteOptions, replace::replace, verify::verify};
use holdfast_imager::source::staged::Staged;
use holdfast_imager::status::Status;
use holdfast_imager::{Fault, Result};

use super::{MIB, describe, directory, noise, run};

pub const SECTOR: usize = 512;

/// A write, or with no bytes zeros.
pub struct Write {
    pub at: usize,
    pub length: usize,
    pub bytes: Option<Vec<u8>>,
}

pub struct Medium {
    pub bytes: Vec<u8>,
    pub writes: Vec<Write>,
    pub flushed: usize,
}

/// A disk in memory that records its calls, and fails at one of its writes.
pub struct Recorder {
    pub medium: Mutex<Medium>,
    pub fails_at: Option<usize>,
}

impl Recorder {
    pub fn new(bytes: Vec<u8>, fails_at: Option<usize>) -> Self {
        let medium = Medium { bytes, writes: Vec::new(), flushed: 0 };
        Self { medium: Mutex::new(medium), fails_at }
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.medium.lock().unwrap().bytes.clone()
    }

    pub fn write(&self, write: Write) -> Result<()> {
        let mut medium = self.medium.lock().unwrap();
        if self.fails_at == Some(medium.writes.len()) {
            return Err(Fault::new("the disk fails"));
        }
        apply(&mut medium.bytes, &write);
        medium.writes.push(write);
        Ok(())
    }
}

pub fn apply(disk: &mut [u8], write: &Write) {
    let range = &mut disk[write.at..write.at + write.length];
    match &write.bytes {
        Some(bytes) => range.copy_from_slice(bytes),
        None => range.fill(0),
    }
}

impl Blocks for Recorder {
    fn name(&self) -> String {
        "recorder".to_owned()
    }

    fn size_bytes(&self) -> u64 {
        self.medium.lock().unwrap().bytes.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let medium = self.medium.lock().unwrap();
        buffer.copy_from_slice(&medium.bytes[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        let bytes = Some(buffer.to_vec());
        self.write(Write { at: offset as usize, length: buffer.len(), bytes })
    }

    fn zero(&self, offset: u64, length: u64) -> Result<()> {
        self.write(Write { at: offset as usize, length: length as usize, bytes: None })
    }

    fn flush(&self) -> Result<()> {
        let mut medium = self.medium.lock().unwrap();
        medium.flushed = medium.writes.len();
        Ok(())
    }
}

pub fn table(file: &Path, size: usize) {
    fs::File::create(file).unwrap().set_len(size as u64).unwrap();
    let script = "label: gpt\nstart=2048, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root\n";
    run("sfdisk", &["--quiet", file.to_str().unwrap()], script);
}

/// An image with a GPT, and the same on a disk that is larger, by `sfdisk`'s own hand.
pub struct Case {
    pub _directory: tempfile::TempDir,
    pub descriptor: Descriptor,
    pub staged: Staged,
    pub digests: Vec<u64>,
    pub old: Vec<u8>,
}

pub fn case() -> Case {
    let directory = directory();
    let file = directory.path().join("image");
    table(&file, 8 * MIB);
    let mut image = fs::read(&file).unwrap();
    image[MIB..6 * MIB].copy_from_slice(&noise(5, 5 * MIB));
    fs::write(&file, &image).unwrap();
    // An old system of the same layout, so that its beginning would boot the new one's partitions.
    let old_file = directory.path().join("old");
    table(&old_file, 12 * MIB);
    let mut old = fs::read(&old_file).unwrap();
    old[..446].copy_from_slice(&noise(6, 446));
    old[MIB..6 * MIB].copy_from_slice(&noise(7, 5 * MIB));
    let descriptor = describe(&image, MIB, &image, Encoding::Identity);
    let staged = Staged::at(file);
    let digests = verify(&descriptor, &staged, &Status::new()).unwrap();
    Case { _directory: directory, descriptor, staged, digests, old }
}

impl Case {
    pub fn replace(&self, disk: &Recorder, carry: impl FnOnce() -> Result<()>) -> Result<()> {
        let status = Status::new();
        let options = WriteOptions { grow: Some(1), ..WriteOptions::default() };
        replace(&self.descriptor, &self.staged, &self.digests, disk, options, &status, |_| carry())
    }

    /// What the disk is to be in the end.
    pub fn done(&self) -> Vec<u8> {
        let disk = Recorder::new(self.old.clone(), None);
        self.replace(&disk, || Ok(())).unwrap();
        disk.bytes()
    }
}

pub fn zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
