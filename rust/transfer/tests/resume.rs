//! Kills, cuts and damage: a transfer continues with what it has proven.

mod support;

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use holdfast_engine::Progress;
use holdfast_engine::RootPath;
use holdfast_transfer::{Error, Proof, Ticket, pull};
use support::disturber::Disturber;
use support::volume::Volume;
use support::{MIB, Pair, noise};

const REQUEST: &str = "HOLDFAST_TEST_PULL";

/// Runs in a process of its own, to be killed.
#[test]
#[ignore = "started by other tests"]
fn child() {
    let Ok(text) = std::env::var(REQUEST) else { return };
    pull(&serde_json::from_str(&text).unwrap(), &Progress::default()).unwrap();
}

fn start_child(pair: &Pair, ticket: &Ticket, proof: Proof) -> Child {
    let request = serde_json::json!({
        "ticket": ticket,
        "place": {"root": pair.directory.path(), "path": "destination"},
        "state": pair.directory.path().join("state"),
        "connections": 3,
        "proof": proof,
    });
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--ignored"])
        .env(REQUEST, request.to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn fill(pair: &Pair) -> u64 {
    let mut bytes = 0;
    for (name, length) in [("large", 140 * MIB + 3), ("middle", 5 * MIB), ("other", 66 * MIB)] {
        pair.write(name, &noise(length as u64, length));
        bytes += length as u64;
    }
    for number in 0..200 {
        pair.write(&format!("small/{number}"), &noise(number, 3000));
        bytes += 3000;
    }
    bytes
}

fn sent(pair: &Pair) -> u64 {
    pair.server.status()[0].sent_bytes
}

#[test]
fn a_destination_that_is_killed_continues_and_sends_little_again() {
    let pair = Pair::new();
    let bytes = fill(&pair);
    let kills = [5_u64, 90, 150];
    for threshold in kills {
        let mut child = start_child(&pair, &pair.ticket(), Proof::Flushed);
        let begin = Instant::now();
        let wanted = sent(&pair) + threshold * MIB as u64 / 2;
        while sent(&pair) < wanted && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    pair.pull();
    pair.assert_equal();
    let again = sent(&pair).saturating_sub(bytes);
    assert!(again < (kills.len() as u64) * 3 * (64 << 20), "{again} bytes were sent again");
    assert_eq!(pair.pull().passes[0].sent_bytes, 0);
}

/// A sequence of numbers that a seed determines.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// `HOLDFAST_TRANSFER_KILLS` is how many, a few by default; `HOLDFAST_SEED` repeats a run.
#[test]
fn random_kills_and_cuts_of_either_side_end_with_equal_trees() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let kills = number("HOLDFAST_TRANSFER_KILLS").unwrap_or(4);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let seed = number("HOLDFAST_SEED").unwrap_or(now.as_nanos() as u64 | 1);
    println!("HOLDFAST_SEED={seed}");
    let mut numbers = Numbers(seed);
    for nth in 0..kills {
        let mut pair = Pair::new();
        let mut bytes = 0;
        let sizes = [70 << 20, 3 << 20, 300 << 10, 0, 17];
        for (place, size) in sizes.into_iter().enumerate() {
            pair.write(&format!("files/{place}"), &noise(numbers.below(1 << 40), size));
            bytes += size as u64;
        }
        for place in 0..100 {
            let size = numbers.below(9000);
            pair.write(&format!("small/{place}"), &noise(place, size as usize));
            bytes += size;
        }
        std::os::unix::fs::symlink("files/1", pair.source().join("link")).unwrap();
        std::fs::hard_link(pair.source().join("files/1"), pair.source().join("again")).unwrap();
        let disturber = Disturber::new(pair.server.address());
        let place = numbers.below(bytes + bytes / 20);
        let way = numbers.below(3);
        if way == 0 {
            disturber.budget.store(place as i64 + 1, Ordering::Relaxed);
        }
        let mut proof = || [Proof::Wire, Proof::Flushed, Proof::Media][numbers.below(3) as usize];
        let (before, after) = (proof(), proof());
        let mut child = start_child(&pair, &pair.ticket_at(disturber.address), before);
        let begin = Instant::now();
        while sent(&pair) < place && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_micros(100));
        }
        match way {
            // The destination makes the connection again by itself.
            0 => _ = child.wait().unwrap(),
            1 => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            _ => {
                pair.restart();
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        // Nothing that is in place is torn.
        for (name, node) in support::tree(&pair.destination()) {
            let there = support::tree(&pair.source());
            let is_file = pair.destination().join(&name).is_file();
            assert!(!is_file || there.get(&name) == Some(&node), "{name:?} of {nth}, seed {seed}");
        }
        let outcome = pair.complete_with(|request| request.proof = after).unwrap();
        assert!(outcome.source_manifest.unwrap().equal, "{nth}, seed {seed}");
        assert_eq!(outcome.passes[0].differed_on_media, 0, "{nth}, seed {seed}");
        pair.assert_equal();
    }
}

#[test]
fn connections_that_are_cut_at_any_byte_are_made_again() {
    let pair = Pair::new();
    for number in 0..150 {
        pair.write(&format!("small/{number}"), &noise(number, 2000));
    }
    pair.write("large", &noise(7, 66 * MIB));
    let disturber = Disturber::new(pair.server.address());
    let stop = Arc::new(AtomicBool::new(false));
    let (budget, stopped) = (disturber.budget.clone(), stop.clone());
    // From the first bytes of a handshake to the last ones of the data.
    let places = [1, 1500, 9000, 70_000, 400_000, 3_000_000, 50_000_000];
    let cuts = disturber.cuts.clone();
    let chopper = std::thread::spawn(move || {
        for (nth, place) in places.into_iter().enumerate() {
            budget.store(place, Ordering::Relaxed);
            while cuts.load(Ordering::Relaxed) <= nth as u64 && !stopped.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
    let ticket = pair.ticket_at(disturber.address);
    // As many as there can be: those of before a cut must not stand in the way of new ones.
    let outcome = pair
        .try_pull(|request| {
            request.ticket = ticket;
            (request.connections, request.most_connections) = (32, 32);
        })
        .unwrap();
    stop.store(true, Ordering::Relaxed);
    chopper.join().unwrap();
    assert!(outcome.passes[0].reconnects >= 5, "{outcome:?}");
    pair.assert_equal();
}

#[test]
fn a_bit_that_flips_on_the_wire_is_found_there() {
    let pair = Pair::new();
    pair.write("large", &noise(7, 9 * MIB));
    let disturber = Disturber::new(pair.server.address());
    disturber.flip.store(true, Ordering::Relaxed);
    disturber.budget.store(4 << 20, Ordering::Relaxed);
    let ticket = pair.ticket_at(disturber.address);
    let outcome = pair.try_pull(|request| request.ticket = ticket.clone()).unwrap();
    assert_eq!(outcome.passes[0].reconnects, 1);
    pair.assert_equal();
    // Where it is not to be made up for, the error names the wire.
    pair.write("more", &noise(8, 9 * MIB));
    disturber.budget.store(4 << 20, Ordering::Relaxed);
    let error = pair
        .try_pull(|request| {
            request.ticket = ticket;
            request.patience_seconds = 0;
        })
        .unwrap_err();
    assert!(
        matches!(&error, Error::Wire { source, .. } if source.to_string().contains("damaged on the wire")),
        "{error}"
    );
}

#[test]
fn a_source_that_restarts_is_continued_with() {
    let mut pair = Pair::new();
    let bytes = fill(&pair);
    let disturber = Disturber::new(pair.server.address());
    disturber.budget.store(100 << 20, Ordering::Relaxed);
    let ticket = pair.ticket_at(disturber.address);
    let error = pair.try_pull(|request| {
        request.ticket = ticket;
        request.patience_seconds = 0;
    });
    assert!(error.is_err_and(|error| error.is_transient()));
    let before = sent(&pair);
    pair.restart();
    pair.pull();
    pair.assert_equal();
    assert!(before + sent(&pair) < bytes + 4 * (64 << 20));
}

/// Writes to a file of the source all the time.
struct Writer(Arc<AtomicBool>, std::thread::JoinHandle<()>);

impl Writer {
    fn start(pair: &Pair, size: usize) -> Self {
        use std::os::unix::fs::FileExt as _;
        let path = pair.source().join("busy");
        std::fs::write(&path, vec![0; size]).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let mut value = 0_u8;
            while !stopped.load(Ordering::Relaxed) {
                value = value.wrapping_add(1);
                file.write_all_at(&vec![value; size], 0).unwrap();
            }
        });
        Self(stop, thread)
    }

    fn stop(self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.join().unwrap();
    }
}

#[test]
fn a_file_that_changes_all_the_time_is_never_delivered_torn() {
    let pair = Pair::new();
    let writer = Writer::start(&pair, 8 * MIB);
    let pass = pair.try_pull(|request| request.complete = true);
    assert!(matches!(pass, Err(Error::Unfinished { count: 1, .. })), "{pass:?}");
    // The writer may have paused for long enough; then it is whole.
    if let Ok(content) = std::fs::read(pair.destination().join("busy")) {
        assert_eq!(content.len(), 8 * MIB);
        assert!(content.iter().all(|byte| *byte == content[0]));
    }
    writer.stop();
    pair.pull();
    pair.assert_equal();
}

#[test]
fn a_pass_that_could_not_fetch_what_changed_is_followed_by_another() {
    let pair = Pair::new();
    // Of a small file nothing is sent before all of it was read.
    let writer = Writer::start(&pair, 128 << 10);
    let outcome = pair.try_pull(|request| request.passes = 4).unwrap();
    writer.stop();
    assert_eq!(outcome.passes.len(), 4, "{outcome:?}");
    assert!(outcome.remaining_bytes >= 128 << 10, "{outcome:?}");
    let again = pair.try_pull(|request| request.passes = 4).unwrap();
    assert_eq!(again.remaining_bytes, 0);
    pair.assert_equal();
}

#[test]
fn a_bit_that_flips_on_the_destinations_device_is_found_there_and_made_good() {
    let pair = Pair::new();
    pair.write("large", &noise(7, 70 * MIB));
    let flipped = Arc::new(AtomicBool::new(false));
    let (done, path) = (flipped.clone(), pair.destination().join("large"));
    // Flips a bit as soon as the file is in place, before it is read back.
    let flipper = std::thread::spawn(move || {
        use std::os::unix::fs::FileExt as _;
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(60) {
            let Ok(file) = std::fs::File::options().read(true).write(true).open(&path) else {
                std::thread::yield_now();
                continue;
            };
            let mut byte = [0];
            file.read_exact_at(&mut byte, 65 << 20).unwrap();
            file.write_all_at(&[byte[0] ^ 1], 65 << 20).unwrap();
            file.sync_data().unwrap();
            done.store(true, Ordering::Relaxed);
            return;
        }
    });
    let outcome = pair.try_pull(|request| request.proof = holdfast_transfer::Proof::Media).unwrap();
    flipper.join().unwrap();
    assert!(flipped.load(Ordering::Relaxed));
    // It may have come after the file was read; then the next pass finds another time.
    if outcome.passes[0].differed_on_media == 0 {
        assert!(pair.pull().passes[0].sent_bytes > 0);
    }
    pair.assert_equal();
}

#[test]
fn a_full_disk_ends_a_pull_which_continues_when_there_is_space() {
    for filesystem in ["ext4", "xfs"] {
        let directory = tempfile::tempdir().unwrap();
        let Some(volume) = Volume::new(directory.path(), "small", filesystem, 320) else { return };
        let pair = Pair::new();
        for number in 0..12 {
            pair.write(&format!("a/{number}"), &noise(number, 10 * MIB));
        }
        let filler = volume.path.join("filler");
        let file = std::fs::File::create(&filler).unwrap();
        let free = rustix::fs::fstatvfs(&file).unwrap();
        let bytes = free.f_bavail * free.f_frsize - (60 << 20);
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
        drop(file);
        let place = RootPath { root: volume.path.clone(), path: "destination".into() };
        let error = pair.try_pull(|request| request.place = place.clone()).unwrap_err();
        let words = error.to_string();
        assert!(words.contains("space"), "{words}");
        std::fs::remove_file(filler).unwrap();
        let outcome = pair.try_pull(|request| request.place = place.clone()).unwrap();
        assert!(outcome.passes[0].sent_bytes < 120 << 20, "{filesystem}: {outcome:?}");
        let (source, destination) =
            (support::tree(&pair.source()), support::tree(&volume.path.join("destination")));
        assert_eq!(source, destination, "{filesystem}");
    }
}
