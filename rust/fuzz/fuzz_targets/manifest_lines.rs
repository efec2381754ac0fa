//! Any text as the lines of a manifest, compressed and with a fitting digest, so that mutations get
//! past the checks of the container and into the lines. What is read is written as it was.
#![no_main]

use std::io::Cursor;

use holdfast_engine::Progress;
use holdfast_engine::manifest::record::{Entry, Manifest};
use holdfast_engine::xxh64::xxh64;
use libfuzzer_sys::fuzz_target;

const HEADER: &[u8] =
    br#"{"format":"holdfast-manifest","version":1,"algorithm":"xxh64","root":"/a"}"#;

fuzz_target!(|data: &[u8]| {
    let entries = read(data);
    let mut lines = Vec::new();
    for entry in &entries {
        assert!(entry.chunks().is_none_or(|chunks| chunks.is_of(entry.identity.size)));
        entry.push(&mut lines).expect("what was read is not too long");
    }
    assert_eq!(read(&lines), entries);
});

/// The entries up to the first line that is refused.
fn read(lines: &[u8]) -> Vec<Entry> {
    let mut text = HEADER.to_vec();
    text.push(b'\n');
    text.extend_from_slice(lines);
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    let digest = xxh64(&text);
    let trailer = format!("{{\"files\":1,\"bytes\":0,\"xxh64\":\"{digest:016x}\"}}\n");
    text.extend_from_slice(trailer.as_bytes());
    let record = zstd::encode_all(Cursor::new(text), 1).expect("memory does not fail");
    let mut manifest = Manifest::read(Cursor::new(record), 1 << 22).expect("the header is good");
    let mut entries = Vec::new();
    while let Ok(Some(entry)) = manifest.next(&Progress::default()) {
        entries.push(entry);
    }
    entries
}
