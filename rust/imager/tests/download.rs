//! Images from web servers that fail in every way, over real TLS.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{MIB, certificate, describe, directory, image};
use holdfast_engine::image::Encoding;
use holdfast_imager::job;
use holdfast_imager::network::Network;
use holdfast_imager::pipeline::{Supply as _, verify::verify};
use holdfast_imager::source::download::Download;
use holdfast_imager::source::http::{self, Client};
use holdfast_imager::source::url::Url;
use holdfast_imager::status::Status;
use holdfast_imager::status::server::Access;

/// How a server of images answers its next request.
#[derive(Clone, Copy)]
enum Behavior {
    /// As it should, ranges included.
    Well,
    /// It ends the connection after this many bytes.
    EndAfter(usize),
    /// It knows no ranges, and sends everything.
    All,
    /// It sends in parts.
    Parts,
    /// With this code and header.
    Code(&'static str),
}

/// A server of one file, and what it was asked for.
struct Images {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// Each request is served in the next behavior; the last one stays.
fn images(
    content: &[u8],
    behaviors: &[Behavior],
    tls: Option<Arc<rustls::ServerConfig>>,
) -> Images {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (content, behaviors, log) = (content.to_vec(), behaviors.to_vec(), Arc::clone(&asked));
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let behavior = behaviors[number.min(behaviors.len() - 1)];
            let stream = stream.unwrap();
            // A client that does not like the certificate hangs up.
            let _ = match &tls {
                None => answer(stream, &content, behavior, &log),
                Some(config) => {
                    let connection = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                    let stream = rustls::StreamOwned::new(connection, stream);
                    answer(stream, &content, behavior, &log)
                }
            };
        }
    });
    Images { address, asked }
}

fn answer(
    stream: impl Read + Write,
    content: &[u8],
    behavior: Behavior,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if stream.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    log.lock().unwrap().push(head.clone());
    let from =
        head.split("bytes=").nth(1).map_or(0, |r| r.split('-').next().unwrap().parse().unwrap());
    let stream = stream.get_mut();
    let whole = content.len();
    let ranged = |length: usize| match from {
        0 => format!("200 OK\r\nContent-Length: {length}"),
        _ => format!(
            "206 Partial\r\nContent-Range: bytes {from}-{}/{whole}\r\nContent-Length: {length}",
            whole - 1
        ),
    };
    match behavior {
        Behavior::Well => {
            write!(stream, "HTTP/1.1 {}\r\n\r\n", ranged(whole - from))?;
            stream.write_all(&content[from..])?;
        }
        Behavior::EndAfter(bytes) => {
            write!(stream, "HTTP/1.1 {}\r\n\r\n", ranged(whole - from))?;
            stream.write_all(&content[from..(from + bytes).min(whole)])?;
        }
        Behavior::All => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {whole}\r\n\r\n")?;
            stream.write_all(content)?;
        }
        Behavior::Parts => {
            write!(
                stream,
                "HTTP/1.1 {}\r\nTransfer-Encoding: chunked\r\n\r\n",
                ranged(0).replace("Content-Length", "X-Ignored")
            )?;
            for part in content[from..].chunks(70_001) {
                write!(stream, "{:x};x=y\r\n", part.len())?;
                stream.write_all(part)?;
                write!(stream, "\r\n")?;
            }
            write!(stream, "0\r\n\r\n")?;
        }
        Behavior::Code(code) => write!(stream, "HTTP/1.1 {code}\r\nContent-Length: 0\r\n\r\n")?,
    }
    stream.flush()
}

fn client(tls: Option<Arc<rustls::ClientConfig>>) -> Client {
    Client { network: Network::default(), tls }
}

fn download(images: &Images, scheme: &str, size: u64, client: Client) -> (Download, Arc<Status>) {
    let url = Url::parse(&format!("{scheme}://{}/disk.zst?key=secret", images.address)).unwrap();
    let status = Arc::new(Status::new());
    let download = Download::new(client, url, size, Arc::clone(&status));
    (download.patient_for(Duration::from_secs(20)), status)
}

