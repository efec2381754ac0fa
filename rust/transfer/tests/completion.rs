//! The end of a transfer: who may complete it, the manifests of both ends, the page cache.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;

use holdfast_engine::Progress;
use holdfast_engine::manifest::compare;
use holdfast_engine::manifest::record::Manifest;
use holdfast_transfer::{Error, Limits, Mounts};
use support::disturber::Disturber;
use support::{MIB, Pair, noise};

fn fill(pair: &Pair) {
    for number in 0..50 {
        pair.write(&format!("small/{number}"), &noise(number, number as usize * 37));
    }
    pair.write("large", &noise(2, 66 * MIB + 5));
    fs::hard_link(pair.source().join("large"), pair.source().join("small/again")).unwrap();
    std::os::unix::fs::symlink("large", pair.source().join("link")).unwrap();
    rustix::fs::mknodat(
        fs::File::open(pair.source()).unwrap(),
        "pipe",
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
}

/// Compare the manifests of both ends line by line.
fn assert_alike(pair: &Pair) {
    let records = pair.directory.path().join("records");
    let outcome = compare::compare(
        &compare::Request {
            left: records.join("source"),
            right: records.join("destination"),
            max_bytes: 1 << 30,
            report: records.join("report"),
            header: [].into(),
            identical: false,
        },
        &Progress::default(),
    )
    .unwrap();
    assert!(outcome.ok && outcome.findings.is_empty(), "{outcome:?}");
    assert!(outcome.identical > 0);
}

#[test]
fn both_ends_have_the_same_manifest_and_the_source_reads_nothing_twice() {
    let pair = Pair::new();
    fill(&pair);
    // A name outside of what is offered is not the destination's concern.
    fs::hard_link(pair.source().join("small/7"), pair.directory.path().join("elsewhere")).unwrap();
    pair.pull();
    pair.write("small/8", b"another version");
    let outcome = pair.complete().unwrap();
    let source = outcome.source_manifest.unwrap();
    assert!(source.equal);
    assert_eq!(Some(source.digest), outcome.manifest_digest);
    assert_alike(&pair);
    assert_eq!(pair.owners.1.lock().unwrap().completed, [0]);
}

#[test]
fn a_source_that_lost_its_digests_reads_them_again() {
    let pair = Pair::new();
    fill(&pair);
    pair.pull();
    fs::remove_file(pair.directory.path().join("digests")).unwrap();
    assert!(pair.complete().unwrap().source_manifest.unwrap().equal);
    assert_alike(&pair);
    assert!(pair.owners.1.lock().unwrap().completed[0] > 66 << 20);
}

#[test]
fn a_part_that_is_offered_has_a_manifest_of_its_own() {
    let pair = Pair::with(Limits::default(), |offer| {
        offer.files = Some(vec!["small/1".into(), "large".into(), "gone".into()]);
    });
    fill(&pair);
    assert!(pair.complete().unwrap().source_manifest.unwrap().equal);
    assert_alike(&pair);
    let names: Vec<_> = support::tree(&pair.destination()).into_keys().collect();
    assert_eq!(names, ["", "large", "small", "small/1"]);
}

#[test]
fn a_destination_that_has_more_is_not_said_to_be_equal() {
    let pair = Pair::new();
    fill(&pair);
    pair.pull();
    fs::write(pair.destination().join("foreign"), "x").unwrap();
    let outcome = pair.complete().unwrap();
    assert!(outcome.complete && !outcome.source_manifest.unwrap().equal);
}

#[test]
fn a_transfer_is_not_completed_while_the_source_has_writers_unless_overruled() {
    let pair = Pair::new();
    fill(&pair);
    let sentence = "process 17 (postgres) has base/1/2 open for writing; stop it first";
    pair.owners.1.lock().unwrap().writers = Some(sentence.to_owned());
    // Passes before the last one need no rest.
    pair.pull();
    let error = pair.complete().unwrap_err();
    assert!(matches!(&error, Error::Writers(words) if words == sentence), "{error}");
    assert_eq!(error.kind(), "writers");
    let outcome = pair
        .try_pull(|request| {
            request.complete = true;
            request.overrule_writers = true;
        })
        .unwrap();
    assert!(outcome.complete);
}

#[test]
fn a_source_that_cannot_store_its_manifest_keeps_the_transfer_open() {
    let pair = Pair::new();
    fill(&pair);
    pair.owners.1.lock().unwrap().refuse_manifest = true;
    assert!(matches!(pair.complete(), Err(Error::Refused(_))));
    pair.owners.1.lock().unwrap().refuse_manifest = false;
    assert!(pair.complete().unwrap().complete);
    assert!(matches!(pair.try_pull(|_| {}), Err(Error::Complete { .. })));
}

#[test]
fn a_connection_cut_when_both_manifests_are_made_is_made_again() {
    let pair = Pair::new();
    fill(&pair);
    pair.pull();
    let disturber = Disturber::new(pair.server.address());
    let mut answers = pair.owners.1.lock().unwrap();
    (answers.manifest, answers.cut) = (Some(pair.manifest("source")), Some(disturber.budget));
    drop(answers);
    let outcome = pair
        .try_pull(|request| {
            request.ticket = pair.ticket_at(disturber.address);
            request.complete = true;
            request.manifest = Some(pair.manifest("destination"));
        })
        .unwrap();
    assert_eq!(disturber.cuts.load(Ordering::Relaxed), 1);
    assert_eq!(pair.owners.1.lock().unwrap().completed, [0, 0], "two manifests, nothing read");
    let pass = &outcome.passes[0];
    assert_eq!((pass.reconnects, pass.unchanged_files, pass.sent_bytes), (1, pass.files, 0));
    assert!(outcome.complete && outcome.source_manifest.unwrap().equal);
    assert_alike(&pair);
}

#[test]
fn the_record_of_the_page_cache_comes_along() {
    let pair = Pair::new();
    fill(&pair);
    let path = pair.directory.path().join("pages");
    let dump = noise(3, 3 * MIB + 7);
    pair.owners.1.lock().unwrap().page_cache = Some(dump.clone());
    let outcome = pair
        .try_pull(|request| {
            request.complete = true;
            request.page_cache = Some(path.clone());
        })
        .unwrap();
    assert_eq!(outcome.page_cache_bytes, Some(dump.len() as u64));
    assert_eq!(fs::read(path).unwrap(), dump);
}

#[test]
fn a_record_of_the_page_cache_beyond_the_limit_is_refused() {
    let pair = Pair::new();
    pair.write("a", b"a");
    pair.owners.1.lock().unwrap().page_cache = Some(vec![0; (64 << 20) + 1]);
    let error = pair.try_pull(|request| {
        request.complete = true;
        request.page_cache = Some(pair.directory.path().join("pages"));
    });
    assert!(matches!(error, Err(Error::Refused(_))), "{error:?}");
}

#[test]
fn an_offer_that_expires_is_cut() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let pair = Pair::with(Limits::default(), |offer| {
        offer.bytes_per_second = Some(4 << 20);
        offer.expires_at = now.as_secs() + 2;
    });
    pair.write("large", &noise(1, 100 * MIB));
    let begin = std::time::Instant::now();
    let error = pair.try_pull(|_| {}).unwrap_err();
    assert!(matches!(&error, Error::Refused(words) if words.contains("expired")), "{error}");
    assert!(begin.elapsed().as_secs() < 10);
    assert!(pair.server.status()[0].sent_bytes <= 24 << 20);
}

