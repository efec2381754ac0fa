//! Who the machine is, put into a root that may be anything.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use common::{directory, is_root};
use holdfast_imager::identity::{Identity, Report};

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
    let told = |path: &str| {
        let metadata = fs::metadata(root.join(path)).unwrap();
        (metadata.permissions().mode() & 0o7777, metadata.uid(), metadata.gid())
    };
    assert_eq!(told("etc/ssh/ssh_host_ed25519_key"), (0o600, 0, 0));
    assert_eq!(told("etc/holdfast/holdfast.toml"), (0o640, 990, 991));
    assert_eq!(told("etc/holdfast/tls"), (0o750, 7, 991));
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
