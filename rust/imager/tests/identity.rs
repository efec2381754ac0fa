//! Who the machine is, put into a root that may be anything.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use common::{Loop, directory, is_root};
use holdfast_engine::image::Sha256;
use holdfast_imager::identity::place::Root;
use holdfast_imager::identity::{Identity, Report, labels, system_root};
use rustix::fs::XattrFlags;

fn apply(root: &Path, json: &str) -> Report {
    Identity::parse(json.as_bytes()).unwrap().apply(root).unwrap()
}

/// `{"path": ..., "content": "secret"}` and so on.
fn file(path: &str) -> String {
    format!(
        r#"{{"files": [{{"path": "{path}", "mode": 384, "uid": {}, "gid": {}, "content": "c2VjcmV0"}}]}}"#,
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw()
    )
}

#[test]
fn files_are_put_in_place_with_the_new_systems_numbers() {
    if !is_root() {
        return;
    }
    let directory = directory();
    let root = directory.path();
    fs::create_dir_all(root.join("etc/ssh")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nholdfast:x:990:991::/:/x\n")
        .unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nholdfast:x:991:\n").unwrap();
    for name in ["ssh_host_old_key", "ssh_host_old_key.pub", "sshd_config"] {
        fs::write(root.join("etc/ssh").join(name), "of the image").unwrap();
    }
    let report = apply(
        root,
        r#"{"remove": ["/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub", "/nowhere/*"],
            "directories": [{"path": "/etc/holdfast/tls", "mode": 488, "uid": 7, "gid": 8,
                             "user": "nobody-knows", "group": "holdfast"}],
            "files": [{"path": "/etc/ssh/ssh_host_ed25519_key", "mode": 384, "uid": 0, "gid": 0,
                       "user": "root", "group": "root", "content": "c2VjcmV0"},
                      {"path": "/etc/holdfast/holdfast.toml", "mode": 416, "uid": 1, "gid": 2,
                       "user": "holdfast", "group": "holdfast", "content": ""}]}"#,
    );
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(report.carried, ["/etc/ssh/ssh_host_ed25519_key", "/etc/holdfast/holdfast.toml"]);
    let mut left: Vec<_> =
        fs::read_dir(root.join("etc/ssh")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["ssh_host_ed25519_key", "sshd_config"]);
    assert_eq!(fs::read(root.join("etc/ssh/ssh_host_ed25519_key")).unwrap(), b"secret");
    let attributes = |path: &str| {
        let metadata = fs::metadata(root.join(path)).unwrap();
        (metadata.permissions().mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    assert_eq!(attributes("etc/ssh/ssh_host_ed25519_key"), (0o600, 0, 0));
    assert_eq!(attributes("etc/holdfast/holdfast.toml"), (0o640, 990, 991));
    assert_eq!(attributes("etc/holdfast/tls"), (0o750, 7, 991));
}

#[test]
fn links_in_the_new_root_lead_nowhere_else() {
    let directory = directory();
    let outside = directory.path().join("outside");
    let root = directory.path().join("root");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(outside.join("passwd"), "mine").unwrap();
    symlink(&outside, root.join("etc/ssh")).unwrap();
    symlink("../../outside", root.join("etc/holdfast")).unwrap();
    symlink(outside.join("passwd"), root.join("etc/machine-id")).unwrap();
    for path in ["/etc/ssh/key", "/etc/holdfast/holdfast.toml"] {
        let report = apply(&root, &file(path));
        assert_eq!((report.carried.len(), report.problems.len()), (0, 1), "{report:?}");
    }
    // The name itself is replaced, not what it led to.
    assert_eq!(apply(&root, &file("/etc/machine-id")).carried, ["/etc/machine-id"]);
    assert_eq!(fs::read(root.join("etc/machine-id")).unwrap(), b"secret");
    for pattern in ["/etc/ssh/*", "/etc/holdfast/*"] {
        apply(&root, &format!(r#"{{"remove": ["{pattern}"]}}"#));
    }
    let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["passwd"]);
    assert_eq!(fs::read(outside.join("passwd")).unwrap(), b"mine");
}

#[test]
fn links_within_the_new_root_are_followed_as_it_will_follow_them() {
    let directory = directory();
    let root = directory.path();
    // Nothing of this name is at the top of a machine that runs the tests.
    fs::create_dir_all(root.join("within/etc")).unwrap();
    symlink("/within/etc", root.join("etc")).unwrap();
    assert_eq!(apply(root, &file("/etc/hostname")).problems, Vec::<String>::new());
    assert_eq!(fs::read(root.join("within/etc/hostname")).unwrap(), b"secret");
}

#[test]
fn what_is_no_path_is_a_problem_and_the_rest_is_done() {
    let directory = directory();
    for path in ["etc/hostname", "/../hostname", "/etc/./hostname", "/", ""] {
        let report = apply(directory.path(), &file(path));
        assert_eq!((report.carried.len(), report.problems.len()), (0, 1), "{path}: {report:?}");
    }
    let report = apply(directory.path(), r#"{"remove": ["/etc/*/key", "key"], "files": []}"#);
    assert_eq!(report.problems.len(), 2, "{report:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn each_file_is_reported_with_what_was_written() {
    let directory = directory();
    let report = apply(directory.path(), &file("/etc/hostname"));
    let [placed] = report.files.as_slice() else { panic!("{report:?}") };
    assert_eq!((placed.path.as_str(), placed.mode), ("/etc/hostname", 0o600));
    assert_eq!(placed.sha256, Sha256::of(b"secret"));
    let root = Root::open(directory.path()).unwrap();
    report.check(&root).unwrap();
    // Each part of it is compared.
    let path = directory.path().join("etc/hostname");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(report.check(&root).unwrap_err(), "/etc/hostname");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    report.check(&root).unwrap();
    fs::write(&path, "Secret").unwrap();
    report.check(&root).unwrap_err();
    fs::remove_file(&path).unwrap();
    report.check(&root).unwrap_err();
}

#[test]
fn a_kind_of_which_a_file_cannot_be_carried_keeps_what_the_image_has() {
    let directory = directory();
    let root = directory.path();
    // In its way, as a file that cannot be replaced is.
    fs::create_dir_all(root.join("etc/ssh/ssh_host_b_key")).unwrap();
    fs::write(root.join("etc/ssh/ssh_host_a_key"), "of the image").unwrap();
    let mut wanted: serde_json::Value =
        serde_json::from_str(&file("/etc/ssh/ssh_host_b_key")).unwrap();
    wanted["remove"] = serde_json::json!(["/etc/ssh/ssh_host_*_key"]);
    let report = apply(root, &wanted.to_string());
    assert_eq!((report.carried.len(), report.problems.len()), (0, 2), "{report:?}");
    assert!(report.problems[1].contains("left as the image has it"), "{report:?}");
    assert_eq!(fs::read(root.join("etc/ssh/ssh_host_a_key")).unwrap(), b"of the image");
    assert_eq!(fs::read_dir(root.join("etc/ssh")).unwrap().count(), 2, "nothing is left over");
}

const KEYS: &str = r#"{"remove": ["/etc/ssh/ssh_host_*_key"],
    "files": [{"path": "/etc/ssh/ssh_host_ed25519_key", "mode": 384, "uid": 0, "gid": 0,
               "content": "c2VjcmV0"},
              {"path": "/etc/hostname", "mode": 420, "uid": 0, "gid": 0,
               "content": "bm9kZS03LmV4YW1wbGUuY29tCg=="}]}"#;

#[test]
fn cloud_init_is_told_to_leave_alone_what_was_carried_and_nothing_else() {
    if !is_root() {
        return;
    }
    let settings = "etc/cloud/cloud.cfg.d/99-holdfast.cfg";
    let lines = |root: &Path| {
        let text = fs::read_to_string(root.join(settings)).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>()
    };
    let with = directory();
    fs::create_dir_all(with.path().join("etc/cloud")).unwrap();
    let report = apply(with.path(), KEYS);
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(
        lines(with.path()),
        [
            "ssh_deletekeys: false",
            "ssh_genkeytypes: [ed25519]",
            "preserve_hostname: true",
            "hostname: \"node-7\"",
            "fqdn: \"node-7.example.com\""
        ]
    );
    assert_eq!(report.cloud_init.unwrap().path, format!("/{settings}"));
    let name = directory();
    fs::create_dir_all(name.path().join("etc/cloud/cloud.cfg.d")).unwrap();
    fs::write(name.path().join("etc/cloud/cloud.cfg.d/99_z.cfg"), "preserve_hostname: false\n")
        .unwrap();
    // What is not a name is not put into the settings.
    let report = apply(name.path(), &file("/etc/hostname").replace("c2VjcmV0", "YSI6IGI="));
    assert_eq!(lines(name.path()), ["preserve_hostname: true"]);
    assert!(report.problems[0].contains("99_z.cfg comes after"), "{report:?}");
    for (cloud, path) in [(true, "/etc/machine-id"), (false, "/etc/hostname")] {
        let other = directory();
        fs::create_dir_all(other.path().join(if cloud { "etc/cloud" } else { "etc" })).unwrap();
        assert_eq!(apply(other.path(), &file(path)).cloud_init, None);
        assert!(!other.path().join(settings).exists());
    }
}

/// A root on ext4 that keeps labels, with those of these files and directories.
fn labelled(
    directory: &Path,
    labels: &[(&str, &str)],
) -> (Loop, holdfast_imager::disk::mount::Mounted) {
    let device = Loop::empty(directory, 8 << 20);
    common::run("mkfs.ext4", &["-q", "-F", device.path.to_str().unwrap()], "");
    let mounted =
        holdfast_imager::disk::mount::root(&device.path, "ext4", &directory.join("mounted"))
            .unwrap();
    let root = mounted.path();
    fs::create_dir_all(root.join("etc/ssh")).unwrap();
    fs::create_dir_all(root.join("etc/selinux")).unwrap();
    fs::write(root.join("etc/selinux/config"), "# SELINUX=x\nSELINUX=enforcing\n").unwrap();
    for (path, label) in labels {
        let path = root.join(path);
        if !path.exists() {
            fs::write(&path, "of the image").unwrap();
        }
        let label = format!("{label}\0");
        rustix::fs::setxattr(&path, "security.selinux", label.as_bytes(), XattrFlags::empty())
            .unwrap();
    }
    (device, mounted)
}

#[test]
fn labels_are_those_of_what_is_replaced_or_of_its_kind_or_directory() {
    if !is_root() {
        return;
    }
    for (labels, key, name) in [
        (
            vec![
                ("etc", "u:r:etc_t:s0"),
                ("etc/ssh", "u:r:etc_t:s0"),
                ("etc/hostname", "u:r:hostname_t:s0"),
                ("etc/ssh/ssh_host_rsa_key", "u:r:key_t:s0"),
            ],
            Some("u:r:key_t:s0"),
            Some("u:r:hostname_t:s0"),
        ),
        (
            vec![("etc", "u:r:etc_t:s0"), ("etc/ssh", "u:r:ssh_t:s0")],
            Some("u:r:ssh_t:s0"),
            Some("u:r:etc_t:s0"),
        ),
        (vec![("etc", "u:r:etc_t:s0")], None, Some("u:r:etc_t:s0")),
        (vec![], None, None),
    ] {
        let directory = directory();
        let (_device, mounted) = labelled(directory.path(), &labels);
        let report = apply(mounted.path(), KEYS);
        let root = Root::open(mounted.path()).unwrap();
        for (placed, wanted) in report.files.iter().zip([key, name]) {
            assert_eq!(placed.label.as_deref(), wanted, "{report:?}");
            assert_eq!(labels::read(&root, &placed.path).as_deref(), wanted);
        }
        let relabel = key.is_none() || name.is_none();
        let found = report.selinux.unwrap();
        assert_eq!((found.mode, found.relabel), ("enforcing", relabel));
        assert_eq!(mounted.path().join(".autorelabel").exists(), relabel);
    }
}

#[test]
fn without_selinux_no_relabelling_is_ordered() {
    for configuration in [None, Some("SELINUX=disabled\n")] {
        let directory = directory();
        fs::create_dir_all(directory.path().join("etc/selinux")).unwrap();
        if let Some(text) = configuration {
            fs::write(directory.path().join("etc/selinux/config"), text).unwrap();
        }
        assert_eq!(apply(directory.path(), &file("/etc/hostname")).selinux, None);
        assert!(!directory.path().join(".autorelabel").exists());
    }
}

/// Make deployments of these names, each newer than its predecessor; return their paths.
fn deployments(root: &Path, names: &[&str]) -> Vec<String> {
    let paths = names.iter().enumerate().map(|(age, name)| {
        let path = format!("ostree/deploy/os/deploy/{name}");
        fs::create_dir_all(root.join(&path).join("etc")).unwrap();
        fs::create_dir_all(root.join(&path).join("usr/lib")).unwrap();
        fs::write(root.join(&path).join("usr/lib/os-release"), "").unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age as u64);
        fs::File::open(root.join(&path)).unwrap().set_modified(time).unwrap();
        format!("/{path}")
    });
    paths.collect()
}

#[test]
fn of_several_deployments_the_loaders_counts_and_else_the_newest() {
    let directory = directory();
    let root = directory.path();
    let paths = deployments(root, &["b.0", "a.0", "a.1"]);
    let find = || system_root::find(Root::open(root).unwrap()).unwrap().deployment.unwrap();
    assert_eq!(find(), paths[2]);
    let entries = root.join("boot/loader.1/entries");
    fs::create_dir_all(&entries).unwrap();
    symlink("loader.1", root.join("boot/loader")).unwrap();
    fs::create_dir_all(root.join("ostree/boot.1/os/x")).unwrap();
    for (number, path) in [(0, &paths[1]), (1, &paths[0])] {
        let link = root.join(format!("ostree/boot.1/os/x/{number}"));
        symlink(format!("../../../..{path}"), link).unwrap();
        let version = 2 - number;
        fs::write(
            entries.join(format!("ostree-{version}-os.conf")),
            format!("title x\nversion {version}\noptions rw ostree=/ostree/boot.1/os/x/{number}\n"),
        )
        .unwrap();
    }
    assert_eq!(find(), paths[1]);
}

#[test]
fn what_is_not_known_to_be_a_root_is_refused() {
    let find = |root: &Path| system_root::find(Root::open(root).unwrap());
    let plain = directory();
    assert!(find(plain.path()).unwrap_err().to_string().contains("os-release"));
    fs::create_dir_all(plain.path().join("usr/lib")).unwrap();
    fs::write(plain.path().join("usr/lib/os-release"), "").unwrap();
    assert_eq!(find(plain.path()).unwrap().deployment, None);
    let ostree = directory();
    fs::create_dir_all(ostree.path().join("ostree/deploy/os")).unwrap();
    fs::create_dir_all(ostree.path().join("etc")).unwrap();
    fs::write(ostree.path().join("etc/os-release"), "").unwrap();
    assert!(find(ostree.path()).unwrap_err().to_string().contains("no deployment"));
}
