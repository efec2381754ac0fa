//! Which directory of a file system is the root of the system that it holds: its top, or with ostree and
//! bootc the deployment that is booted, of which only `/etc` is the machine's own.

use super::place::Root;
use crate::{Context as _, Fault, Result};

const STATEROOTS: &str = "/ostree/deploy";
const ENTRIES: &str = "/boot/loader/entries";
const RELEASES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// A root that can be given an identity.
#[derive(Debug)]
pub struct SystemRoot {
    /// Its directory.
    pub root: Root,
    /// The path of the deployment; `None` if the system's root is the file system's.
    pub deployment: Option<String>,
}

/// Find it below the top of a file system.
///
/// # Errors
/// A sentence about why nothing can be carried into what is there.
pub fn find(top: Root) -> Result<SystemRoot> {
    let found = find_any(top)?;
    // A link counts also where it leads to a file system of its own.
    if RELEASES.iter().any(|path| found.root.status(path).is_some()) {
        Ok(found)
    } else {
        Err(Fault::new(
            "what was taken for the root is not the root of a system: it has neither \
             /etc/os-release nor /usr/lib/os-release",
        ))
    }
}

/// Find it as [`find`] does, and take anything for the root of a system.
///
/// # Errors
/// A sentence about why it is not known which directory that is.
pub fn find_any(top: Root) -> Result<SystemRoot> {
    if top.directory_status("/state/deploy").is_some() {
        return Err(Fault::new(
            "the root holds deployments of bootc's composefs backend, which nothing is carried into",
        ));
    }
    if top.directory_status(STATEROOTS).is_none() {
        return Ok(SystemRoot { root: top, deployment: None });
    }
    let path = deployment(&top)?;
    let root = top.open_below(&path).context("the deployment")?;
    Ok(SystemRoot { root, deployment: Some(path) })
}

/// The deployment that is booted: that of the loader's first entry, else the only or newest one.
fn deployment(top: &Root) -> Result<String> {
    let mut known = Vec::new();
    for stateroot in top.names(STATEROOTS) {
        let place = format!("{STATEROOTS}/{stateroot}/deploy");
        for name in top.names(&place) {
            let path = format!("{place}/{name}");
            if top.directory_status(&format!("{path}/etc")).is_some()
                && let Some(status) = top.directory_status(&path)
            {
                known.push((path, status));
            }
        }
    }
    if let Some(linked) = entry_link(top)
        && let Some(status) = top.directory_status(&linked)
        && let Some((path, _)) =
            known.iter().find(|(_, one)| (one.st_dev, one.st_ino) == (status.st_dev, status.st_ino))
    {
        return Ok(path.clone());
    }
    known.sort_by_key(|(path, status)| (status.st_mtime, status.st_mtime_nsec, path.clone()));
    match known.as_slice() {
        [] => Err(Fault::new("the root is ostree's and has no deployment with an /etc")),
        [.., (_, second), (_, last)]
            if (second.st_mtime, second.st_mtime_nsec) == (last.st_mtime, last.st_mtime_nsec) =>
        {
            Err(Fault::new(
                "the root has several deployments of ostree, and which one is booted is not known",
            ))
        }
        [.., (path, _)] => Ok(path.clone()),
    }
}

/// The link to the deployment in the options of the loader's entry of the highest version.
fn entry_link(top: &Root) -> Option<String> {
    let read = |name: &String| {
        let text = top.read(&format!("{ENTRIES}/{name}")).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let value = |key: &str| {
            text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix([' ', '\t']))
        };
        let version = value("version").and_then(|text| text.trim().parse::<u64>().ok());
        let link = value("options")?
            .split_whitespace()
            .find_map(|word| word.strip_prefix("ostree="))?
            .to_owned();
        Some((version, name.clone(), link))
    };
    let names = top.names(ENTRIES);
    names.iter().filter(|name| name.ends_with(".conf")).filter_map(read).max().map(|found| found.2)
}
