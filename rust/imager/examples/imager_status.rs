//! The imager's status server, as it answers while a disk is written, for tests of those who ask:
//! `imager_status LISTEN DIRECTORY [tls] [tokens] [client-ca]`. DIRECTORY is what an armed machine
//! leaves for the imager. It prints where it listens, and ends with its standard input.

use std::io::{Read as _, stdin};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use holdfast_imager::job::Listen;
use holdfast_imager::status::server::{self, Access};
use holdfast_imager::status::{Phase, Status};

const BYTES: u64 = 8 << 30;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, directory, options @ ..] = arguments.as_slice() else {
        panic!("usage: imager_status LISTEN DIRECTORY [tls] [tokens] [client-ca]");
    };
    let has = |name: &str| options.iter().any(|option| option == name);
    let listen = Listen {
        listen: listen.clone(),
        tls: has("tls"),
        tokens: has("tokens"),
        client_ca: has("client-ca"),
    };
    let status = Arc::new(Status::new());
    status.tell(serde_json::json!({ "operation": null, "mode": "staged" }));
    status.enter(Phase::Writing, BYTES);
    let access = Access::in_directory(&listen, Path::new(directory)).expect("files of the daemon");
    let address = server::start(&listen.listen, access, Arc::clone(&status)).expect("an address");
    println!("{address}");
    thread::spawn(move || {
        loop {
            status.advance(1 << 20);
            thread::sleep(Duration::from_millis(10));
        }
    });
    stdin().read_to_end(&mut Vec::new()).expect("standard input");
}
