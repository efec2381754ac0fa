//! A source and a destination in temporary directories.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod disturber;
pub mod volume;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_engine::Progress;
use holdfast_engine::RootPath;
use holdfast_transfer::{
    Bound, Certificate, Events, Limits, ManifestOutcome, ManifestRequest, Mounts, Offer, Outcome,
    Proof, RepairOutcome, RepairRequest, Request, Result, Secret, Server, Ticket, pull, repair,
};

pub const ID: &str = "000102030405060708090a0b0c0d0e0f";
pub const MIB: usize = 1 << 20;

/// Remembers who owns a ticket, as the caller's store does, and returns what it was set to.
#[derive(Default)]
pub struct Owners(pub Mutex<Vec<String>>, pub Mutex<Answers>);

#[derive(Default)]
pub struct Answers {
    pub writers: Option<String>,
    pub manifest: Option<ManifestRequest>,
    pub refuse_manifest: bool,
    pub page_cache: Option<Vec<u8>>,
    pub completed: Vec<u64>,
    /// Set to 1 with the first manifest that is completed: the next byte is cut off.
    pub cut: Option<Arc<AtomicI64>>,
    pub record: Option<PathBuf>,
}

impl Events for Owners {
    fn bind(&self, _: &str, puller: &str) -> Bound {
        self.0.lock().unwrap().push(puller.to_owned());
        Bound::Stored
    }

    fn writers(&self, _: &str, overrule: bool) -> Option<String> {
        self.1.lock().unwrap().writers.clone().filter(|_| !overrule)
    }

    fn manifest(&self, _: &str) -> std::result::Result<Option<ManifestRequest>, String> {
        Ok(self.1.lock().unwrap().manifest.clone())
    }

    fn completed(&self, _: &str, outcome: &ManifestOutcome) -> Bound {
        let mut answers = self.1.lock().unwrap();
        answers.completed.push(outcome.hashed_bytes);
        if let Some(budget) = answers.cut.take() {
            budget.store(1, Ordering::Relaxed);
        }
        if answers.refuse_manifest { Bound::Failed } else { Bound::Stored }
    }

    fn page_cache(&self, _: &str) -> std::result::Result<Option<Vec<u8>>, String> {
        Ok(self.1.lock().unwrap().page_cache.clone())
    }

    fn record(&self, _: &str) -> std::result::Result<Option<(PathBuf, u64)>, String> {
        Ok(self.1.lock().unwrap().record.clone().map(|path| (path, 1 << 30)))
    }
}

pub struct Pair {
    pub directory: tempfile::TempDir,
    pub certificate: Certificate,
    pub secret: Secret,
    pub owners: Arc<Owners>,
    pub server: Server,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(Limits::default(), |_| {})
    }

    pub fn with(limits: Limits, change: impl FnOnce(&mut Offer)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("source")).unwrap();
        std::fs::create_dir(directory.path().join("state")).unwrap();
        let certificate = Certificate::generate().unwrap();
        let secret = Secret::generate().unwrap();
        let owners = Arc::new(Owners::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let events = Arc::clone(&owners);
        let server = Server::start(listener, &certificate, limits, events).unwrap();
        let pair = Self { directory, certificate, secret, owners, server };
        let mut offer = pair.an_offer();
        change(&mut offer);
        pair.server.offer(offer).unwrap();
        pair
    }

    pub fn an_offer(&self) -> Offer {
        Offer {
            id: ID.to_owned(),
            verifier: hex(&self.secret.public().unwrap()),
            puller: self.owners.0.lock().unwrap().first().cloned(),
            place: RootPath { root: self.directory.path().to_owned(), path: "source".into() },
            exclude: Vec::new(),
            include_patterns: Vec::new(),
            exclude_patterns: Vec::new(),
            files: None,
            mounts: Mounts::Refuse,
            digests: Some(self.directory.path().join("digests")),
            accounts: "/etc".into(),
            bytes_per_second: None,
            pressure: None,
            expires_at: u64::MAX,
        }
    }

    /// Replace the server, as a restart of the source does.
    pub fn restart(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let events = Arc::clone(&self.owners);
        self.server =
            Server::start(listener, &self.certificate, Limits::default(), events).unwrap();
        self.server.offer(self.an_offer()).unwrap();
    }

    pub fn source(&self) -> PathBuf {
        self.directory.path().join("source")
    }

    pub fn destination(&self) -> PathBuf {
        self.directory.path().join("destination")
    }

    pub fn ticket(&self) -> Ticket {
        self.ticket_at(self.server.address())
    }

    pub fn ticket_at(&self, address: SocketAddr) -> Ticket {
        Ticket {
            version: 1,
            offer: ID.to_owned(),
            addresses: vec![address.ip().to_string()],
            port: address.port(),
            fingerprint: self.certificate.fingerprint(),
            key: self.secret.text(),
            path: self.source().to_string_lossy().into_owned(),
            expires_at: u64::MAX,
        }
    }

    pub fn request(&self) -> Request {
        Request {
            ticket: self.ticket(),
            place: RootPath { root: self.directory.path().to_owned(), path: "destination".into() },
            state: self.directory.path().join("state"),
            connections: 4,
            most_connections: 8,
            overrule_writers: false,
            page_cache: None,
            map_owners: false,
            accounts: "/etc".into(),
            proof: Proof::Flushed,
            bytes_per_second: None,
            passes: 1,
            until_remaining: 0,
            complete: false,
            manifest: None,
            patience_seconds: 20,
        }
    }

    pub fn pull(&self) -> Outcome {
        pull(&self.request(), &Progress::default()).unwrap()
    }

    pub fn try_pull(&self, change: impl FnOnce(&mut Request)) -> Result<Outcome> {
        let mut request = self.request();
        change(&mut request);
        pull(&request, &Progress::default())
    }

    pub fn write(&self, name: &str, content: &[u8]) {
        let path = self.source().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Return where a manifest of the source or the destination goes.
    pub fn manifest(&self, name: &str) -> ManifestRequest {
        let directory = self.directory.path().join("records");
        std::fs::create_dir_all(&directory).unwrap();
        serde_json::from_value(serde_json::json!({
            "destination": directory.join(name),
            "journal": directory.join(format!("{name}.journal")),
            "max_bytes": 1 << 30,
        }))
        .unwrap()
    }

    /// Have the source make a manifest, and complete the transfer with one.
    pub fn complete(&self) -> Result<Outcome> {
        self.complete_with(|_| {})
    }

    pub fn complete_with(&self, change: impl FnOnce(&mut Request)) -> Result<Outcome> {
        self.owners.1.lock().unwrap().manifest = Some(self.manifest("source"));
        self.try_pull(|request| {
            request.complete = true;
            request.manifest = Some(self.manifest("destination"));
            change(request);
        })
    }

    /// Repair the destination by the source's manifest, which [`Pair::complete`] made.
    pub fn repair(&self, change: impl FnOnce(&mut RepairRequest)) -> Result<RepairOutcome> {
        self.owners.1.lock().unwrap().record = Some(self.manifest("source").destination);
        let request = self.request();
        let mut request: RepairRequest = serde_json::from_value(serde_json::json!({
            "ticket": request.ticket,
            "place": {"root": request.place.root, "path": request.place.path},
            "state": request.state,
            "patience_seconds": 20,
        }))
        .unwrap();
        change(&mut request);
        repair(&request, &Progress::default())
    }

    /// Compare the two trees, with all that is carried.
    pub fn assert_equal(&self) {
        let (source, destination) = (tree(&self.source()), tree(&self.destination()));
        let names = |tree: &BTreeMap<OsString, Node>| tree.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&source), names(&destination));
        for (name, node) in &source {
            assert_eq!(Some(node), destination.get(name), "{}", name.display());
        }
    }
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes of which no two blocks are alike, quickly made.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let block: Vec<u8> = (0..8192).flat_map(|_| next()).collect();
    let mut bytes = Vec::with_capacity(length + block.len());
    while bytes.len() < length {
        bytes.extend_from_slice(&next());
        bytes.extend_from_slice(&block);
    }
    bytes.truncate(length);
    bytes
}

