//! Mappings of files, used only to ask which pages are in memory.
//!
//! Nothing is ever read through them: a file can be truncated at any time, and touching what is gone
//! would kill the process.

use std::os::fd::AsFd;
use std::ptr::NonNull;

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

use super::page_size;

/// Pages asked about in one call of mincore(2): the kernel's own stretch between two checks whether
/// another thread wants the memory map.
const CALL: usize = 4096;

/// A stretch of address space into which files are mapped, again and again. Mapping over what is
/// there takes the lock on the memory map once, where mapping and unmapping take it twice.
#[derive(Debug)]
pub struct Arena {
    address: NonNull<u8>,
    pages: u64,
    used: u64,
}

// SAFETY: the address space belongs to this value alone and nothing is accessed through it.
unsafe impl Send for Arena {}

/// Pages `[start, start + pages)` of a file, mapped until its arena is used anew.
#[derive(Debug)]
pub struct Mapping {
    address: u64,
    start: u64,
    pages: u64,
}

impl Arena {
    /// Reserve address space for mappings of up to `pages` pages.
    ///
    /// # Errors
    /// `ENOMEM` under a limit on address space.
    pub fn new(pages: u64) -> rustix::io::Result<Self> {
        let length = usize::try_from(pages * page_size()).map_err(|_| Errno::OVERFLOW)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let address =
            unsafe { mmap_anonymous(std::ptr::null_mut(), length, ProtFlags::empty(), flags) }?;
        let address = NonNull::new(address.cast()).ok_or(Errno::INVAL)?;
        Ok(Self { address, pages, used: 0 })
    }

    /// How many pages can be mapped at a time.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Begin anew: mappings made so far must not be used any more, since others take their place.
    pub fn reuse(&mut self) {
        self.used = 0;
    }

    /// Map pages of a file behind what was mapped since [`Arena::reuse`].
    ///
    /// # Errors
    /// The system's error, `ENODEV` where the file system cannot be mapped, `ENOMEM` where the arena
    /// is too small.
    pub fn map(&mut self, fd: impl AsFd, start: u64, pages: u64) -> rustix::io::Result<Mapping> {
        if pages > self.pages - self.used {
            return Err(Errno::NOMEM);
        }
        let length = (pages * page_size()) as usize;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        let offset = (self.used * page_size()) as usize;
        // SAFETY: the range is within this arena, as checked, in which nothing but file mappings can
        // be, through which nobody ever looks into memory.
        let address = unsafe {
            let address = self.address.as_ptr().add(offset).cast();
            mmap(address, length, ProtFlags::READ, flags, fd, start * page_size())
        }?;
        self.used += pages;
        Ok(Mapping { address: address.expose_provenance() as u64, start, pages })
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let length = (self.pages * page_size()) as usize;
        // SAFETY: this stretch was mapped by us with this length and is used by nobody any more.
        if let Err(errno) = unsafe { munmap(self.address.as_ptr().cast(), length) } {
            debug_assert!(false, "munmap: {errno}");
        }
    }
}

impl Mapping {
    /// Ask for `vector.len()` pages from page `start` of the file: bit 0 of each byte is set if
    /// that page is in memory and up to date. Once the arena is used anew the answer is about
    /// another file, or `ENOMEM` once it is gone.
    ///
    /// The kernel answers *yes* for every page to a process that neither owns the file, nor may
    /// write it, nor has CAP_FOWNER (Linux 5.2 and later): ask [`may_probe`] first.
    ///
    /// [`may_probe`]: crate::pagecache::probe::may_probe
    ///
    /// # Errors
    /// The system's error.
    ///
    /// # Panics
    /// If the pages are not all in the mapping.
    pub fn mincore(&self, start: u64, vector: &mut [u8]) -> rustix::io::Result<()> {
        assert!(start >= self.start);
        assert!(start + vector.len() as u64 <= self.start + self.pages);
        let mut address = self.address + (start - self.start) * page_size();
        for part in vector.chunks_mut(CALL) {
            let length = part.len() * page_size() as usize;
            loop {
                let pointer = std::ptr::with_exposed_provenance_mut(address as usize);
                // SAFETY: the range is in the mapping, as asserted, and the vector has a byte for
                // each of its pages.
                if unsafe { libc::mincore(pointer, length, part.as_mut_ptr()) } == 0 {
                    break;
                }
                match Errno::from_io_error(&std::io::Error::last_os_error()) {
                    Some(Errno::AGAIN) => std::thread::yield_now(),
                    errno => return Err(errno.unwrap_or(Errno::IO)),
                }
            }
            address += length as u64;
        }
        Ok(())
    }
}
