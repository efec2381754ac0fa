//! Any bytes as a disk: reading it ends within its budget, and what is found is within it.
#![no_main]

use std::rc::Rc;

use holdfast_media::survey::survey;
use holdfast_media::{Guard, Source, gpt, lvm, probe, tree};
use libfuzzer_sys::fuzz_target;

const BUDGET: u64 = 16 << 20;

fuzz_target!(|data: &[u8]| {
    let bytes = data.to_vec();
    let size = bytes.len() as u64;
    let source: Source = Rc::new(Guard::new(size, BUDGET, move |at, to: &mut [u8]| {
        to.copy_from_slice(&bytes[at as usize..][..to.len()]);
        Ok(())
    }));
    let _ = probe(&*source);
    for sector in [512, 4096] {
        let _ = gpt::read(&*source, 2, sector);
    }
    for run in tree::runs(&source, "EFI/BOOT/BOOTX64.EFI").unwrap_or_default() {
        assert!(run.length > 0);
    }
    let _ = lvm::volumes(&[(1, Rc::clone(&source))]);
    if let Ok(done) = lvm::extend(&*source, size, "rl/root") {
        assert!(done.writes.iter().all(|(at, bytes)| at + bytes.len() as u64 <= size));
    }
    let found = survey(&source, None);
    if let (Some(table), []) = (&found.table, &*found.problems) {
        assert!(table.partitions.iter().all(|partition| partition.end_bytes() <= size));
    }
});
