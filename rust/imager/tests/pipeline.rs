//! Checking, writing and reading back, on a loop device, or without root on a file.

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, io};

use common::{Loop, MIB, describe, directory, image, is_root, noise};
use holdfast_engine::image::{Descriptor, Encoding};
use holdfast_imager::disk::{Buffer, Disk};
use holdfast_imager::pipeline::{
    Supply, WriteOptions, read_back::read_back, verify::verify, write,
};
use holdfast_imager::source::staged::Staged;
use holdfast_imager::status::Status;

/// A disk of 16 MiB on which nothing is zeros.
fn old_disk() -> Vec<u8> {
    noise(99, 16 * MIB)
}

fn all(image: &Descriptor, supply: &dyn Supply, disk: &Disk, status: &Status) {
    let digests = verify(image, supply, status).unwrap();
    let written =
        write::write(image, supply, &digests, disk, WriteOptions::default(), status).unwrap();
    read_back(image, &digests, &written, disk, status).unwrap();
    write::complete(&written, disk, None, status).unwrap();
}

/// What the disk should be: the image, what was there behind it, and zeros at the end.
fn expected(image: &[u8]) -> Vec<u8> {
    let mut disk = old_disk();
    disk[..image.len()].copy_from_slice(image);
    let tail = disk.len() - MIB;
    disk[tail..].fill(0);
    disk
}

fn pack(bytes: &[u8], encoding: Encoding, level: u32) -> Vec<u8> {
    match encoding {
        Encoding::Identity => bytes.to_vec(),
        Encoding::Zstd => zstd::encode_all(bytes, level.try_into().unwrap()).unwrap(),
        Encoding::Gzip => {
            let level = flate2::Compression::new(level);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Encoding::Xz => liblzma::encode_all(bytes, level).unwrap(),
    }
}

#[test]
fn a_packed_image_is_written_with_zeros_where_it_has_none() {
    let directory = directory();
    let image = image();
    for (chunk, encoding, level) in [
        (MIB, Encoding::Zstd, 1),
        (2 * MIB, Encoding::Zstd, 3),
        (4 * MIB, Encoding::Zstd, 19),
        (MIB, Encoding::Gzip, 6),
        (4 * MIB, Encoding::Xz, 9),
    ] {
        // Several frames, as tools make them that can seek.
        let (one, other) = image.split_at(3 * MIB + 5);
        let packed = [pack(one, encoding, level), pack(other, encoding, level)].concat();
        let file = directory.path().join("image");
        fs::write(&file, &packed).unwrap();
        let descriptor = describe(&image, chunk, &packed, encoding);
        let device = Loop::new(directory.path(), &old_disk());
        let disk = Disk::open_exclusively(&device.path).unwrap();
        let status = Status::new();
        all(&descriptor, &Staged::at(file), &disk, &status);
        drop(disk);
        assert!(device.content() == expected(&image), "{encoding:?}, chunks of {chunk}");
        let phases: Vec<_> = status.finished().iter().map(|phase| phase.phase).collect();
        assert_eq!(phases, ["verifying", "writing", "reading_back"]);
        assert_eq!(status.bytes_written(), descriptor.mapped_bytes().max(MIB as u64));
    }
}

#[test]
fn the_first_mebibyte_comes_last() {
    let directory = directory();
    let image = image();
    let file = directory.path().join("image");
    fs::write(&file, &image).unwrap();
    let descriptor = describe(&image, 2 * MIB, &image, Encoding::Identity);
    let device = Loop::new(directory.path(), &old_disk());
    let disk = Disk::open_exclusively(&device.path).unwrap();
    let (status, staged) = (Status::new(), Staged::at(file));
    let digests = verify(&descriptor, &staged, &status).unwrap();
    assert!(!status.first_write());
    let written =
        write::write(&descriptor, &staged, &digests, &disk, WriteOptions::default(), &status)
            .unwrap();
    assert!(status.first_write());
    read_back(&descriptor, &digests, &written, &disk, &status).unwrap();
    // Nor does the old one boot what is there: it may have the same layout.
    let mut almost = expected(&image);
    almost[..MIB].fill(0);
    assert!(device.content() == almost);
    write::complete(&written, &disk, None, &status).unwrap();
    assert!(device.content() == expected(&image));
}

#[test]
fn a_disk_that_lies_is_found_out() {
    let directory = directory();
    let image = image();
    let file = directory.path().join("image");
    fs::write(&file, &image).unwrap();
    let descriptor = describe(&image, MIB, &image, Encoding::Identity);
    let device = Loop::new(directory.path(), &old_disk());
    let disk = Disk::open_exclusively(&device.path).unwrap();
    let (status, staged) = (Status::new(), Staged::at(file));
    let digests = verify(&descriptor, &staged, &status).unwrap();
    let written =
        write::write(&descriptor, &staged, &digests, &disk, WriteOptions::default(), &status)
            .unwrap();
    // In what is mapped, in what is zeros, in the short last chunk, and at the end of the disk.
    for at in [MIB + 4096, 7 * MIB, 10 * MIB + 512, 16 * MIB - 512] {
        let at = at as u64 / 512 * 512;
        let mut sector = Buffer::new(512);
        disk.read_at(&mut sector, at).unwrap();
        sector[17] ^= 1;
        disk.write_at(&sector, at).unwrap();
        let fault = read_back(&descriptor, &digests, &written, &disk, &status).unwrap_err();
        assert!(fault.0.contains("reads back differently"), "{fault}");
        sector[17] ^= 1;
        disk.write_at(&sector, at).unwrap();
    }
    read_back(&descriptor, &digests, &written, &disk, &status).unwrap();
}

#[test]
fn an_image_that_is_not_the_descriptors_is_refused_and_the_disk_is_untouched() {
    let directory = directory();
    let image = image();
    let packed = zstd::encode_all(&image[..], 1).unwrap();
    let descriptor = describe(&image, MIB, &packed, Encoding::Zstd);
    let device = Loop::new(directory.path(), &old_disk());
    let _disk = Disk::open_exclusively(&device.path).unwrap();
    let mut not_zero = image.clone();
    not_zero[8 * MIB] = 1;
    let mut other = image.clone();
    other[5 * MIB + 3] ^= 0x40;
    let longer = [&image[..], &[0; 512]].concat();
    let pack = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    let mut damaged = packed.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0x55);
    for (what, content) in [
        ("not zeros", pack(&not_zero)),
        ("another chunk", pack(&other)),
        ("longer", pack(&longer)),
        ("shorter", pack(&image[..image.len() - 512])),
        ("cut off", packed[..packed.len() - 10].to_vec()),
        ("damaged", damaged),
        ("nothing", Vec::new()),
    ] {
        let file = directory.path().join("image");
        fs::write(&file, content).unwrap();
        let status = Status::new();
        verify(&descriptor, &Staged::at(file), &status).expect_err(what);
        assert!(!status.first_write(), "{what}");
    }
    let status = Status::new();
    verify(&descriptor, &Staged::at(directory.path().join("none")), &status).unwrap_err();
    assert!(device.content() == old_disk());
}

