//! How many reads a device can work on at the same time.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// Reads in flight for each disk: with half as many it idles now and then while what it read is
/// hashed; with more only the datastore's own reads wait longer.
const DEPTH: usize = 32;
/// And for an array, however wide.
const MOST: usize = 64;

/// What a file system is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Its number, `major:minor`.
    pub device: String,
    /// Its name, or nothing for file systems without a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Disks that work at the same time: the members of an array.
    pub width: usize,
}

impl Device {
    /// Look a device number up in sysfs.
    pub fn of(number: u64) -> Self {
        Self::from_sysfs(Path::new("/sys"), number)
    }

    fn from_sysfs(sys: &Path, number: u64) -> Self {
        let device = format!("{}:{}", rustix::fs::major(number), rustix::fs::minor(number));
        // File systems without one block device of their own (btrfs, overlay, tmpfs) are not there.
        let directory = fs::canonicalize(sys.join("dev/block").join(&device)).ok();
        let name = directory.as_deref().and_then(name);
        let width = directory.map_or(1, |directory| width(&directory, 4));
        Self { device, name, width }
    }

    /// Reads that are to be in flight at most.
    pub fn depth(&self) -> usize {
        (DEPTH * self.width).min(MOST)
    }
}

fn name(directory: &Path) -> Option<String> {
    Some(directory.file_name()?.to_string_lossy().into_owned())
}

/// The disks below a device; `levels` keeps a broken tree from being climbed for ever.
fn width(directory: &Path, levels: u32) -> usize {
    let whole = if directory.join("partition").exists() {
        directory.parent().unwrap_or(directory).to_owned()
    } else {
        directory.to_owned()
    };
    // By disk, so that two partitions of one are not taken for two.
    let mut below: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for member in fs::read_dir(whole.join("slaves")).into_iter().flatten().flatten() {
        if let (Ok(member), true) = (fs::canonicalize(member.path()), levels > 0) {
            let is_partition = member.join("partition").exists();
            let disk =
                if is_partition { member.parent().unwrap_or(&member).to_owned() } else { member };
            let width = width(&disk, levels - 1);
            below.insert(disk, width);
        }
    }
    below.values().sum::<usize>().max(1)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::{Device, MOST};

    /// Lay out `/sys` as the kernel does: real directories, and links to them by number.
    fn sysfs(top: &Path) {
        for disk in ["nvme0n1", "nvme1n1"] {
            fs::create_dir_all(top.join(format!("devices/pci/{disk}/{disk}p1"))).unwrap();
            fs::write(top.join(format!("devices/pci/{disk}/{disk}p1/partition")), "1\n").unwrap();
        }
        fs::create_dir_all(top.join("devices/virtual/md0/slaves")).unwrap();
        for disk in ["nvme0n1", "nvme1n1"] {
            let link = top.join(format!("devices/virtual/md0/slaves/{disk}p1"));
            symlink(top.join(format!("devices/pci/{disk}/{disk}p1")), link).unwrap();
        }
        fs::create_dir_all(top.join("dev/block")).unwrap();
        symlink(top.join("devices/virtual/md0"), top.join("dev/block/9:0")).unwrap();
        symlink(top.join("devices/pci/nvme0n1/nvme0n1p1"), top.join("dev/block/259:1")).unwrap();
    }

    #[test]
    fn an_array_is_as_wide_as_its_members() {
        let top = tempfile::tempdir().unwrap();
        sysfs(top.path());
        let array = Device::from_sysfs(top.path(), rustix::fs::makedev(9, 0));
        assert_eq!((array.name.as_deref(), array.width), (Some("md0"), 2));
        let partition = Device::from_sysfs(top.path(), rustix::fs::makedev(259, 1));
        assert_eq!((partition.name.as_deref(), partition.width), (Some("nvme0n1p1"), 1));
        assert!(array.depth() > partition.depth() && array.depth() <= MOST);
    }

    #[test]
    fn a_file_system_without_a_device_is_one_disk() {
        let top = tempfile::tempdir().unwrap();
        let device = Device::from_sysfs(top.path(), rustix::fs::makedev(0, 43));
        assert_eq!(device, Device { device: "0:43".into(), name: None, width: 1 });
    }
}
