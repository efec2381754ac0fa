//! What keeps cloud-init from replacing what was carried over. An image that was never booted is a first
//! boot to cloud-init: by default it deletes the host keys, makes new ones and sets the hostname of the
//! metadata service. Its documented settings (modules `cc_ssh`, `cc_set_hostname`, `cc_update_hostname`,
//! `cc_update_etc_hosts`) override that, for every data source, EC2, `NoCloud` and none included.

use std::fmt::Write as _;

use super::place::Root;

/// Where its configuration is.
const DIRECTORY: &str = "/etc/cloud";
/// The file of settings; among those of a directory the last one counts.
pub const PATH: &str = "/etc/cloud/cloud.cfg.d/99-holdfast.cfg";
/// Its permission bits.
pub const MODE: u32 = 0o644;
/// Kinds of host keys that cloud-init makes; those of DSA only up to version 24.
const KINDS: [&str; 3] = ["ecdsa", "ed25519", "rsa"];
/// The settings that the file may have.
const SETTINGS: [&str; 5] =
    ["ssh_deletekeys", "ssh_genkeytypes", "preserve_hostname", "hostname", "fqdn"];

/// Whether the root has cloud-init.
pub fn is_in(root: &Root) -> bool {
    root.directory_status(DIRECTORY).is_some()
}

/// Build the settings for the paths that were carried over; `None` if none of them is cloud-init's
/// concern. `hostname` is the content of `/etc/hostname`.
pub fn settings(carried: &[String], hostname: Option<&[u8]>) -> Option<String> {
    let mut text = String::new();
    let keys: Vec<_> = carried
        .iter()
        .filter_map(|path| path.strip_prefix("/etc/ssh/ssh_host_")?.strip_suffix("_key"))
        .collect();
    if !keys.is_empty() {
        // None of a kind that the machine never had; those that are there are left alone.
        let kinds: Vec<_> = KINDS.into_iter().filter(|kind| keys.contains(kind)).collect();
        let _ = writeln!(text, "ssh_deletekeys: false");
        let _ = writeln!(text, "ssh_genkeytypes: [{}]", kinds.join(", "));
    }
    if carried.iter().any(|path| path == "/etc/hostname") {
        let _ = writeln!(text, "preserve_hostname: true");
        if let Some(name) = hostname.and_then(plain) {
            // For /etc/hosts, where the image has cloud-init manage it.
            let short = name.split('.').next().unwrap_or(name);
            let _ = writeln!(text, "hostname: \"{short}\"");
            let _ = writeln!(text, "fqdn: \"{name}\"");
        }
    }
    (!text.is_empty()).then(|| {
        format!(
            "# Written by holdfast: this machine keeps what was carried over from its previous \
             system.\n{text}"
        )
    })
}

/// Names of other files whose settings count more, since they come later, and contradict.
pub fn overriding(root: &Root) -> Vec<String> {
    let Ok((parent, name)) = super::place::split(PATH) else { return Vec::new() };
    root.names(parent)
        .into_iter()
        .filter(|other| other.as_str() > name && other.ends_with(".cfg"))
        .filter(|other| {
            let text = root.read(&format!("{parent}{other}")).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            text.lines().any(|line| {
                line.split_once(':').is_some_and(|(key, _)| SETTINGS.contains(&key.trim_end()))
            })
        })
        .collect()
}

/// The hostname of a file, if it is one: letters, digits, `-` and `.`.
fn plain(content: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(content).ok()?.trim();
    let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    let whole = !name.is_empty() && name.len() <= 253 && !name.starts_with(['.', '-']);
    (whole && name.bytes().all(good)).then_some(name)
}
