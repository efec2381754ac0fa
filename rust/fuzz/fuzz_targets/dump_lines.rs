//! Any text as the lines of a dump, compressed and with a fitting trailer, so that mutations get
//! past the checks of the container and into the lines.
#![no_main]

use std::io::Cursor;

use holdfast_engine::Progress;
use holdfast_engine::pagecache::record::{Dump, inspect};
use holdfast_engine::xxh64::xxh64;
use libfuzzer_sys::fuzz_target;

const HEADER: &[u8] = br#"{"format":"holdfast-pagecache-dump","version":1,"page_size":4096,"roots":["/a","/b"],"hotness":false}"#;

fuzz_target!(|data: &[u8]| {
    let mut text = HEADER.to_vec();
    text.push(b'\n');
    text.extend_from_slice(data);
    if !text.ends_with(b"\n") {
        text.push(b'\n');
    }
    let digest = xxh64(&text);
    let trailer = format!("{{\"files\":1,\"bytes\":4096,\"xxh64\":\"{digest:016x}\"}}\n");
    text.extend_from_slice(trailer.as_bytes());
    let record = zstd::encode_all(Cursor::new(text), 1).expect("memory does not fail");
    let progress = Progress::default();
    let dump = Dump::read(Cursor::new(record.clone()), 1 << 20).expect("the header is good");
    if let Ok(found) = inspect(dump, &progress) {
        assert_eq!((found.files, found.bytes), (1, 4096));
    }
    let mut dump = Dump::read(Cursor::new(record), 1 << 20).expect("the header is good");
    while let Ok(Some(entry)) = dump.next(&progress) {
        assert!(entry.root < 2);
        assert!(!entry.path.starts_with(b"/"));
        assert!(entry.path.split(|&byte| byte == b'/').all(|name| name != b".."));
        let pages = entry.size.div_ceil(4096);
        assert!(entry.pages.end() <= pages);
        assert_eq!(entry.pages.encode(pages).decode(pages).as_ref(), Ok(&entry.pages));
    }
});
