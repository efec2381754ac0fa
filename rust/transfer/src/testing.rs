//! What tests of both ends need: a source that offers a directory.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use crate::{Certificate, Events, Limits, Secret, Server, Ticket};

/// Offer the directory `source` of another one.
pub fn offer(directory: &Path, events: Arc<dyn Events>) -> (Server, Ticket) {
    let (certificate, secret) = (Certificate::generate().unwrap(), Secret::generate().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start(listener, &certificate, Limits::default(), events).unwrap();
    let what = serde_json::json!({
        "id": "0".repeat(32),
        "verifier": crate::ticket::hex(&secret.public().unwrap()),
        "place": {"root": directory, "path": "source"},
        "expires_at": u64::MAX,
    });
    server.offer(serde_json::from_value(what).unwrap()).unwrap();
    let ticket = Ticket {
        version: 1,
        offer: "0".repeat(32),
        addresses: vec!["127.0.0.1".to_owned()],
        port: server.address().port(),
        fingerprint: certificate.fingerprint(),
        key: secret.text(),
        path: String::new(),
        expires_at: u64::MAX,
    };
    (server, ticket)
}
