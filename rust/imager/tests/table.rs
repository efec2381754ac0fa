//! An image on a larger disk: its partition table, and its root, judged by the tools of others.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{Loop, MIB, directory, is_root, run};
use holdfast_engine::Progress;
use holdfast_engine::image::Descriptor;
use holdfast_engine::image::describe::{Request, describe};
use holdfast_imager::Fault;
use holdfast_imager::disk::Disk;
use holdfast_imager::disk::grow;
use holdfast_imager::disk::mount;
use holdfast_imager::disk::table::Fitted;
use holdfast_imager::disk::target;
use holdfast_imager::pipeline::{WriteOptions, read_back::read_back, verify::verify, write};
use holdfast_imager::source::staged::Staged;
use holdfast_imager::status::Status;

const ROOT_AT: u64 = 2 << 20;
const GPT: &str = "label: gpt
    start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649, name=boot
    start=2MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root
    ";
const MBR: &str = "label: dos
    start=1MiB, size=1MiB, type=0b
    start=2MiB, type=83, bootable
    ";

/// A raw image of `mebibytes` with this table, and a file system in its last partition.
fn image(directory: &Path, mebibytes: u64, table: &str, make: &[&str]) -> PathBuf {
    let path = directory.join("image.raw");
    fs::File::create(&path).unwrap().set_len(mebibytes << 20).unwrap();
    run("sfdisk", &["--quiet", path.to_str().unwrap()], table);
    if let [program, options @ ..] = make {
        // But for the end, where the backup of the table is.
        let size = (mebibytes << 20) - ROOT_AT - (1 << 20);
        let (at, size) = (ROOT_AT.to_string(), size.to_string());
        let root = Loop::of(&path, &["--offset", &at, "--sizelimit", &size]);
        run(program, &[options, &[root.path.to_str().unwrap()]].concat(), "");
    }
    path
}

fn described(file: &Path) -> Descriptor {
    let request = Request {
        file: file.to_owned(),
        name: "test".to_owned(),
        image_version: "1".to_owned(),
        created: "2026-11-24T20:00:00Z".to_owned(),
        root_partition: None,
    };
    describe(&request, &Progress::default()).unwrap()
}

/// Write an image to a disk as the imager does.
fn put(file: &Path, disk: &Loop, grow: Option<u32>) -> Fitted {
    let (image, staged, status) = (described(file), Staged::at(file.to_owned()), Status::new());
    let disk = Disk::open_exclusively(&disk.path).unwrap();
    let digests = verify(&image, &staged, &status).unwrap();
    let options = WriteOptions { grow, ..WriteOptions::default() };
    let written = write::write(&image, &staged, &digests, &disk, options, &status).unwrap();
    read_back(&image, &digests, &written, &disk, &status).unwrap();
    write::complete(&written, &disk, None, &status).unwrap();
    written.table
}

/// First sector and number of sectors of a partition, as sfdisk reads the table.
fn partition(disk: &Path, number: usize) -> (u64, u64) {
    let dump = run("sfdisk", &["--dump", disk.to_str().unwrap()], "");
    let line = dump.lines().filter(|line| line.contains("start=")).nth(number - 1).unwrap();
    let value = |name: &str| {
        let rest = line.split_once(name).unwrap().1.trim_start();
        rest.split(',').next().unwrap().trim().parse().unwrap()
    };
    (value("start="), value("size="))
}

fn verified(disk: &Path) {
    let output = run("sfdisk", &["--verify", disk.to_str().unwrap()], "");
    assert!(output.contains("No errors detected"), "{output}");
    for wrong in ["corrupt", "not on the end", "mismatch", "doesn't"] {
        assert!(!output.contains(wrong), "{output}");
    }
}

