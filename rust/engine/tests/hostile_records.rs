//! Records that were cut, changed or made up: never taken for good.

use std::io::Cursor;

use holdfast_engine::pagecache::record::{Dump, Inspection, inspect};
use holdfast_engine::xxh64::xxh64;
use holdfast_engine::{Error, Progress, Result};
use proptest::prelude::*;

const HEADER: &str = r#"{"format":"holdfast-pagecache-dump","version":1,"page_size":4096,"roots":["/mnt/data"],"hotness":false}"#;
const LINES: [&str; 3] = [
    r#"{"path":"a/1.db","size":409600,"mtime_ms":1795425448271,"tiers":[{"runs":[0,10,5]}]}"#,
    r#"{"path":"a/2.db","size":40960,"mtime_ms":1795425448272,"tiers":[{"bits":[[1,"VQE"]]}]}"#,
    r#"{"path":"a/3?.db","path_b64":"YS8z/w==","size":1,"mtime_ms":0,"tiers":[{"runs":[0]}]}"#,
];
/// Pages that the lines describe.
const PAGES: u64 = (10 + 85) + 5 + 1;
const LIMIT: u64 = 1 << 20;

fn record(header: &str, lines: &[&str], files: u64, pages: u64) -> Vec<u8> {
    let mut text = format!("{header}\n");
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    let digest = xxh64(text.as_bytes());
    let bytes = pages * 4096;
    text.push_str(&format!(r#"{{"files":{files},"bytes":{bytes},"xxh64":"{digest:016x}"}}"#));
    text.push('\n');
    zstd::encode_all(Cursor::new(text), 3).unwrap()
}

fn good() -> Vec<u8> {
    record(HEADER, &LINES, 3, PAGES)
}

fn read(record: Vec<u8>) -> Result<Inspection> {
    inspect(Dump::read(Cursor::new(record), LIMIT)?, &Progress::default())
}

fn refusal(record: Vec<u8>) -> String {
    match read(record) {
        Err(Error::Record { reason, .. }) => reason,
        other => panic!("not refused as a record: {other:?}"),
    }
}

#[test]
fn a_good_record_is_read() {
    let found = read(good()).unwrap();
    assert_eq!((found.files, found.bytes), (3, PAGES * 4096));
    assert_eq!(found.header.roots, ["/mnt/data"]);
}

#[test]
fn a_record_cut_anywhere_is_refused() {
    let whole = good();
    for length in 0..whole.len() {
        assert!(read(whole[..length].to_vec()).is_err(), "{length} of {} bytes", whole.len());
    }
}

#[test]
fn a_record_with_something_behind_it_is_refused() {
    for more in [b"\0".as_slice(), b"garbage", &good()] {
        assert!(read([good().as_slice(), more].concat()).is_err());
    }
}

#[test]
fn more_pages_than_memory_could_hold_are_refused() {
    let line = |size: u64, tiers: &str| {
        format!(r#"{{"path":"a","size":{size},"mtime_ms":0,"tiers":[{tiers}]}}"#)
    };
    let all = r#"{"runs":[0]}"#;
    let largest = line(4096 << 36, all);
    read(record(HEADER, &[&largest], 1, 1 << 36)).unwrap();
    // In one line, and in two.
    for lines in [vec![line(i64::MAX as u64, all)], vec![largest.clone(), line(4096, all)]] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let reason = refusal(record(HEADER, &lines, lines.len() as u64, 1));
        assert!(reason.contains("more than the 68719476736 pages"), "{reason}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let with = |line: &str| refusal(record(HEADER, &[line], 1, 1));
    let line = |path: &str, tier: &str| {
        format!(r#"{{"path":"{path}","size":4096,"mtime_ms":0,"tiers":[{tier}]}}"#)
    };
    let all = r#"{"runs":[0]}"#;
    for path in ["../a", "/etc/passwd", "a//b", "a/../../b", ".", "", "a/", "a\\u0000b"] {
        assert!(with(&line(path, all)).contains("not plain"), "{path}");
    }
    assert!(with(&line("a", r#"{"runs":[0,2]}"#)).contains("beyond a file's end"));
    assert!(with(&line("a", r#"{"runs":[1,9223372036854775808]}"#)).contains("beyond"));
    assert!(with(&line("a", r#"{"runs":[0,1],"bits":[[0,"AQ"]]}"#)).contains("twice"));
    assert!(with(&line("a", &format!(r#"{all},{all}"#))).contains("twice"));
    assert!(with(&line("a", r#"{"bits":[[0,"?"]]}"#)).contains("malformed bitmap"));
    assert!(with(r#"{"path":"a","size":1}"#).contains("malformed line"));
    assert!(with("[]").contains("malformed line"));
    let newer = HEADER.replace(r#""version":1"#, r#""version":2"#);
    assert!(refusal(record(&newer, &LINES, 3, PAGES)).contains("update holdfast"));
    let manifest = HEADER.replace("pagecache-dump", "manifest");
    assert!(refusal(record(&manifest, &LINES, 3, PAGES)).contains("`holdfast-manifest`"));
    assert!(refusal(record(HEADER, &LINES, 2, PAGES)).contains("trailer does not fit"));
    assert!(refusal(b"not compressed at all".to_vec()).contains("not a record file"));
}

#[test]
fn a_record_that_expands_without_end_is_refused() {
    let line = format!("{}\n", LINES[0]);
    let mut text = format!("{HEADER}\n");
    while (text.len() as u64) < 2 * LIMIT {
        text.push_str(&line);
    }
    let bomb = zstd::encode_all(Cursor::new(text), 19).unwrap();
    assert!(bomb.len() < 4096);
    assert!(refusal(bomb).contains("more than the 1048576 bytes"));
    let zeros = zstd::encode_all(Cursor::new(vec![0; 64 << 20]), 19).unwrap();
    assert!(refusal(zeros).contains("more than the 1048576 bytes"));
}

#[test]
fn members_that_are_not_known_are_kept_out_of_the_way() {
    let line = LINES[0].replace(r#""size""#, r#""colour":"blue","size""#);
    let header = HEADER.replace(r#""hotness""#, r#""mood":{"a":[1]},"hotness""#);
    assert!(read(record(&header, &[&line], 1, 95)).is_ok());
}

proptest! {
    #[test]
    fn a_record_that_was_changed_is_refused(at in any::<prop::sample::Index>(), bit in 0_u32..8) {
        let mut changed = good();
        let at = at.index(changed.len());
        changed[at] ^= 1_u8 << bit;
        // Some bits of a zstd frame do not affect its content.
        if let Ok(found) = read(changed) {
            prop_assert_eq!((found.files, found.bytes), (3, PAGES * 4096));
            prop_assert_eq!(found.header, read(good()).unwrap().header);
        }
    }

    #[test]
    fn arbitrary_lines_never_panic(text in "[\\PC\n]{0,200}") {
        _ = read(record(HEADER, &[&text], 1, 1));
    }
}
