//! Block devices as sysfs shows them. Serial numbers and models are those that
//! `agent/holdfast/node/storage/devices.py` reports, except what only udev knows: there is no udev here.

use std::fs;
use std::path::{Path, PathBuf};

use crate::disk;

/// A disk, a partition or an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The kernel's name.
    pub name: String,
    /// Its node.
    pub path: PathBuf,
    /// Its place in sysfs.
    sys: PathBuf,
    /// Its major and minor number.
    pub number: (u32, u32),
    /// Its size.
    pub size_bytes: u64,
    /// The partition's number, if it is one.
    pub partition: Option<u32>,
    /// The name of the disk that a partition is on.
    pub disk: Option<String>,
    /// All serial numbers that a disk has: by driver there is one or another.
    pub serials: Vec<String>,
    /// Its model.
    pub model: Option<String>,
    /// Its world-wide identifier.
    pub wwid: Option<String>,
}

impl Device {
    /// Names of what is on it, or on one of its partitions.
    pub fn holders(&self) -> Vec<String> {
        let mut holders = names(&self.sys.join("holders"));
        for entry in names(&self.sys) {
            if self.sys.join(&entry).join("partition").exists() {
                holders.extend(names(&self.sys.join(entry).join("holders")));
            }
        }
        holders
    }

    /// Let the kernel refuse writes to it, or allow them again: for a partition that takes the whole
    /// disk as well.
    ///
    /// # Errors
    /// The system's.
    pub fn set_read_only(&self, refuse: bool) -> std::io::Result<()> {
        let whole = self.disk.as_ref().and_then(|disk| Some(self.path.parent()?.join(disk)));
        for path in whole.iter().chain([&self.path]) {
            disk::set_read_only(path, refuse)?;
        }
        Ok(())
    }

    /// Its node, and what distinguishes it from others, for people.
    pub fn describe(&self) -> String {
        format!(
            "{} (serial {}, model {}, {} bytes)",
            self.path.display(),
            self.serials.first().map_or("none", String::as_str),
            self.model.as_deref().unwrap_or("none"),
            self.size_bytes
        )
    }
}

/// All block devices that have a size: loop devices, optical drives and RAM disks are left out.
pub fn all() -> Vec<Device> {
    below(Path::new("/sys"), Path::new("/dev"))
}

/// As [`all`], for other places of sysfs and the nodes.
pub fn below(sys: &Path, dev: &Path) -> Vec<Device> {
    let class = sys.join("class/block");
    let mut devices: Vec<_> =
        names(&class).iter().filter_map(|name| describe(&class, dev, name)).collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    devices
}

fn describe(class: &Path, dev: &Path, name: &str) -> Option<Device> {
    if ["loop", "ram", "zram", "sr", "fd"].iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    }) {
        return None;
    }
    // Through the link: a partition is in its disk's directory.
    let sys = fs::canonicalize(class.join(name)).ok()?;
    let number = text(&sys.join("dev"))?;
    let (major, minor) = number.split_once(':')?;
    let size_bytes = text(&sys.join("size"))?.parse::<u64>().ok()?.checked_mul(512)?;
    let partition = text(&sys.join("partition")).and_then(|number| number.parse().ok());
    let disk = partition.and_then(|_: u32| sys.parent()?.file_name()?.to_str().map(str::to_owned));
    let serials = if partition.is_some() { Vec::new() } else { serials(&sys) };
    let found = Device {
        name: name.to_owned(),
        // The kernel writes `!` in sysfs for a slash in the name of a node.
        path: dev.join(name.replace('!', "/")),
        number: (major.parse().ok()?, minor.parse().ok()?),
        size_bytes,
        partition,
        disk,
        serials,
        model: text(&sys.join("device/model")),
        wwid: text(&sys.join("wwid")).or_else(|| text(&sys.join("device/wwid"))),
        sys,
    };
    Some(found).filter(|device| device.size_bytes > 0)
}

fn serials(sys: &Path) -> Vec<String> {
    // A SCSI disk's vital product data: a header of four bytes, then ASCII.
    let page = fs::read(sys.join("device/vpd_pg80")).ok();
    let scsi = page.as_deref().and_then(|page| page.get(4..)).and_then(|serial| {
        let serial = String::from_utf8_lossy(serial);
        let serial = serial.trim_matches(['\0', ' ']);
        Some(serial.to_owned()).filter(|serial| !serial.is_empty())
    });
    let read = |name: &str| text(&sys.join(name));
    [read("device/serial"), read("serial"), scsi].into_iter().flatten().collect()
}

/// The text of a file without the white space around it; `None` if there is none.
pub fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    Some(text.to_owned()).filter(|text| !text.is_empty())
}

/// The names in a directory; none if it is not there.
pub fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect()
}
