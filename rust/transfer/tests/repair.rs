//! Damage that is found by the source's manifest, blamed on the right side, and repaired.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;

use holdfast_engine::RootPath;
use holdfast_transfer::{Error, RepairOutcome, Side};
use support::disturber::Disturber;
use support::volume::Volume;
use support::{MIB, Pair, noise};

/// Change a byte of a file, and set its time back, as a device does that lies.
fn damage(pair: &Pair, name: &str, offset: u64) {
    let path = pair.destination().join(name);
    let file = File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
    file.set_times(fs::FileTimes::new().set_modified(modified)).unwrap();
}

fn fill(pair: &Pair) {
    pair.write("large", &noise(2, 66 * MIB + 5));
    for number in 0..20 {
        pair.write(&format!("small/{number}"), &noise(number, 3000));
    }
}

fn sides(outcome: &RepairOutcome) -> Vec<(String, Option<Side>, bool)> {
    let path = |path: &holdfast_engine::record::PathText| {
        String::from_utf8(path.clone().into_bytes().unwrap()).unwrap()
    };
    outcome
        .findings
        .iter()
        .map(|finding| (path(&finding.path), finding.side, finding.repaired))
        .collect()
}

#[test]
fn only_the_chunks_that_differ_are_fetched_also_after_completion() {
    let pair = Pair::new();
    fill(&pair);
    pair.complete().unwrap();
    assert!(pair.repair(|_| {}).unwrap().ok);
    damage(&pair, "large", 65 << 20);
    damage(&pair, "small/7", 100);
    let outcome = pair.repair(|_| {}).unwrap();
    assert!(outcome.ok, "{outcome:?}");
    assert_eq!(outcome.received_bytes, (2 << 20) + 5 + 3000);
    let disk = Some(Side::DestinationDisk);
    let expected = [("large".to_owned(), disk, true), ("small/7".to_owned(), disk, true)];
    assert_eq!(sides(&outcome), expected);
    pair.assert_equal();
    // Completion still is one way.
    assert!(matches!(pair.try_pull(|_| {}), Err(Error::Complete { .. })));
    assert!(pair.repair(|_| {}).unwrap().findings.is_empty());
}

#[test]
fn what_was_written_after_completion_is_left_alone_unless_it_is_asked_for() {
    let pair = Pair::new();
    fill(&pair);
    pair.complete().unwrap();
    fs::write(pair.destination().join("small/3"), "by the datastore").unwrap();
    fs::remove_file(pair.destination().join("small/4")).unwrap();
    let outcome = pair.repair(|_| {}).unwrap();
    assert!(!outcome.ok);
    assert_eq!((outcome.left_alone, outcome.received_bytes), (2, 0));
    assert!(outcome.findings.iter().all(|finding| finding.written_since && !finding.repaired));
    assert_eq!(fs::read(pair.destination().join("small/3")).unwrap(), b"by the datastore");
    let outcome = pair.repair(|request| request.overwrite_written = Some(true)).unwrap();
    assert!(outcome.ok, "{outcome:?}");
    let (source, destination) = (pair.source(), pair.destination());
    for name in ["small/3", "small/4"] {
        let (one, other) = (source.join(name), destination.join(name));
        assert_eq!(fs::read(&one).unwrap(), fs::read(&other).unwrap());
        let time = |path| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(one), time(other));
    }
}

#[test]
fn a_destination_is_repaired_only_by_files_that_are_as_the_sources_manifest_has_them() {
    let pair = Pair::new();
    fill(&pair);
    pair.complete().unwrap();
    damage(&pair, "small/7", 100);
    pair.write("small/7", b"another version by now");
    let outcome = pair.repair(|_| {}).unwrap();
    assert!(!outcome.ok);
    assert_eq!((outcome.changed_on_source, outcome.received_bytes), (1, 0));
    let pair = Pair::new();
    fill(&pair);
    pair.pull();
    let error = pair.repair(|_| {}).unwrap_err();
    assert!(matches!(error, Error::Engine(_) | Error::Refused(_)), "{error}");
}

#[test]
fn a_bit_that_flips_on_the_wire_of_a_repair_is_blamed_on_it() {
    let pair = Pair::new();
    fill(&pair);
    pair.complete().unwrap();
    damage(&pair, "large", 1 << 20);
    let disturber = Disturber::new(pair.server.address());
    disturber.flip.store(true, Ordering::Relaxed);
    disturber.budget.store(30 << 20, Ordering::Relaxed);
    let ticket = pair.ticket_at(disturber.address);
    let outcome = pair.repair(|request| request.ticket = ticket).unwrap();
    assert!(outcome.ok, "{outcome:?}");
    let blamed: Vec<_> = sides(&outcome).into_iter().map(|(_, side, _)| side.unwrap()).collect();
    assert_eq!(blamed, [Side::Wire, Side::DestinationDisk]);
    pair.assert_equal();
}

#[test]
fn bits_that_flip_on_devices_are_blamed_on_the_right_one() {
    for filesystem in ["ext4", "xfs"] {
        let directory = tempfile::tempdir().unwrap();
        let volume = |name| Volume::new(directory.path(), name, filesystem, 320);
        let (Some(there), Some(here)) = (volume("there"), volume("here")) else { return };
        let root = there.path.clone();
        let pair = Pair::with(holdfast_transfer::Limits::default(), |offer| {
            offer.place = RootPath { root, path: "".into() };
        });
        let (one, other, third) = (noise(1, 70 * MIB), noise(2, 5 * MIB), noise(3, 9000));
        for (name, content) in [("one", &one), ("other", &other), ("third", &third)] {
            fs::write(there.path.join(name), content).unwrap();
        }
        let place = RootPath { root: here.path.clone(), path: "".into() };
        pair.owners.1.lock().unwrap().manifest = Some(pair.manifest("source"));
        let outcome = pair
            .try_pull(|request| {
                request.place = place.clone();
                request.complete = true;
                request.manifest = Some(pair.manifest("destination"));
            })
            .unwrap();
        assert!(outcome.source_manifest.unwrap().equal);
        // A word of each, at places that no other file has.
        there.flip(&third[4096..4160]);
        here.flip(&third[4096..4160]);
        here.flip(&one[(65 << 20)..(65 << 20) + 64]);
        there.flip(&other[(1 << 20)..(1 << 20) + 64]);
        let outcome = pair.repair(|request| request.place = place.clone()).unwrap();
        let expected = [
            ("one".to_owned(), Some(Side::DestinationDisk), true),
            ("third".to_owned(), Some(Side::SourceDisk), false),
        ];
        assert_eq!(sides(&outcome), expected, "{filesystem}");
        assert!(!outcome.ok);
        assert_eq!(fs::read(here.path.join("one")).unwrap(), one);
        // What the destination has is better than what the source has: it is not touched.
        assert_eq!(fs::read(here.path.join("other")).unwrap(), other);
    }
}
