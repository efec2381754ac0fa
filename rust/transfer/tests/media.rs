//! The proof by reading back: what the device damaged is found, whenever it was written.

mod support;

use std::time::{Duration, Instant};

use holdfast_engine::{Progress, RootPath};
use holdfast_transfer::{Proof, pull};

use support::volume::Volume;
use support::{MIB, Pair, noise};

/// The beginning of a block of a device, to find it by.
const NEEDLE: &[u8; 32] = b"here the device will flip a bit.";

/// Noise with the needle at an offset.
fn content(seed: u64, length: usize, at: usize) -> Vec<u8> {
    let mut content = noise(seed, length);
    content[at..at + NEEDLE.len()].copy_from_slice(NEEDLE);
    content
}

#[test]
fn what_earlier_calls_wrote_is_read_back_and_fetched_again_once_it_differs() {
    for (filesystem, large) in [("ext4", true), ("xfs", false)] {
        let directory = tempfile::tempdir().unwrap();
        let Some(volume) = Volume::new(directory.path(), "volume", filesystem, 512) else { return };
        let pair = Pair::new();
        let (length, at) = if large { (150 * MIB, 70 * MIB) } else { (12 << 10, 4096) };
        pair.write("a/damaged", &content(1, length, at));
        pair.write("a/good", &noise(2, 3 * MIB));
        pair.write("tiny", b"tiny");
        let place = RootPath { root: volume.path.clone(), path: "destination".into() };
        let pull_with = |proof| {
            pair.try_pull(|request| {
                request.place = place.clone();
                request.proof = proof;
            })
            .unwrap()
        };
        pull_with(Proof::Flushed);
        volume.flip(NEEDLE);
        // Nothing has changed that a listing shows.
        assert_eq!(pull_with(Proof::Flushed).passes[0].sent_bytes, 0);
        let pass = &pull_with(Proof::Media).passes[0];
        assert_eq!((pass.differed_on_media, pass.unfinished_files), (1, 0), "{filesystem}");
        assert_eq!((pass.fetched_files, pass.unchanged_files), (1, 2), "{filesystem}");
        assert_eq!(pass.sent_bytes, length as u64, "{filesystem}");
        let copy = || support::tree(&volume.path.join("destination"));
        assert_eq!(support::tree(&pair.source()), copy(), "{filesystem}");
        // What was read back once is not read again.
        volume.flip(NEEDLE);
        assert_eq!(pull_with(Proof::Media).passes[0].differed_on_media, 0, "{filesystem}");
    }
}

/// Pull with `media`, flip a bit of a file that is arriving, and cancel once the journal has a record.
/// Returns what the next pull sends; nothing reads back there.
fn cancelled_after(record: &[u8], write: impl Fn(&Pair)) -> Option<u64> {
    let directory = tempfile::tempdir().unwrap();
    let volume = Volume::new(directory.path(), "volume", "ext4", 512)?;
    let pair = Pair::new();
    write(&pair);
    let mut request = pair.request();
    request.place = RootPath { root: volume.path.clone(), path: "destination".into() };
    // A chunk takes four seconds.
    request.bytes_per_second = Some(16 << 20);
    request.proof = Proof::Media;
    let progress = Progress::default();
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull(&request, &progress));
        until("the device has the bytes", || volume.try_flip(NEEDLE));
        let journal = pair.directory.path().join("state/journal");
        until("the journal has it", || {
            let journal = std::fs::read(&journal).unwrap_or_default();
            journal.windows(record.len()).any(|window| window == record)
        });
        progress.cancel();
        pulling.join().unwrap().unwrap_err();
    });
    request.proof = Proof::Flushed;
    let outcome = pull(&request, &Progress::default()).unwrap();
    assert_eq!(support::tree(&pair.source()), support::tree(&volume.path.join("destination")));
    Some(outcome.passes[0].sent_bytes)
}

#[test]
fn a_chunk_is_read_back_while_the_rest_of_its_file_arrives() {
    // `Record::Spoiled` of the second chunk: the first one is not fetched again.
    let sent = cancelled_after(b"\x06\x05large\x01\x01", |pair| {
        pair.write("large", &content(3, 320 * MIB, 66 * MIB));
    });
    assert!(sent.is_none_or(|sent| sent == 256 << 20), "{sent:?}");
}

#[test]
fn a_file_that_differs_is_removed_while_others_arrive() {
    // `Record::Removed`.
    cancelled_after(b"\x03\x07damaged", |pair| {
        pair.write("damaged", &content(8, 20 * MIB, 2 * MIB));
        pair.write("large", &noise(9, 300 * MIB));
    });
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Give this thread and those that it starts another boot id, in a mount namespace of their own.
fn boot_again(directory: &std::path::Path) {
    // SAFETY: the thread was started for this, and shares its working directory with no other after.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    let file = directory.join("boot_id");
    std::fs::write(&file, "11111111-2222-4333-8444-555555555555\n").unwrap();
    let mount = |arguments: &[&std::ffi::OsStr]| {
        let status = std::process::Command::new("mount").args(arguments).status();
        assert!(status.unwrap().success());
    };
    mount(&["--make-rprivate".as_ref(), "/".as_ref()]);
    let boot_id = "/proc/sys/kernel/random/boot_id";
    mount(&["--bind".as_ref(), file.as_ref(), boot_id.as_ref()]);
}

#[test]
fn what_was_not_flushed_before_another_boot_is_read_back_whatever_the_proof() {
    for (first, lost, changed) in
        [(Proof::Wire, true, false), (Proof::Wire, true, true), (Proof::Flushed, false, false)]
    {
        let directory = tempfile::tempdir().unwrap();
        let Some(volume) = Volume::new(directory.path(), "volume", "ext4", 512) else { return };
        let pair = Pair::new();
        pair.write("damaged", &content(4, 90 * MIB, 70 * MIB));
        pair.write("good", &noise(5, 3 * MIB));
        let pull_with = |proof| {
            pair.try_pull(|request| {
                request.place = RootPath { root: volume.path.clone(), path: "destination".into() };
                request.proof = proof;
            })
            .unwrap()
        };
        pull_with(first);
        // What the journal has, and the device does not.
        volume.flip(NEEDLE);
        assert_eq!(pull_with(Proof::Flushed).passes[0].differed_on_media, 0);
        if lost {
            // That call has flushed everything.
            pair.write("another", &noise(6, MIB));
            pull_with(Proof::Wire);
        }
        if changed {
            // Another chunk than the damaged one, which the new version has as well.
            let mut newer = content(4, 90 * MIB, 70 * MIB);
            newer[5] ^= 1;
            pair.write("damaged", &newer);
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                boot_again(directory.path());
                let pass = &pull_with(Proof::Wire).passes[0];
                assert_eq!(pass.differed_on_media, u64::from(lost && !changed), "{first:?}");
                assert_eq!(pass.fetched_files, u64::from(lost), "{first:?}");
                let copy = support::tree(&volume.path.join("destination"));
                assert_eq!(copy == support::tree(&pair.source()), lost, "{first:?}");
            });
        });
    }
}
