//! What the new system gets before its disk boots: a root of the disk's size, who the machine is, and
//! the marker.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use common::recorded::{SECTOR, case, table, zeros};
use common::{Loop, MIB, directory, is_root, noise, run};
use holdfast_engine::Progress;
use holdfast_engine::image::describe::{Request, describe as describe_file};
use holdfast_engine::image::descriptor::Inspection;
use holdfast_engine::image::{Descriptor, Sha256};
use holdfast_imager::disk::{Buffer, Disk};
use holdfast_imager::identity::Identity;
use holdfast_imager::job::Job;
use holdfast_imager::pipeline::{WriteOptions, replace::replace, verify::verify};
use holdfast_imager::source::staged::Staged;
use holdfast_imager::status::Status;
use holdfast_imager::systems::marker::Subject;
use holdfast_imager::systems::new_system::{NewSystem, check};
use serde_json::json;

const SECRET: &str = "5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e";

fn job() -> Job {
    let job = json!({
        "format": "holdfast-job", "version": 1, "nonce": "0123456789abcdef0123456789abcdef",
        "secret": SECRET, "operation": "op",
        "target": {"serial": null, "model": null, "size_bytes": 1 << 30,
                   "head_bytes": 1 << 20, "head_sha256": "0".repeat(64)},
        "descriptor_sha256": "0".repeat(64),
        "source": {"kind": "network", "url": "https://x/y"},
        "outcome": {"offset_bytes": 4096, "length_bytes": 16384},
        "time": "2026-11-24T20:00:00Z",
        "state_dir": {"uid": 990, "dev": 7, "ino": 12, "file_system_uuid": "u"},
    });
    Job::parse(job.to_string().as_bytes()).unwrap()
}

fn identity() -> Identity {
    let identity = json!({"files": [{
        "path": "/etc/hostname", "mode": 0o644, "uid": 0, "gid": 0, "user": null, "group": null,
        "content": "bm9kZS03Cg==",
    }]});
    Identity::parse(identity.to_string().as_bytes()).unwrap()
}

/// An image with an ext4 root of 16 MiB, described by the engine.
fn system_image(directory: &Path) -> Descriptor {
    image_with(directory, |root| {
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/os-release"), "ID=test\n").unwrap();
    })
}

/// The same, with a root that is filled by a function.
fn image_with(directory: &Path, fill: impl FnOnce(&Path)) -> Descriptor {
    image_on("ext4", &["-m", "0"], directory, fill)
}

/// The same, with a root of this kind.
fn image_on(
    kind: &str,
    options: &[&str],
    directory: &Path,
    fill: impl FnOnce(&Path),
) -> Descriptor {
    let file = directory.join("system");
    table(&file, 24 * MIB);
    let part = Loop::of(&file, &["--offset", "1048576", "--sizelimit", "16777216"]);
    let force = if kind == "btrfs" { "-f" } else { "-F" };
    let device = part.path.to_str().unwrap();
    run(&format!("mkfs.{kind}"), &[&["-q", force], options, &[device]].concat(), "");
    let root =
        holdfast_imager::disk::mount::root(&part.path, kind, &directory.join("filling")).unwrap();
    fill(root.path());
    root.unmount().unwrap();
    drop(part);
    let request = Request {
        file,
        name: "system".to_owned(),
        image_version: "1".to_owned(),
        created: "2026-11-24T20:00:00Z".to_owned(),
        root_partition: None,
    };
    describe_file(&request, &Progress::default()).unwrap()
}

/// Replace a disk of 48 MiB by this image; the status, and what the new root has at a path.
fn replaced(descriptor: &Descriptor, directory: &Path) -> (Status, Loop) {
    replaced_by(descriptor, directory, &identity(), descriptor.root_partition)
}

