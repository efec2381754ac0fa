//! Which disk is written to: that which was pinned when the machine was armed, and no other.

use std::time::{Duration, Instant};

use holdfast_engine::image::rules::{Facts, Target, fit};
use holdfast_engine::image::{Descriptor, Sha256};
use holdfast_media::{lvm, rules};

use crate::disk::devices::{self, Device};
use crate::disk::superblock;
use crate::disk::volume_group::Aligned;
use crate::disk::{self, Buffer, Disk};
use crate::job::{DataDisk, Job, Pin};
use crate::lifeboat::Lifeboat;
use crate::{Context as _, Fault, Result, say};

/// How long disks may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often to look.
const PAUSE: Duration = Duration::from_millis(50);

/// The disk that is written to.
#[derive(Debug)]
pub struct Claimed {
    /// As sysfs shows it.
    pub device: Device,
    /// Open so that nobody else can use it.
    pub disk: Disk,
    /// The lifeboat, if that is what boots the disk now: then there is no old system any more.
    pub lifeboat: Option<Lifeboat>,
}

/// Find the target, open it so that nobody else can use it, and let the kernel refuse writes to all
/// other disks. It begins as it did when the machine was armed, or boots the lifeboat of the arming.
///
/// # Errors
/// A sentence about why no disk, more than one, or not this one may be written to.
pub fn claim(job: &Job) -> Result<Claimed> {
    let (device, lifeboat) = wait_for(job)?;
    for other in devices::all() {
        let own = other.name == device.name || other.disk.as_ref() == Some(&device.name);
        if !own {
            disk::set_read_only(&other.path, true).context(format_args!(
                "{} cannot be made read-only, so nothing is written",
                other.path.display()
            ))?;
        }
    }
    let disk = open(&device, &job.data_disks)?;
    // What is left of the old system, and half of the new one, says nothing about whose the disk is.
    if lifeboat.is_none() {
        examine(&device, &disk, &job.target.volume_groups)?;
    }
    Ok(Claimed { device, disk, lifeboat })
}

/// Wait until the target is there, and the data disks as well: only then is it certain that no other
/// disk looks like the target.
fn wait_for(job: &Job) -> Result<(Device, Option<Lifeboat>)> {
    let (pin, data) = (&job.target, &job.data_disks);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let disks: Vec<_> = devices::all().into_iter().filter(|d| d.partition.is_none()).collect();
        let candidates: Vec<_> = disks.iter().filter(|disk| pinned(pin, disk)).collect();
        let everything = data.iter().all(|wanted| disks.iter().any(|disk| same(wanted, disk)));
        if !candidates.is_empty() && everything || Instant::now() > deadline {
            if !everything {
                say!("not all data disks that the job names are there; going on without");
            }
            return choose(job, &candidates, &disks);
        }
        std::thread::sleep(PAUSE);
    }
}

fn choose(
    job: &Job,
    candidates: &[&Device],
    disks: &[Device],
) -> Result<(Device, Option<Lifeboat>)> {
    let pin = &job.target;
    let mut matching = Vec::new();
    for device in candidates {
        let disk = Disk::open(&device.path)?;
        if let Some(lifeboat) = booted_lifeboat(job, &disk)? {
            matching.push((*device, Some(lifeboat)));
            continue;
        }
        let mut head = Buffer::new(usize::try_from(pin.head_bytes).context("target.head_bytes")?);
        disk.read_at(&mut head, 0)?;
        if Sha256::of(&head) == pin.head_sha256 {
            matching.push((*device, None));
        } else {
            say!("{} does not begin as the target did when armed", device.describe());
        }
    }
    match matching.len() {
        1 => Ok(matching.remove(0)).map(|(device, lifeboat)| (device.clone(), lifeboat)),
        0 => {
            let list: Vec<_> = disks.iter().map(Device::describe).collect();
            Err(Fault(format!(
                "no disk is the one that was armed (serial {}, model {}, {} bytes, {}); there are: {}",
                pin.serial.as_deref().unwrap_or("none"),
                pin.model.as_deref().unwrap_or("none"),
                pin.size_bytes,
                pin.path,
                list.join(", ")
            )))
        }
        _ => {
            let list: Vec<_> = matching.iter().map(|(device, _)| device.describe()).collect();
            Err(Fault(format!(
                "several disks look like the one that was armed: {}",
                list.join(", ")
            )))
        }
    }
}

