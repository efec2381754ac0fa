//! A disk that is open past the page cache, and memory that such reads and writes accept.

pub mod array;
pub mod devices;
pub mod grow;
pub mod mount;
pub mod partition;
pub mod superblock;
pub mod table;
pub mod target;
pub mod volume_group;

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::{Context as _, Result};

/// What O_DIRECT asks for at most: the size of a page.
const ALIGNMENT: usize = 4096;

// include/uapi/linux/fs.h: _IO(0x12, n), and for BLKGETSIZE64 _IOR(0x12, 114, size_t). The requests'
// type differs between C libraries, hence the casts where they are used.
const BLKROSET: u32 = 0x125d;
const BLKFLSBUF: u32 = 0x1261;
const BLKSSZGET: u32 = 0x1268;
const BLKZEROOUT: u32 = 0x127f;
const BLKGETSIZE64: u32 = 0x8008_1272;

/// Memory for reading and writing past the page cache; zeros at first.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    /// Memory of `length` bytes.
    pub fn new(length: usize) -> Self {
        let memory = vec![0; length + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, start, length }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Self {
        // Another piece of memory is aligned in another place.
        let mut copy = Self::new(self.length);
        copy.copy_from_slice(self);
        copy
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffer").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

/// A disk, or in tests a file in place of one.
#[derive(Debug)]
pub struct Disk {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    sector_bytes: u64,
    is_block_device: bool,
}

impl Disk {
    /// Open a disk for reading, past the page cache.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn open(path: &Path) -> Result<Self> {
        Self::with_flags(path, false, libc::O_DIRECT)
    }

    /// Open a disk for writing. While it is open, the kernel refuses to mount it or to make it part
    /// of something else; it cannot be opened when either is so already.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn open_exclusively(path: &Path) -> Result<Self> {
        Self::with_flags(path, true, libc::O_DIRECT | libc::O_EXCL)
    }

    fn with_flags(path: &Path, write: bool, flags: i32) -> Result<Self> {
        let mut options = File::options();
        let options = options.read(true).write(write);
        let file = options.custom_flags(flags).open(path).context(path.display())?;
        let metadata = file.metadata().context(path.display())?;
        let is_block_device = metadata.file_type().is_block_device();
        let mut size_bytes = metadata.len();
        if is_block_device {
            // SAFETY: the request writes one u64 to where it is pointed.
            let done =
                unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64 as _, &raw mut size_bytes) };
            check(done).context(path.display())?;
        }
        let sector_bytes = if is_block_device { sector_bytes(&file, path)? } else { 512 };
        Ok(Self { file, path: path.to_owned(), size_bytes, sector_bytes, is_block_device })
    }

    /// Open the same disk again without keeping others from it: a partition of a disk that is held
    /// exclusively cannot be mounted.
    ///
    /// # Errors
    /// The system's, with the path.
    pub fn shared(&self) -> Result<Self> {
        // Not by its name, which may be another disk's by now.
        let path = PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()));
        let mut again = Self::with_flags(&path, true, libc::O_DIRECT)?;
        again.path.clone_from(&self.path);
        Ok(again)
    }

    /// Its node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Bytes in the smallest unit that it reads and writes; 512 of a file.
    pub fn sector_bytes(&self) -> u64 {
        self.sector_bytes
    }

    /// Fill the buffer from a place. Buffer, place and length must be multiples of the sector's size.
    ///
    /// # Errors
    /// The system's, with the place.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.file
            .read_exact_at(buffer, offset)
            .context(format_args!("reading {} at {offset}", self.path.display()))
    }

    /// Write a buffer to a place; as for reading. Nothing is durable before [`Disk::flush`].
    ///
    /// # Errors
    /// The system's, with the place.
    pub fn write_at(&self, buffer: &[u8], offset: u64) -> Result<()> {
        self.file
            .write_all_at(buffer, offset)
            .context(format_args!("writing {} at {offset}", self.path.display()))
    }

    /// Make a range read as zeros.
    ///
    /// # Errors
    /// The system's, with the place.
    pub fn zero(&self, offset: u64, length: u64) -> Result<()> {
        let result = if self.is_block_device {
            // The kernel falls back to writing zeros where the disk can't do it by itself.
            let range = [offset, length];
            // SAFETY: the request reads two u64 from where it is pointed.
            check(unsafe { libc::ioctl(self.file.as_raw_fd(), BLKZEROOUT as _, range.as_ptr()) })
        } else {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.file, flags, offset, length).map_err(io::Error::from)
        };
        result
            .context(format_args!("zeroing {length} bytes of {} at {offset}", self.path.display()))
    }

    /// Wait until everything written is on the medium, the disk's own cache included.
    ///
    /// # Errors
    /// The system's.
    pub fn flush(&self) -> Result<()> {
        self.file.sync_all().context(format_args!("flushing {}", self.path.display()))
    }

    /// The kernel's number of the device.
    ///
    /// # Errors
    /// The system's.
    pub fn number(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(self.file.metadata().context(self.path.display())?.rdev())
    }

    /// Drop what the kernel has cached of it, so that reads come from the medium.
    ///
    /// # Errors
    /// The system's.
    pub fn drop_cache(&self) -> Result<()> {
        // SAFETY: the request takes no argument.
        let done = unsafe { libc::ioctl(self.file.as_raw_fd(), BLKFLSBUF as _, 0) };
        check(done).context(format_args!("dropping the cache of {}", self.path.display()))
    }

    /// The open file.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Let the kernel refuse every program's writes to a block device, or allow them again.
///
/// # Errors
/// The system's.
pub fn set_read_only(path: &Path, refuse: bool) -> io::Result<()> {
    let file = File::open(path)?;
    let refuse = libc::c_int::from(refuse);
    // SAFETY: the request reads one int from where it is pointed.
    check(unsafe { libc::ioctl(file.as_raw_fd(), BLKROSET as _, &raw const refuse) })
}

fn sector_bytes(file: &File, path: &Path) -> Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int to where it is pointed.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET as _, &raw mut bytes) };
    check(done).context(path.display())?;
    u64::try_from(bytes).context(path.display())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
