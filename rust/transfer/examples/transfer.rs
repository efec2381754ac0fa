//! Both ends of a transfer as a program, for benchmarks.
//!
//! `transfer offer ADDRESS:PORT ROOT PATH STATE > TICKET` serves until it is killed;
//! `transfer pull TICKET ROOT PATH STATE [PROOF [CONNECTIONS [MANIFEST]]]` fetches and prints what it
//! did. With a file for its manifest it completes the transfer, and the source makes its own too.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use holdfast_engine::Progress;
use holdfast_transfer::{
    Bound, Certificate, Events, Limits, ManifestRequest, Offer, Request, Secret, Server, Ticket,
    pull,
};

/// A source that serves anyone, and where its manifest goes.
struct Anyone(PathBuf);

impl Events for Anyone {
    fn bind(&self, _: &str, _: &str) -> Bound {
        Bound::Stored
    }

    fn manifest(&self, _: &str) -> Result<Option<ManifestRequest>, String> {
        manifest(&self.0).map(Some).map_err(|error| error.to_string())
    }
}

fn manifest(destination: &Path) -> serde_json::Result<ManifestRequest> {
    serde_json::from_value(serde_json::json!({
        "destination": destination,
        "journal": destination.with_extension("journal"),
        "max_bytes": u64::MAX,
    }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["offer", listen, root, path, state] => offer(listen, root, path, Path::new(state)),
        ["pull", ticket, root, path, state, more @ ..] => {
            let mut request: Request = serde_json::from_value(serde_json::json!({
                "ticket": serde_json::from_slice::<Ticket>(&std::fs::read(ticket)?)?,
                "place": {"root": root, "path": path},
                "state": state,
                "proof": more.first().copied().unwrap_or("flushed"),
                "connections": more.get(1).copied().unwrap_or("8").parse::<u8>()?,
            }))?;
            request.manifest = more.get(2).map(|path| manifest(Path::new(path))).transpose()?;
            request.complete = request.manifest.is_some();
            let outcome = pull(&request, &Progress::default())?;
            println!("{}", serde_json::to_string(&outcome)?);
            let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
            eprintln!("{}.{:03} processor seconds", used.tv_sec, used.tv_nsec / 1_000_000);
            Ok(())
        }
        _ => {
            Err("transfer offer ADDRESS:PORT ROOT PATH STATE | pull TICKET ROOT PATH STATE".into())
        }
    }
}

fn offer(
    listen: &str,
    root: &str,
    path: &str,
    state: &Path,
) -> Result<(), Box<dyn std::error::Error>> {
    let certificate = Certificate::generate()?;
    let secret = Secret::generate()?;
    let listener = TcpListener::bind(listen)?;
    let server = Server::start(
        listener,
        &certificate,
        Limits::default(),
        Arc::new(Anyone(state.join("manifest"))),
    )?;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let id = "0".repeat(32);
    let offer: Offer = serde_json::from_value(serde_json::json!({
        "id": id,
        "verifier": hex(&secret.public()?),
        "place": {"root": root, "path": path},
        "expires_at": u64::MAX,
        "digests": state.join("digests"),
    }))?;
    server.offer(offer)?;
    let ticket = Ticket {
        version: 1,
        offer: id,
        addresses: vec![server.address().ip().to_string()],
        port: server.address().port(),
        fingerprint: certificate.fingerprint(),
        key: secret.text(),
        path: path.to_owned(),
        expires_at: u64::MAX,
    };
    println!("{}", serde_json::to_string(&ticket)?);
    std::io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}
