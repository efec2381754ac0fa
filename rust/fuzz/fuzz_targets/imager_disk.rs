//! What is on disks that the imager inspects: superblocks, an outcome record, and a partition
//! table.
#![no_main]

use holdfast_imager::disk::table::Sizes;
use holdfast_imager::disk::{superblock, table};
use holdfast_imager::outcome::Outcome;
use holdfast_imager::pipeline::ends::Ends;
use libfuzzer_sys::fuzz_target;

/// Enough for a table of the usual size, and little enough to be quick.
const IMAGE: u64 = 64 << 10;

fuzz_target!(|data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    match which % 3 {
        0 => {
            let (head, tail) = data.split_at(data.len() / 2);
            let found = superblock::recognise(head, tail, data.len() as u64);
            assert!(found.all.iter().all(|signature| signature.offset < data.len() as u64));
        }
        1 => {
            if let Ok(found) = Outcome::parse(data) {
                let again = Outcome::parse(&found.to_bytes()).expect("what was written is read");
                assert_eq!((again.nonce, again.started), (found.nonce, found.started));
            }
        }
        _ => {
            let disk = IMAGE + (4 << 20);
            let mut ends = Ends::new(IMAGE, disk);
            let length = data.len().min(ends.head.len());
            ends.head[..length].copy_from_slice(&data[..length]);
            let sizes = Sizes { image_bytes: IMAGE, disk_bytes: disk, limit_bytes: None };
            let fitted = table::fit(&mut ends, sizes, 512, Some(1));
            assert!(fitted.extended_to.is_none_or(|bytes| bytes <= disk));
            assert_eq!(ends.tail_at + ends.tail.len() as u64, disk);
        }
    }
});
