//! Any text as the descriptor of an image: refused, or it is consistent and is written back
//! unchanged.
#![no_main]

use std::path::Path;

use holdfast_engine::image::Descriptor;
use libfuzzer_sys::fuzz_target;

/// Pieces that are checked: an image of zeros may claim any number of them.
const MOST: usize = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let Ok(found) = Descriptor::parse(Path::new("fuzz"), data) else { return };
    let zeros: u64 = found.zero_ranges().map(|(_, length)| length).sum();
    assert_eq!(zeros + found.mapped_bytes(), found.size_bytes);
    let mut end = 0;
    for piece in found.pieces().take(MOST) {
        assert_eq!(piece.offset, end);
        end += piece.length;
    }
    if found.pieces_count() <= MOST as u64 {
        let digests = found.pieces().filter_map(|piece| piece.digest);
        assert!(digests.eq(found.chunks.iter().copied()));
        assert_eq!(end, found.size_bytes);
    }
    let json = found.to_json();
    assert_eq!(Descriptor::parse(Path::new("again"), json.as_bytes()).expect("as before"), found);
});
