//! How hot resident pages are, by the kernel's own marks.
//!
//! A page that was read once is *referenced*, twice *active*, more often both. The marks are in
//! /proc/kpageflags, by page frame, and the frame of a file's page shows in /proc/self/pagemap once
//! the page is mapped. Looking must not heat: the pages are mapped by faults in a mapping advised
//! `MADV_RANDOM` (no read-ahead), and unmapped as `MADV_SEQUENTIAL`, for which the kernel does not
//! carry the accessed bit over into the marks.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use super::pages::{PageSet, Run};
use crate::sys::{Arena, Mapping, page_size};
use crate::{Error, Result};

/// Bits of /proc/kpageflags (Documentation/admin-guide/mm/pagemap.rst).
const REFERENCED: u64 = 1 << 2;
const ACTIVE: u64 = 1 << 6;
/// Bits of /proc/self/pagemap: the page is present, and the frame's number below.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;

/// Neither mark, referenced, active, both.
const TIERS: usize = 4;
/// Pages read in one call.
const BATCH: u64 = 4096;

/// Reads the kernel's marks.
#[derive(Debug)]
pub struct PageHotness {
    pagemap: File,
    flags: File,
    sink: OwnedFd,
    multigenerational: bool,
}

impl PageHotness {
    /// Open the kernel's tables.
    ///
    /// # Errors
    /// [`Error::Invalid`] if this process may not read frame numbers, which takes CAP_SYS_ADMIN.
    pub fn new() -> Result<Self> {
        let open = |path: &str| {
            File::open(path).map_err(|error| {
                Error::Invalid(format!("hotness needs root, to read {path} ({error})"))
            })
        };
        let pagemap = open("/proc/self/pagemap")?;
        let flags = open("/proc/kpageflags")?;
        let capable = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
        if !capable {
            return Err(Error::Invalid("hotness needs root (CAP_SYS_ADMIN)".to_owned()));
        }
        let sink = rustix::fs::memfd_create(c"sink", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(|e| Error::io("memfd", e))?;
        // With the multi-generational LRU, PG_active has another meaning.
        let multigenerational = std::fs::read_to_string("/sys/kernel/mm/lru_gen/enabled")
            .is_ok_and(|text| !matches!(text.trim(), "0x0000" | "0"));
        Ok(Self { pagemap, flags, sink, multigenerational })
    }

    /// Sort resident pages by heat, the coldest first.
    ///
    /// Pages that vanish meanwhile count as cold.
    ///
    /// # Errors
    /// The system's error.
    pub fn sort(&self, fd: &OwnedFd, pages: &PageSet) -> rustix::io::Result<Vec<PageSet>> {
        let mut tiers = vec![PageSet::default(); TIERS];
        for run in pages.runs() {
            for start in (run.start..run.end()).step_by(BATCH as usize) {
                let count = BATCH.min(run.end() - start);
                self.measure(fd, Run { start, count }, &mut tiers)?;
            }
        }
        Ok(tiers)
    }

    fn measure(&self, fd: &OwnedFd, run: Run, tiers: &mut [PageSet]) -> rustix::io::Result<()> {
        let mut arena = Arena::new(run.count)?;
        let mapping = arena.map(fd, run.start, run.count)?;
        mapping.map_resident(&self.sink)?;
        let mut entries = vec![0_u8; run.count as usize * 8];
        let first = mapping.address() / page_size() * 8;
        self.pagemap.read_exact_at(&mut entries, first).map_err(errno)?;
        let frames: Vec<Option<u64>> = entries
            .as_chunks::<8>()
            .0
            .iter()
            .map(|entry| u64::from_ne_bytes(*entry))
            .map(|entry| (entry & PRESENT != 0).then_some(entry & FRAME))
            .collect();
        let mut page = run.start;
        for group in frames.chunk_by(|a, b| matches!((a, b), (Some(a), Some(b)) if a + 1 == *b)) {
            let mut marks = vec![0_u8; group.len() * 8];
            if let Some(frame) = group[0] {
                self.flags.read_exact_at(&mut marks, frame * 8).map_err(errno)?;
            }
            for mark in marks.as_chunks::<8>().0 {
                tiers[self.tier(u64::from_ne_bytes(*mark))].push(page, 1);
                page += 1;
            }
        }
        Ok(())
    }

    fn tier(&self, marks: u64) -> usize {
        let referenced = usize::from(marks & REFERENCED != 0);
        if self.multigenerational {
            return referenced;
        }
        referenced + 2 * usize::from(marks & ACTIVE != 0)
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

impl Mapping {
    /// Let the pages that are in memory appear in this process's page table, without heating them
    /// and without the SIGBUS that touching a page beyond the end of a file raises: the kernel
    /// itself reads a byte of each into `sink`, and answers `EFAULT` where a byte cannot be had.
    fn map_resident(&self, sink: &OwnedFd) -> rustix::io::Result<()> {
        const VECTORS: usize = 1024;
        self.advise_random()?;
        let (start, pages) = self.range();
        let mut vectors = Vec::with_capacity(VECTORS);
        let mut page = start;
        while page < start + pages {
            vectors.clear();
            for page in page..(page + VECTORS as u64).min(start + pages) {
                let address = self.address() + (page - start) * page_size();
                vectors.push(libc::iovec {
                    iov_base: std::ptr::without_provenance_mut(address as usize),
                    iov_len: 1,
                });
            }
            // SAFETY: each vector names one byte of this mapping; the kernel only reads them.
            let written = unsafe {
                libc::pwritev(sink.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, 0)
            };
            // Continue behind what was read and, if something could not be, behind that.
            page += u64::try_from(written).unwrap_or(0);
            if (written as usize) < vectors.len() || written < 0 {
                page += 1;
            }
        }
        self.advise_sequential()
    }
}
