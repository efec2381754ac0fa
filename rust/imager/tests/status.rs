//! The status while the disk is written: over real TLS, to whom it is for, whatever strangers do.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{certificate, directory, shell};
use holdfast_engine::image::Sha256;
use holdfast_imager::job;
use holdfast_imager::status::server::{self, Access};
use holdfast_imager::status::{Phase, Status};

fn curl(arguments: &str) -> (String, String) {
    let output = shell(&format!("curl --silent --write-out '\\n%{{http_code}}' {arguments}"));
    let (body, code) = output.rsplit_once('\n').unwrap();
    (code.to_owned(), body.to_owned())
}

#[test]
fn the_status_is_told_over_tls_to_who_has_a_token() {
    let directory = directory();
    let armed = directory.path();
    certificate(armed);
    let digest = |secret: &str| Sha256::of(secret.as_bytes());
    let tokens = format!(
        r#"{{"version": 1, "tokens": [
            {{"name": "a", "scope": "read", "sha256": "{}", "created_at": "2026-01-01T00:00:00Z", "expires_at": null}},
            {{"name": "b", "scope": "admin", "sha256": "{}", "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z"}}]}}"#,
        digest("hf_good"),
        digest("hf_old")
    );
    fs::write(armed.join("tokens.json"), tokens).unwrap();
    let listen =
        job::Listen { listen: "127.0.0.1:0".to_owned(), tls: true, tokens: true, client_ca: false };
    let status = Arc::new(Status::new());
    status.tell(serde_json::json!({ "operation": "op-1", "image": { "name": "web" } }));
    status.enter(Phase::Writing, 1000);
    status.advance(250);
    let access = Access::in_directory(&listen, armed).unwrap();
    let address = server::start(&listen.listen, access, Arc::clone(&status)).unwrap();
    let ask = |path: &str, token: Option<&str>| {
        let token = token.map_or_else(String::new, |t| format!("-H 'Authorization: Bearer {t}'"));
        let ca = armed.join("tls/certificate.pem");
        curl(&format!("--cacert {} {token} https://{address}{path}", ca.display()))
    };
    assert_eq!(ask("/healthz", None).0, "200");
    for token in [None, Some("hf_bad"), Some("hf_old"), Some("")] {
        assert_eq!(ask("/v1/reimage", token).0, "401", "{token:?}");
        assert_eq!(ask("/metrics", token).0, "401", "{token:?}");
    }
    let (code, body) = ask("/v1/reimage?x=1", Some("hf_good"));
    assert_eq!(code, "200");
    let status: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(status["state"], "imaging");
    assert_eq!(status["operation"], "op-1");
    assert_eq!(status["progress"]["phase"], "writing");
    assert_eq!(status["progress"]["bytes_done"], 250);
    assert_eq!(status["progress"]["bytes_expected"], 1000);
    let (code, body) = ask("/metrics", Some("hf_good"));
    assert_eq!(code, "200");
    for line in [
        "holdfast_reimage_state{state=\"imaging\"} 1",
        "holdfast_reimage_state{state=\"armed\"} 0",
        "holdfast_reimage_phase{phase=\"writing\"} 1",
        "holdfast_operation_running{kind=\"reimage\"} 1",
        "holdfast_operation_progress_bytes{kind=\"reimage\"} 250",
        "holdfast_operation_expected_bytes{kind=\"reimage\"} 1000",
    ] {
        assert!(body.lines().any(|found| found == line), "{line} is missing in {body}");
    }
    assert_eq!(ask("/v1/node", Some("hf_good")).0, "404");
    let ca = armed.join("tls/certificate.pem");
    let post = format!("-X POST --cacert {} https://{address}/v1/reimage", ca.display());
    assert_eq!(curl(&post).0, "405");
    // In the clear there is nothing.
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"));
}

#[test]
fn a_request_that_never_ends_is_refused() {
    let status = Arc::new(Status::new());
    let address = server::start("127.0.0.1:0", Access::default(), status).unwrap();
    for (request, code) in [
        (format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(9000)), "431"),
        ("\u{1}\u{2} nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let mut stream = TcpStream::connect(address).unwrap();
        // It may hang up before it has read all.
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.starts_with(format!("HTTP/1.1 {code}").as_bytes()), "{answer:?}");
    }
}

#[test]
fn strangers_that_drip_blind_nobody() {
    let status = Arc::new(Status::new());
    let address = server::start("127.0.0.1:0", Access::default(), status).unwrap();
    let mut strangers: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
    for stranger in &mut strangers {
        // Some were closed for those who came later.
        let _ = stranger.write_all(b"G");
    }
    let start = Instant::now();
    for _ in 0..5 {
        let mut honest = TcpStream::connect(address).unwrap();
        honest.write_all(b"GET /v1/reimage HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        honest.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn a_connection_ends_at_its_deadline_however_often_it_sends() {
    let status = Arc::new(Status::new());
    let address = server::start("127.0.0.1:0", Access::default(), status).unwrap();
    let mut stranger = TcpStream::connect(address).unwrap();
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < Duration::from_secs(30) && stranger.write_all(b"G").is_ok() {
        sent += 1;
        thread::sleep(Duration::from_millis(500));
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{sent} bytes in {:?}", start.elapsed());
    assert!(sent >= 10, "not before its time: {sent}");
}

#[test]
fn beyond_this_machine_it_is_served_with_tls_and_tokens_or_not_at_all() {
    let status = Arc::new(Status::new());
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:9918"] {
        let fault = server::start(address, Access::default(), Arc::clone(&status)).unwrap_err();
        assert!(fault.0.contains("needs TLS and tokens"), "{fault}");
    }
    let directory = directory();
    certificate(directory.path());
    let listen = job::Listen { listen: String::new(), tls: true, tokens: false, client_ca: false };
    let access = Access::in_directory(&listen, directory.path()).unwrap();
    server::start("0.0.0.0:0", access, status).unwrap_err();
}

#[test]
fn client_certificates_are_asked_for_where_the_daemon_asks() {
    let directory = directory();
    let armed = directory.path();
    certificate(armed);
    let listen =
        job::Listen { listen: "127.0.0.1:0".to_owned(), tls: true, tokens: false, client_ca: true };
    // Without the authorities it is not served at all.
    Access::in_directory(&listen, armed).unwrap_err();
    fs::write(armed.join("tls/client-ca.pem"), "nothing").unwrap();
    Access::in_directory(&listen, armed).unwrap_err();
    let client = armed.join("client");
    certificate(&client);
    fs::copy(client.join("tls/certificate.pem"), armed.join("tls/client-ca.pem")).unwrap();
    let access = Access::in_directory(&listen, armed).unwrap();
    let address = server::start(&listen.listen, access, Arc::new(Status::new())).unwrap();
    let ca = armed.join("tls/certificate.pem").display().to_string();
    let ask = |with: &str| {
        // It is no answer where the handshake fails.
        curl(&format!("--cacert {ca} {with} https://{address}/healthz || true"))
    };
    let own = |armed: &Path| {
        let tls = armed.join("tls");
        format!("--cert {0}/certificate.pem --key {0}/key.pem", tls.display())
    };
    assert_ne!(ask("").0, "200");
    assert_ne!(ask(&own(armed)).0, "200", "a certificate of another authority");
    assert_eq!(ask(&own(&client)).0, "200");
}
