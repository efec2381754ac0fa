//! The old disk, kept as an image on a volume of data before it is written over.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

use common::{Loop, MIB, directory, is_root, noise, run};
use holdfast_engine::Progress;
use holdfast_engine::image::describe::{Names, Request, describe};
use holdfast_engine::image::{Descriptor, Sha256};
use holdfast_imager::disk::Disk;
use holdfast_imager::disk::mount;
use holdfast_imager::job::StateDirectory;
use holdfast_imager::pipeline::{WriteOptions, read_back::read_back, verify::verify, write};
use holdfast_imager::source::staged::Staged;
use holdfast_imager::status::Status;
use holdfast_imager::systems::previous::save;

fn names() -> Names {
    Names {
        name: "previous-node-7".to_owned(),
        image_version: "operation".to_owned(),
        created: "2026-11-24T20:00:00Z".to_owned(),
    }
}

/// A disk with a table and things here and there; 41 MiB and a half, which is no whole chunk.
fn old_disk(directory: &Path) -> Vec<u8> {
    let path = directory.join("old");
    fs::File::create(&path).unwrap().set_len((41 << 20) + (1 << 19)).unwrap();
    let table = "label: gpt\nstart=2MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root\n";
    run("sfdisk", &["--quiet", path.to_str().unwrap()], table);
    let mut disk = fs::read(path).unwrap();
    for at in [3 * MIB + 17, 12 * MIB, 30 * MIB - 5] {
        disk[at..at + MIB].copy_from_slice(&noise(at as u64, MIB));
    }
    disk
}

#[test]
fn it_is_an_ordinary_image_that_makes_the_disk_what_it_was() {
    let directory = directory();
    let content = old_disk(directory.path());
    let device = Loop::new(directory.path(), &content);
    let volume = directory.path().join("volume");
    fs::create_dir_all(volume.join("state/previous")).unwrap();
    let state = noted(&volume.join("state"));
    let disk = Disk::open_exclusively(&device.path).unwrap();
    let status = Status::new();
    let digest = save(&disk, &volume, "state/previous/one", &state, names(), &status).unwrap();
    assert!(!status.first_write());
    let place = volume.join("state/previous/one");
    let json = fs::read(place.join("descriptor.json")).unwrap();
    assert_eq!(Sha256::of(&json), digest);
    let descriptor = Descriptor::parse(&place, &json).unwrap();
    // As a description of that disk by itself.
    let request = Request {
        file: device.file.clone(),
        name: names().name,
        image_version: names().image_version,
        created: names().created,
        root_partition: None,
    };
    let expected = describe(&request, &Progress::default()).unwrap();
    assert_eq!(descriptor.chunks, expected.chunks);
    assert_eq!(descriptor.mapped, expected.mapped);
    assert_eq!(descriptor.partition_table, expected.partition_table);
    let packed = fs::read(place.join("image")).unwrap();
    assert_eq!(descriptor.content.sha256, Sha256::of(&packed));
    assert!(zstd::decode_all(&packed[..]).unwrap() == content);
    let left: Vec<_> = fs::read_dir(volume.join("state/previous")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
    // And back again, over whatever came in between.
    let disk_bytes = disk.size_bytes();
    for offset in (0..disk_bytes).step_by(MIB) {
        disk.zero(offset, (MIB as u64).min(disk_bytes - offset)).unwrap();
    }
    let staged = Staged::at(place.join("image"));
    let digests = verify(&descriptor, &staged, &status).unwrap();
    let written =
        write::write(&descriptor, &staged, &digests, &disk, WriteOptions::default(), &status)
            .unwrap();
    read_back(&descriptor, &digests, &written, &disk, &status).unwrap();
    write::complete(&written, &disk, None, &status).unwrap();
    assert!(device.content() == content);
}

#[test]
fn where_there_is_no_room_nothing_is_left_of_it() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let device = Loop::new(directory.path(), &noise(7, 48 * MIB));
    let disk = Disk::open_exclusively(&device.path).unwrap();
    let small = Loop::empty(directory.path(), 16 << 20);
    run("mkfs.ext4", &["-q", "-m", "0", small.path.to_str().unwrap()], "");
    let volume = directory.path().join("volume");
    let mounted = mount::writable_data(&small.path, "ext4", &volume).unwrap();
    fs::create_dir(volume.join("previous")).unwrap();
    let state = noted(&volume);
    let free = || rustix::fs::statvfs(&volume).unwrap().f_bfree;
    let before = free();
    let fault = save(&disk, &volume, "previous/one", &state, names(), &Status::new()).unwrap_err();
    assert!(fault.0.contains("No space left"), "{fault}");
    assert_eq!(fs::read_dir(volume.join("previous")).unwrap().count(), 0);
    assert_eq!(free(), before);
    mounted.unmount().unwrap();
}