/// The same, with this identity, and a partition that is grown.
fn replaced_by(
    descriptor: &Descriptor,
    directory: &Path,
    identity: &Identity,
    grow: Option<u32>,
) -> (Status, Loop) {
    let staged = Staged::at(directory.join("system"));
    let status = Status::new();
    let digests = verify(descriptor, &staged, &status).unwrap();
    let device = Loop::new(directory, &noise(9, 48 * MIB));
    let disk = Disk::open_exclusively(&device.path).unwrap().shared().unwrap();
    let (job, previous) = (job(), Sha256::of(b"kept"));
    let subject = Subject { job: &job, image: descriptor, previous: Some(&previous) };
    let system = NewSystem { subject, identity, status: &status };
    let options = WriteOptions { grow, ..WriteOptions::default() };
    replace(descriptor, &staged, &digests, &disk, options, &status, |table| {
        system.finish(&disk, table, &directory.join("root"))?;
        let mut head = Buffer::new(MIB);
        disk.read_at(&mut head, 0)?;
        assert!(zeros(&head), "it does not boot yet");
        Ok(())
    })
    .unwrap();
    (status, device)
}

#[test]
fn the_root_is_grown_and_has_its_marker_before_the_disk_has_a_table() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let descriptor = system_image(directory.path());
    check(&descriptor, &identity()).unwrap();
    let (status, device) = replaced(&descriptor, directory.path());
    assert_eq!(status.to_json()["problems"], json!([]));
    assert_eq!(&device.content()[SECTOR..SECTOR + 8], b"EFI PART");
    let part = Loop::of(&device.file, &["--read-only", "--offset", "1048576"]);
    let at = directory.path().join("seen");
    let mounted = holdfast_imager::disk::mount::data(&part.path, "ext4", &at).unwrap();
    let marker = at.join("etc/holdfast/reimaged.json");
    let found = fs::metadata(&marker).unwrap();
    assert_eq!((found.permissions().mode() & 0o7777, found.uid(), found.gid()), (0o600, 0, 0));
    let marked: serde_json::Value = serde_json::from_slice(&fs::read(&marker).unwrap()).unwrap();
    assert_eq!(marked["secret"], SECRET);
    assert_eq!(marked["previous"]["descriptor_sha256"], json!(Sha256::of(b"kept")));
    assert_eq!(marked["state_dir"]["ino"], 12);
    assert_eq!(marked["identity"]["carried"], json!(["/etc/hostname"]));
    assert_eq!(
        marked["identity"]["files"],
        json!([{"path": "/etc/hostname", "sha256": Sha256::of(b"node-7\n"), "mode": 0o644,
                "uid": 0, "gid": 0, "label": null, "label_from": null}])
    );
    assert_eq!(fs::read_to_string(at.join("etc/hostname")).unwrap(), "node-7\n");
    let grown = rustix::fs::statvfs(&at).unwrap();
    // Growing ext4 takes CAP_SYS_RESOURCE, which the superuser of a container may not have.
    if !status.notes().iter().any(|note| note.contains("not permitted")) {
        assert!(grown.f_blocks * grown.f_frsize > 30 << 20, "it takes the larger disk");
    }
    mounted.unmount().unwrap();
}

#[test]
fn a_root_that_cannot_be_mounted_after_all_is_a_problem_that_is_told() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let mut descriptor = system_image(directory.path());
    let table = descriptor.partition_table.as_mut().unwrap();
    table.partitions[0].file_system = Some("btrfs".to_owned());
    let (status, device) = replaced(&descriptor, directory.path());
    let problems = status.to_json()["problems"].to_string();
    assert!(problems.contains("the new system has no marker"), "{problems}");
    assert_eq!(&device.content()[SECTOR..SECTOR + 8], b"EFI PART");
}

#[test]
fn what_can_be_known_before_the_first_write_is_refused_before_it() {
    let case = case();
    // No root is known: only where nothing is to be carried over.
    check(&case.descriptor, &identity()).unwrap_err();
    check(&case.descriptor, &Identity::default()).unwrap();
    if is_root() {
        let directory = directory();
        let mut descriptor = system_image(directory.path());
        // As an older holdfast made it, which took what was on the partition for the root.
        descriptor.inspection = Inspection::default();
        for kind in [Some("zfs".to_owned()), None] {
            descriptor.partition_table.as_mut().unwrap().partitions[0].file_system = kind;
            check(&descriptor, &Identity::default()).unwrap_err();
        }
    }
}

