//! Disks with a lifeboat, in memory, and a firmware that knows nothing of how they are written.
#![allow(dead_code, missing_docs)]

use std::sync::Mutex;

use holdfast_engine::image::{Descriptor, Encoding, Sha256};
use holdfast_imager::job::DiskRange;
use holdfast_imager::lifeboat::Lifeboat;
use holdfast_imager::pipeline::replace::replace;
use holdfast_imager::pipeline::verify::verify_with_head;
use holdfast_imager::pipeline::{Blocks, WriteOptions};
use holdfast_imager::source::staged::Staged;
use holdfast_imager::status::Status;
use holdfast_imager::{Fault, Result};
use serde_json::json;

use crate::common::{MIB, describe, directory, noise};

pub const NONCE: &str = "0123456789abcdef0123456789abcdef";
pub const IMAGE: usize = 2 * MIB + MIB / 2;
pub const DISK: usize = 5 * MIB;
pub const REGION: DiskRange = DiskRange { offset_bytes: 3 << 20, length_bytes: 256 << 10 };
/// The parts of the lifeboat, from the beginning of its range.
const PARTS: [(&str, usize, usize); 2] = [("core", 73728, 700), ("kernel", 81920, 100_000)];
const JOURNAL: std::ops::Range<usize> = 4096..69632;

/// What a disk was asked to do.
#[derive(Debug, Clone)]
pub enum Call {
    Write { at: usize, bytes: Vec<u8> },
    Flush,
}

/// A disk in memory that records its calls.
pub struct Recorder {
    sector: usize,
    state: Mutex<(Vec<u8>, Vec<Call>)>,
}

impl Recorder {
    pub fn new(bytes: Vec<u8>, sector: usize) -> Self {
        Self { sector, state: Mutex::new((bytes, Vec::new())) }
    }

    pub fn into_parts(self) -> (Vec<u8>, Vec<Call>) {
        self.state.into_inner().unwrap()
    }

    fn aligned(&self, at: u64, length: usize) {
        assert_eq!((at as usize % self.sector, length % self.sector), (0, 0), "whole sectors");
    }
}

impl Blocks for Recorder {
    fn name(&self) -> String {
        "recorder".to_owned()
    }

    fn size_bytes(&self) -> u64 {
        DISK as u64
    }

    fn sector_bytes(&self) -> u64 {
        self.sector as u64
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.aligned(offset, buffer.len());
        let state = self.state.lock().unwrap();
        buffer.copy_from_slice(&state.0[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        self.aligned(offset, buffer.len());
        let (at, mut state) = (offset as usize, self.state.lock().unwrap());
        state.0[at..at + buffer.len()].copy_from_slice(buffer);
        state.1.push(Call::Write { at, bytes: buffer.to_vec() });
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<()> {
        self.write_at(&vec![0; length as usize], offset)
    }

    fn flush(&self) -> Result<()> {
        self.state.lock().unwrap().1.push(Call::Flush);
        Ok(())
    }
}

/// One kind of machine.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    pub uefi: bool,
    pub gpt: bool,
    pub sector: usize,
    pub grow: bool,
}

pub const SETUPS: [Setup; 6] = [
    Setup { uefi: false, gpt: false, sector: 512, grow: true },
    Setup { uefi: false, gpt: true, sector: 512, grow: true },
    Setup { uefi: true, gpt: true, sector: 512, grow: true },
    Setup { uefi: false, gpt: false, sector: 4096, grow: false },
    Setup { uefi: false, gpt: true, sector: 4096, grow: true },
    Setup { uefi: true, gpt: true, sector: 4096, grow: false },
];

impl Setup {
    /// The sector by which firmware decides.
    pub fn switch(&self) -> std::ops::Range<usize> {
        let at = if self.uefi { self.sector } else { 0 };
        at..at + self.sector
    }
}

/// What firmware boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    Old,
    Lifeboat,
    New,
    Nothing,
}

/// An old disk with a lifeboat, and an image.
pub struct Case {
    _directory: tempfile::TempDir,
    pub setup: Setup,
    pub descriptor: Descriptor,
    pub staged: Staged,
    pub digests: Vec<u64>,
    pub head: Vec<u8>,
    pub old: Vec<u8>,
    /// What the disk is to be in the end.
    pub done: Vec<u8>,
}

impl Case {
    pub fn new(setup: Setup) -> Self {
        let directory = directory();
        let system = |seed: u64, size: usize| {
            let mut disk = vec![0; size];
            disk[..440].copy_from_slice(&noise(seed, 440));
            let root = [MIB, 2 * MIB];
            if setup.gpt {
                gpt(&mut disk, setup.sector, root);
            } else {
                mbr(&mut disk, setup.sector, root);
                // The rest of a boot loader.
                disk[setup.sector..][..30_000].copy_from_slice(&noise(seed + 2, 30_000));
            }
            let area = &mut disk[MIB + 8192..2 * MIB];
            area.copy_from_slice(&noise(seed + 1, area.len()));
            disk
        };
        let image = system(1, IMAGE);
        let file = directory.path().join("image");
        std::fs::write(&file, &image).unwrap();
        let descriptor = describe(&image, MIB, &image, Encoding::Identity);
        let staged = Staged::at(file);
        let (digests, head) = verify_with_head(&descriptor, &staged, &Status::new()).unwrap();
        let mut old = system(11, DISK);
        // What is behind the lifeboat is of no system.
        old[4 * MIB..4 * MIB + 5000].copy_from_slice(&noise(13, 5000));
        place(&mut old, setup);
        let mut case = Self {
            _directory: directory,
            setup,
            descriptor,
            staged,
            digests,
            head,
            old,
            done: Vec::new(),
        };
        case.done = case.run(case.old.clone(), false).0;
        case
    }

