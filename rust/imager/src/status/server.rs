//! A small HTTP server for the status: three paths, nothing that changes anything, and bounds on all
//! that a stranger could make grow.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use super::connections::{Connections, Limited, Slot};
use super::tokens::Tokens;
use super::{Status, metrics};
use crate::{Context as _, Fault, Result, job, say, threads};

/// Connections at the same time; a further one takes the place of one that has not asked yet.
const CONNECTIONS: usize = 16;
/// The longest request.
const REQUEST_BYTES: usize = 8 << 10;
/// How long a client may take for everything, from the connection to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who may see it, and how.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// With TLS, if so.
    pub tls: Option<Arc<ServerConfig>>,
    /// With a token, if so.
    pub tokens: Option<Tokens>,
}

impl Access {
    /// What the armed machine left: the daemon's own certificate, key and tokens.
    ///
    /// # Errors
    /// What of it cannot be used; then nobody is let in.
    pub fn in_directory(listen: &job::Listen, directory: &Path) -> Result<Self> {
        let read = |name: &str| std::fs::read(directory.join(name)).context(name);
        if listen.client_ca && !listen.tls {
            return Err(Fault::new("client certificates cannot be asked for without TLS"));
        }
        let authorities = || -> Result<Arc<dyn ClientCertVerifier>> {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(&read("tls/client-ca.pem")?) {
                let certificate = certificate.context("tls/client-ca.pem")?;
                roots.add(certificate).context("tls/client-ca.pem")?;
            }
            let provider = crate::network::crypto();
            let roots = Arc::new(roots);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            verifier.context("tls/client-ca.pem")
        };
        let tokens = listen.tokens.then(|| Tokens::parse(&read("tokens.json")?)).transpose()?;
        let config = || -> Result<Arc<ServerConfig>> {
            let chain = CertificateDer::pem_slice_iter(&read("tls/certificate.pem")?)
                .collect::<std::result::Result<Vec<_>, _>>()
                .context("tls/certificate.pem")?;
            let key =
                PrivateKeyDer::from_pem_slice(&read("tls/key.pem")?).context("tls/key.pem")?;
            let what = "the certificate and its key";
            let builder = ServerConfig::builder_with_provider(crate::network::crypto())
                .with_safe_default_protocol_versions()
                .context(what)?;
            let builder = if listen.client_ca {
                builder.with_client_cert_verifier(authorities()?)
            } else {
                builder.with_no_client_auth()
            };
            Ok(Arc::new(builder.with_single_cert(chain, key).context(what)?))
        };
        let tls = listen.tls.then(config).transpose()?;
        Ok(Self { tls, tokens })
    }
}

/// Start to serve, in threads that never end; return the address. Beyond this machine only with TLS
/// and tokens.
///
/// # Errors
/// If nobody can listen there, or everybody could ask.
pub fn start(listen: &str, access: Access, status: Arc<Status>) -> Result<std::net::SocketAddr> {
    let address = crate::network::address::socket(listen)
        .ok_or_else(|| Fault(format!("{listen} is no address and port to listen on")))?;
    if !address.ip().is_loopback() && (access.tls.is_none() || access.tokens.is_none()) {
        return Err(Fault(format!(
            "{listen} reaches beyond this machine, which needs TLS and tokens"
        )));
    }
    let listener = TcpListener::bind(address).context(format_args!("listening on {listen}"))?;
    let address = listener.local_addr().context(listen)?;
    let access = Arc::new(access);
    threads::in_background("the status", move || serve(&listener, &access, &status));
    Ok(address)
}

