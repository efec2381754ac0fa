//! The job: what to write where, as the armed machine left it in the initramfs.

use std::path::{Component, Path};

use holdfast_engine::image::Sha256;
use serde::{Deserialize, Serialize};

use crate::lifeboat::header::{HEADER_BYTES, MOST_BYTES};
use crate::{Fault, Result};

/// The most that any of the job's texts may have, in bytes.
const TEXT: usize = 4096;
/// The size of an outcome record, in bytes.
pub const OUTCOME_BYTES: u64 = 16384;

/// Everything the imager receives. Members it does not know are ignored.
#[derive(Debug, Clone, Deserialize)]
pub struct Job {
    /// Identifies this arming; not a secret, since the kernel's command line has it.
    pub nonce: String,
    /// Proves to the new system's daemon that a marker is of this arming.
    #[serde(default)]
    pub secret: Option<String>,
    /// The operation's id, for people and for the marker.
    pub operation: String,
    /// The machine's name, for people.
    #[serde(default)]
    pub hostname: String,
    /// The disk to write to.
    pub target: Pin,
    /// The digest that the descriptor must have.
    pub descriptor_sha256: Sha256,
    /// Where the image is.
    pub source: Source,
    /// How to get a network, if at all.
    #[serde(default)]
    pub network: Option<Network>,
    /// Where to report the status, if at all.
    #[serde(default)]
    pub status: Option<Listen>,
    /// Where the outcome record is on the target.
    pub outcome: DiskRange,
    /// Where the lifeboat is on the target, if there is one.
    #[serde(default)]
    pub lifeboat: Option<DiskRange>,
    /// Disks that are never written to.
    #[serde(default)]
    pub data_disks: Vec<DataDisk>,
    /// Whether the module of a hardware watchdog is among `modules`.
    #[serde(default)]
    pub watchdog: bool,
    /// Kernel modules in the order in which to load them.
    #[serde(default)]
    pub modules: Vec<String>,
    /// A time that is certainly past, RFC 3339.
    pub time: String,
    /// The agent's state directory as it was when the machine was armed.
    #[serde(default)]
    pub state_dir: Option<StateDirectory>,
    /// What else was asked for.
    #[serde(default)]
    pub options: Options,
}

/// A directory by its identity rather than its name.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct StateDirectory {
    /// Its owner.
    pub uid: u32,
    /// The device's number when armed; it may be another after a boot.
    pub dev: u64,
    /// The inode's number.
    pub ino: u64,
    /// The file system's UUID.
    #[serde(default)]
    pub file_system_uuid: Option<String>,
}

/// What is only done if it was asked for.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Options {
    /// Extend the root partition and its file system to the end of the disk.
    #[serde(default)]
    pub grow_root: bool,
    /// Write without a lifeboat, so that a cut may leave a disk that does not boot.
    #[serde(default)]
    pub allow_unprotected: bool,
    /// Keep the old disk as an image, before it is written over.
    #[serde(default)]
    pub save_previous: Option<SavePrevious>,
}

/// Where the old disk is kept: a directory on a data disk.
#[derive(Debug, Clone, Deserialize)]
pub struct SavePrevious {
    /// `xfs`, `ext4` and so on.
    pub file_system: String,
    /// The file system's UUID.
    pub uuid: String,
    /// The array it is on, if it is on one.
    pub array: Option<Array>,
    /// Relative to the file system's root. Its parent is there, and it is not.
    pub directory: String,
}

/// What identifies the target among all disks.
#[derive(Debug, Clone, Deserialize)]
pub struct Pin {
    /// Its serial number, if it has one.
    pub serial: Option<String>,
    /// Its model, if it has one.
    pub model: Option<String>,
    /// Its size.
    pub size_bytes: u64,
    /// Its world-wide identifier, if it has one.
    #[serde(default)]
    pub wwid: Option<String>,
    /// Its node when armed; for people, names change between boots.
    #[serde(default)]
    pub path: String,
    /// UUIDs of the volume groups of LVM that the old system runs from, and that go with it.
    #[serde(default)]
    pub volume_groups: Vec<String>,
    /// How many bytes at its beginning `head_sha256` is of.
    pub head_bytes: u64,
    /// The digest of its beginning.
    pub head_sha256: Sha256,
}

/// Where an image comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Source {
    /// A file on a data disk.
    Staged {
        /// Relative to the file system's root.
        path: String,
        /// `xfs`, `ext4` and so on.
        file_system: String,
        /// The file system's UUID.
        uuid: String,
        /// The array it is on, if it is on one.
        array: Option<Array>,
    },
    /// A server.
    Network {
        /// `http://` or `https://`.
        url: String,
    },
}

/// An md array.
#[derive(Debug, Clone, Deserialize)]
pub struct Array {
    /// As mdadm prints it.
    pub uuid: String,
    /// `raid0` and so on; for people, as the superblocks have it.
    pub level: String,
    /// How many members it has.
    pub devices: u32,
}