/// The lifeboat of the job on a disk, if the disk boots it.
fn booted_lifeboat(job: &Job, disk: &Disk) -> Result<Option<Lifeboat>> {
    let Some(range) = job.lifeboat else { return Ok(None) };
    // What is no lifeboat, or cannot be read, boots nothing.
    let Ok(lifeboat) = Lifeboat::read(disk, range, &job.nonce) else { return Ok(None) };
    Ok(lifeboat.boots(disk)?.then_some(lifeboat))
}

/// Whether all that sysfs reports of a disk is as pinned.
fn pinned(pin: &Pin, device: &Device) -> bool {
    let by_wwid = pin.wwid.is_some() && pin.wwid == device.wwid;
    let serial = match &pin.serial {
        // udev makes up serial numbers of some disks; then the other identifier must do.
        Some(serial) => device.serials.iter().any(|known| known == serial) || by_wwid,
        None => true,
    };
    pin.size_bytes == device.size_bytes && serial && models_agree(&pin.model, &device.model)
}

fn same(wanted: &DataDisk, device: &Device) -> bool {
    // Namespaces of one controller have the same serial number, model and maybe size.
    let other = |wwid: &String| device.wwid.as_ref().is_some_and(|own| own != wwid);
    !wanted.wwid.as_ref().is_some_and(other)
        && wanted.serial.as_ref().is_none_or(|serial| device.serials.contains(serial))
        && models_agree(&wanted.model, &device.model)
        && wanted.size_bytes.is_none_or(|size| size == device.size_bytes)
}

/// Whether two models can be the same: udev writes `_` for white space.
fn models_agree(one: &Option<String>, other: &Option<String>) -> bool {
    let plain = |model: &str| {
        let words = model.split(|c: char| c.is_whitespace() || c == '_');
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    };
    match (one, other) {
        (Some(one), Some(other)) => plain(one) == plain(other),
        _ => true,
    }
}

/// Open a disk that no data are on, and that nobody uses.
fn open(device: &Device, data: &[DataDisk]) -> Result<Disk> {
    let what = device.describe();
    let known = |wanted: &&DataDisk| wanted.serial.is_some() && same(wanted, device);
    if data.iter().any(|wanted| known(&wanted)) {
        return Err(Fault(format!("{what} is a data disk; it is never written to")));
    }
    let holders = device.holders();
    if !holders.is_empty() {
        return Err(Fault(format!("{what} is in use by {}", holders.join(", "))));
    }
    Disk::open_exclusively(&device.path)
        .context(format_args!("{what} cannot be opened for itself alone"))
}

/// Prove that a disk holds nothing but a system that is to be replaced.
fn examine(device: &Device, disk: &Disk, own: &[String]) -> Result<()> {
    let what = device.describe();
    if let Some(why) = rules::whole_disk(&what, &superblock::read(disk)?.all) {
        return Err(Fault(why));
    }
    let partitions: Vec<_> = devices::all()
        .into_iter()
        .filter(|partition| partition.disk.as_ref() == Some(&device.name))
        .map(|partition| Ok((Disk::open(&partition.path)?, partition)))
        .collect::<Result<_>>()?;
    let on_disk: Vec<_> = partitions
        .iter()
        .filter_map(|(disk, _)| lvm::physical_uuid(&Aligned::all_of(disk)))
        .collect();
    let mut members = Vec::new();
    for (disk, partition) in &partitions {
        let name = partition.path.display().to_string();
        let group = lvm::membership(&Aligned::all_of(disk));
        let found = superblock::read(disk)?.all;
        members.extend(rules::partition_of_system(&name, &found, group.as_ref(), own, &on_disk));
    }
    if members.is_empty() {
        Ok(())
    } else {
        Err(Fault(format!("on {what}, {}", members.join(", "))))
    }
}

