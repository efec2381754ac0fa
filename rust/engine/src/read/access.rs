//! Ways of reading a file that leave the page cache as it was, from the best to the last resort.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

use crate::pagecache::pages::PageSet;
use crate::pagecache::probe;
use crate::sys::page_size;
use crate::tree::confine::{DIOALIGN, OpenFile};

/// `RWF_DONTCACHE`, Linux 6.14 (`include/uapi/linux/fs.h`).
const DONTCACHE: i32 = 0x80;
/// Offsets are multiples of this unless the file system wants more; no device wants more for long.
const ALIGNMENT: u64 = 4096;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Past the page cache, with `O_DIRECT`.
    Direct,
    /// Through it, by the kernel's leave: pages that were not there before go at once.
    DontCache,
    /// Through it, dropping afterwards what was not there before.
    Buffered,
}

impl Access {
    /// What is left to try where this is refused.
    pub fn fallback(self) -> Option<Self> {
        match self {
            Self::Direct => Some(Self::DontCache),
            Self::DontCache => Some(Self::Buffered),
            Self::Buffered => None,
        }
    }

    /// Flags of preadv2(2).
    pub fn flags(self) -> i32 {
        if self == Self::DontCache { DONTCACHE } else { 0 }
    }

    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::DontCache => "dontcache",
            Self::Buffered => "buffered",
        }
    }
}

/// Make a file ready to be read, in the way that is wanted if it can be.
///
/// Returns the way, and what offsets must be multiples of.
pub fn prepare(file: &OpenFile, wanted: Access, block: u64) -> (Access, u64) {
    let mut alignment = ALIGNMENT;
    let mut access = wanted;
    if access == Access::Direct {
        let stat = &file.stat;
        if stat.stx_mask & DIOALIGN.bits() != 0 {
            alignment = alignment.max(u64::from(stat.stx_dio_offset_align));
        }
        // Zero where the file cannot be read so, or where the file system does not report it. Some
        // take the flag all the same and then go through the page cache: ext4 with journalled data,
        // btrfs with checksums, tmpfs.
        let refused = stat.stx_dio_offset_align == 0 && tells_alignment();
        let usable = !refused && alignment.is_power_of_two() && alignment <= block;
        if !usable || set_direct(&file.fd, true).is_err() {
            access = Access::DontCache;
        }
    }
    if access == Access::Buffered {
        no_readahead(&file.fd);
    }
    (access, alignment.min(block))
}

/// Whether the kernel reports the alignment that `O_DIRECT` needs: Linux 6.1 and later.
fn tells_alignment() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();
    *KNOWN.get_or_init(|| {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(1))
    })
}

/// Continue in another way after the first was refused.
pub fn change(file: &OwnedFd, access: Access) {
    // Where the flag cannot be cleared it was not set.
    let _ = set_direct(file, false);
    if access == Access::Buffered {
        no_readahead(file);
    }
}

fn set_direct(file: &OwnedFd, on: bool) -> Result<(), Errno> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, on);
    fcntl_setfl(file, flags)
}

/// What is read ahead would come into the page cache without our knowing.
pub fn no_readahead(file: &OwnedFd) {
    // It is advice; without it more is read than needed and stays for a while.
    let _ = fadvise(file, 0, None, Advice::Random);
}

/// The pages of a stretch that are in memory before it is read, so that what is not can be dropped
/// afterwards; `None` where the kernel does not report that, and nothing may be dropped then.
pub fn before(file: &OpenFile, offset: u64, length: u64) -> Option<PageSet> {
    if !probe::may_probe(&file.fd, &file.stat) {
        return None;
    }
    let way = probe::way(file).ok()?;
    let mut resident = PageSet::default();
    let (start, end) = (offset / page_size(), (offset + length).div_ceil(page_size()));
    probe::resident(&file.fd, way, start, end, &mut resident).ok().map(|()| resident)
}

/// Drop the pages of a stretch that were not in memory before.
pub fn after(file: &OwnedFd, resident: &PageSet, offset: u64, length: u64) {
    let end = (offset + length).div_ceil(page_size());
    let mut from = offset / page_size();
    let kept = resident.runs().iter().map(|run| (run.start, run.end()));
    for (start, next) in kept.chain([(end, end)]) {
        if start > from {
            let length = std::num::NonZeroU64::new((start - from) * page_size());
            // What cannot be dropped (it is mapped or dirty by now) belongs to another process.
            let _ = fadvise(file, from * page_size(), length, Advice::DontNeed);
        }
        from = from.max(next);
    }
}
