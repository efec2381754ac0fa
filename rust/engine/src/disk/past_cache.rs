//! A device of this machine as its medium has it, past the page cache.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::rc::Rc;

use holdfast_media::{Guard, ReadAt};

use crate::read::buffers::Buffers;
use crate::{Error, Result};

/// What offsets and lengths of a read past the page cache are multiples of.
const ALIGNED: usize = 4096;
/// How much is read at once.
const PIECE: usize = 1 << 20;

type Read = Box<dyn Fn(u64, &mut [u8]) -> io::Result<()>>;

/// An open device.
pub(crate) struct PastCache {
    guard: Rc<Guard<Read>>,
    path: String,
}

impl PastCache {
    /// Open a device, to read at most `budget` bytes of it.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(crate) fn open(path: &Path, budget: u64) -> Result<Self> {
        let failed = |error| Error::io(path, error);
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT)
            .open(path)
            .map_err(failed)?;
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let buffers = Buffers::new(1, PIECE)?;
        let read: Read = Box::new(move |at, to| fill(&file, &buffers, at, to));
        let path = path.to_string_lossy().into_owned();
        Ok(Self { guard: Rc::new(Guard::new(size, budget, read)), path })
    }

    /// Read something of it.
    ///
    /// # Errors
    /// [`Error::Io`] if the device could not be read, whatever was made of that.
    pub(crate) fn read<T>(&self, of: impl FnOnce(&Rc<dyn ReadAt>) -> T) -> Result<T> {
        let source: Rc<dyn ReadAt> = Rc::<Guard<Read>>::clone(&self.guard);
        let found = of(&source);
        match self.guard.failure() {
            Some(error) => Err(Error::io(&self.path, error)),
            None => Ok(found),
        }
    }
}

/// Fill `to` from `offset`, by whole blocks into an aligned buffer.
fn fill(file: &File, buffers: &Buffers, mut offset: u64, to: &mut [u8]) -> io::Result<()> {
    let mut buffer = buffers.take().ok_or(io::ErrorKind::OutOfMemory)?;
    let mut rest = to;
    while !rest.is_empty() {
        let skip = (offset % ALIGNED as u64) as usize;
        let wanted = (skip + rest.len()).next_multiple_of(ALIGNED).min(PIECE);
        let got = loop {
            match file.read_at(&mut buffer.all()[..wanted], offset - skip as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                got => break got?,
            }
        };
        let count = got.saturating_sub(skip).min(rest.len());
        if count == 0 {
            return Err(io::Error::from_raw_os_error(libc::EIO)); // the device ended
        }
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&buffer.filled(wanted)[skip..skip + count]);
        rest = later;
        offset += count as u64;
    }
    Ok(())
}