/// How to get a network.
#[derive(Debug, Clone, Deserialize)]
pub struct Network {
    /// On which interface.
    pub interface: Interface,
    /// Whether to ask for an address.
    #[serde(default)]
    pub dhcp: bool,
    /// Addresses to take without asking, or when nobody answers.
    #[serde(rename = "static", default)]
    pub fixed: Option<Static>,
}

/// What identifies an interface: its hardware address, or else its name.
#[derive(Debug, Clone, Deserialize)]
pub struct Interface {
    /// The hardware address.
    pub mac: Option<String>,
    /// The name it had; udev's names are not the kernel's.
    pub name: Option<String>,
}

/// Addresses and so on that do not come from DHCP.
#[derive(Debug, Clone, Deserialize)]
pub struct Static {
    /// Each with the length of its prefix: `10.0.2.15/24`.
    pub addresses: Vec<String>,
    /// The default gateway.
    #[serde(default)]
    pub gateway: Option<String>,
    /// Name servers.
    #[serde(default)]
    pub dns: Vec<String>,
    /// The largest packet.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// Where and how to report the status.
#[derive(Debug, Clone, Deserialize)]
pub struct Listen {
    /// Address and port.
    pub listen: String,
    /// Whether with TLS.
    #[serde(default)]
    pub tls: bool,
    /// Whether to ask for a token.
    #[serde(default)]
    pub tokens: bool,
    /// Whether to ask for a client certificate.
    #[serde(default)]
    pub client_ca: bool,
}

/// A range of the target's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
pub struct DiskRange {
    /// Where it begins.
    pub offset_bytes: u64,
    /// How long it is.
    pub length_bytes: u64,
}

/// A disk that is never written to.
#[derive(Debug, Clone, Deserialize)]
pub struct DataDisk {
    /// Its serial number, if it has one.
    pub serial: Option<String>,
    /// Its model, if it has one.
    pub model: Option<String>,
    /// Its world-wide identifier, if it has one.
    #[serde(default)]
    pub wwid: Option<String>,
    /// Its size.
    pub size_bytes: Option<u64>,
}

impl Job {
    /// Read a job, and check all in it that can be checked without the machine.
    ///
    /// # Errors
    /// A sentence about what is wrong.
    pub fn parse(json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Envelope {
            format: String,
            version: u64,
        }
        let wrong = |reason: String| Fault(format!("the job cannot be used: {reason}"));
        let envelope: Envelope = serde_json::from_slice(json).map_err(|e| wrong(e.to_string()))?;
        if envelope.format != "holdfast-job" || envelope.version != 1 {
            return Err(wrong(format!(
                "it is {} version {}, and this imager knows holdfast-job version 1",
                envelope.format, envelope.version
            )));
        }
        let job: Self = serde_json::from_slice(json).map_err(|e| wrong(e.to_string()))?;
        job.validate().map_err(wrong)?;
        Ok(job)
    }

    fn validate(&self) -> std::result::Result<(), String> {
        if self.nonce.len() != 32 || !self.nonce.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("nonce must be 32 hexadecimal digits".to_owned());
        }
        if self.secret.as_ref().is_some_and(|secret| {
            secret.len() != 64 || !secret.bytes().all(|b| b.is_ascii_hexdigit())
        }) {
            return Err("secret must be 64 hexadecimal digits".to_owned());
        }
        let DiskRange { offset_bytes, length_bytes } = self.outcome;
        if length_bytes != OUTCOME_BYTES || !offset_bytes.is_multiple_of(512) {
            return Err(format!(
                "outcome must be {OUTCOME_BYTES} bytes and begin at a multiple of 512"
            ));
        }
        if offset_bytes.checked_add(length_bytes).is_none_or(|end| end > self.target.size_bytes) {
            return Err("outcome leads out of the target".to_owned());
        }
        let head = self.target.head_bytes;
        if head == 0
            || head > 16 << 20
            || head > self.target.size_bytes
            || !head.is_multiple_of(512)
        {
            return Err("target.head_bytes must be a multiple of 512 of at most 16 MiB".to_owned());
        }
        if let Some(DiskRange { offset_bytes, length_bytes }) = self.lifeboat {
            let end = offset_bytes.checked_add(length_bytes);
            if !offset_bytes.is_multiple_of(HEADER_BYTES)
                || !length_bytes.is_multiple_of(HEADER_BYTES)
                || !(HEADER_BYTES..=MOST_BYTES).contains(&length_bytes)
                || end.is_none_or(|end| end > self.target.size_bytes)
            {
                return Err(
                    "lifeboat must be a range of the target of at most 64 MiB that begins \
                            and ends at multiples of 4096"
                        .to_owned(),
                );
            }
        }
        for module in &self.modules {
            if module.len() > TEXT || !is_bare(module) {
                return Err("modules must be bare file names".to_owned());
            }
        }
        if let Source::Staged { path, .. } = &self.source
            && !is_below(path)
        {
            return Err("source.path must be a path below the file system's root".to_owned());
        }
        if let Some(save) = &self.options.save_previous {
            if !is_below(&save.directory) {
                return Err(
                    "options.save_previous.directory must be a path below the file system's root"
                        .to_owned(),
                );
            }
            if self.state_dir.is_none() {
                return Err("options.save_previous needs state_dir".to_owned());
            }
        }
        Ok(())
    }
}

