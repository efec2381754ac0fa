//! One request for a file from an offset on, over HTTP/1.1 with or without TLS.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::url::Url;
use crate::network::{Network, crypto};
use crate::{Context as _, Fault, Result};

const CONNECT_PATIENCE: Duration = Duration::from_secs(15);
/// How long nothing may come.
const READ_PATIENCE: Duration = Duration::from_secs(30);
const REDIRECTIONS: usize = 5;
/// The longest head of a response, and the longest line with a part's size.
const HEAD_BYTES: usize = 64 << 10;
const LINE_BYTES: u64 = 4 << 10;
const INPUT_BUFFER: usize = 128 << 10;

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In a sentence.
    pub fault: Fault,
    /// Whether asking again will not help, unless the operator acts.
    pub lasting: bool,
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { fault, lasting: false }
    }
}

fn lasting(reason: String) -> Failure {
    Failure { fault: Fault(reason), lasting: true }
}

/// TLS that trusts these certificate authorities.
///
/// # Errors
/// If there is none among them.
pub fn trust(pem: &[u8]) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    // Bundles have some that nobody understands; those that are left must do.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).flatten());
    if roots.is_empty() {
        return Err(Fault::new("there is no certificate authority that could be trusted"));
    }
    let config = ClientConfig::builder_with_provider(crypto())
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// What a file is fetched with.
#[derive(Debug, Clone)]
pub struct Client {
    /// Who knows names.
    pub network: Network,
    /// Whom to trust; `None` where nothing was left to trust.
    pub tls: Option<Arc<ClientConfig>>,
}

/// A connection, with or without TLS.
pub trait Wire: Read + Write + Send {}
impl<T: Read + Write + Send> Wire for T {}

/// The bytes of a file from the offset that was asked for. An error is not the end: it may be asked for
/// the rest.
pub struct Body {
    stream: BufReader<Box<dyn Wire>>,
    left: Left,
    skip: u64,
}

/// What is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    /// This many bytes.
    Bytes(u64),
    /// This many of this part, and then others.
    Part(u64),
    /// Nothing.
    End,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body").field("left", &self.left).finish_non_exhaustive()
    }
}

