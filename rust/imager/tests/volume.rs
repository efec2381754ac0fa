//! A root on a logical volume: found, given its identity and grown, and judged by LVM's own tools.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::{Loop, directory, is_root, noise, run};
use holdfast_engine::Progress;
use holdfast_engine::image::Descriptor;
use holdfast_engine::image::describe::{Request, describe};
use holdfast_imager::disk::Disk;
use holdfast_imager::identity::Identity;
use holdfast_imager::job::Job;
use holdfast_imager::pipeline::{WriteOptions, replace::replace, verify::verify};
use holdfast_imager::source::staged::Staged;
use holdfast_imager::status::Status;
use holdfast_imager::systems::marker::Subject;
use holdfast_imager::systems::new_system::{NewSystem, check};
use serde_json::json;

const MIB: u64 = 1 << 20;
const AT: u64 = MIB;
const IMAGE: u64 = 98 * MIB;
const DISK: u64 = 160 * MIB;

/// The devices that LVM may see, and nothing of it that is outside of the test.
fn config(device: &Path, directory: &Path) -> String {
    format!(
        "devices{{filter=[\"a|^{}$|\",\"r|.*|\"] use_devicesfile=0 scan_lvs=0 \
         obtain_device_list_from_udev=0 external_device_info_source=\"none\"}} \
         activation{{udev_sync=0 udev_rules=0}} backup{{backup=0 archive=0}} \
         global{{use_lvmpolld=0 locking_dir=\"{}\"}}",
        device.display(),
        directory.display()
    )
}

/// Run a command of LVM on a device; what it printed. This kernel need not have a device mapper.
fn lvm(device: &Path, directory: &Path, command: &str, arguments: &[&str]) -> String {
    let mut lvm = Command::new("lvm");
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    lvm.env("PATH", path).env("LVM_SUPPRESS_FD_WARNINGS", "1");
    lvm.args([command, "--driverloaded", "n", "--config", &config(device, directory)]);
    let done = lvm.args(arguments).output().unwrap();
    let output = [&done.stdout[..], &done.stderr].concat();
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(done.status.success(), "lvm {command} {arguments:?}: {output}");
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// One test at a time: a command that is being started has what is open of the other one's mounts.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn can_be_tested() -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let found = Command::new("lvm").arg("version").env("PATH", path).output().is_ok();
    if !found {
        eprintln!("not tested: there is no lvm (Debian: lvm2)");
    }
    found && is_root()
}

/// A part of a file as a device with sectors of this size.
fn part(file: &Path, sector: &str, at: u64, length: u64) -> Loop {
    let (at, length) = (at.to_string(), length.to_string());
    Loop::of(file, &["--sector-size", sector, "--offset", &at, "--sizelimit", &length])
}

/// An image of one partition with the group `rl`: `first` of 8 MiB, `root`, and `last` of 8 MiB if it is
/// named. With its descriptor.
fn image(directory: &Path, sector: &str, first: &str, last: Option<&str>) -> Descriptor {
    let file = directory.join("image");
    fs::File::create(&file).unwrap().set_len(IMAGE).unwrap();
    {
        let whole = part(&file, sector, 0, IMAGE);
        let script = "label: gpt\nstart=1MiB, size=96MiB, type=lvm\n";
        run("sfdisk", &["--quiet", whole.path.to_str().unwrap()], script);
    }
    let physical = part(&file, sector, AT, 96 * MIB);
    let on = |command: &str, arguments: &[&str]| {
        lvm(&physical.path, directory, command, arguments);
    };
    let node = physical.path.to_str().unwrap();
    on("pvcreate", &["--quiet", node]);
    on("vgcreate", &["--quiet", "--setautoactivation", "n", "rl", node]);
    let create = |name: &str, size: &str| {
        let options = ["--quiet", "-an", "-Zn", "-Wn", "--yes", "-L", size, "-n", name, "rl"];
        on("lvcreate", &options);
    };
    create(first, "8m");
    create("root", "48m");
    if let Some(name) = last {
        create(name, "8m");
    }
    drop(physical);
    let tree = directory.join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/os-release"), "ID=test\n").unwrap();
    let volume = part(&file, sector, AT + 9 * MIB, 48 * MIB);
    let node = volume.path.to_str().unwrap();
    run("mkfs.ext4", &["-q", "-m", "0", "-d", tree.to_str().unwrap(), node], "");
    drop(volume);
    let request = Request {
        file,
        name: "rhel".to_owned(),
        image_version: "9".to_owned(),
        created: "2026-11-24T20:00:00Z".to_owned(),
        root_partition: None,
    };
    describe(&request, &Progress::default()).unwrap()
}

fn identity() -> Identity {
    let identity = json!({"files": [{
        "path": "/etc/hostname", "mode": 0o644, "uid": 0, "gid": 0, "user": null, "group": null,
        "content": "bm9kZS03Cg==",
    }]});
    Identity::parse(identity.to_string().as_bytes()).unwrap()
}

fn job() -> Job {
    let job = json!({
        "format": "holdfast-job", "version": 1, "nonce": "0123456789abcdef0123456789abcdef",
        "operation": "op", "descriptor_sha256": "0".repeat(64),
        "target": {"serial": null, "model": null, "size_bytes": DISK,
                   "head_bytes": 1 << 20, "head_sha256": "0".repeat(64)},
        "source": {"kind": "network", "url": "https://x/y"},
        "outcome": {"offset_bytes": 4096, "length_bytes": 16384},
        "time": "2026-11-24T20:00:00Z",
    });
    Job::parse(job.to_string().as_bytes()).unwrap()
}

