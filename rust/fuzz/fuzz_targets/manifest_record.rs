//! Any bytes as a manifest: they are refused, or everything they claim lies within bounds.
#![no_main]

use std::io::Cursor;

use holdfast_engine::Progress;
use holdfast_engine::manifest::record::Manifest;
use libfuzzer_sys::fuzz_target;

/// More is not decompressed.
const LIMIT: u64 = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let progress = Progress::default();
    let Ok(mut manifest) = Manifest::read(Cursor::new(data.to_vec()), LIMIT) else { return };
    let mut last = Vec::new();
    while let Ok(Some(entry)) = manifest.next(&progress) {
        assert!(*last < *entry.path);
        assert!(entry.path.split(|&byte| byte == b'/').all(|name| name != b".." && name != b""));
        last = entry.path.to_vec();
    }
});