#[test]
fn the_backup_of_a_gpt_goes_to_the_end_of_a_larger_disk() {
    let directory = directory();
    let file = image(directory.path(), 16, GPT, &[]);
    let before = (partition(&file, 1), partition(&file, 2));
    // Also where it comes to lie upon the image's own, by one sector and by a few.
    for more in [512, 33 * 512, 40 * 512, MIB as u64 / 2, MIB as u64, 9 << 20] {
        let disk = Loop::new(directory.path(), &vec![0xa5; (16 << 20) + more as usize]);
        let table = put(&file, &disk, None);
        assert_eq!(table.notes, ["the backup of the GPT was moved to the end of the disk"]);
        verified(&disk.path);
        let dump = run("sfdisk", &["--dump", disk.path.to_str().unwrap()], "");
        let last = ((16 << 20) + more) / 512 - 34;
        assert!(dump.contains(&format!("last-lba: {last}\n")), "{dump}");
        assert_eq!((partition(&disk.path, 1), partition(&disk.path, 2)), before);
        // And it is a backup: the table can be had from it.
        let mut content = disk.content();
        drop(disk);
        let mbr_sectors = u32::from_le_bytes(content[458..462].try_into().unwrap());
        assert_eq!(u64::from(mbr_sectors), content.len() as u64 / 512 - 1);
        content[512..MIB].fill(0);
        fs::write(directory.path().join("broken"), content).unwrap();
        assert_eq!(partition(&directory.path().join("broken"), 2), before.1);
    }
}

#[test]
fn a_disk_of_the_images_size_gets_the_image_as_it_is() {
    let directory = directory();
    let file = image(directory.path(), 16, GPT, &[]);
    let disk = Loop::new(directory.path(), &vec![0xa5; 16 << 20]);
    assert_eq!(put(&file, &disk, None), Fitted::default());
    assert!(disk.content() == fs::read(&file).unwrap());
}

#[test]
fn a_table_that_is_damaged_is_left_as_it_is() {
    let directory = directory();
    let file = image(directory.path(), 16, GPT, &[]);
    let mut content = fs::read(&file).unwrap();
    content[1024 + 40] ^= 1;
    fs::write(&file, &content).unwrap();
    let disk = Loop::new(directory.path(), &vec![0xa5; 24 << 20]);
    let table = put(&file, &disk, Some(2));
    assert_eq!(table.notes, ["the image's GPT is left unchanged: its entries are damaged"]);
    assert!(disk.content()[..16 << 20] == content);
}

#[test]
fn only_the_last_partition_is_extended() {
    let directory = directory();
    for table in [GPT, MBR] {
        let file = image(directory.path(), 16, table, &[]);
        let disk = Loop::new(directory.path(), &vec![0xa5; 24 << 20]);
        let fitted = put(&file, &disk, Some(1));
        let output = fitted.notes.join("\n");
        assert!(output.contains("partition 1 is not the last one"), "{output}");
        assert_eq!(fitted.extended_to, None);
        assert_eq!(partition(&disk.path, 1), partition(&file, 1));
        let fitted = put(&file, &disk, Some(2));
        verified(&disk.path);
        let (first, sectors) = partition(&disk.path, 2);
        assert_eq!((first, fitted.extended_to), (4096, Some(sectors * 512)));
        assert!(((24 << 20) - (first + sectors) * 512) < 34 * 512 + 4096, "{table}: {sectors}");
        let fitted = put(&file, &disk, Some(7));
        assert_eq!(fitted.extended_to, None, "{:?}", fitted.notes);
    }
}

/// Number, first byte and length of the partitions of a disk with sectors of 4096 bytes.
fn large_sectors(disk: &Path) -> Vec<(u64, u64)> {
    let dump = run("sfdisk", &["--dump", disk.to_str().unwrap()], "");
    assert!(dump.contains("sector-size: 4096"), "{dump}");
    let lines = dump.lines().filter(|line| line.contains("start=")).count();
    (1..=lines).map(|number| partition(disk, number)).map(|(a, b)| (a * 4096, b * 4096)).collect()
}