#[test]
fn an_image_is_fetched_on_from_where_it_stopped() {
    let image = image();
    let packed = zstd::encode_all(&image[..], 1).unwrap();
    let descriptor = describe(&image, MIB, &packed, Encoding::Zstd);
    let part = packed.len() / 3;
    for behaviors in [
        &[Behavior::Well][..],
        &[Behavior::EndAfter(part), Behavior::EndAfter(part), Behavior::Well],
        &[Behavior::EndAfter(part), Behavior::All],
        &[Behavior::Parts],
        &[Behavior::Code("503 Busy"), Behavior::EndAfter(part), Behavior::Parts],
        &[Behavior::Code("302 Found\r\nLocation: /elsewhere"), Behavior::Well],
    ] {
        let server = images(&packed, behaviors, None);
        let (download, _) = download(&server, "http", packed.len() as u64, client(None));
        let status = Status::new();
        verify(&descriptor, &download, &status).unwrap();
        assert_eq!(server.asked.lock().unwrap().len(), behaviors.len());
        assert!(!download.name().contains("secret"));
    }
    let server = images(&packed, &[Behavior::EndAfter(part), Behavior::Well], None);
    let (download, status) = download(&server, "http", packed.len() as u64, client(None));
    verify(&descriptor, &download, &status).unwrap();
    let asked = server.asked.lock().unwrap();
    assert!(asked[0].starts_with("GET /disk.zst?key=secret HTTP/1.1\r\n"));
    assert!(!asked[0].contains("Range") && asked[1].contains(&format!("Range: bytes={part}-\r\n")));
    assert_eq!(status.retries(), 1);
}

#[test]
fn what_will_not_get_better_is_refused_at_once() {
    let image = image();
    let descriptor = describe(&image, MIB, &image, Encoding::Identity);
    let size = image.len() as u64;
    for (behavior, reason, size) in [
        (Behavior::Code("404 Not Found"), "answers 404", size),
        (Behavior::Code("302 Found\r\nLocation: /again"), "redirects too often", size),
        (Behavior::Well, "the descriptor says", size + 512),
    ] {
        let server = images(&image, &[behavior], None);
        let (download, status) = download(&server, "http", size, client(None));
        let fault = verify(&descriptor, &download, &status).unwrap_err();
        assert!(fault.0.contains(reason), "{fault}");
    }
    // Nobody there: tried until the patience ends.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = Images { address: free, asked: Arc::default() };
    let (download, status) = download(&nobody, "http", size, client(None));
    let download = download.patient_for(Duration::ZERO);
    let fault = verify(&descriptor, &download, &status).unwrap_err();
    assert!(fault.0.contains("refused"), "{fault}");
}

#[test]
fn a_server_must_prove_who_it_is() {
    let directory = directory();
    certificate(directory.path());
    let listen = job::Listen { listen: String::new(), tls: true, tokens: false, client_ca: false };
    let tls = Access::in_directory(&listen, directory.path()).unwrap().tls;
    let image = image();
    let descriptor = describe(&image, MIB, &image, Encoding::Identity);
    let server = images(&image, &[Behavior::Well], tls);
    let size = image.len() as u64;
    let pem = fs::read(directory.path().join("tls/certificate.pem")).unwrap();
    let trusting = client(Some(http::trust(&pem).unwrap()));
    let (good, status) = download(&server, "https", size, trusting);
    verify(&descriptor, &good, &status).unwrap();

    let other = directory.path().join("other");
    certificate(&other);
    let pem = fs::read(other.join("tls/certificate.pem")).unwrap();
    let (bad, status) = download(&server, "https", size, client(Some(http::trust(&pem).unwrap())));
    let fault = verify(&descriptor, &bad, &status).unwrap_err();
    assert!(fault.0.contains("TLS with 127.0.0.1"), "{fault}");
    // It is not asked again: a certificate does not get better.
    assert_eq!(status.retries(), 0);
    let (bad, status) = download(&server, "https", size, client(None));
    let fault = verify(&descriptor, &bad, &status).unwrap_err();
    assert!(fault.0.contains("no certificate authority"), "{fault}");
    http::trust(b"nothing").unwrap_err();
}
