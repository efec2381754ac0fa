//! What a destination, or a stranger with a TLS connection, can send to the source of a transfer.
#![no_main]

use holdfast_engine::manifest::record::chunk_size;
use holdfast_transfer::message::{HEAD, Have, LIMIT, Request, decode, encode, fits, parse_head};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(head) = data.first_chunk::<HEAD>()
        && let Some((_, length)) = parse_head(*head)
    {
        assert!(length <= LIMIT);
    }
    let Some(request) = decode::<Request>(data) else { return };
    if let Request::Want(wants) = &request {
        for want in wants {
            if let Have::Prefix(table) = &want.have
                && fits(table, want.stamp.size, false)
            {
                // What a read would start with is in the file.
                let begin = table.states.len() as u64 * chunk_size(want.stamp.size);
                assert!(begin < want.stamp.size);
            }
        }
    }
    assert_eq!(decode(&encode(&request)), Some(request));
});
