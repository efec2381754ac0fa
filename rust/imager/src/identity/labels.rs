//! SELinux labels of files that are put into a root: the label of the file that is replaced, else of a
//! file of the same kind beside it, else of the directory. No policy is loaded here, so nothing else
//! knows a label.

use std::os::fd::{AsRawFd as _, OwnedFd};

use globset::GlobMatcher;
use rustix::fs::{Dir, XattrFlags};
use serde::Serialize;

use super::place::Root;

/// The attribute that holds a label.
const ATTRIBUTE: &str = "security.selinux";
/// The longest label that is copied, in bytes.
const LONGEST: usize = 4096;
/// Where the configuration of SELinux is.
const CONFIGURATION: &str = "/etc/selinux/config";
/// Orders a relabelling of all files at the next boot.
pub const RELABEL: &str = "/.autorelabel";

/// Where a label comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The file that was replaced.
    Replaced,
    /// A file of the same kind in the same directory.
    Sibling,
    /// The directory.
    Directory,
}

/// A label as the attribute has it, without the zero byte at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The attribute's value.
    value: Vec<u8>,
    /// Where it comes from.
    pub origin: Origin,
}

impl Label {
    /// The label as text.
    pub fn text(&self) -> String {
        text(&self.value)
    }
}

/// Find the label for a file `name` of a directory; `kind` matches the names of files of its kind.
pub fn choose(directory: &OwnedFd, name: &str, kind: Option<&GlobMatcher>) -> Option<Label> {
    let of = |name: &str, origin| of_entry(directory, name).map(|value| Label { value, origin });
    of(name, Origin::Replaced)
        .or_else(|| siblings(directory, kind?).iter().find_map(|name| of(name, Origin::Sibling)))
        .or_else(|| of(".", Origin::Directory))
}

/// Give an open file or directory a label.
///
/// # Errors
/// The system's.
pub fn set(file: impl std::os::fd::AsFd, label: &Label) -> rustix::io::Result<()> {
    rustix::fs::fsetxattr(file, ATTRIBUTE, &label.value, XattrFlags::empty())
}

/// The label of a path of the root, as text; symbolic links at its end are not followed.
pub fn read(root: &Root, path: &str) -> Option<String> {
    let (directory, name) = root.directory_of(path).ok()?;
    of_entry(&directory, name).map(|value| text(&value))
}

fn of_entry(directory: &OwnedFd, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; LONGEST];
    let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
    // Without support for attributes there is no label either.
    let length = rustix::fs::lgetxattr(path, ATTRIBUTE, value.as_mut_slice()).ok()?;
    value.truncate(length);
    (!text(&value).is_empty()).then_some(value)
}

fn siblings(directory: &OwnedFd, kind: &GlobMatcher) -> Vec<String> {
    let Ok(entries) = Dir::read_from(directory) else { return Vec::new() };
    let mut names: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()))
        .filter(|name| kind.is_match(name))
        .collect();
    names.sort();
    names
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}

/// The mode of SELinux that the root's configuration names: `enforcing` or `permissive`; `None` if
/// SELinux is disabled or not there.
pub fn mode(root: &Root) -> Option<&'static str> {
    let text = root.read(CONFIGURATION).ok()?;
    let text = String::from_utf8_lossy(&text);
    let value = text.lines().filter_map(|line| line.trim().strip_prefix("SELINUX=")).next_back()?;
    ["enforcing", "permissive"].into_iter().find(|mode| value.trim().eq_ignore_ascii_case(mode))
}
