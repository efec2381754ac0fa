//! Keeping the disk that is written over: an ordinary image of it, with its descriptor, on a data disk.
//!
//! This is the only moment at which the old system is at rest. The image is complete, or not there.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;

use holdfast_engine::image::describe::{Describer, Names};
use holdfast_engine::image::descriptor::Content;
use holdfast_engine::image::{Descriptor, Encoding, Hasher, Sha256, is_zero};
use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, fchown, mkdirat, openat, openat2, renameat,
    unlinkat,
};
use rustix::io::Errno;

use crate::disk::{Buffer, Disk};
use crate::job::StateDirectory;
use crate::pipeline::verify::verify_in;
use crate::source::staged::Staged;
use crate::status::{Phase, Status};
use crate::{Context as _, Fault, Result};

/// The names of both files.
const IMAGE: &str = "image";
const DESCRIPTOR: &str = "descriptor.json";
/// Fast, and with a window that takes little memory.
const LEVEL: i32 = 1;
/// Threads that read and digest; each has two chunks in memory.
const READERS: usize = 3;
const OUTPUT_BUFFER: usize = 1 << 20;

/// Keep `disk` in `directory`, relative to `volume`, where a file system is mounted; return the
/// descriptor's digest. Everything is on the medium, and was read back, when this returns.
///
/// The directory is `previous/NAME` of the state directory, which has to be the directory that was
/// noted when the machine was armed, whatever has its name now: what is kept has every secret of
/// the old system.
///
/// # Errors
/// The system's, with nothing left of it; that it is another state directory, with nothing written; or
/// that what was written is not what was read.
pub fn save(
    disk: &Disk,
    volume: &Path,
    directory: &str,
    state: &StateDirectory,
    names: Names,
    status: &Status,
) -> Result<Sha256> {
    let (above, name) = directory.rsplit_once('/').unwrap_or((".", directory));
    let place = PartialDirectory::make(volume, above, name, state)?;
    let result = (|| {
        let descriptor = write(disk, place.create(IMAGE)?, names, status)?;
        let path = volume.join(above).join(&place.partial).join(IMAGE);
        verify_in(Phase::VerifyingSaved, &descriptor, &Staged::at(path), status)?;
        let json = descriptor.to_json();
        let mut file = place.create(DESCRIPTOR)?;
        file.write_all(json.as_bytes()).and_then(|()| file.sync_all()).context(DESCRIPTOR)?;
        place.complete(name)?;
        Ok(Sha256::of(json.as_bytes()))
    })();
    if result.is_err() {
        place.remove();
    }
    result.map_err(|fault: Fault| Fault(format!("the old disk cannot be kept: {fault}")))
}

/// The directory while it is not complete, and its parent.
struct PartialDirectory {
    above: OwnedFd,
    directory: OwnedFd,
    partial: String,
    owner: (Uid, Gid),
}

impl PartialDirectory {
    fn make(volume: &Path, above: &str, name: &str, state: &StateDirectory) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let root = rustix::fs::open(volume, flags, Mode::empty()).context(volume.display())?;
        let (home, inner) = above.rsplit_once('/').unwrap_or((".", above));
        let open = |from: &OwnedFd, path: &str| {
            openat2(from, path, flags, Mode::empty(), inside)
                .context(format_args!("the directory {path} for the old disk"))
        };
        let home = open(&root, home)?;
        let above = open(&home, inner)?;
        let gid = check_home(&home, &above, state)?;
        let partial = format!("{name}.partial");
        // The daemon, which is not the superuser, owns what is put into its directory.
        let owner = (Uid::from_raw(state.uid), Gid::from_raw(gid));
        remove_from(&above, &partial);
        mkdirat(&above, &partial, Mode::RWXU).context(&partial)?;
        let directory =
            openat(&above, &partial, flags | OFlags::NOFOLLOW, Mode::empty()).context(&partial)?;
        let place = Self { above, directory, partial, owner };
        match fchown(&place.directory, Some(owner.0), Some(owner.1)) {
            Ok(()) => Ok(place),
            Err(error) => {
                place.remove();
                Err(error).context(&place.partial)
            }
        }
    }

    fn create(&self, name: &str) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::RUSR | Mode::WUSR).context(name)?;
        fchown(&file, Some(self.owner.0), Some(self.owner.1)).context(name)?;
        Ok(File::from(file))
    }

    fn complete(&self, name: &str) -> Result<()> {
        let flush = |fd: &OwnedFd| rustix::fs::fsync(fd).context("flushing a directory");
        flush(&self.directory)?;
        renameat(&self.above, &self.partial, &self.above, name).context(name)?;
        flush(&self.above)
    }

    fn remove(&self) {
        remove_from(&self.above, &self.partial);
    }
}

/// Check that these are the state directory that was noted, and a directory in it that only its
/// owner can write to; return its group.
fn check_home(home: &OwnedFd, above: &OwnedFd, state: &StateDirectory) -> Result<u32> {
    let found = rustix::fs::fstat(home).context("the state directory")?;
    if (found.st_ino, found.st_uid) != (state.ino, state.uid) {
        return Err(Fault(format!(
            "the state directory is another one than when the machine was armed: inode {} of user {} \
             instead of inode {} of user {}",
            found.st_ino, found.st_uid, state.ino, state.uid
        )));
    }
    let inner = rustix::fs::fstat(above).context("the directory for the old disk")?;
    for (what, status) in [("state directory", found), ("directory for the old disk", inner)] {
        if status.st_uid != state.uid || status.st_mode & 0o022 != 0 {
            return Err(Fault(format!(
                "the {what} can be written by others than the daemon's user"
            )));
        }
    }
    Ok(inner.st_gid)
}

