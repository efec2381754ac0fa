//! Manifests as records: read back as they were written, refused when they were cut or changed, and
//! compared as a simple model would.

use std::collections::BTreeMap;
use std::io::Cursor;

use holdfast_engine::digest::{Algorithm, Digest};
use holdfast_engine::manifest::compare;
use holdfast_engine::manifest::record::{
    CHUNK, Chunks, Entry, FORMAT, Header, Identity, Manifest, Status, Type, VERSION,
};
use holdfast_engine::record::Writer;
use holdfast_engine::{Progress, Result};
use proptest::prelude::*;

const LIMIT: u64 = 1 << 26;

fn header() -> Header {
    Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        algorithm: Algorithm::Xxh64,
        root: "/mnt/data".to_owned(),
        path: String::new(),
        include: Vec::new(),
        exclude: Vec::new(),
        scan_started_ns: 7,
        written_back: true,
        other: BTreeMap::new(),
    }
}

/// Write entries as a record file, and answer its bytes.
fn written(entries: &[Entry]) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("manifest");
    let mut writer = Writer::create(&path, &header()).unwrap();
    let mut lines = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        entry.push(&mut lines).unwrap();
        if entry.kind == Type::File && entry.hardlink_of().is_none() {
            bytes += entry.identity.size;
        }
    }
    writer.write(&lines).unwrap();
    writer.finish(entries.len() as u64, bytes).unwrap();
    std::fs::read(path).unwrap()
}

fn read(record: Vec<u8>) -> Result<Vec<Entry>> {
    let mut manifest = Manifest::read(Cursor::new(record), LIMIT)?;
    let mut entries = Vec::new();
    while let Some(entry) = manifest.next(&Progress::default())? {
        entries.push(entry);
    }
    Ok(entries)
}

fn file(path: &[u8], size: u64, content: u64) -> Entry {
    let mut entry = Entry {
        path: path.into(),
        identity: Identity { dev: 1, ino: 2, size, mtime_ns: -5, ctime_ns: 9 },
        digest: Some(Digest::Xxh64(content)),
        mode: 0o640,
        nlink: 1,
        ..Entry::default()
    };
    if size > CHUNK {
        let count = size.div_ceil(CHUNK);
        entry.rare_mut().chunks = Some(Chunks {
            size: CHUNK,
            digests: (0..count).map(|nth| Digest::Xxh64(content ^ nth)).collect(),
            states: (1..count).map(|nth| [nth, content, 0, u64::MAX]).collect(),
        });
    }
    entry
}

fn some_entry(path: Vec<u8>) -> impl Strategy<Value = Entry> {
    (0_u8..6, 0_u64..4 * CHUNK, any::<u64>()).prop_map(move |(kind, size, content)| {
        let mut entry = file(&path, size, content);
        match kind {
            0..=2 => {}
            3 => {
                entry = Entry { kind: Type::Symlink, digest: None, rare: None, ..entry };
                entry.rare_mut().target = Some(b"../\xff".to_vec());
            }
            4 => entry = Entry { kind: Type::Directory, digest: None, rare: None, ..entry },
            _ => {
                entry = Entry { status: Status::Error, digest: None, rare: None, ..entry };
                entry.rare_mut().detail = Some("no".to_owned());
            }
        }
        entry
    })
}

/// Names that sort as bytes do, with some that are not UTF-8.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop::collection::vec(prop::sample::select(b"ab\n\\\xff .".to_vec()), 1..5);
    prop::collection::btree_set(name, 0..12)
        .prop_map(|names| {
            let plain = |name: &Vec<u8>| !matches!(name.as_slice(), b"." | b"..");
            names.into_iter().filter(plain).collect::<Vec<_>>()
        })
        .prop_flat_map(|names| names.into_iter().map(some_entry).collect::<Vec<_>>())
}