#[test]
fn an_image_of_large_sectors_is_written_to_a_disk_of_them_and_grown() {
    if !is_root() {
        return;
    }
    let directory = directory();
    for table in [GPT, MBR] {
        let file = directory.path().join("large.raw");
        fs::File::create(&file).unwrap().set_len(64 << 20).unwrap();
        {
            let whole = Loop::of(&file, &["--sector-size", "4096"]);
            run("sfdisk", &["--quiet", whole.path.to_str().unwrap()], table);
            let (at, size) = large_sectors(&whole.path)[1];
            let (at, size) = (at.to_string(), size.to_string());
            let options = ["--sector-size", "4096", "--offset", &at, "--sizelimit", &size];
            let root = Loop::of(&file, &options);
            run("mkfs.ext4", &["-q", root.path.to_str().unwrap()], "");
        }
        let image = described(&file);
        assert_eq!(image.inspection.sector_bytes, Some(4096), "{table}");
        let empty = directory.path().join("target.raw");
        fs::write(&empty, vec![0xa5; 128 << 20]).unwrap();
        let disk = Loop::of(&empty, &["--sector-size", "4096"]);
        target::check_fit(&image, &Disk::open(&disk.path).unwrap()).unwrap();
        let fitted = put(&file, &disk, Some(2));
        let parts = large_sectors(&disk.path);
        assert_eq!(fitted.extended_to, Some(parts[1].1), "{:?}", fitted.notes);
        assert!(parts[1].0 + parts[1].1 > (128 << 20) - (1 << 20), "{parts:?}");
        verified(&disk.path);
        let at = parts[1].0.to_string();
        let limit = parts[1].1.to_string();
        let options = ["--sector-size", "4096", "--offset", &at, "--sizelimit", &limit];
        let root = Loop::of(&disk.path, &options);
        let mounted = mount::root(&root.path, "ext4", &directory.path().join("root")).unwrap();
        match grow::grow(mounted.path(), "ext4", parts[1].1) {
            Ok(grown) => assert!(grown > 100 << 20, "{grown}"),
            Err(Fault(why)) => assert!(why.contains("not permitted"), "{why}"),
        }
        mounted.unmount().unwrap();
        run("e2fsck", &["-f", "-n", root.path.to_str().unwrap()], "");
    }
}

#[test]
fn a_disk_with_other_sectors_than_the_image_is_refused() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let file = image(directory.path(), 64, GPT, &["mkfs.ext4", "-q"]);
    let small = described(&file);
    let empty = directory.path().join("target.raw");
    fs::File::create(&empty).unwrap().set_len(128 << 20).unwrap();
    let disk = Loop::of(&empty, &["--sector-size", "4096"]);
    let why = |image: &Descriptor| {
        target::check_fit(image, &Disk::open(&disk.path).unwrap()).unwrap_err().0
    };
    assert!(why(&small).contains("Build it for sectors of 4096 bytes"), "{}", why(&small));
    let mut older = small.clone();
    older.inspection = Default::default();
    assert!(why(&older).contains("does not state for which sectors"), "{}", why(&older));
}

#[test]
fn a_root_is_grown_with_its_partition() {
    if !is_root() {
        return;
    }
    let directory = directory();
    for (kind, make, mebibytes) in
        [("ext4", &["mkfs.ext4", "-q"][..], 64), ("xfs", &["mkfs.xfs", "-q"][..], 320)]
    {
        let file = image(directory.path(), mebibytes, GPT, make);
        assert_eq!(described(&file).root().unwrap().file_system.as_deref(), Some(kind));
        let disk = Loop::empty(directory.path(), (mebibytes << 20) * 2);
        let bytes = put(&file, &disk, Some(2)).extended_to.unwrap();
        let limit = bytes.to_string();
        let at = ROOT_AT.to_string();
        let root = Loop::of(&disk.path, &["--offset", &at, "--sizelimit", &limit]);
        let mounted = match mount::root(&root.path, kind, &directory.path().join("root")) {
            Ok(mounted) => mounted,
            Err(Fault(why)) if why.contains("No such device") => {
                eprintln!("not tested: this kernel has no {kind}");
                continue;
            }
            Err(fault) => panic!("{fault}"),
        };
        fs::write(mounted.path().join("file"), "before").unwrap();
        let grown = match grow::grow(mounted.path(), kind, bytes) {
            Ok(grown) => grown,
            // Growing ext4 takes CAP_SYS_RESOURCE, which the superuser of a container may not have.
            Err(Fault(why)) if why.contains("not permitted") => {
                eprintln!("not tested: growing {kind} is not permitted here");
                continue;
            }
            Err(fault) => panic!("{fault}"),
        };
        assert!(grown > (mebibytes << 20) * 3 / 2, "{kind}: {grown}");
        assert!(grow::grow(mounted.path(), kind, bytes).is_err(), "there is no more space");
        mounted.unmount().unwrap();
        let node = root.path.to_str().unwrap();
        match kind {
            "xfs" => run("xfs_repair", &["-n", node], ""),
            _ => run("e2fsck", &["-f", "-n", node], ""),
        };
    }
}