/// Replace a larger disk by the image, grown; the disk's file, and what was noted.
fn replaced(directory: &Path, sector: &str, image: &Descriptor) -> (std::path::PathBuf, String) {
    check(image, &identity()).unwrap();
    let file = directory.join("disk");
    fs::write(&file, noise(9, DISK as usize)).unwrap();
    let device = part(&file, sector, 0, DISK);
    let (staged, status) = (Staged::at(directory.join("image")), Status::new());
    let digests = verify(image, &staged, &status).unwrap();
    let disk = Disk::open(&device.path).unwrap().shared().unwrap();
    let (job, identity) = (job(), identity());
    let subject = Subject { job: &job, image, previous: None };
    let system = NewSystem { subject, identity: &identity, status: &status };
    let grow = image.root_partition;
    let options = WriteOptions { grow, ..WriteOptions::default() };
    replace(image, &staged, &digests, &disk, options, &status, |table| {
        system.finish(&disk, table, &directory.join("root"))
    })
    .unwrap();
    assert_eq!(status.to_json()["problems"], json!([]));
    (file, status.notes().join("\n"))
}

/// Judge the group on a disk, and the root on it; its size in bytes.
fn judged(directory: &Path, sector: &str, file: &Path) -> u64 {
    let (start, length) = {
        let whole = part(file, sector, 0, DISK);
        let dump = run("sfdisk", &["--json", whole.path.to_str().unwrap()], "");
        let table: serde_json::Value = serde_json::from_str(&dump).unwrap();
        let unit: u64 = sector.parse().unwrap();
        let one = &table["partitiontable"]["partitions"][0];
        (one["start"].as_u64().unwrap() * unit, one["size"].as_u64().unwrap() * unit)
    };
    assert!(start == AT && length > DISK - 3 * MIB, "the partition was extended: {length}");
    let physical = part(file, sector, start, length);
    let on = |command: &str, arguments: &[&str]| lvm(&physical.path, directory, command, arguments);
    on("vgck", &["rl"]);
    let node = physical.path.to_str().unwrap();
    on("pvck", &[node]);
    let metadata = on("pvck", &["--dump", "metadata", node]);
    assert!(metadata.contains("Text Format Volume Group"), "{metadata}");
    let number = |command: &str, field: &str, of: &str| -> u64 {
        let options = ["--noheadings", "--nosuffix", "--units", "b", "-o", field, of];
        on(command, &options).trim().parse().unwrap()
    };
    // LVM keeps the rest of the last extent, and of the first mebibyte, for itself.
    let extents = (length - MIB) / (4 * MIB) * 4 * MIB;
    assert_eq!(
        (number("pvs", "pv_size", node), number("pvs", "dev_size", node)),
        (extents, length)
    );
    let size = number("lvs", "lv_size", "rl/root");
    // LVM changes what was written here as any other group of its own.
    on("vgchange", &["--quiet", "--addtag", "seen", "rl"]);
    on("vgck", &["rl"]);
    drop(physical);
    let volume = part(file, sector, AT + 9 * MIB, size);
    run("e2fsck", &["-f", "-n", volume.path.to_str().unwrap()], "");
    let mounted = holdfast_imager::disk::mount::root(&volume.path, "ext4", &directory.join("seen"));
    let mounted = mounted.unwrap();
    assert_eq!(fs::read(mounted.path().join("etc/hostname")).unwrap(), b"node-7\n");
    assert!(mounted.path().join("etc/holdfast/reimaged.json").exists());
    let found = rustix::fs::statvfs(mounted.path()).unwrap();
    mounted.unmount().unwrap();
    assert!(found.f_blocks * found.f_frsize <= size);
    size
}

#[test]
fn a_root_on_the_last_volume_is_given_its_identity_and_grown() {
    if !can_be_tested() {
        return;
    }
    let _alone = alone();
    for sector in ["512", "4096"] {
        let directory = directory();
        let image = image(directory.path(), sector, "swap", None);
        let root = image.inspection.root.as_ref().unwrap();
        assert_eq!(root.volume.as_deref(), Some("rl/root"));
        let range = root.volume_range.unwrap();
        assert_eq!((range.start_bytes, range.size_bytes), (AT + 9 * MIB, 48 * MIB));
        let (file, notes) = replaced(directory.path(), sector, &image);
        let size = judged(directory.path(), sector, &file);
        assert!(size > DISK - 16 * MIB, "{size}");
        assert!(notes.contains(&format!("rl/root was extended to {size} bytes")), "{notes}");
        let grown = notes.contains("root file system (ext4) was grown to");
        assert!(grown || notes.contains("not permitted"), "{notes}");
    }
}

#[test]
fn a_root_with_a_volume_behind_it_is_left_and_its_group_grown() {
    if !can_be_tested() {
        return;
    }
    let _alone = alone();
    let directory = directory();
    let image = image(directory.path(), "512", "var", Some("swap"));
    let (file, notes) = replaced(directory.path(), "512", &image);
    assert_eq!(judged(directory.path(), "512", &file), 48 * MIB);
    assert!(notes.contains("lvextend --resizefs"), "{notes}");
}