#[test]
fn owners_are_found_by_name_and_those_without_are_named() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root gives files away");
        return;
    }
    let there = tempfile::tempdir().unwrap();
    let here = tempfile::tempdir().unwrap();
    for (directory, number) in [(&there, 4001), (&here, 5001)] {
        let users = format!("root:x:0:0::/:/bin/sh\ndb:x:{number}:{number}::/:/bin/sh\n");
        fs::write(directory.path().join("passwd"), users).unwrap();
        fs::write(directory.path().join("group"), format!("root:x:0:\ndb:x:{number}:\n")).unwrap();
    }
    let accounts = there.path().to_owned();
    let pair = Pair::with(Limits::default(), |offer| offer.accounts = accounts);
    pair.write("a/b", b"b");
    pair.write("c", b"c");
    std::os::unix::fs::chown(pair.source().join("a"), Some(4001), Some(4001)).unwrap();
    std::os::unix::fs::chown(pair.source().join("a/b"), Some(4001), Some(0)).unwrap();
    std::os::unix::fs::chown(pair.source().join("c"), Some(4002), Some(4001)).unwrap();
    let by_name = |request: &mut holdfast_transfer::Request| {
        request.map_owners = true;
        request.accounts = here.path().to_owned();
    };
    pair.owners.1.lock().unwrap().manifest = Some(pair.manifest("source"));
    let outcome = pair
        .try_pull(|request| {
            by_name(request);
            request.complete = true;
            request.manifest = Some(pair.manifest("destination"));
        })
        .unwrap();
    let owner = |path: &str| {
        let found = fs::metadata(pair.destination().join(path)).unwrap();
        (found.uid(), found.gid())
    };
    assert_eq!([owner("a"), owner("a/b"), owner("c")], [(5001, 5001), (5001, 0), (4002, 5001)]);
    let unmapped = &outcome.passes[0].unmapped_owners;
    assert_eq!(unmapped.names, ["user 4002"]);
    assert!(outcome.source_manifest.unwrap().equal);
    let pair = Pair::new();
    pair.write("a", b"a");
    pair.pull();
    assert!(pair.try_pull(by_name).is_err(), "owners of one transfer are found in one way");
}