/// Whether an image can be on a disk.
///
/// # Errors
/// A sentence about why not.
pub fn check_fit(image: &Descriptor, disk: &Disk) -> Result<()> {
    let target = Target {
        path: disk.path().display().to_string(),
        size_bytes: disk.size_bytes(),
        sector_bytes: disk.sector_bytes(),
    };
    let reasons = fit(&Facts::from(image), &target);
    if reasons.is_empty() { Ok(()) } else { Err(Fault(reasons.join(" "))) }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use holdfast_engine::image::Sha256;
    use serde_json::json;

    use super::{choose, pinned, same};
    use crate::disk::devices::{self, Device};
    use crate::job::{DataDisk, Job, Pin};

    /// A machine's sysfs, with one disk that has a partition.
    fn disk(files: &[(&str, &str)]) -> Device {
        let sys = tempfile::tempdir().unwrap();
        let place = sys.path().join("devices/pci0/block/vda");
        let write = |path: &Path, text: &str| {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, text) in [("dev", "254:0\n"), ("size", "2048\n")].iter().chain(files) {
            write(&place.join(name), text);
        }
        for (name, text) in [("dev", "254:1"), ("size", "100"), ("partition", "1")] {
            write(&place.join("vda1").join(name), text);
        }
        let class = sys.path().join("class/block");
        fs::create_dir_all(&class).unwrap();
        std::os::unix::fs::symlink(&place, class.join("vda")).unwrap();
        std::os::unix::fs::symlink(place.join("vda1"), class.join("vda1")).unwrap();
        let found = devices::below(sys.path(), Path::new("/dev"));
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].disk.as_deref(), found[1].partition), (Some("vda"), Some(1)));
        found.into_iter().next().unwrap()
    }

    fn pin(serial: Option<&str>, model: Option<&str>, wwid: Option<&str>) -> Pin {
        Pin {
            serial: serial.map(str::to_owned),
            model: model.map(str::to_owned),
            size_bytes: 1 << 20,
            wwid: wwid.map(str::to_owned),
            path: String::new(),
            volume_groups: Vec::new(),
            head_bytes: 512,
            head_sha256: Sha256([0; 32]),
        }
    }

    #[test]
    fn a_disk_is_known_by_all_that_is_told_of_it() {
        let nvme = disk(&[
            ("device/serial", "vol-1  \n"),
            ("device/model", "Amazon  EBS \n"),
            ("wwid", "w1"),
        ]);
        for (pin, fits) in [
            (pin(Some("vol-1"), Some("Amazon EBS"), None), true),
            // As udev writes it.
            (pin(Some("vol-1"), Some("Amazon_EBS"), None), true),
            (pin(None, None, None), true),
            (pin(Some("made-up"), None, Some("w1")), true),
            (pin(Some("vol-2"), None, None), false),
            (pin(Some("vol-2"), None, Some("w2")), false),
            (pin(Some("vol-1"), Some("Amazon Instance Storage"), None), false),
            (Pin { size_bytes: 1 << 21, ..pin(Some("vol-1"), None, None) }, false),
        ] {
            assert_eq!(pinned(&pin, &nvme), fits, "{pin:?}");
        }
        let scsi = disk(&[("device/vpd_pg80", "\0\u{1}\0\u{4}ABCD ")]);
        assert!(pinned(&pin(Some("ABCD"), None, None), &scsi));
        assert!(!pinned(&pin(Some("ABCD"), None, None), &disk(&[])));
        let data =
            DataDisk { serial: Some("ABCD".to_owned()), model: None, wwid: None, size_bytes: None };
        assert!(same(&data, &scsi) && !same(&data, &nvme));
    }

    const NONCE: &str = "0123456789abcdef0123456789abcdef";

    fn job(head: &[u8]) -> Job {
        let job = json!({
            "format": "holdfast-job", "version": 1, "nonce": NONCE, "operation": "op",
            "target": {"serial": null, "model": null, "size_bytes": 1 << 20,
                       "head_bytes": head.len(), "head_sha256": Sha256::of(head)},
            "descriptor_sha256": "0".repeat(64),
            "source": {"kind": "network", "url": "https://x/y"},
            "outcome": {"offset_bytes": 4096, "length_bytes": 16384},
            "lifeboat": {"offset_bytes": 65536, "length_bytes": 131_072},
            "time": "2026-11-24T20:00:00Z",
        });
        Job::parse(job.to_string().as_bytes()).unwrap()
    }

    /// A disk with a lifeboat of this arming, which boots the old system.
    fn armed(nonce: &str) -> Vec<u8> {
        let mut disk = vec![1; 1 << 20];
        let mut switch = vec![2; 512];
        switch[510..].copy_from_slice(&[0x55, 0xaa]);
        let header = json!({
            "format": "holdfast-lifeboat", "version": 1, "nonce": nonce, "firmware": "bios",
            "sector_bytes": 512, "length_bytes": 131_072,
            "switch": {"lba": 0, "offset_bytes": 69632, "sha256": Sha256::of(&switch)},
            "journal": {"offset_bytes": 4096, "length_bytes": 65536},
            "parts": [{"name": "core", "offset_bytes": 73728, "length_bytes": 1,
                       "sha256": Sha256::of(&[1])}],
        });
        let text = format!("{header}\n");
        disk[65536..65536 + text.len()].copy_from_slice(text.as_bytes());
        disk[65536 + 69632..][..512].copy_from_slice(&switch);
        disk
    }

    #[test]
    fn the_target_begins_as_when_armed_or_boots_the_lifeboat_of_the_arming() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let old = armed(NONCE);
        let job = job(&old[..4096]);
        let place = |name: &str, bytes: &[u8]| {
            let path = directory.path().join(name);
            fs::write(&path, bytes).unwrap();
            let mut device = disk(&[]);
            device.path = path;
            device
        };
        let switched = |nonce: &str| {
            let mut bytes = armed(nonce);
            bytes[..512].copy_from_slice(&armed(nonce)[65536 + 69632..][..512]);
            bytes
        };
        let chosen = |disks: &[&Device]| {
            choose(&job, disks, &[]).map(|(device, lifeboat)| (device.path, lifeboat.is_some()))
        };
        let whole = place("old", &old);
        let boat = place("boat", &switched(NONCE));
        // As it is half-way through: only the sector and the range are as they were.
        let mut half = switched(NONCE);
        half[512..65536].fill(0);
        half[65536 + 131_072..].fill(9);
        let half = place("half", &half);
        let other = place("other", &switched(&"f".repeat(32)));
        assert_eq!(chosen(&[&whole]), Ok((whole.path.clone(), false)));
        assert_eq!(chosen(&[&boat]), Ok((boat.path.clone(), true)));
        assert_eq!(chosen(&[&other, &half]), Ok((half.path.clone(), true)));
        assert!(chosen(&[&other]).unwrap_err().0.contains("no disk is the one"));
        assert!(chosen(&[&whole, &half]).unwrap_err().0.contains("several disks"));
        // A copy of it cannot be distinguished from it, so neither is written.
        assert!(chosen(&[&boat, &half]).unwrap_err().0.contains("several disks"));
    }

    #[test]
    fn namespaces_of_one_controller_are_told_apart_by_their_identifiers() {
        let files =
            [("device/serial", "000001"), ("device/model", "MSFT NVMe"), ("wwid", "nvme.1")];
        let namespace = disk(&files);
        let data = |wwid: Option<&str>| DataDisk {
            serial: Some("000001".to_owned()),
            model: Some("MSFT NVMe".to_owned()),
            wwid: wwid.map(str::to_owned),
            size_bytes: Some(1 << 20),
        };
        assert!(same(&data(Some("nvme.1")), &namespace));
        assert!(!same(&data(Some("nvme.2")), &namespace));
        // An arming of an older holdfast does not know them.
        assert!(same(&data(None), &namespace));
    }
}
