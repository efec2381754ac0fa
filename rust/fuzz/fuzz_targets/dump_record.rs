//! Any bytes as a dump: they are refused, or everything they claim lies within bounds.
#![no_main]

use std::io::Cursor;

use holdfast_engine::Progress;
use holdfast_engine::pagecache::record::Dump;
use libfuzzer_sys::fuzz_target;

/// More is not decompressed.
const LIMIT: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    check(data.to_vec());
});

fn check(data: Vec<u8>) {
    let progress = Progress::default();
    let Ok(mut dump) = Dump::read(Cursor::new(data), LIMIT) else { return };
    let page_size = dump.header.page_size;
    while let Ok(Some(entry)) = dump.next(&progress) {
        assert!(entry.root < dump.header.roots.len());
        assert!(!entry.path.starts_with(b"/"));
        assert!(entry.path.split(|&byte| byte == b'/').all(|name| name != b".."));
        assert!(entry.pages.end() <= entry.size.div_ceil(page_size));
    }
}
