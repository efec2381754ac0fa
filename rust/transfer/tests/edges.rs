//! Trees that few have, and file systems that cannot keep all that is carried.

mod support;

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::sync::atomic::Ordering;

use holdfast_engine::RootPath;
use holdfast_transfer::Limits;
use rustix::fs::{Mode, OFlags, XattrFlags, mkdirat, openat, setxattr};
use support::disturber::Disturber;
use support::volume::Volume;
use support::{MIB, Pair, noise};

#[test]
fn a_file_that_lost_whole_chunks_is_fetched_as_it_is_now() {
    let pair = Pair::new();
    pair.write("large", &noise(2, 66 * MIB + 5));
    pair.pull();
    let file = File::options().write(true).open(pair.source().join("large")).unwrap();
    file.set_len(3 << 20).unwrap();
    file.write_all_at(b"changed", 1 << 20).unwrap();
    pair.pull();
    pair.assert_equal();
    assert_eq!(pair.pull().passes[0].fetched_files, 0);
}

#[test]
fn small_files_keep_their_holes() {
    let pair = Pair::new();
    fs::create_dir_all(pair.source()).unwrap();
    let file = File::create(pair.source().join("sparse")).unwrap();
    file.write_all_at(b"end", 200_000).unwrap();
    File::create(pair.source().join("nothing but a hole")).unwrap().set_len(9000).unwrap();
    pair.write("plain", &noise(1, 200_000));
    pair.pull();
    pair.assert_equal();
    let blocks = |name| fs::metadata(pair.destination().join(name)).unwrap().blocks();
    assert_eq!(blocks("nothing but a hole"), 0);
    assert!(blocks("sparse") <= 16, "{}", blocks("sparse"));
}

#[test]
fn paths_that_no_call_takes_at_once_are_carried() {
    let pair = Pair::new();
    let deep = |top: &std::path::Path, make: bool| -> OwnedFd {
        let mut directory = OwnedFd::from(File::open(top).unwrap());
        for level in 0..30 {
            let name = format!("{level:0200}");
            if make {
                mkdirat(&directory, &name, Mode::RWXU).unwrap();
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            directory = openat(&directory, &name, flags, Mode::empty()).unwrap();
        }
        directory
    };
    let bottom = deep(&pair.source(), true);
    let flags = OFlags::WRONLY | OFlags::CREATE;
    for (name, content) in [("small", noise(1, 100)), ("middle", noise(2, MIB))] {
        let file = File::from(openat(&bottom, name, flags, Mode::RUSR).unwrap());
        file.write_all_at(&content, 0).unwrap();
    }
    rustix::fs::symlinkat("small", &bottom, "link").unwrap();
    let outcome = pair.complete().unwrap();
    assert!(outcome.source_manifest.unwrap().equal);
    let bottom = deep(&pair.destination(), false);
    for (name, content) in [("link", noise(1, 100)), ("middle", noise(2, MIB))] {
        let file = File::from(openat(&bottom, name, OFlags::RDONLY, Mode::empty()).unwrap());
        let mut there = vec![0; content.len()];
        file.read_exact_at(&mut there, 0).unwrap();
        assert_eq!(there, content);
    }
}

#[test]
fn an_attribute_that_the_destination_cannot_keep_is_counted_and_the_file_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let Some(from) = Volume::new(directory.path(), "from", "xfs", 320) else { return };
    let Some(into) = Volume::new(directory.path(), "into", "ext4", 64) else { return };
    let pair = Pair::with(Limits::default(), |offer| {
        offer.place = RootPath { root: from.path.clone(), path: "tree".into() };
    });
    let tree = from.path.join("tree");
    fs::create_dir(&tree).unwrap();
    // An attribute of ext4 is at most a block; XFS takes 64 KiB.
    for name in ["small", "directory"] {
        let path = tree.join(name);
        if name == "small" {
            fs::write(&path, "content").unwrap();
        } else {
            fs::create_dir(&path).unwrap();
        }
        setxattr(&path, "user.large", &[7; 20_000], XattrFlags::empty()).unwrap();
        setxattr(&path, "user.note", b"kept", XattrFlags::empty()).unwrap();
    }
    let place = RootPath { root: into.path.clone(), path: "tree".into() };
    let outcome = pair.try_pull(|request| request.place = place).unwrap();
    assert_eq!(outcome.passes[0].unset.get("attributes"), Some(&2), "{outcome:?}");
    assert_eq!(fs::read(into.path.join("tree/small")).unwrap(), b"content");
    let mut value = [0; 8];
    for name in ["tree/small", "tree/directory"] {
        let length = rustix::fs::getxattr(into.path.join(name), "user.note", &mut value[..]);
        assert_eq!(&value[..length.unwrap()], b"kept");
    }
}

#[test]
fn a_file_does_not_lend_an_owner_that_it_was_not_meant_to_lend() {
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root, to have a file of another owner");
        return;
    }
    let pair = Pair::new();
    for (name, length) in [("small", 10), ("middle", MIB)] {
        pair.write(name, &noise(1, length));
        let path = pair.source().join(name);
        std::os::unix::fs::chown(&path, Some(1234), Some(1234)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o4755)).unwrap();
    }
    // This thread, and those that it starts, may not set owners.
    let before = capabilities(None).unwrap();
    let mut fewer = before;
    fewer.effective.remove(CapabilitySet::CHOWN);
    set_capabilities(None, fewer).unwrap();
    let outcome = pair.try_pull(|_| {});
    set_capabilities(None, before).unwrap();
    let unset = &outcome.unwrap().passes[0].unset;
    assert_eq!((unset.get("owner"), unset.get("mode")), (Some(&2), Some(&2)), "{unset:?}");
    for name in ["small", "middle"] {
        let found = fs::metadata(pair.destination().join(name)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o755, 0), "{name}");
    }
}

#[test]
fn what_was_partly_fetched_and_is_gone_gives_its_space_back() {
    let pair = Pair::new();
    pair.write("large", &noise(2, 100 * MIB));
    let disturber = Disturber::new(pair.server.address());
    disturber.budget.store(90 << 20, Ordering::Relaxed);
    let ticket = pair.ticket_at(disturber.address);
    let cut = pair.try_pull(|request| {
        request.ticket = ticket;
        request.patience_seconds = 0;
    });
    assert!(cut.is_err_and(|error| error.is_transient()));
    let staged = || fs::read_dir(pair.destination().join(".holdfast-transfer")).unwrap().count();
    assert_eq!(staged(), 1);
    fs::remove_file(pair.source().join("large")).unwrap();
    pair.write("large/is a directory by now", b"content");
    for _ in 0..2 {
        pair.pull();
        assert_eq!(staged(), 0);
        pair.assert_equal();
    }
}