impl Client {
    /// Ask for the bytes of a file of `size` from `offset` on.
    ///
    /// # Errors
    /// Why there are none, and whether asking again may help.
    pub fn get(&self, url: &Url, offset: u64, size: u64) -> std::result::Result<Body, Failure> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTIONS {
            match self.request(&url, offset, size)? {
                Answer::Body(body) => return Ok(body),
                Answer::Elsewhere(location) => {
                    let next = url.join(&location).map_err(|f| lasting(f.0))?;
                    // Names and passwords are for the server that they were given for.
                    let same = next.host == url.host && next.port == url.port;
                    let kept = url.credentials.take().filter(|_| same);
                    url = Url { credentials: next.credentials.clone().or(kept), ..next };
                }
            }
        }
        Err(lasting(format!("{} redirects too often", url.host)))
    }

    fn request(&self, url: &Url, offset: u64, size: u64) -> std::result::Result<Answer, Failure> {
        let host = &url.host;
        let mut wire = self.connect(url)?;
        let range = if offset > 0 { format!("Range: bytes={offset}-\r\n") } else { String::new() };
        let credentials = url.credentials.as_ref().map_or_else(String::new, |credentials| {
            format!("Authorization: Basic {}\r\n", STANDARD.encode(credentials))
        });
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: holdfast-imager/{}\r\nAccept: */*\r\n\
             Accept-Encoding: identity\r\nConnection: close\r\n{credentials}{range}\r\n",
            url.target,
            url.authority(),
            env!("CARGO_PKG_VERSION")
        );
        wire.write_all(request.as_bytes()).and_then(|()| wire.flush()).context(host)?;
        read_answer(url, wire, offset, size)
    }

    fn connect(&self, url: &Url) -> std::result::Result<Box<dyn Wire>, Failure> {
        let addresses = self.network.resolve(&url.host)?;
        let mut why = Fault::new("");
        for address in addresses {
            let place = SocketAddr::new(address, url.port);
            match TcpStream::connect_timeout(&place, CONNECT_PATIENCE) {
                Ok(stream) => return self.secure(url, stream),
                Err(error) => why = Fault(format!("{} ({place}): {error}", url.host)),
            }
        }
        Err(why.into())
    }

    fn secure(&self, url: &Url, stream: TcpStream) -> std::result::Result<Box<dyn Wire>, Failure> {
        let host = &url.host;
        stream.set_read_timeout(Some(READ_PATIENCE)).context(host)?;
        stream.set_write_timeout(Some(READ_PATIENCE)).context(host)?;
        if !url.secure {
            return Ok(Box::new(stream));
        }
        let config = self.tls.clone().ok_or_else(|| {
            lasting(format!("{host} cannot be trusted: no certificate authority was left for it"))
        })?;
        let name = ServerName::try_from(host.clone())
            .map_err(|_| lasting(format!("{host} is no name that a certificate could have")))?;
        let connection = ClientConnection::new(config, name).context(host)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            let done = stream.conn.complete_io(&mut stream.sock);
            done.map_err(|error| Failure {
                lasting: is_about_the_certificate(&error),
                fault: Fault(format!("TLS with {host}: {error}")),
            })?;
        }
        Ok(Box::new(stream))
    }
}

/// Whether it is the server's certificate that is wrong, which asking again does not change.
fn is_about_the_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_)))
}

/// What a server answers.
#[derive(Debug)]
pub enum Answer {
    /// The file's bytes.
    Body(Body),
    /// That it is elsewhere.
    Elsewhere(String),
}

/// Read the head of an answer to a request for the bytes from `offset` on of a file of `size`.
///
/// # Errors
/// Why there are no such bytes to come, and whether asking again may help.
pub fn read_answer(
    url: &Url,
    wire: Box<dyn Wire>,
    offset: u64,
    size: u64,
) -> std::result::Result<Answer, Failure> {
    let host = &url.host;
    let mut stream = BufReader::with_capacity(INPUT_BUFFER, wire);
    let head = read_head(&mut stream).context(host)?;
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut response = httparse::Response::new(&mut headers);
    response.parse(&head).map_err(|e| Fault(format!("{host} does not answer in HTTP: {e}")))?;
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).map(str::trim)
    };
    let begins = match response.code.unwrap_or(0) {
        200 => 0,
        206 => header("content-range")
            .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok())
            .filter(|begins| *begins <= offset)
            .ok_or_else(|| lasting(format!("{host} answers with another part of the file")))?,
        301 | 302 | 303 | 307 | 308 => {
            return header("location")
                .map(|location| Answer::Elsewhere(location.to_owned()))
                .ok_or_else(|| lasting(format!("{host} redirects to nowhere")));
        }
        code => {
            let fault = Fault(format!(
                "{host} answers {code} {} for {}",
                response.reason.unwrap_or(""),
                url.target.split('?').next().unwrap_or("")
            ));
            // Timeout, too early, too many: those pass. So do faults of the server.
            let lasting = (400..500).contains(&code) && ![408, 425, 429].contains(&code);
            return Err(Failure { fault, lasting });
        }
    };
    let coding = header("content-encoding").unwrap_or("identity");
    if !coding.eq_ignore_ascii_case("identity") {
        return Err(lasting(format!("{host} packs the file once more ({coding})")));
    }
    let chunked =
        header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    let left = match header("content-length").map(str::parse::<u64>) {
        _ if chunked => Left::Part(0),
        Some(Ok(length)) if begins.checked_add(length) == Some(size) => Left::Bytes(length),
        Some(Ok(length)) => {
            return Err(lasting(format!(
                "{host} has a file of {} bytes, and the descriptor says {size}",
                begins.saturating_add(length)
            )));
        }
        _ => return Err(lasting(format!("{host} does not report the file's size"))),
    };
    Ok(Answer::Body(Body { stream, left, skip: offset - begins }))
}

/// The head of an answer, its empty line included.
fn read_head(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        stream.by_ref().take((HEAD_BYTES - before) as u64).read_until(b'\n', &mut head)?;
        match &head[before..] {
            b"\r\n" | b"\n" if before > 0 => return Ok(head),
            line if line.ends_with(b"\n") => {}
            _ => return Err(io::Error::other("the answer's head ends too early, or not at all")),
        }
    }
}

impl Body {
    fn some(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == Left::Part(0) {
            self.next_part()?;
        }
        let (Left::Bytes(left) | Left::Part(left)) = &mut self.left else { return Ok(0) };
        let most = into.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let read = self.stream.read(&mut into[..most])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended"));
        }
        *left -= read as u64;
        if *left == 0 && matches!(self.left, Left::Part(_)) {
            self.line()?;
        }
        Ok(read)
    }

    /// A part begins with its size in hexadecimal digits; one of size 0 is the last.
    fn next_part(&mut self) -> io::Result<()> {
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or("").trim();
        let size = u64::from_str_radix(digits, 16)
            .map_err(|_| io::Error::other("a part of the answer has no size"))?;
        self.left = if size == 0 { Left::End } else { Left::Part(size) };
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)?;
        if line.ends_with(b"\n") {
            Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
        } else {
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended"))
        }
    }
}

impl Read for Body {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // A server that knows no ranges sends all of it again.
        let mut waste = [0; 16 << 10];
        while self.skip > 0 {
            let most = waste.len().min(usize::try_from(self.skip).unwrap_or(usize::MAX));
            match self.some(&mut waste[..most])? {
                0 => return Ok(0),
                read => self.skip -= read as u64,
            }
        }
        self.some(into)
    }
}