    /// Replace what is on a disk; returns it, and what it was asked to do.
    pub fn run(&self, bytes: Vec<u8>, resumed: bool) -> (Vec<u8>, Vec<Call>) {
        let disk = Recorder::new(bytes, self.setup.sector);
        let lifeboat = Lifeboat::read(&disk, REGION, NONCE).unwrap();
        assert_eq!(lifeboat.boots(&disk).unwrap(), resumed);
        lifeboat.check_fit(&self.descriptor, &disk).unwrap();
        lifeboat.check_parts(&disk).unwrap();
        let status = Status::new();
        let kept = Some(Sha256::of(b"kept"));
        if resumed {
            assert!(lifeboat.resume(&disk, &status) > 0);
            assert_eq!(lifeboat.previous(), kept);
        } else {
            lifeboat.check_beginnings(&self.head, &disk).unwrap();
            lifeboat.place(&disk, kept).unwrap();
        }
        let grow = self.setup.grow.then_some(1);
        self.replace(&disk, WriteOptions { grow, lifeboat: Some(&lifeboat), compare: resumed })
            .unwrap();
        disk.into_parts()
    }

    pub fn replace(&self, disk: &Recorder, options: WriteOptions<'_>) -> Result<()> {
        let Self { descriptor, staged, digests, .. } = self;
        replace(descriptor, staged, digests, disk, options, &Status::new(), |fitted| {
            // As what is mounted there writes, in the image's root and in what it was grown by.
            let mut file = holdfast_imager::disk::Buffer::new(4096);
            file.fill(7);
            disk.write_at(&file, (MIB + 16384) as u64)?;
            if let Some(bytes) = fitted.extended_to {
                disk.write_at(&file, MIB as u64 + bytes - 4096)?;
            }
            disk.flush()
        })
    }