/// The directory as recorded when the machine is armed.
fn noted(directory: &Path) -> StateDirectory {
    let found = fs::metadata(directory).unwrap();
    StateDirectory { uid: found.uid(), dev: found.dev(), ino: found.ino(), file_system_uuid: None }
}

#[test]
fn it_goes_nowhere_else_and_takes_the_owner_of_the_state_directory() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let device = Loop::new(directory.path(), &noise(7, 2 * MIB));
    let disk = Disk::open_exclusively(&device.path).unwrap();
    let volume = directory.path().join("volume");
    let outside = directory.path().join("outside");
    fs::create_dir_all(volume.join("state/previous")).unwrap();
    fs::create_dir_all(outside.join("previous")).unwrap();
    for path in [volume.join("state"), volume.join("state/previous")] {
        chown(path, Some(990), Some(991)).unwrap();
    }
    let state = noted(&volume.join("state"));
    symlink(&outside, volume.join("link")).unwrap();
    symlink(outside.join("previous"), volume.join("state/link")).unwrap();
    for wrong in ["link/previous/one", "state/link/one", "state/missing/one", "../outside/one"] {
        save(&disk, &volume, wrong, &state, names(), &Status::new()).expect_err(wrong);
    }
    assert_eq!(fs::read_dir(outside.join("previous")).unwrap().count(), 0);
    // What an attempt left that was cut off is in nobody's way.
    let place = volume.join("state/previous");
    fs::create_dir(place.join("one.partial")).unwrap();
    fs::write(place.join("one.partial/image"), "half").unwrap();
    save(&disk, &volume, "state/previous/one", &state, names(), &Status::new()).unwrap();
    for (path, mode) in [("one", 0o700), ("one/image", 0o600), ("one/descriptor.json", 0o600)] {
        let found = fs::metadata(place.join(path)).unwrap();
        assert_eq!((found.uid(), found.gid()), (990, 991), "{path}");
        assert_eq!(found.permissions().mode() & 0o7777, mode, "{path}");
    }
}

#[test]
fn a_state_directory_that_somebody_put_in_its_place_gets_nothing() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let device = Loop::new(directory.path(), &noise(7, 2 * MIB));
    let disk = Disk::open_exclusively(&device.path).unwrap();
    let volume = directory.path().join("volume");
    let home = volume.join("state");
    let make = |owner: u32, inner: u32, mode: u32| {
        fs::create_dir_all(home.join("previous")).unwrap();
        fs::set_permissions(home.join("previous"), fs::Permissions::from_mode(mode)).unwrap();
        chown(&home, Some(owner), Some(owner)).unwrap();
        chown(home.join("previous"), Some(inner), Some(inner)).unwrap();
    };
    make(990, 990, 0o700);
    let state = noted(&home);
    let away = volume.join("away");
    let aside = |name: &Path| fs::rename(&home, name).unwrap();
    let refused = |what: &str| {
        let fault = save(&disk, &volume, "state/previous/one", &state, names(), &Status::new())
            .expect_err(what);
        let left = fs::read_dir(home.join("previous")).unwrap().count();
        assert_eq!(left, 0, "{what}: {fault}");
        fault
    };
    // The owner of the volume renames it and makes another, with their own number or with the same.
    aside(&away);
    for (owner, what) in [(12345, "another owner"), (990, "another inode")] {
        make(owner, owner, 0o700);
        assert!(refused(what).0.contains("another one than when the machine was armed"), "{what}");
        aside(&volume.join(what));
    }
    fs::rename(&away, &home).unwrap();
    make(990, 12345, 0o700);
    assert!(refused("another's directory in it").0.contains("written by others"));
    make(990, 990, 0o770);
    assert!(refused("a group's").0.contains("written by others"));
    make(990, 990, 0o700);
    save(&disk, &volume, "state/previous/one", &state, names(), &Status::new()).unwrap();
}
