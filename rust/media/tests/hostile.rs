//! Whatever is on a disk, reading it ends, without a panic and within its budget.

use std::process::Command;
use std::rc::Rc;
use std::sync::OnceLock;

use holdfast_media::survey::survey;
use holdfast_media::{Guard, Source, lvm, probe};
use proptest::prelude::*;

const MIB: usize = 1 << 20;
const BUDGET: u64 = 64 << 20;

/// Beginnings of everything that is known, each where it is looked for.
const MAGIC: [(usize, &[u8]); 14] = [
    (0, b"XFSB\0\0\x10\0"),
    (0, b"LUKS\xba\xbe\0\x02"),
    (0, b"hsqs"),
    (0, b"verity\0\0\x01\0\0\0"),
    (512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001"),
    (512, b"EFI PART\0\0\x01\0\x5c\0\0\0"),
    (510, b"\x55\xaa"),
    (54, b"FAT16   "),
    (82, b"FAT32   "),
    (1024 + 56, b"\x53\xef"),
    (1024, b"\xe2\xe1\xf5\xe0"),
    (4086, b"SWAPSPACE2"),
    (4096, b"\xfc\x4e\x2b\xa9\x01\0\0\0"),
    ((64 << 10) + 64, b"_BHRfS_M"),
];

/// A disk with an MBR, an ext4 and a FAT.
fn disk() -> &'static [u8] {
    static DISK: OnceLock<Vec<u8>> = OnceLock::new();
    DISK.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let part = directory.path().join("part");
        let tree = directory.path().join("tree");
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::write(tree.join("etc/os-release"), "ID=x\n").unwrap();
        let make = |program: &str, arguments: &[&str]| {
            std::fs::File::create(&part).unwrap().set_len(MIB as u64).unwrap();
            let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
            let mut command = Command::new(program);
            let done = command.args(arguments).arg(&part).env("PATH", path).output().unwrap();
            assert!(done.status.success(), "{program}");
            std::fs::read(&part).unwrap()
        };
        let mut disk = vec![0; MIB];
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        for (index, kind) in [0x83, 0xef].into_iter().enumerate() {
            let entry = &mut disk[446 + 16 * index..][..16];
            entry[4] = kind;
            entry[8..12].copy_from_slice(&(2048 * (index as u32 + 1)).to_le_bytes());
            entry[12..16].copy_from_slice(&2048_u32.to_le_bytes());
        }
        disk.extend(make("mke2fs", &["-q", "-F", "-t", "ext4", "-d", tree.to_str().unwrap()]));
        disk.extend(make("mkfs.vfat", &["-F", "12"]));
        disk
    })
}

/// Read a disk, within the budget.
fn read(bytes: Vec<u8>) -> holdfast_media::survey::Survey {
    let size = bytes.len() as u64;
    let source: Source = Rc::new(Guard::new(size, BUDGET, move |at, to: &mut [u8]| {
        to.copy_from_slice(&bytes[at as usize..][..to.len()]);
        Ok(())
    }));
    let found = survey(&source, None);
    let _ = lvm::volumes(&[(1, Rc::clone(&source))]);
    let _ = lvm::extend(&*source, source.size().saturating_mul(2), "rl/root");
    let _ = probe(&*source);
    found
}

#[test]
fn the_disk_is_one_that_is_understood() {
    let found = read(disk().to_vec());
    assert_eq!(found.root.map(|root| root.partition), Some(1));
    assert_eq!(found.system.and_then(|system| system.id).as_deref(), Some("x"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_damaged_disk_is_read_without_a_panic(
        changes in prop::collection::vec((0_usize..3 * MIB, any::<u8>()), 1..12),
        near in prop::collection::vec((0_usize..4096, any::<u8>()), 0..24),
    ) {
        let mut bytes = disk().to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        for (at, byte) in near {
            bytes[MIB + at] = byte;
            bytes[2 * MIB + at % 1024] = byte;
        }
        let _ = read(bytes);
    }

    #[test]
    fn anything_that_begins_like_something_is_read_without_a_panic(
        kinds in prop::collection::vec(0_usize..MAGIC.len(), 1..4),
        noise in prop::collection::vec(any::<u8>(), 512),
        places in prop::collection::vec(0_usize..140 << 10, 8),
    ) {
        let mut bytes = vec![0; 256 << 10];
        for place in places {
            bytes[place..place + noise.len()].copy_from_slice(&noise);
        }
        for kind in kinds {
            let (at, magic) = MAGIC[kind];
            bytes[at..at + noise.len()].copy_from_slice(&noise);
            bytes[at..at + magic.len()].copy_from_slice(magic);
        }
        let _ = read(bytes);
    }
}