    /// What firmware boots from a disk, and whether that is whole.
    pub fn boots(&self, disk: &[u8]) -> Boots {
        let deciding = &disk[self.setup.switch()];
        let (from, to) = (REGION.offset_bytes as usize, REGION.offset_bytes + REGION.length_bytes);
        let same = |other: &[u8]| {
            disk[..from] == other[..from] && disk[to as usize..] == other[to as usize..]
        };
        let protected = disk[510..512] == [0x55, 0xaa] && disk[450] == 0xee;
        let lifeboat = &self.old[from..to as usize];
        if self.setup.uefi && !protected {
            Boots::Nothing
        } else if deciding == &self.old[self.setup.switch()] && same(&self.old) {
            Boots::Old
        } else if deciding == &self.done[self.setup.switch()] && same(&self.done) {
            Boots::New
        } else if deciding == &lifeboat[69632..69632 + self.setup.sector]
            && disk[from..from + JOURNAL.start] == lifeboat[..JOURNAL.start]
            && disk[from + JOURNAL.end..to as usize] == lifeboat[JOURNAL.end..]
        {
            Boots::Lifeboat
        } else {
            Boots::Nothing
        }
    }
}

/// Put a lifeboat on a disk, as arming does.
pub fn place(disk: &mut [u8], setup: Setup) {
    let switch = if setup.uefi {
        // Of a table elsewhere, which nothing reads here.
        let mut table = vec![0; 2 * MIB];
        gpt(&mut table, setup.sector, [MIB, MIB + 4096]);
        table[setup.sector..2 * setup.sector].to_vec()
    } else {
        let mut sector = disk[..setup.sector].to_vec();
        sector[..440].copy_from_slice(&noise(21, 440));
        sector
    };
    let region = &mut disk[REGION.offset_bytes as usize..][..REGION.length_bytes as usize];
    region.fill(0);
    let mut parts = Vec::new();
    for (name, at, length) in PARTS {
        let bytes = noise(at as u64, length);
        region[at..at + length].copy_from_slice(&bytes);
        parts.push(json!({"name": name, "offset_bytes": at, "length_bytes": length,
                          "sha256": Sha256::of(&bytes)}));
    }
    region[69632..69632 + switch.len()].copy_from_slice(&switch);
    let header = json!({
        "format": "holdfast-lifeboat", "version": 1, "nonce": NONCE,
        "firmware": if setup.uefi { "uefi" } else { "bios" },
        "sector_bytes": setup.sector, "length_bytes": REGION.length_bytes,
        "switch": {"lba": u8::from(setup.uefi), "offset_bytes": 69632,
                   "sha256": Sha256::of(&switch)},
        "journal": {"offset_bytes": JOURNAL.start, "length_bytes": JOURNAL.len()},
        "parts": parts,
    });
    let text = header.to_string();
    region[..4096].fill(b' ');
    region[..text.len()].copy_from_slice(text.as_bytes());
    region[text.len()] = b'\n';
}

/// A GPT with one partition, and its backup.
fn gpt(disk: &mut [u8], sector: usize, [from, to]: [usize; 2]) {
    let last = disk.len() / sector - 1;
    let entries_sectors = 16384 / sector;
    protective(disk, last);
    let mut entries = vec![0; 16384];
    entries[..16].copy_from_slice(&noise(3, 16));
    entries[16..32].copy_from_slice(&noise(disk.len() as u64, 16));
    entries[32..40].copy_from_slice(&((from / sector) as u64).to_le_bytes());
    entries[40..48].copy_from_slice(&((to / sector - 1) as u64).to_le_bytes());
    let header = |at: usize, other: usize, entries_at: usize| {
        let mut header = vec![0; sector];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
        for (place, value) in [
            (24, at),
            (32, other),
            (40, 2 + entries_sectors),
            (48, last - entries_sectors - 1),
            (72, entries_at),
        ] {
            header[place..place + 8].copy_from_slice(&(value as u64).to_le_bytes());
        }
        header[80..88].copy_from_slice(&[128, 0, 0, 0, 128, 0, 0, 0]);
        header[88..92].copy_from_slice(&crc32fast::hash(&entries).to_le_bytes());
        let checksum = crc32fast::hash(&header[..92]);
        header[16..20].copy_from_slice(&checksum.to_le_bytes());
        header
    };
    let backup = last - entries_sectors;
    disk[sector..2 * sector].copy_from_slice(&header(1, last, 2));
    disk[2 * sector..2 * sector + 16384].copy_from_slice(&entries);
    disk[backup * sector..last * sector].copy_from_slice(&entries);
    disk[last * sector..].copy_from_slice(&header(last, 1, backup));
}

fn protective(disk: &mut [u8], last: usize) {
    disk[446..462].copy_from_slice(&[0, 0, 2, 0, 0xee, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0]);
    disk[458..462].copy_from_slice(&(last as u32).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
}

fn mbr(disk: &mut [u8], sector: usize, [from, to]: [usize; 2]) {
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&((from / sector) as u32).to_le_bytes());
    disk[458..462].copy_from_slice(&(((to - from) / sector) as u32).to_le_bytes());
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
}

/// All that a cut may leave of a disk that was asked for this, seen through a cache that keeps any of what
/// was written since the last flush, in any order and torn between sectors. `see` is called with each state
/// that is tried: after every call nothing and all of it, each write alone, each missing, and
/// `random` subsets.
pub fn cuts(
    before: &[u8],
    calls: &[Call],
    sector: usize,
    random: usize,
    mut see: impl FnMut(&[u8]),
) {
    let mut durable = before.to_vec();
    let mut pending: Vec<(usize, &[u8])> = Vec::new();
    let mut seed = calls.len() as u64;
    let apply = |disk: &mut [u8], at: usize, bytes: &[u8]| {
        disk[at..at + bytes.len()].copy_from_slice(bytes)
    };
    see(&durable);
    for call in calls {
        match call {
            Call::Write { at, bytes } => {
                pending.push((*at, bytes));
                let newest = pending.len() - 1;
                let mut all = durable.clone();
                pending.iter().for_each(|(at, bytes)| apply(&mut all, *at, bytes));
                see(&all);
                let mut alone = durable.clone();
                apply(&mut alone, *at, bytes);
                see(&alone);
                for _ in 0..random {
                    let mut some = durable.clone();
                    seed += 1;
                    let dice = noise(seed, 4096);
                    for (index, (at, bytes)) in pending.iter().enumerate() {
                        // All of a write, none of it, or some of its sectors.
                        let fate = dice[(index + newest) % 4096] % 4;
                        for (number, part) in bytes.chunks(sector).enumerate() {
                            let bit = dice[(number * 7 + index * 31) % 4096] & 1 == 1;
                            if fate == 0 || fate > 1 && bit {
                                apply(&mut some, at + number * sector, part);
                            }
                        }
                    }
                    see(&some);
                }
            }
            Call::Flush => {
                for missing in 0..pending.len() {
                    let mut most = durable.clone();
                    for (index, (at, bytes)) in pending.iter().enumerate() {
                        if index != missing {
                            apply(&mut most, *at, bytes);
                        }
                    }
                    see(&most);
                }
                pending.iter().for_each(|(at, bytes)| apply(&mut durable, *at, bytes));
                pending.clear();
                see(&durable);
            }
        }
    }
}

/// A fault, for signatures.
pub fn fails<T>(result: Result<T>, words: &str) {
    let Fault(why) = result.err().expect("it is refused");
    assert!(why.contains(words), "{why}");
}