/// Remove what an attempt left that did not come to its end. What stays only takes space: holdfast
/// removes it as well.
fn remove_from(above: &OwnedFd, partial: &str) {
    for file in [IMAGE, DESCRIPTOR] {
        let _ = unlinkat(above, format!("{partial}/{file}"), AtFlags::empty());
    }
    match unlinkat(above, partial, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => crate::say!("{partial} cannot be removed: {error}"),
    }
}

/// Pack the disk into a file, and describe it on the way; on the medium when this returns.
fn write(disk: &Disk, file: File, names: Names, status: &Status) -> Result<Descriptor> {
    let size = disk.size_bytes();
    status.enter(Phase::Saving, size);
    let mut describer = Describer::new(size);
    let output = Output {
        file: BufWriter::with_capacity(OUTPUT_BUFFER, file),
        digest: Hasher::default(),
        bytes: 0,
    };
    let mut encoder = zstd::Encoder::new(output, LEVEL).context("zstd")?;
    encoder.set_pledged_src_size(Some(size)).context("zstd")?;
    encoder.include_checksum(true).context("zstd")?;
    in_order(disk, describer.chunk_bytes(), |bytes, digest| {
        describer.see(bytes, digest);
        encoder.write_all(bytes).context("writing the image of it")?;
        status.advance(bytes.len() as u64);
        Ok(())
    })?;
    let output = encoder.finish().context("writing the image of it")?;
    // The kernel may have much of it in memory still.
    let silence = status.expect_silence();
    let file = output.file.into_inner().map_err(io::IntoInnerError::into_error);
    file.and_then(|file| file.sync_all()).context("writing the image of it")?;
    drop(silence);
    let content = Content {
        file: IMAGE.to_owned(),
        encoding: Encoding::Zstd,
        size_bytes: output.bytes,
        sha256: output.digest.digest(),
    };
    let again = Arc::new(disk.shared()?);
    let read = move |offset: u64, to: &mut [u8]| read_any(&again, offset, to);
    let descriptor = describer.finish(disk.path(), names, content, read)?;
    status.finish();
    Ok(descriptor)
}

/// Read from any place of a disk, which itself only reads whole sectors into aligned memory.
fn read_any(disk: &Disk, offset: u64, to: &mut [u8]) -> io::Result<()> {
    const ALIGNMENT: u64 = 4096;
    let from = offset / ALIGNMENT * ALIGNMENT;
    let end = (offset + to.len() as u64).next_multiple_of(ALIGNMENT).min(disk.size_bytes());
    let mut buffer = Buffer::new((end - from) as usize);
    disk.read_at(&mut buffer, from).map_err(|fault| io::Error::other(fault.to_string()))?;
    let skip = (offset - from) as usize;
    to.copy_from_slice(&buffer[skip..skip + to.len()]);
    Ok(())
}

/// Read the whole disk, several chunks at once, and hand them over in order, each with its digest.
fn in_order(
    disk: &Disk,
    chunk_bytes: u64,
    mut take: impl FnMut(&[u8], Option<Sha256>) -> Result<()>,
) -> Result<()> {
    let size = disk.size_bytes();
    let count = size.div_ceil(chunk_bytes);
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..READERS as u64)
            .map(|lane| {
                let (hand_over, chunks) = sync_channel(1);
                let (give_back, memory) = sync_channel::<Buffer>(2);
                for _ in 0..2 {
                    give_back
                        .send(Buffer::new(chunk_bytes as usize))
                        .expect("there is room for two");
                }
                scope.spawn(move || {
                    for index in (lane..count).step_by(READERS) {
                        // Nobody listens any more after a fault.
                        let Ok(mut buffer) = memory.recv() else { return };
                        let offset = index * chunk_bytes;
                        let length = chunk_bytes.min(size - offset) as usize;
                        let read = disk.read_at(&mut buffer[..length], offset).map(|()| {
                            let bytes = &buffer[..length];
                            let digest = (!is_zero(bytes)).then(|| Sha256::of(bytes));
                            (length, digest)
                        });
                        if hand_over
                            .send(read.map(|(length, digest)| (buffer, length, digest)))
                            .is_err()
                        {
                            return;
                        }
                    }
                });
                (chunks, give_back)
            })
            .collect();
        for index in 0..count {
            let (chunks, give_back) = &lanes[index as usize % READERS];
            let chunk = chunks.recv().map_err(|_| Fault::new("a reading thread is gone"))?;
            let (buffer, length, digest) = chunk?;
            take(&buffer[..length], digest)?;
            // The thread is gone if that was its last one.
            let _ = give_back.send(buffer);
        }
        Ok(())
    })
}

/// A file, with the digest and the number of the bytes that went into it.
struct Output {
    file: BufWriter<File>,
    digest: Hasher,
    bytes: u64,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.digest.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
