//! Aligned buffers, used again and again so that what was read is hashed while it is in the
//! processor's cache.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::progress::lock;
use crate::{Error, Result};

/// Buffers start at multiples of this many bytes, which no device asks more than; a huge page, so
/// that the kernel has one page to pin for a read and not hundreds.
const ALIGNMENT: usize = 2 << 20;

/// Memory for a number of buffers of one size. Only what is used of it becomes real.
#[derive(Debug)]
struct Arena {
    mapped: NonNull<u8>,
    mapped_length: usize,
    start: NonNull<u8>,
    size: usize,
    free: Mutex<Vec<usize>>,
}

// SAFETY: the memory belongs to this value; each buffer in it is handed to one owner at a time.
unsafe impl Send for Arena {}
// SAFETY: as above; the list of free buffers is behind a lock.
unsafe impl Sync for Arena {}

/// A ring of buffers for one thread.
#[derive(Debug, Clone)]
pub struct Buffers(Arc<Arena>);

/// One buffer; it goes back to its ring when it is dropped.
#[derive(Debug)]
pub struct Buffer {
    arena: Arc<Arena>,
    index: usize,
}

impl Buffers {
    /// Memory for `count` buffers of `size` bytes each.
    ///
    /// # Errors
    /// [`Error::Io`] under a limit on address space.
    pub fn new(count: usize, size: usize) -> Result<Self> {
        let mapped_length = count * size + ALIGNMENT;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice aliases nothing.
        let mapped =
            unsafe { mmap_anonymous(std::ptr::null_mut(), mapped_length, protection, flags) }
                .map_err(|e| Error::io("memory for reading", e))?;
        let skip = mapped.cast::<u8>().align_offset(ALIGNMENT);
        // SAFETY: the mapping is larger than what it is for by one alignment, so this is in it.
        let start = unsafe { mapped.cast::<u8>().add(skip) };
        // Small pages only make it slower.
        // SAFETY: the range is in the mapping made above; the advice changes no content.
        let _ = unsafe { madvise(start.cast(), count * size, Advice::LinuxHugepage) };
        let pointer = |p| NonNull::new(p).expect("the kernel never maps at zero unasked");
        Ok(Self(Arc::new(Arena {
            mapped: pointer(mapped.cast()),
            mapped_length,
            start: pointer(start),
            size,
            // The last buffer returned is the first one taken: the warmest, and few become real.
            free: Mutex::new((0..count).rev().collect()),
        })))
    }

    /// A buffer, unless all are in use.
    pub fn take(&self) -> Option<Buffer> {
        let index = lock(&self.0.free).pop()?;
        Some(Buffer { arena: Arc::clone(&self.0), index })
    }
}

impl Buffer {
    /// Its address, for the kernel.
    pub fn address(&mut self) -> *mut u8 {
        // SAFETY: the index is below the number of buffers in the arena.
        unsafe { self.arena.start.as_ptr().add(self.index * self.arena.size) }
    }

    /// Its first `length` bytes.
    ///
    /// # Panics
    /// If it is shorter.
    pub fn filled(&self, length: usize) -> &[u8] {
        assert!(length <= self.arena.size);
        // SAFETY: the range is in this buffer, which is not written while it is borrowed: a read
        // that lets the kernel write into it owns it meanwhile. Fresh memory of a mapping is zero.
        unsafe {
            let address = self.arena.start.as_ptr().add(self.index * self.arena.size);
            std::slice::from_raw_parts(address, length)
        }
    }

    /// All of it, to be written.
    pub fn all(&mut self) -> &mut [u8] {
        let size = self.arena.size;
        // SAFETY: the range is in this buffer, which is borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.address(), size) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        lock(&self.arena.free).push(self.index);
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length; every buffer in it kept the arena alive.
        if let Err(errno) = unsafe { munmap(self.mapped.as_ptr().cast(), self.mapped_length) } {
            debug_assert!(false, "munmap: {errno}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ALIGNMENT, Buffers};

    #[test]
    fn buffers_are_aligned_bounded_and_come_back() {
        let buffers = Buffers::new(2, ALIGNMENT).unwrap();
        let mut first = buffers.take().unwrap();
        let mut second = buffers.take().unwrap();
        assert!(buffers.take().is_none());
        assert_eq!(first.address().addr() % ALIGNMENT, 0);
        first.all().fill(1);
        second.all().fill(2);
        assert!(first.filled(ALIGNMENT).iter().all(|&byte| byte == 1));
        let address = first.address();
        drop(first);
        assert_eq!(buffers.take().unwrap().address(), address);
    }
}
