//! What a hostile source can send to the destination of a transfer.
#![no_main]

use holdfast_transfer::message::{
    BLOCK_HEAD, BlockHead, Reply, Table, decode, encode, fits, unpack,
};
use libfuzzer_sys::fuzz_target;
use xxhash_rust::xxh3::xxh3_64;

fuzz_target!(|data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    match which % 3 {
        0 => {
            let Some(reply) = decode::<Reply>(data) else { return };
            if let Reply::Compared { table: Table { digests, states }, .. } = &reply {
                let table = Table { digests: digests.clone(), states: states.clone() };
                let size = u64::from_le_bytes(data.first_chunk().copied().unwrap_or([0; 8]));
                let _ = fits(&table, size & (u64::MAX >> 1), true);
            }
            assert_eq!(decode(&encode(&reply)), Some(reply));
        }
        1 => {
            // With the check that fits, so that what is behind it is reached.
            let mut body = xxh3_64(data).to_le_bytes().to_vec();
            body.extend_from_slice(data);
            if let Some(Some((files, bytes))) = unpack(&body) {
                let total: usize = files.iter().map(|file| file.length as usize).sum();
                assert_eq!(total, bytes.len());
            }
        }
        _ => {
            if let Some(head) = data.first_chunk::<BLOCK_HEAD>() {
                let parsed = BlockHead::parse(head);
                assert_eq!(BlockHead::parse(&parsed.bytes()), parsed);
            }
        }
    }
});