/// What a root of the written disk has at a path.
fn seen<T>(device: &Loop, directory: &Path, look: impl FnOnce(&Path) -> T) -> T {
    let part = Loop::of(&device.file, &["--read-only", "--offset", "1048576"]);
    let mounted =
        holdfast_imager::disk::mount::data(&part.path, "ext4", &directory.join("seen")).unwrap();
    let found = look(mounted.path());
    mounted.unmount().unwrap();
    found
}

#[test]
fn a_full_root_keeps_the_files_of_its_image_and_the_marker_says_so() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let descriptor = image_with(directory.path(), |root| {
        fs::create_dir_all(root.join("etc/ssh")).unwrap();
        fs::write(root.join("etc/os-release"), "ID=test\n").unwrap();
        fs::write(root.join("etc/ssh/ssh_host_rsa_key"), "of the image").unwrap();
        fs::write(root.join("etc/hostname"), "abc\n").unwrap();
        let filler = root.join("filler");
        fs::write(&filler, vec![1; 12 << 10]).unwrap();
        let mut file = fs::File::create(root.join("filling")).unwrap();
        while std::io::Write::write_all(&mut file, &[7; 1024]).is_ok() {}
        drop(file);
        fs::remove_file(filler).unwrap();
    });
    let key = json!({
        "path": "/etc/ssh/ssh_host_ed25519_key", "mode": 0o600, "uid": 0, "gid": 0,
        "user": null, "group": null, "content": "A".repeat(64 << 10),
    });
    let mut wanted = json!({"files": [key], "remove": ["/etc/ssh/ssh_host_*_key"]});
    wanted["files"].as_array_mut().unwrap().push(json!({
        "path": "/etc/hostname", "mode": 0o644, "uid": 0, "gid": 0, "user": null, "group": null,
        "content": "bm9kZS03Cg==",
    }));
    let identity = Identity::parse(wanted.to_string().as_bytes()).unwrap();
    let (_, device) = replaced_by(&descriptor, directory.path(), &identity, None);
    seen(&device, directory.path(), |root| {
        assert_eq!(fs::read(root.join("etc/ssh/ssh_host_rsa_key")).unwrap(), b"of the image");
        assert_eq!(fs::read_dir(root.join("etc/ssh")).unwrap().count(), 1);
        assert_eq!(fs::read(root.join("etc/hostname")).unwrap(), b"abc\n");
        let marker = fs::read(root.join("etc/holdfast/reimaged.json")).unwrap();
        let marker: serde_json::Value = serde_json::from_slice(&marker).unwrap();
        assert_eq!(marker["identity"]["carried"], json!([]));
        let problem = marker["identity"]["problems"][0].as_str().unwrap();
        assert!(problem.contains("/etc/ssh/ssh_host_ed25519_key"), "{problem}");
        assert!(problem.contains("No space left on device"), "{problem}");
    });
}

#[test]
fn nothing_is_written_into_what_is_not_the_root_of_a_system() {
    if !is_root() {
        return;
    }
    let directory = directory();
    // As /boot is, which the table alone may show as the root.
    let descriptor = image_with(directory.path(), |root| {
        fs::create_dir(root.join("grub")).unwrap();
    });
    let (status, device) = replaced(&descriptor, directory.path());
    let problems = status.to_json()["problems"].to_string();
    assert!(problems.contains("neither /etc/os-release nor"), "{problems}");
    seen(&device, directory.path(), |root| assert!(!root.join("etc").exists()));
}