/// All that is carried of a name.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    mode: u32,
    owner: (u32, u32),
    mtime: Option<(i64, i64)>,
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
    content: u64,
    length: u64,
    target: Option<PathBuf>,
    /// The first name of the same file.
    first: Option<OsString>,
    /// Offsets at which data begin and end.
    data: Vec<(u64, u64)>,
}

pub fn tree(top: &Path) -> BTreeMap<OsString, Node> {
    let mut nodes = BTreeMap::new();
    let mut first = BTreeMap::new();
    add(top, Path::new(""), &mut nodes, &mut first);
    nodes
}

fn add(
    top: &Path,
    path: &Path,
    nodes: &mut BTreeMap<OsString, Node>,
    first: &mut BTreeMap<u64, OsString>,
) {
    let whole = if path.as_os_str().is_empty() { top.to_owned() } else { top.join(path) };
    let found = whole.symlink_metadata().unwrap();
    let mut node = Node {
        mode: found.mode(),
        owner: (found.uid(), found.gid()),
        // The staging directory changes that of the top until the transfer is complete.
        mtime: Some((found.mtime(), found.mtime_nsec())),
        attributes: attributes(&whole),
        content: 0,
        length: 0,
        target: None,
        first: None,
        data: Vec::new(),
    };
    if found.is_dir() {
        let mut names: Vec<_> =
            std::fs::read_dir(&whole).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        for name in names {
            if path.as_os_str().is_empty() && name == ".holdfast-transfer" {
                node.mtime = None;
                continue;
            }
            add(top, &path.join(name), nodes, first);
        }
        if path.as_os_str().is_empty() {
            node.mtime = None;
        }
    } else if found.is_symlink() {
        node.target = Some(std::fs::read_link(&whole).unwrap());
    } else {
        let file = std::fs::File::open(&whole).unwrap();
        let mut content = vec![0; found.len() as usize];
        file.read_exact_at(&mut content, 0).unwrap();
        node.content = holdfast_engine::xxh64::xxh64(&content);
        node.length = found.len();
        node.data = data(&file, found.len());
        let known = first.entry(found.ino()).or_insert_with(|| path.as_os_str().to_owned());
        node.first = (known != path.as_os_str()).then(|| known.clone());
    }
    nodes.insert(path.as_os_str().to_owned(), node);
}

fn data(file: &std::fs::File, size: u64) -> Vec<(u64, u64)> {
    use rustix::fs::{SeekFrom, seek};
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let Ok(start) = seek(file, SeekFrom::Data(at)) else { break };
        let end = seek(file, SeekFrom::Hole(start)).unwrap();
        // Holes smaller than this may be read like data.
        match found.last_mut() {
            Some((_, last)) if start - *last < 64 << 10 => *last = end,
            _ => found.push((start, end)),
        }
        at = end;
    }
    found
}

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0_u8; 1 << 16];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found: Vec<_> = names[..length]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0_u8; 1 << 16];
            let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// A name of bytes that are no text.
pub fn bytes(name: &[u8]) -> PathBuf {
    Path::new(std::ffi::OsStr::from_bytes(name)).to_owned()
}