/// Whether it is a path that leads down, and nowhere else.
fn is_below(path: &str) -> bool {
    let plain = Path::new(path).components().all(|c| matches!(c, Component::Normal(_)));
    !path.is_empty() && path.len() <= TEXT && plain
}

/// Whether it is the name of a file and not a way to one.
fn is_bare(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(n)), None) if n == name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Job, Source};

    fn job() -> Value {
        json!({
            "format": "holdfast-job", "version": 1, "nonce": "0123456789abcdef0123456789abcdef",
            "operation": "op", "created": "2026-11-24T20:00:00Z", "hostname": "node-7",
            "target": {"serial": "s", "model": null, "size_bytes": 1 << 30, "wwid": null,
                       "path": "/dev/vda", "head_bytes": 1 << 20, "head_sha256": "0".repeat(64)},
            "descriptor_sha256": "0".repeat(64),
            "source": {"kind": "staged", "path": ".holdfast/images/x/image", "file_system": "xfs",
                       "uuid": "u", "array": {"uuid": "a:b", "level": "raid0", "devices": 2}},
            "network": {"interface": {"mac": "52:54:00:12:34:56", "name": "enp0s3"}, "dhcp": true,
                        "static": {"addresses": ["10.0.2.15/24"], "gateway": null, "dns": [],
                                   "mtu": 1500}},
            "status": {"listen": "0.0.0.0:9918", "tls": true, "tokens": true},
            "outcome": {"offset_bytes": 4096, "length_bytes": 16384},
            "lifeboat": {"offset_bytes": 512 << 20, "length_bytes": 64 << 20},
            "data_disks": [{"serial": "d", "model": null, "size_bytes": 1}],
            "modules": ["00-virtio.ko"], "time": "2026-11-24T20:00:00Z", "another": 1,
        })
    }

    fn parse(job: &Value) -> crate::Result<Job> {
        Job::parse(job.to_string().as_bytes())
    }

    #[test]
    fn a_job_is_read() {
        let read = parse(&job()).unwrap();
        assert!(matches!(read.source, Source::Staged { array: Some(_), .. }));
        assert_eq!(read.network.unwrap().fixed.unwrap().mtu, Some(1500));
        let mut least = job();
        for member in ["network", "status"] {
            least[member] = Value::Null;
        }
        least["source"] = json!({"kind": "network", "url": "https://x/y"});
        assert!(matches!(parse(&least).unwrap().source, Source::Network { .. }));
    }

    #[test]
    fn what_does_not_hold_together_is_refused() {
        for (pointer, wrong) in [
            ("/format", json!("other")),
            ("/version", json!(2)),
            ("/nonce", json!("short")),
            ("/descriptor_sha256", json!("0")),
            ("/outcome/length_bytes", json!(4096)),
            ("/outcome/offset_bytes", json!(4097)),
            ("/outcome/offset_bytes", json!(1 << 30)),
            ("/outcome/offset_bytes", json!(u64::MAX - 511)),
            ("/target/head_bytes", json!(0)),
            ("/target/head_bytes", json!(1_u64 << 40)),
            ("/lifeboat", json!({"offset_bytes": 512, "length_bytes": 4096})),
            ("/lifeboat", json!({"offset_bytes": 4096, "length_bytes": 4608})),
            ("/lifeboat", json!({"offset_bytes": 4096, "length_bytes": 0})),
            ("/lifeboat", json!({"offset_bytes": 1 << 20, "length_bytes": 65 << 20})),
            ("/lifeboat", json!({"offset_bytes": 1 << 30, "length_bytes": 4096})),
            ("/lifeboat", json!({"offset_bytes": u64::MAX - 4095, "length_bytes": 4096})),
            ("/modules/0", json!("../evil.ko")),
            ("/modules/0", json!("a/b.ko")),
            ("/source/path", json!("../image")),
            ("/source/path", json!("/image")),
            ("/source/path", json!("")),
            ("/source/kind", json!("tape")),
        ] {
            let mut job = job();
            *job.pointer_mut(pointer).unwrap() = wrong.clone();
            parse(&job).expect_err(&format!("{pointer}: {wrong}"));
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..100),
            at in 0_usize..1000,
            byte: u8,
        ) {
            let _ = Job::parse(&bytes);
            let mut damaged = job().to_string().into_bytes();
            let at = at % damaged.len();
            damaged[at] = byte;
            let _ = Job::parse(&damaged);
        }
    }
}
