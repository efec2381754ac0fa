//! A private copy of the parts of an image that are mounted: a sparse file without a name, which only
//! this process has open. What was checked by its digest can then be changed by nobody else, and what a
//! trial writes does not reach the staged image.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_engine::image::Descriptor;
use rustix::fs::{AtFlags, Mode, OFlags, fstatvfs, open, openat, unlinkat};
use rustix::io::Errno;

use crate::Fault;
use crate::pipeline::{Supply, stream};
use crate::status::lock;

/// What file systems take besides for the file itself, in bytes.
const OVERHEAD: u64 = 16 << 20;
/// Bytes after which free space is checked again, and progress reported.
const STEP: u64 = 8 << 20;
/// The name of the file for a moment, where the file system knows none without.
const NAME: &str = ".holdfast-trial";

/// Why there is no copy.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// This machine cannot hold it.
    NoSpace(String),
    /// The image differs from its descriptor, or cannot be read.
    Image(String),
}

/// Read all of an image, check each chunk, and keep those of the `parts` (ranges of its bytes) in a file
/// below `directory`, at their own places. At least `floor_bytes` of the file system stay free. `report`
/// is called with the number of bytes that were read, every few MiB.
///
/// # Errors
/// Why there is no copy.
pub fn copy(
    image: &Descriptor,
    supply: &dyn Supply,
    parts: &[Range<u64>],
    directory: &Path,
    floor_bytes: u64,
    report: &(dyn Fn(u64) + Sync),
) -> Result<File, Missing> {
    let what = |error: &dyn std::fmt::Display| {
        Missing::NoSpace(format!("{}: {error}", directory.display()))
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let place = open(directory, flags, Mode::empty()).map_err(|error| what(&error))?;
    let wanted = |from: u64, length: u64| {
        parts.iter().any(|part| part.start < from + length && from < part.end)
    };
    let needed: u64 = image
        .pieces()
        .filter(|piece| piece.digest.is_some() && wanted(piece.offset, piece.length))
        .map(|piece| piece.length)
        .sum();
    enough(&place, needed + OVERHEAD, floor_bytes)?;
    let file = nameless(&place).map_err(|error| what(&error))?;
    file.set_len(image.size_bytes).map_err(|error| what(&error))?;
    let direct = past_cache(&file);
    let missing = Mutex::new(None);
    let give_up = |why: Missing| {
        let fault = match &why {
            Missing::NoSpace(why) | Missing::Image(why) => Fault::new(why),
        };
        lock(&missing).get_or_insert(why);
        Err(fault)
    };
    let done = AtomicU64::new(0);
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
    let passed = stream::pass(image, supply, workers, &|_, piece, bytes| {
        if !piece.matches(bytes) {
            return give_up(Missing::Image(format!(
                "{} is not the image of the descriptor: the chunk at {} differs",
                supply.name(),
                piece.offset
            )));
        }
        if piece.digest.is_some() && wanted(piece.offset, piece.length) {
            let written = match &direct {
                Some(direct) => direct.write_all_at(bytes, piece.offset),
                None => file.write_all_at(bytes, piece.offset),
            };
            // The last chunk may not be as long as O_DIRECT wants it.
            let written = written.or_else(|_| file.write_all_at(bytes, piece.offset));
            if let Err(error) = written {
                return give_up(what(&error));
            }
        }
        let before = done.fetch_add(piece.length, Ordering::Relaxed);
        if before / STEP != (before + piece.length) / STEP {
            report(before + piece.length);
            if let Err(why) = enough(&place, 0, floor_bytes) {
                return give_up(why);
            }
        }
        Ok(())
    });
    match (passed, missing.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)) {
        (Ok(()), None) => Ok(file),
        (_, Some(why)) => Err(why),
        (Err(fault), None) => Err(Missing::Image(fault.to_string())),
    }
}

fn enough(place: &OwnedFd, needed: u64, floor_bytes: u64) -> Result<(), Missing> {
    let found = fstatvfs(place).map_err(|error| Missing::NoSpace(error.to_string()))?;
    let free = found.f_bavail * found.f_frsize;
    if free >= needed + floor_bytes {
        return Ok(());
    }
    Err(Missing::NoSpace(format!(
        "a copy of what is mounted needs {needed} bytes besides the {floor_bytes} that stay free, and \
         {free} are free"
    )))
}

fn nameless(place: &OwnedFd) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match openat(place, ".", flags | OFlags::TMPFILE, mode) {
        Ok(file) => Ok(file.into()),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => {
            match unlinkat(place, NAME, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
            let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let file = openat(place, NAME, flags, mode)?;
            unlinkat(place, NAME, AtFlags::empty())?;
            Ok(file.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// The same file without the page cache, which is the datastore's; `None` where that is not possible.
fn past_cache(file: &File) -> Option<File> {
    let flags = OFlags::WRONLY | OFlags::DIRECT | OFlags::CLOEXEC;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    open(path, flags, Mode::empty()).ok().map(File::from)
}