#[test]
fn identity_goes_into_the_deployment_that_is_booted() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let descriptor = image_with(directory.path(), |root| {
        fs::create_dir_all(root.join("ostree/deploy/os/deploy/abc.0/etc")).unwrap();
        let lib = root.join("ostree/deploy/os/deploy/abc.0/usr/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("os-release"), "ID=test\n").unwrap();
    });
    let (_, device) = replaced(&descriptor, directory.path());
    seen(&device, directory.path(), |root| {
        assert!(!root.join("etc").exists());
        let etc = root.join("ostree/deploy/os/deploy/abc.0/etc");
        assert_eq!(fs::read(etc.join("hostname")).unwrap(), b"node-7\n");
        let marker = fs::read(etc.join("holdfast/reimaged.json")).unwrap();
        let marker: serde_json::Value = serde_json::from_slice(&marker).unwrap();
        assert_eq!(marker["identity"]["deployment"], "/ostree/deploy/os/deploy/abc.0");
    });
}

#[test]
fn identity_goes_into_the_subvolume_that_is_the_root() {
    if !is_root() || !has_btrfs() {
        return;
    }
    let directory = directory();
    let mixed = ["-M", "-m", "single", "-d", "single"];
    let descriptor = image_on("btrfs", &mixed, directory.path(), |top| {
        let root = top.join("root");
        run("btrfs", &["-q", "subvolume", "create", root.to_str().unwrap()], "");
        run("btrfs", &["-q", "subvolume", "create", top.join("home").to_str().unwrap()], "");
        fs::create_dir(root.join("etc")).unwrap();
        fs::write(root.join("etc/os-release"), "ID=test\n").unwrap();
    });
    let found = descriptor.inspection.root.as_ref().unwrap();
    assert_eq!(found.subvolume.as_deref(), Some("root"));
    check(&descriptor, &identity()).unwrap();
    let (status, device) = replaced_by(&descriptor, directory.path(), &identity(), None);
    assert_eq!(status.to_json()["problems"], json!([]));
    let part = Loop::of(&device.file, &["--offset", "1048576"]);
    let at = directory.path().join("seen");
    let mounted = holdfast_imager::disk::mount::root(&part.path, "btrfs", &at).unwrap();
    assert!(!at.join("etc").exists());
    assert_eq!(fs::read(at.join("root/etc/hostname")).unwrap(), b"node-7\n");
    assert!(at.join("root/etc/holdfast/reimaged.json").exists());
    mounted.unmount().unwrap();
}

/// The kernel does not make a btrfs of less than 256 MiB any larger.
#[test]
fn btrfs_is_grown_to_its_partition() {
    if !is_root() || !has_btrfs() {
        return;
    }
    let directory = directory();
    let device = Loop::empty(directory.path(), 512 << 20);
    run("mkfs.btrfs", &["-q", "-b", "256m", device.path.to_str().unwrap()], "");
    let at = directory.path().join("mounted");
    let mounted = holdfast_imager::disk::mount::root(&device.path, "btrfs", &at).unwrap();
    let bytes = holdfast_imager::disk::grow::grow(&at, "btrfs", 512 << 20).unwrap();
    assert_eq!(bytes, 512 << 20);
    mounted.unmount().unwrap();
}

fn has_btrfs() -> bool {
    let kernel = fs::read_to_string("/proc/filesystems").unwrap();
    let found = kernel.contains("btrfs") && which("btrfs").is_some();
    if !found {
        eprintln!("not tested: it needs btrfs");
    }
    found
}

fn which(program: &str) -> Option<std::path::PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(program))
        .find(|path| path.exists())
}

#[test]
fn a_root_with_verity_is_refused_and_never_changed() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let mut descriptor = system_image(directory.path());
    let table = descriptor.partition_table.as_mut().unwrap();
    let mut hashes = table.partitions[0].clone();
    hashes.number = 2;
    hashes.kind = "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5".to_owned();
    table.partitions.push(hashes);
    let refused = check(&descriptor, &identity()).unwrap_err();
    assert!(refused.to_string().contains("protected by verity"), "{refused}");
    check(&descriptor, &Identity::default()).unwrap();
    let (status, device) = replaced_by(&descriptor, directory.path(), &Identity::default(), None);
    let problems = status.to_json()["problems"].to_string();
    assert!(problems.contains("protected by verity"), "{problems}");
    let image = fs::read(directory.path().join("system")).unwrap();
    assert!(device.content()[MIB..17 * MIB] == image[MIB..17 * MIB], "the root was changed");
}
