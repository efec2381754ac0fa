//! Any text as happycache's, compressed or not: it is refused, or makes sets of pages that ascend.
#![no_main]

use std::io::{Cursor, Write};
use std::path::Path;

use holdfast_engine::Progress;
use holdfast_engine::pagecache::happycache::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&form, data)) = data.split_first() else { return };
    let input = if form & 1 == 0 { data.to_vec() } else { gzip(data) };
    let check = |path: &[u8], pages: &holdfast_engine::pagecache::pages::PageSet, _| {
        assert!(!path.is_empty() && !path.starts_with(b"/"));
        assert!(!pages.is_empty());
        assert!(pages.runs().windows(2).all(|pair| pair[0].end() < pair[1].start));
        Ok(())
    };
    let name = Path::new("fuzz");
    _ = parse(Cursor::new(input), name, 1 << 20, &Progress::default(), check);
});

/// Compressed, so that mutations get into the lines.
fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).expect("memory does not fail");
    encoder.finish().expect("memory does not fail")
}
