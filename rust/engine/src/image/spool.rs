//! The chunks of a packed image in a file without a name, packed one by one, so that they can be read
//! here and there. It takes about as much space as the image itself.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::is_zero;
use crate::{Error, Result};

/// Fast, and small enough.
const LEVEL: i32 = -3;
/// Unpacked chunks that are kept.
const KEPT: usize = 16;

/// An image of which chunks are put in order, and read in any.
pub(super) struct Spool {
    directory: PathBuf,
    file: File,
    end: u64,
    chunk_bytes: usize,
    /// Place and packed length of each chunk that is not zeros, by its number.
    places: BTreeMap<u64, (u64, usize)>,
    /// The chunks that were read last, the newest at the end.
    kept: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl Spool {
    /// In `TMPDIR` if that is set, else beside the image, or in /var/tmp where that cannot be written.
    ///
    /// # Errors
    /// [`Error::Io`], naming the directory.
    pub fn beside(image: &Path, chunk_bytes: u64) -> Result<Self> {
        let beside = image.parent().filter(|path| !path.as_os_str().is_empty());
        let beside = beside.unwrap_or(Path::new("."));
        let wanted = std::env::var_os("TMPDIR").filter(|path| !path.is_empty());
        let places = match &wanted {
            Some(path) => vec![Path::new(path)],
            None => vec![beside, Path::new("/var/tmp")],
        };
        let mut failure = None;
        for directory in places {
            match tempfile::tempfile_in(directory) {
                Ok(file) => {
                    return Ok(Self {
                        directory: directory.to_owned(),
                        file,
                        end: 0,
                        chunk_bytes: usize::try_from(chunk_bytes).expect("a chunk is a few MiB"),
                        places: BTreeMap::new(),
                        kept: RefCell::default(),
                    });
                }
                Err(error) => failure = Some(Error::io(directory, error)),
            }
        }
        Err(failure.expect("there is a directory to try"))
    }

    /// Take in the chunk at `offset`.
    ///
    /// # Errors
    /// [`Error::Io`], naming the directory.
    pub fn add(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if is_zero(bytes) {
            return Ok(());
        }
        let failed = |e| Error::io(&self.directory, e);
        let packed = zstd::bulk::compress(bytes, LEVEL).map_err(failed)?;
        self.file.write_all_at(&packed, self.end).map_err(failed)?;
        self.places.insert(offset / self.chunk_bytes as u64, (self.end, packed.len()));
        self.end += packed.len() as u64;
        Ok(())
    }

    /// Fill a buffer from `offset` of the image; what was not taken in is zeros.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let here = offset + done as u64;
            let (number, within) =
                (here / self.chunk_bytes as u64, (here % self.chunk_bytes as u64) as usize);
            let length = (buffer.len() - done).min(self.chunk_bytes - within);
            let to = &mut buffer[done..done + length];
            if self.places.contains_key(&number) {
                let mut kept = self.kept.borrow_mut();
                let at = self.unpacked(&mut kept, number)?;
                let from = kept[at].1.get(within..).unwrap_or_default();
                let whole = from.len().min(length);
                to[..whole].copy_from_slice(&from[..whole]);
                to[whole..].fill(0);
            } else {
                to.fill(0);
            }
            done += length;
        }
        Ok(())
    }

    /// Unpack a chunk unless it is kept; answers where in `kept` it is.
    fn unpacked(&self, kept: &mut Vec<(u64, Vec<u8>)>, number: u64) -> io::Result<usize> {
        if let Some(at) = kept.iter().position(|(one, _)| *one == number) {
            let one = kept.remove(at);
            kept.push(one);
        } else {
            let (at, length) = self.places[&number];
            let mut packed = vec![0; length];
            self.file.read_exact_at(&mut packed, at)?;
            let bytes = zstd::bulk::decompress(&packed, self.chunk_bytes)?;
            if kept.len() == KEPT {
                kept.remove(0);
            }
            kept.push((number, bytes));
        }
        Ok(kept.len() - 1)
    }
}
