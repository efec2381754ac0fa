//! Images, files in place of disks, and loop devices.
#![allow(dead_code, missing_docs)]

pub mod recorded;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_engine::image::descriptor::{Content, FORMAT, VERSION};
use holdfast_engine::image::{Descriptor, Encoding, Sha256};

pub const MIB: usize = 1 << 20;

/// Bytes that are the same each time and do not repeat soon.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// 10 MiB and a half: data in chunks 0, 1, 4, 5 and in the last, short one; all else is zeros.
pub fn image() -> Vec<u8> {
    let mut image = vec![0; 10 * MIB + MIB / 2];
    for (at, length) in [(0, MIB + 100), (4 * MIB, 2 * MIB), (10 * MIB, MIB / 2)] {
        image[at..at + length].copy_from_slice(&noise(at as u64 + 1, length));
    }
    image
}

/// The descriptor of an image, made from its bytes and not by the engine.
pub fn describe(
    image: &[u8],
    chunk_bytes: usize,
    content: &[u8],
    encoding: Encoding,
) -> Descriptor {
    let mut mapped: Vec<(u64, u64)> = Vec::new();
    let mut chunks = Vec::new();
    for (index, chunk) in image.chunks(chunk_bytes).enumerate() {
        if chunk.iter().any(|&byte| byte != 0) {
            let (start, length) = ((index * chunk_bytes) as u64, chunk.len() as u64);
            match mapped.last_mut() {
                Some((from, bytes)) if *from + *bytes == start => *bytes += length,
                _ => mapped.push((start, length)),
            }
            chunks.push(Sha256::of(chunk));
        }
    }
    let descriptor = Descriptor {
        format: FORMAT.to_owned(),
        version: VERSION,
        name: "test".to_owned(),
        image_version: "1".to_owned(),
        created: "2026-11-24T20:00:00Z".to_owned(),
        size_bytes: image.len() as u64,
        chunk_bytes: chunk_bytes as u64,
        mapped,
        chunks,
        content: Content {
            file: "disk".to_owned(),
            encoding,
            size_bytes: content.len() as u64,
            sha256: Sha256::of(content),
        },
        boot_modes: Vec::new(),
        partition_table: None,
        root_partition: None,
        inspection: Default::default(),
    };
    Descriptor::parse(Path::new("test"), descriptor.to_json().as_bytes()).unwrap()
}

/// A directory where files can be opened with O_DIRECT.
pub fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Whether this is root; prints a line if it is not, since then a test has nothing to show.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not tested: it needs root");
    }
    root
}

/// A loop device, which is detached when dropped; without root the file itself.
pub struct Loop {
    pub path: PathBuf,
    pub file: PathBuf,
}

impl Loop {
    /// On a file of this content.
    pub fn new(directory: &Path, content: &[u8]) -> Self {
        let file = directory.join("disk");
        fs::write(&file, content).unwrap();
        File::open(&file).unwrap().sync_all().unwrap();
        if !is_root() {
            return Self { path: file.clone(), file };
        }
        Self::of(&file, &[])
    }

    /// On a file of zeros of this size.
    pub fn empty(directory: &Path, size: u64) -> Self {
        let path = directory.join("empty");
        File::create(&path).unwrap().set_len(size).unwrap();
        Self::of(&path, &[])
    }

    /// On a file that is there, with more options of losetup.
    pub fn of(file: &Path, options: &[&str]) -> Self {
        let mut command = Command::new("losetup");
        let done = command.args(["--find", "--show"]).args(options).arg(file).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let path = String::from_utf8(done.stdout).unwrap().trim().into();
        Self { path, file: file.to_owned() }
    }

    pub fn content(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        if self.path != self.file {
            let _ = Command::new("losetup").arg("--detach").arg(&self.path).status();
        }
    }
}

/// Run a program, and return what it printed.
pub fn run(program: &str, arguments: &[&str], input: &str) -> String {
    use std::io::Write as _;
    use std::process::Stdio;
    let mut command = Command::new(program);
    let command = command.args(arguments).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let output = [done.stdout, done.stderr].concat();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(done.status.success(), "{program}: {output}");
    output
}

/// Run a line of the shell, and return what it wrote.
pub fn shell(command: &str) -> String {
    let done = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(done.status.success(), "{command}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// A certificate for 127.0.0.1 that is its own authority: paths of it and its key.
pub fn certificate(directory: &Path) {
    fs::create_dir_all(directory.join("tls")).unwrap();
    shell(&format!(
        "cd {}/tls && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
         -keyout key.pem -out certificate.pem -subj /CN=node-7 \
         -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE 2>&1",
        directory.display()
    ));
}