/// An image that is another one the second time.
struct Fickle {
    passes: AtomicUsize,
    contents: [Arc<[u8]>; 2],
    local: bool,
}

impl Supply for Fickle {
    fn name(&self) -> String {
        "fickle".to_owned()
    }

    fn open(&self) -> holdfast_imager::Result<Box<dyn Read + Send>> {
        let pass = self.passes.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(io::Cursor::new(Arc::clone(&self.contents[pass]))))
    }

    fn is_local(&self) -> bool {
        self.local
    }
}

#[test]
fn what_changed_since_it_was_checked_is_not_written() {
    let directory = directory();
    let image = image();
    let mut changed = image.clone();
    changed[4 * MIB + 7] ^= 1;
    let descriptor = describe(&image, MIB, &image, Encoding::Identity);
    for local in [true, false] {
        let device = Loop::new(directory.path(), &old_disk());
        let disk = Disk::open_exclusively(&device.path).unwrap();
        let contents = [image.clone().into(), changed.clone().into()];
        let fickle = Fickle { passes: AtomicUsize::new(0), contents, local };
        let status = Status::new();
        let digests = verify(&descriptor, &fickle, &status).unwrap();
        let fault =
            write::write(&descriptor, &fickle, &digests, &disk, WriteOptions::default(), &status)
                .unwrap_err();
        assert!(fault.0.contains("changed since it was checked"), "{fault}");
        let content = device.content();
        assert!(content[4 * MIB..5 * MIB] == old_disk()[4 * MIB..5 * MIB]);
        assert!(content[..MIB].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_disk_in_use_cannot_be_opened() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let device = Loop::new(directory.path(), &old_disk());
    let _held = Disk::open_exclusively(&device.path).unwrap();
    let fault = Disk::open_exclusively(&device.path).unwrap_err();
    assert!(fault.0.contains("busy"), "{fault}");
    holdfast_imager::disk::set_read_only(&device.path, true).unwrap();
    Disk::open_exclusively(&device.path).unwrap_err();
    let done = std::process::Command::new("blockdev").arg("--setrw").arg(&device.path).status();
    assert!(done.unwrap().success());
}