/// Run the rest of a test with a mount below the source, in a namespace of its own.
fn with_mount(
    mounts: Mounts,
    check: impl FnOnce(&Pair, Result<holdfast_transfer::Outcome, Error>) + Send,
) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root mounts");
        return;
    }
    let pair = Pair::with(Limits::default(), |offer| offer.mounts = mounts);
    pair.write("a/here", b"here");
    fs::create_dir(pair.directory.path().join("other")).unwrap();
    fs::write(pair.directory.path().join("other/there"), noise(1, 2 * MIB)).unwrap();
    let (from, to) = (pair.directory.path().join("other"), pair.source().join("a/mounted"));
    fs::create_dir(&to).unwrap();
    rustix::mount::mount_bind(&from, &to).unwrap();
    struct Unmount<'a>(&'a Path);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            rustix::mount::unmount(self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
        }
    }
    let mounted = Unmount(&to);
    let outcome = pair.complete();
    check(&pair, outcome);
    drop(mounted);
}

#[test]
fn other_file_systems_are_refused_included_or_left_out_as_the_offer_has_it() {
    with_mount(Mounts::Refuse, |_, outcome| {
        assert!(
            matches!(&outcome, Err(Error::Refused(words)) if words.contains("a/mounted")),
            "{outcome:?}"
        );
    });
    with_mount(Mounts::LeaveOut, |pair, outcome| {
        let outcome = outcome.unwrap();
        assert_eq!(outcome.passes[0].left_out.get("other_filesystem"), Some(&1));
        assert!(!pair.destination().join("a/mounted").exists());
        assert_alike(pair);
    });
    with_mount(Mounts::Include, |pair, outcome| {
        assert!(outcome.unwrap().source_manifest.unwrap().equal);
        pair.assert_equal();
        assert_alike(pair);
        let record = pair.directory.path().join("records/source");
        assert!(Manifest::open(&record, 1 << 30).is_ok());
    });
}
