//! What an operating system is, by the files of its root.

use crate::loader;
use crate::tree::Tree;

/// The most bytes of a text file.
const TEXT: usize = 64 << 10;
/// Of dpkg's list of packages.
const PACKAGES: usize = 32 << 20;
/// Enough of a program or a kernel to see what it is for.
const HEAD: usize = 4096;

/// What speaks for a tree being a root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Evidence {
    /// It has an os-release.
    pub release: bool,
    /// It has `/etc`, and something else that only a root has.
    pub files: bool,
    /// The deployment of an OSTree that is taken for the system: its path.
    pub deployment: Option<String>,
}

impl Evidence {
    /// What a tree has.
    pub fn of(tree: &dyn Tree) -> Self {
        const FILES: [&str; 8] = [
            "etc/passwd",
            "etc/fstab",
            "etc/machine-id",
            "etc/hostname",
            "sbin/init",
            "usr/bin",
            "usr/lib/systemd",
            "bin/sh",
        ];
        // A link to a /usr that is a partition of its own leads nowhere here.
        let etc = tree.list("etc");
        let release = etc.as_ref().is_some_and(|names| names.iter().any(|n| n == "os-release"))
            || tree.exists("usr/lib/os-release");
        let files = etc.is_some() && FILES.iter().any(|path| tree.exists(path));
        Self { release, files, deployment: deployment(tree) }
    }

    /// Whether it certainly is a root.
    pub fn certain(&self) -> bool {
        self.release || self.deployment.is_some()
    }
}

/// The newest deployment of an OSTree, by its name.
fn deployment(tree: &dyn Tree) -> Option<String> {
    let mut found = Vec::new();
    for name in tree.list("ostree/deploy")? {
        let above = format!("ostree/deploy/{name}/deploy");
        for entry in tree.list(&above).unwrap_or_default() {
            let path = format!("{above}/{entry}");
            if tree.is_directory(&path) {
                found.push(path);
            }
        }
    }
    // Also one that has not been deployed to yet: files of the physical root mean nothing.
    Some(found.into_iter().max().unwrap_or_else(|| "ostree/deploy".to_owned()))
}

/// An operating system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct System {
    /// `PRETTY_NAME` of its os-release.
    pub name: Option<String>,
    /// Its `ID` and `VERSION_ID`.
    pub id: Option<String>,
    /// Its `VERSION_ID`.
    pub version: Option<String>,
    /// Releases of its kernels: those that it has modules for.
    pub kernels: Vec<String>,
    /// Whether it has cloud-init.
    pub cloud_init: bool,
    /// `enforcing`, `permissive` or `disabled`, if it has SELinux.
    pub selinux: Option<String>,
    /// The version of holdfast in it.
    pub holdfast: Option<String>,
    /// What its programs are for.
    pub architecture: Option<&'static str>,
}

impl System {
    /// The system below `top`, a path in a tree: empty, or that of a deployment.
    pub fn of(tree: &dyn Tree, top: &str) -> Self {
        let at =
            |path: &str| if top.is_empty() { path.to_owned() } else { format!("{top}/{path}") };
        let text = |path: &str| tree.text(&at(path), TEXT);
        let release = text("etc/os-release").or_else(|| text("usr/lib/os-release"));
        let value = |name: &str| release.as_deref().and_then(|text| assigned(text, name));
        let mut kernels = Vec::new();
        for place in ["usr/lib/modules", "lib/modules"] {
            for name in tree.list(&at(place)).unwrap_or_default() {
                if name.starts_with(|c: char| c.is_ascii_digit()) && name.len() <= 255 {
                    kernels.push(crate::bytes::printable(&name));
                }
            }
        }
        kernels.sort();
        kernels.dedup();
        kernels.truncate(64);
        let selinux = text("etc/selinux/config").and_then(|text| assigned(&text, "SELINUX"));
        let cloud = ["etc/cloud/cloud.cfg", "usr/bin/cloud-init", "etc/cloud/cloud.cfg.d"];
        let programs = ["usr/lib/systemd/systemd", "sbin/init", "usr/bin/sh", "bin/sh"];
        Self {
            name: value("PRETTY_NAME").or_else(|| value("NAME")),
            id: value("ID"),
            version: value("VERSION_ID"),
            kernels,
            cloud_init: cloud.iter().any(|path| tree.exists(&at(path))),
            selinux,
            holdfast: holdfast(tree, &at),
            architecture: programs
                .iter()
                .find_map(|path| loader::elf(&tree.read(&at(path), HEAD)?)),
        }
    }
}

/// The version of holdfast: of its package, or of its Python distribution.
fn holdfast(tree: &dyn Tree, at: &dyn Fn(&str) -> String) -> Option<String> {
    let packages = tree.text(&at("var/lib/dpkg/status"), PACKAGES).unwrap_or_default();
    for paragraph in packages.split("\n\n") {
        let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name));
        let installed = field("Status: ").is_some_and(|status| status.ends_with(" installed"));
        if field("Package: ") == Some("holdfast") && installed {
            return field("Version: ").map(crate::bytes::printable);
        }
    }
    let place = at("usr/lib/holdfast");
    let names = tree.list(&place)?;
    let version = names.iter().find_map(|name| {
        name.strip_prefix("holdfast-")?.strip_suffix(".dist-info").map(crate::bytes::printable)
    });
    version.or_else(|| tree.exists(&format!("{place}/bin/holdfast")).then(|| "unknown".to_owned()))
}

/// The value of a variable in a file of assignments as shells read them.
fn assigned(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='))?;
    let value = crate::bytes::printable(value.trim().trim_matches(['"', '\'']));
    Some(value).filter(|value| !value.is_empty() && value.len() <= 255)
}

/// What `/etc/fstab` of a tree mounts at `/`.
pub fn root_of_fstab(tree: &dyn Tree) -> Option<String> {
    tree.text("etc/fstab", TEXT)?.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let (device, point) = (words.next()?, words.next()?);
        (point == "/" && !device.starts_with('#')).then(|| device.to_owned())
    })
}
