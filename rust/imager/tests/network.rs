//! Addresses, names, images from servers, and the status: against real servers and real TLS.

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::{MIB, describe, directory, image, is_root};
use holdfast_engine::image::{Encoding, Sha256};
use holdfast_imager::job;
use holdfast_imager::network::{self, Network, dhcp};
use holdfast_imager::pipeline::{Supply, verify::verify};
use holdfast_imager::source::download::Download;
use holdfast_imager::source::http::{self, Client};
use holdfast_imager::source::url::Url;
use holdfast_imager::status::server::{self, Access};
use holdfast_imager::status::{Phase, Status};

fn run(command: &str) -> String {
    let done = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A child that is gone at the end.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_address_and_names_come_from_a_dhcp_server() {
    if !is_root() {
        return;
    }
    // In a network of its own, which /sys must show as well.
    let inside =
        "mount -t sysfs sysfs /sys && exec \"$0\" --exact in_a_network_of_its_own --ignored";
    let done = Command::new("unshare")
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", inside])
        .arg(std::env::current_exe().unwrap())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && output.contains("1 passed"), "{output}");
}

#[test]
#[ignore = "it is run by the test before it, in a network of its own"]
fn in_a_network_of_its_own() {
    let server = "echo ready; read go; ip link set lo up; ip address add 10.77.0.1/24 dev far; \
                  ip link set far up; exec dnsmasq --keep-in-foreground --log-facility=- --user=root \
                  --conf-file=/dev/null --no-hosts --no-resolv --bind-interfaces --interface=far \
                  --dhcp-authoritative --dhcp-leasefile=/dev/null --pid-file= \
                  --dhcp-range=10.77.0.50,10.77.0.60,255.255.255.0,2m --dhcp-option=26,1400 \
                  --dhcp-option=121,0.0.0.0/0,10.77.0.1,10.88.0.0/16,10.77.0.2 \
                  --address=/images.test/10.77.0.9";
    let mut server = Command::new("unshare")
        .args(["--net", "sh", "-c", server])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = server.id();
    let mut ready = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    assert_eq!(ready, "ready\n");
    run("ip link set lo up; ip link add near type veth peer name far");
    run(&format!("ip link set far netns {pid}"));
    server.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let _server = Child(server);

    let interface = job::Interface { mac: None, name: Some("near".to_owned()) };
    let wanted = job::Network { interface, dhcp: true, fixed: None };
    let network = network::bring_up(&wanted, "node-7").unwrap();
    let addresses = run("ip -4 -o address show dev near");
    assert!(addresses.contains("inet 10.77.0.5") || addresses.contains("inet 10.77.0.6"));
    assert!(addresses.contains("/24"), "{addresses}");
    let routes = run("ip -4 route show");
    assert!(routes.contains("default via 10.77.0.1 dev near"), "{routes}");
    assert!(routes.contains("10.88.0.0/16 via 10.77.0.2 dev near"), "{routes}");
    assert!(run("ip link show near").contains("mtu 1400"));
    let found = network.resolve("images.test").unwrap();
    assert_eq!(found, ["10.77.0.9".parse::<std::net::IpAddr>().unwrap()]);
    let fault = network.resolve("elsewhere.test").unwrap_err();
    assert!(fault.0.starts_with("elsewhere.test cannot be looked up: 10.77.0.1: "), "{fault}");

    let number = |path: &str| fs::read_to_string(format!("/sys/class/net/near/{path}")).unwrap();
    let mac: Vec<u8> =
        number("address").trim().split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    let interface = network::Interface {
        name: "near".to_owned(),
        index: number("ifindex").trim().parse().unwrap(),
        hardware: mac.try_into().unwrap(),
    };
    let address: std::net::Ipv4Addr =
        addresses.split("inet ").nth(1).unwrap().split('/').next().unwrap().parse().unwrap();
    let renewed = dhcp::renew(&interface, "node-7", address, Duration::from_secs(10)).unwrap();
    assert_eq!((renewed.address, renewed.lease_seconds), (address, 120));
    // Declined: it belongs to another network.
    let stranger = "10.99.0.1".parse().unwrap();
    dhcp::renew(&interface, "node-7", stranger, Duration::from_secs(10)).unwrap_err();
}

