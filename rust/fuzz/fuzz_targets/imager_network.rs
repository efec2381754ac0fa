//! What anybody in the network can send to the imager: answers of DHCP and DNS, and of a web server.
#![no_main]

use std::io::{Cursor, Read as _};

use holdfast_imager::network::dns::{self, Kind};
use holdfast_imager::network::packet::Reply;
use holdfast_imager::source::http::{self, Answer};
use holdfast_imager::source::url::Url;
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 1 << 16;

fuzz_target!(|data: &[u8]| {
    let Some((&which, data)) = data.split_first() else { return };
    match which % 3 {
        0 => {
            let hardware = data.get(28..34).and_then(|bytes| bytes.first_chunk()).copied();
            if let Some(reply) = Reply::parse(data, hardware.unwrap_or_default()) {
                assert!(reply.prefix <= 32 && reply.renew_seconds <= reply.lease_seconds);
                assert!(reply.routes.iter().all(|(_, prefix, _)| *prefix <= 32));
            }
        }
        1 => {
            for kind in [Kind::A, Kind::Aaaa] {
                let _ = dns::addresses(data, kind);
                if let Some(query) = dns::query(1, "images.example", kind) {
                    let _ = dns::is_answer(data, &query);
                }
            }
        }
        _ => {
            let offset = u64::from(data.first().copied().unwrap_or(0));
            let url = Url::parse("http://images.example/image").expect("it is one");
            let wire = Box::new(Cursor::new(data.to_vec()));
            if let Ok(Answer::Body(mut body)) = http::read_answer(&url, wire, offset, SIZE) {
                let mut bytes = Vec::new();
                let _ = body.read_to_end(&mut bytes);
                assert!(bytes.len() <= data.len());
            }
        }
    }
});