/// What comparing by hand finds: path to what is the case.
fn by_hand(left: &[Entry], right: &[Entry]) -> [u64; 5] {
    let [mut identical, mut differing, mut only_left, mut only_right, mut unproven] = [0; 5];
    let other: BTreeMap<_, _> = right.iter().map(|entry| (&entry.path, entry)).collect();
    for entry in left {
        match other.get(&entry.path) {
            None => only_left += 1,
            Some(other) if entry.kind != other.kind => differing += 1,
            Some(other) if entry.kind == Type::File => match (entry.digest, other.digest) {
                (Some(digest), Some(wanted)) => {
                    let same = digest == wanted && entry.identity.size == other.identity.size;
                    if same { identical += 1 } else { differing += 1 }
                }
                _ => unproven += 1,
            },
            Some(_) => identical += 1,
        }
    }
    let known: BTreeMap<_, _> = left.iter().map(|entry| (&entry.path, entry)).collect();
    only_right += right.iter().filter(|entry| !known.contains_key(&entry.path)).count() as u64;
    [identical, differing, only_left, only_right, unproven]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_written_is_read(entries in entries()) {
        prop_assert_eq!(read(written(&entries)).unwrap(), entries);
    }

    #[test]
    fn a_manifest_that_was_changed_is_refused(at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let entries = vec![file(b"a", 5, 1), file(b"b", 3 * CHUNK, 2)];
        let mut changed = written(&entries);
        let at = at.index(changed.len());
        changed[at] ^= 1_u8 << bit;
        // Some bits of a zstd frame do not affect its content.
        if let Ok(found) = read(changed) {
            prop_assert_eq!(found, entries);
        }
    }

    #[test]
    fn comparing_finds_what_a_simple_model_finds(left in entries(), right in entries()) {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("left"), written(&left)).unwrap();
        std::fs::write(path("right"), written(&right)).unwrap();
        let request = compare::Request {
            left: path("left"),
            right: path("right"),
            max_bytes: LIMIT,
            report: path("report"),
            header: BTreeMap::new(),
            identical: false,
        };
        let found = compare::compare(&request, &Progress::default()).unwrap();
        let expected = by_hand(&left, &right);
        prop_assert_eq!(
            [
                found.identical,
                found.differing,
                found.only_left + found.moved,
                found.only_right + found.moved,
                found.unproven,
            ],
            expected
        );
        prop_assert_eq!(found.metadata, 0);
        let all = expected[1..].iter().sum::<u64>() - found.moved;
        prop_assert_eq!(found.findings.len() as u64, all);
        prop_assert_eq!(found.ok, all == 0);
        // With next to no memory the same is found, or the comparison refused.
        for budget in [400, 900, 2000] {
            match compare::compare_within(&request, budget, &Progress::default()) {
                Ok(small) => prop_assert_eq!(counts(&small), counts(&found)),
                Err(error) => prop_assert!(error.to_string().contains("bytes of memory"), "{error}"),
            }
        }
    }
}

fn counts(found: &compare::Outcome) -> [u64; 7] {
    let compare::Outcome { identical, differing, only_left, only_right, moved, .. } = *found;
    let findings = found.findings.len() as u64;
    [identical, differing, only_left, only_right, moved, found.unproven, findings]
}

#[test]
fn many_entries_are_compared_in_parts_that_fit_into_memory() {
    let side = |name: &str, first: u64| -> Vec<Entry> {
        (0..500).map(|nth| file(format!("{name}{nth:03}").as_bytes(), 9, first + nth)).collect()
    };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("left"), written(&side("l", 0))).unwrap();
    std::fs::write(path("right"), written(&side("r", 300))).unwrap();
    let request = compare::Request {
        left: path("left"),
        right: path("right"),
        max_bytes: LIMIT,
        report: path("report"),
        header: BTreeMap::new(),
        identical: false,
    };
    let found = compare::compare_within(&request, 20_000, &Progress::default()).unwrap();
    assert_eq!((found.moved, found.only_left, found.only_right), (200, 300, 300));
    let refused = compare::compare_within(&request, 500, &Progress::default()).unwrap_err();
    assert!(refused.to_string().contains("with 500 bytes of memory"), "{refused}");
}

#[test]
fn a_manifest_cut_anywhere_is_refused() {
    let whole = written(&[file(b"a", 5, 1), file(b"b", 3 * CHUNK, 2)]);
    for length in 0..whole.len() {
        assert!(read(whole[..length].to_vec()).is_err(), "{length} of {} bytes", whole.len());
    }
}