/// A certificate for 127.0.0.1 that is its own authority: paths of it and its key.
fn certificate(directory_path: &Path) {
    fs::create_dir_all(directory_path.join("tls")).unwrap();
    run(&format!(
        "cd {}/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
         -keyout key.pem -out certificate.pem -subj /CN=node-7 \
         -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE 2>&1",
        directory_path.display()
    ));
}

fn curl(arguments: &str) -> (String, String) {
    let output = run(&format!("curl --silent --write-out '\\n%{{http_code}}' {arguments}"));
    let (body, code) = output.rsplit_once('\n').unwrap();
    (code.to_owned(), body.to_owned())
}

#[test]
fn the_status_is_told_over_tls_to_who_has_a_token() {
    let directory = directory();
    let directory_path = directory.path();
    certificate(directory_path);
    let digest = |secret: &str| Sha256::of(secret.as_bytes());
    let tokens = format!(
        r#"{{"version": 1, "tokens": [
            {{"name": "a", "scope": "read", "sha256": "{}", "created_at": "2026-01-01T00:00:00Z", "expires_at": null}},
            {{"name": "b", "scope": "admin", "sha256": "{}", "created_at": "2026-01-01T00:00:00Z", "expires_at": "2026-01-02T00:00:00Z"}}]}}"#,
        digest("hf_good"),
        digest("hf_old")
    );
    fs::write(directory_path.join("tokens.json"), tokens).unwrap();
    let listen =
        job::Listen { listen: "127.0.0.1:0".to_owned(), tls: true, tokens: true, client_ca: false };
    let status = Arc::new(Status::new());
    status.tell(serde_json::json!({ "operation": "op-1", "image": { "name": "web" } }));
    status.enter(Phase::Writing, 1000);
    status.advance(250);
    let access = Access::in_directory(&listen, directory_path).unwrap();
    let address = server::start(&listen.listen, access, Arc::clone(&status)).unwrap();
    let ask = |path: &str, token: Option<&str>| {
        let token = token.map_or_else(String::new, |t| format!("-H 'Authorization: Bearer {t}'"));
        let ca = directory_path.join("tls/certificate.pem");
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
    let ca = directory_path.join("tls/certificate.pem");
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
    let directory_path = directory.path();
    certificate(directory_path);
    let listen =
        job::Listen { listen: "127.0.0.1:0".to_owned(), tls: true, tokens: false, client_ca: true };
    // Without the authorities it is not served at all.
    Access::in_directory(&listen, directory_path).unwrap_err();
    fs::write(directory_path.join("tls/client-ca.pem"), "nothing").unwrap();
    Access::in_directory(&listen, directory_path).unwrap_err();
    let client = directory_path.join("client");
    certificate(&client);
    fs::copy(client.join("tls/certificate.pem"), directory_path.join("tls/client-ca.pem")).unwrap();
    let access = Access::in_directory(&listen, directory_path).unwrap();
    let address = server::start(&listen.listen, access, Arc::new(Status::new())).unwrap();
    let ca = directory_path.join("tls/certificate.pem").display().to_string();
    let ask = |with: &str| {
        // It is no answer where the handshake fails.
        curl(&format!("--cacert {ca} {with} https://{address}/healthz || true"))
    };
    let own = |directory_path: &Path| {
        let tls = directory_path.join("tls");
        format!("--cert {0}/certificate.pem --key {0}/key.pem", tls.display())
    };
    assert_ne!(ask("").0, "200");
    assert_ne!(ask(&own(directory_path)).0, "200", "a certificate of another authority");
    assert_eq!(ask(&own(&client)).0, "200");
}