fn serve(listener: &TcpListener, access: &Arc<Access>, status: &Arc<Status>) {
    let connections = Connections::new(CONNECTIONS);
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                // Where all places are taken by those who may ask, it is closed.
                let Some(slot) = connections.take(&stream, peer.ip()) else { continue };
                let (access, status) = (Arc::clone(access), Arc::clone(status));
                threads::in_background("an answer to a client", move || {
                    // A client that goes away in the middle is its own affair.
                    let _ = converse(stream, &slot, &access, &status);
                });
            }
            Err(error) => {
                say!("nobody can connect to the status: {error}");
                thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

fn converse(stream: TcpStream, slot: &Slot, access: &Access, status: &Status) -> io::Result<()> {
    let mut stream = Limited::new(stream, Instant::now() + PATIENCE);
    match &access.tls {
        None => {
            answer(&mut stream, slot, access, status)?;
            stream.shutdown()
        }
        Some(config) => {
            let connection = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
            let mut stream = StreamOwned::new(connection, stream);
            answer(&mut stream, slot, access, status)?;
            stream.conn.send_close_notify();
            stream.flush()
        }
    }
}

/// The response.
struct Response {
    status: &'static str,
    kind: &'static str,
    body: String,
    more: &'static str,
}

fn answer(
    stream: &mut (impl Read + Write),
    slot: &Slot,
    access: &Access,
    status: &Status,
) -> io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    let response = loop {
        let read = stream.read(&mut part)?;
        request.extend_from_slice(&part[..read]);
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        match head.parse(&request) {
            Ok(httparse::Status::Complete(_)) => break respond(&head, slot, access, status),
            Ok(httparse::Status::Partial) if read > 0 && request.len() < REQUEST_BYTES => {}
            Ok(httparse::Status::Partial) if read == 0 => return Ok(()),
            Ok(httparse::Status::Partial) => {
                break problem("431 Request Header Fields Too Large", "The request is too long.");
            }
            Err(_) => break problem("400 Bad Request", "This is no HTTP request."),
        }
    };
    let Response { status, kind, body, more } = response;
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n{more}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

fn respond(
    request: &httparse::Request<'_, '_>,
    slot: &Slot,
    access: &Access,
    status: &Status,
) -> Response {
    let path = request.path.unwrap_or("").split('?').next().unwrap_or("");
    let json = |value: serde_json::Value| {
        format!("{}\n", serde_json::to_string_pretty(&value).unwrap_or_default())
    };
    if !matches!(request.method, Some("GET")) {
        let detail = "The imager only reports its progress; use GET.";
        return Response { more: "Allow: GET\r\n", ..problem("405 Method Not Allowed", detail) };
    }
    if path == "/healthz" {
        let body = json(json!({ "status": "ok", "state": "imaging" }));
        return Response { status: "200 OK", kind: "application/json", body, more: "" };
    }
    let admitted = access.tokens.as_ref().is_none_or(|tokens| {
        let mut given =
            request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("authorization"));
        given
            .next()
            .and_then(|h| std::str::from_utf8(h.value).ok())
            .is_some_and(|v| tokens.admit(v))
    });
    if !admitted {
        let detail = "Send a token of this machine's daemon as `Authorization: Bearer TOKEN`.";
        let more = "WWW-Authenticate: Bearer realm=\"holdfast\"\r\n";
        return Response { more, ..problem("401 Unauthorized", detail) };
    }
    slot.admit();
    match path {
        "/metrics" => Response {
            status: "200 OK",
            kind: "text/plain; version=0.0.4; charset=utf-8",
            body: metrics::render(status),
            more: "",
        },
        "/v1/reimage" => Response {
            status: "200 OK",
            kind: "application/json",
            body: json(status.to_json()),
            more: "",
        },
        _ => problem(
            "404 Not Found",
            "This machine is being re-imaged; until then there are only /healthz, /metrics and \
             /v1/reimage.",
        ),
    }
}

/// A problem as RFC 9457 has it.
fn problem(status: &'static str, detail: &str) -> Response {
    let (code, title) = status.split_once(' ').unwrap_or((status, ""));
    let body = json!({
        "type": "about:blank",
        "title": title,
        "status": code.parse::<u16>().unwrap_or(500),
        "detail": detail,
    });
    let body = format!("{}\n", serde_json::to_string_pretty(&body).unwrap_or_default());
    Response { status, kind: "application/problem+json", body, more: "" }
}
