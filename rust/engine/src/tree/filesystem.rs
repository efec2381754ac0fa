//! What a file system promises about its pages and its inode numbers.

use std::os::fd::AsFd;

/// How the pages of a file can be asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// They cannot be dropped and read back, or are kept elsewhere than in the page cache.
    Pinned,
    /// cachestat(2) and mincore(2) agree: the inode that is opened is that which has the pages.
    Counted,
    /// Only mincore(2) may see them, and only where that is shown: file systems in layers map a file
    /// of another file system (overlayfs, FUSE with passthrough), and cachestat(2) counts the pages
    /// of the upper inode, which has none. Others keep no pages at all.
    Mapped,
}

/// How dirty pages are written back, so that the next write to each leaves a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteBack {
    /// With sync_file_range(2).
    Once,
    /// With the same twice: where data is compressed, the first call only starts the work.
    Twice,
}

/// What is known of a kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filesystem {
    /// Its name, for people.
    pub name: &'static str,
    /// How its pages can be asked about.
    pub pages: Pages,
    /// Whether a device and an inode number name one file, now and for as long as it exists, and
    /// the kernel itself stamps the times of changes. It does not hold on layers, where numbers of
    /// two file systems meet and change as files are copied up; on images, whose times are made up;
    /// and where a server chooses the numbers.
    pub stable_inodes: bool,
    /// How dirty pages are written back, where a file whose pages are clean gets new times at the
    /// next write, also through a memory map. It does not hold where pages are never written back
    /// (tmpfs), nor where times do not follow memory maps (openzfs/zfs#1127).
    pub write_back: Option<WriteBack>,
    /// Whether a file's size is that of its content: files of procfs have none, and neither have
    /// those of every FUSE file system.
    pub true_sizes: bool,
}

impl Filesystem {
    pub(crate) const fn new(name: &'static str, pages: Pages, stable_inodes: bool) -> Self {
        Self { name, pages, stable_inodes, write_back: None, true_sizes: true }
    }

    const fn with(self, write_back: WriteBack) -> Self {
        Self { write_back: Some(write_back), ..self }
    }

    const fn without_sizes(self) -> Self {
        Self { true_sizes: false, ..self }
    }

    /// Whether every change of a file leaves a trace in its identity, once its dirty pages were
    /// written back.
    pub fn keeps_track(self) -> bool {
        self.stable_inodes && self.write_back.is_some()
    }

    /// Look up the file system that something open is on.
    ///
    /// # Errors
    /// The system's error.
    pub fn of(fd: impl AsFd) -> rustix::io::Result<Self> {
        let magic = rustix::fs::fstatfs(fd)?.f_type;
        let known = KNOWN.iter().find(|(number, _)| *number == magic);
        Ok(known.map_or(UNKNOWN, |(_, filesystem)| *filesystem))
    }
}

/// A file system of which nothing is promised.
const UNKNOWN: Filesystem =
    Filesystem::new("a file system that holdfast does not know", Pages::Mapped, false)
        .without_sizes();

/// By `f_type` of statfs(2), and for ZFS its own `zfs_vfsops`.
const KNOWN: [(i64, Filesystem); 12] = [
    (0xEF53, Filesystem::new("ext4", Pages::Counted, true).with(WriteBack::Once)),
    (0x5846_5342, Filesystem::new("XFS", Pages::Counted, true).with(WriteBack::Once)),
    (0x9123_683E, Filesystem::new("btrfs", Pages::Counted, true).with(WriteBack::Twice)),
    (0xF2F5_2010, Filesystem::new("F2FS", Pages::Counted, true).with(WriteBack::Once)),
    (0x6969, Filesystem::new("NFS", Pages::Counted, false)),
    (0x0102_1994, Filesystem::new("tmpfs", Pages::Pinned, true)),
    (0x8584_58f6, Filesystem::new("ramfs", Pages::Pinned, true)),
    (0x9584_58f6, Filesystem::new("hugetlbfs", Pages::Pinned, true)),
    (0x2fc1_2fc1, Filesystem::new("ZFS", Pages::Pinned, true)),
    (0x794c_7630, Filesystem::new("overlayfs", Pages::Mapped, false)),
    (0x6573_5546, Filesystem::new("FUSE", Pages::Mapped, false).without_sizes()),
    (0x0102_1997, Filesystem::new("9P", Pages::Mapped, false).without_sizes()),
];

#[cfg(test)]
mod tests {
    use super::{Filesystem, Pages};

    #[test]
    fn procfs_promises_nothing() {
        let found = Filesystem::of(std::fs::File::open("/proc/self/maps").unwrap()).unwrap();
        assert_eq!((found.pages, found.stable_inodes), (Pages::Mapped, false));
    }
}
