//! What is carried, pass after pass.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::thread;
use std::time::Duration;

use holdfast_engine::Progress;
use holdfast_transfer::{Error, Limits, Proof, pull};
use support::{MIB, Pair, bytes, noise};

fn fill(pair: &Pair) {
    for number in 0..300 {
        pair.write(&format!("small/{number}"), &noise(number, number as usize * 37));
    }
    pair.write("middle", &noise(1, 3 * MIB + 77));
    pair.write("large", &noise(2, 66 * MIB + 5));
    pair.write("empty", b"");
    let top = pair.source();
    fs::create_dir_all(top.join("deep/er/nothing")).unwrap();
    fs::hard_link(top.join("large"), top.join("deep/large again")).unwrap();
    fs::hard_link(top.join("small/7"), top.join("deep/er/seven")).unwrap();
    symlink("../large", top.join("deep/link")).unwrap();
    symlink("/nowhere/at all", top.join("dangling")).unwrap();
    fs::write(top.join(bytes(b"no \xff text\n")), "x").unwrap();
    let sparse = File::create(top.join("sparse")).unwrap();
    sparse.write_all_at(&noise(3, MIB), 10 << 20).unwrap();
    sparse.write_all_at(b"end", 90 << 20).unwrap();
    sparse.set_len(150 << 20).unwrap();
    fs::set_permissions(top.join("middle"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(top.join("deep"), fs::Permissions::from_mode(0o2711)).unwrap();
    let times = fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_001, 123_456_789));
    File::open(top.join("middle")).unwrap().set_times(times).unwrap();
    for (name, value) in [("user.note", &b"a\0b"[..]), ("user.empty", b"")] {
        let flags = rustix::fs::XattrFlags::empty();
        // A file system without attributes leaves them out at both ends.
        for path in ["middle", "deep/er", "small/9"] {
            let _ = rustix::fs::setxattr(top.join(path), name, value, flags);
        }
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(top.join("small/3"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(top.join("deep/link"), Some(7), Some(8)).unwrap();
        let capability = [1, 0, 0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let flags = rustix::fs::XattrFlags::empty();
        let _ =
            rustix::fs::setxattr(top.join("small/5"), "security.capability", &capability, flags);
    }
}

#[test]
fn everything_is_carried_and_a_second_pass_fetches_nothing() {
    let pair = Pair::new();
    fill(&pair);
    rustix::fs::mknodat(
        File::open(pair.source()).unwrap(),
        "pipe",
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let first = pair.pull();
    assert_eq!(first.passes[0].specials.get("fifo"), Some(&1));
    fs::remove_file(pair.source().join("pipe")).unwrap();
    pair.assert_equal();
    let second = pair.pull();
    assert_eq!((second.passes[0].sent_bytes, second.passes[0].fetched_files), (0, 0));
    assert_eq!(second.passes[0].unchanged_files, first.passes[0].files);
    pair.assert_equal();
}

#[test]
fn a_pass_fetches_what_differs_and_removes_what_is_gone() {
    let pair = Pair::new();
    fill(&pair);
    pair.pull();
    let top = pair.source();
    fs::remove_file(top.join("deep/large again")).unwrap();
    pair.pull();
    let large = File::options().write(true).open(top.join("large")).unwrap();
    large.write_all_at(&noise(9, 2 * MIB), (66 << 20) + 5).unwrap();
    large.write_all_at(b"changed", 65 << 20).unwrap();
    fs::remove_dir_all(top.join("small")).unwrap();
    pair.write("small", b"a file by now");
    fs::remove_file(top.join("deep/link")).unwrap();
    fs::create_dir(top.join("deep/link")).unwrap();
    fs::write(pair.destination().join("deep/foreign"), "not by a transfer").unwrap();
    let pass = &pair.pull().passes[0];
    // The second of two chunks; the first is proven.
    assert!(pass.sent_bytes < 10 << 20, "{pass:?}");
    assert!(pair.destination().join("deep/foreign").exists());
    fs::remove_file(pair.destination().join("deep/foreign")).unwrap();
    let second = pair.pull();
    assert_eq!(second.passes[0].sent_bytes, 0);
    pair.assert_equal();
}

#[test]
fn a_large_file_of_one_name_that_was_appended_to_keeps_its_chunks() {
    let pair = Pair::new();
    pair.write("large", &noise(2, 66 * MIB + 5));
    pair.pull();
    let file = File::options().append(true).open(pair.source().join("large")).unwrap();
    std::io::Write::write_all(&mut &file, &noise(5, MIB)).unwrap();
    let pass = &pair.pull().passes[0];
    assert!(pass.sent_bytes <= 4 << 20, "{pass:?}");
    pair.assert_equal();
}

#[test]
fn a_completed_transfer_has_a_manifest_and_is_not_written_again() {
    let pair = Pair::new();
    fill(&pair);
    let records = pair.directory.path().join("records");
    fs::create_dir(&records).unwrap();
    let outcome = pair
        .try_pull(|request| {
            request.complete = true;
            request.proof = Proof::Media;
            request.manifest = Some(
                serde_json::from_value(serde_json::json!({
                    "destination": records.join("manifest"),
                    "journal": records.join("journal"),
                    "max_bytes": 1 << 30,
                    "header": {"id": "x"},
                }))
                .unwrap(),
            );
        })
        .unwrap();
    assert!(outcome.complete);
    let manifest = outcome.manifest.unwrap();
    assert_eq!(manifest.known.reused_files, manifest.counts.ok - manifest.counts.hardlinks);
    assert!(!pair.destination().join(".holdfast-transfer").exists());
    pair.assert_equal();
    // A build that reads everything finds the same.
    let other = records.join("other");
    let request = serde_json::json!({
        "place": {"root": pair.directory.path(), "path": "destination"},
        "exclude": [], "include_patterns": [], "exclude_patterns": [],
        "algorithm": "xxh64", "destination": other, "journal": records.join("journal"),
        "previous": [], "max_bytes": 1 << 30, "header": {"id": "x"},
        "bytes_per_second": null, "pressure": null,
    });
    let request = serde_json::from_value(request).unwrap();
    holdfast_engine::manifest::build::build(&request, &Progress::default()).unwrap();
    let entries = |path: std::path::PathBuf| {
        let progress = Progress::default();
        let mut manifest =
            holdfast_engine::manifest::record::Manifest::open(&path, 1 << 30).unwrap();
        std::iter::from_fn(|| manifest.next(&progress).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(entries(records.join("manifest")), entries(other));
    assert!(matches!(pair.try_pull(|_| {}), Err(Error::Complete { .. })));
}

#[test]
fn what_no_transfer_made_is_not_overwritten() {
    let pair = Pair::new();
    pair.write("here", b"from the source");
    fs::create_dir(pair.destination()).unwrap();
    fs::write(pair.destination().join("here"), "mine").unwrap();
    assert!(matches!(pair.try_pull(|_| {}), Err(Error::Occupied { .. })));
    assert_eq!(fs::read_to_string(pair.destination().join("here")).unwrap(), "mine");
}

#[test]
fn what_appears_during_a_pass_is_not_overwritten() {
    for name in ["large", "twice", "symlink"] {
        let pair = Pair::with(Limits::default(), |offer| offer.bytes_per_second = Some(8 << 20));
        pair.write("large", &noise(5, 8 * MIB));
        fs::hard_link(pair.source().join("large"), pair.source().join("twice")).unwrap();
        symlink("large", pair.source().join("symlink")).unwrap();
        let (request, progress) = (pair.request(), Progress::default());
        let mine = pair.destination().join(name);
        let outcome = thread::scope(|scope| {
            let pulled = scope.spawn(|| pull(&request, &progress));
            // The plan is made once data come.
            while progress.bytes_done() == 0 && !pulled.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
            fs::write(&mine, "mine").unwrap();
            pulled.join().unwrap()
        });
        assert!(matches!(outcome, Err(Error::Occupied { .. })), "{name}: {outcome:?}");
        assert_eq!(fs::read_to_string(&mine).unwrap(), "mine", "{name}");
        fs::remove_file(&mine).unwrap();
        pair.pull();
        pair.assert_equal();
    }
}

#[test]
fn patterns_and_lists_take_a_part_with_the_directories_on_the_way() {
    let pair = Pair::with(holdfast_transfer::Limits::default(), |offer| {
        offer.include_patterns = vec!["*.db".to_owned()];
        offer.exclude_patterns = vec!["tmp".to_owned()];
    });
    for name in ["a/b/one.db", "a/c/two.txt", "tmp/three.db", "four.db"] {
        pair.write(name, name.as_bytes());
    }
    pair.pull();
    let names: Vec<_> = support::tree(&pair.destination()).into_keys().collect();
    assert_eq!(names, ["", "a", "a/b", "a/b/one.db", "four.db"]);
}

#[test]
fn a_list_of_files_takes_these_and_no_others() {
    let pair = Pair::with(holdfast_transfer::Limits::default(), |offer| {
        let names = ["a/b/one", "../escapes", "a/c", "not there", "a/b/two/../one"];
        offer.files = Some(names.into_iter().map(Into::into).collect());
    });
    for name in ["a/b/one", "a/b/other", "a/c/in a directory", "d"] {
        pair.write(name, name.as_bytes());
    }
    pair.pull();
    let names: Vec<_> = support::tree(&pair.destination()).into_keys().collect();
    assert_eq!(names, ["", "a", "a/b", "a/b/one", "a/c"]);
}

#[test]
fn several_pulls_into_directories_of_one_node_run_side_by_side() {
    let pairs: Vec<_> = (0..3).map(|_| Pair::new()).collect();
    for (number, pair) in pairs.iter().enumerate() {
        pair.write("large", &noise(number as u64, 20 * MIB));
        pair.write("small/one", b"one");
    }
    std::thread::scope(|scope| {
        for pair in &pairs {
            scope.spawn(|| pair.pull());
        }
    });
    pairs.iter().for_each(Pair::assert_equal);
    // But not two into one directory.
    let pair = Pair::with(holdfast_transfer::Limits::default(), |offer| {
        offer.bytes_per_second = Some(8 << 20);
    });
    pair.write("large", &noise(1, 20 * MIB));
    let progress = Progress::default();
    let request = pair.request();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| holdfast_transfer::pull(&request, &progress));
        while progress.bytes_done() == 0 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        assert!(matches!(pair.try_pull(|_| {}), Err(Error::Busy { .. })));
        progress.cancel();
        assert!(first.join().unwrap().is_err());
    });
}
