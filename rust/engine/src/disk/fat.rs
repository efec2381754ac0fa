//! A FAT file system with a few files in it, made in memory: what firmware boots from.

use std::io::{Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};

use crate::error::{Error, Result};

/// What the tables and directories take beside the files, in bytes; FAT16 keeps two tables of at most
/// 128 KiB each.
const OVERHEAD: u64 = 1 << 20;
/// The largest cluster that is chosen, in bytes: the end of each file wastes at most that much.
const LARGEST_CLUSTER: u64 = 32 << 10;
/// Sizes are a multiple of this, so that they are whole sectors of any disk.
const GRANULE: u64 = 1 << 20;

/// A file: its path, `EFI/BOOT/BOOTX64.EFI`, and its content.
pub type FatFile<'a> = (&'a str, &'a [u8]);

/// Make a file system for a disk with sectors of `sector_bytes` (512 or 4096) that holds these files
/// and hardly more; directories are made as needed. The result depends on the arguments alone.
///
/// # Errors
/// [`Error::Invalid`] for other sectors, no files, or a path that FAT cannot have.
pub fn build(sector_bytes: u16, files: &[FatFile<'_>]) -> Result<Vec<u8>> {
    let wrong = |why: String| Error::Invalid(format!("the FAT file system cannot be made: {why}"));
    if ![512, 4096].contains(&sector_bytes) {
        return Err(wrong(format!("a disk has no sectors of {sector_bytes} bytes")));
    }
    if files.is_empty() {
        return Err(wrong("there are no files for it".to_owned()));
    }
    let content: u64 =
        files.iter().map(|(_, bytes)| (bytes.len() as u64).next_multiple_of(LARGEST_CLUSTER)).sum();
    let size = (content + OVERHEAD).next_multiple_of(GRANULE);
    let mut volume = Cursor::new(vec![0; usize::try_from(size).map_err(|e| wrong(e.to_string()))?]);
    let options = FormatVolumeOptions::new()
        .bytes_per_sector(sector_bytes)
        .volume_id(0)
        // No name of a directory: fatfs would take one for the other.
        .volume_label(*b"LIFEBOAT   ");
    fatfs::format_volume(&mut volume, options).map_err(|e| wrong(e.to_string()))?;
    {
        let system = FileSystem::new(&mut volume, FsOptions::new())
            .map_err(|error| wrong(error.to_string()))?;
        for (path, bytes) in files {
            put(&system, path, bytes).map_err(|error| wrong(format!("{path}: {error}")))?;
        }
        system.unmount().map_err(|error| wrong(error.to_string()))?;
    }
    Ok(volume.into_inner())
}

fn put(system: &FileSystem<&mut Cursor<Vec<u8>>>, path: &str, bytes: &[u8]) -> std::io::Result<()> {
    let root = system.root_dir();
    for (at, _) in path.match_indices('/') {
        root.create_dir(&path[..at])?;
    }
    let mut file = root.create_file(path)?;
    file.write_all(bytes)?;
    file.flush()
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read as _};

    use fatfs::{FileSystem, FsOptions};

    use super::build;

    #[test]
    fn files_are_read_back_on_disks_of_both_sectors() {
        let large: Vec<u8> = (0..9_000_000_u32).map(|at| (at >> 7) as u8).collect();
        let files: &[super::FatFile<'_>] = &[
            ("EFI/BOOT/BOOTX64.EFI", b"loader"),
            ("EFI/debian/grub.cfg", b"boot"),
            ("holdfast/initramfs.img", &large),
            ("holdfast/empty", b""),
        ];
        for sector in [512, 4096] {
            let bytes = build(sector, files).unwrap();
            assert_eq!(bytes, build(sector, files).unwrap());
            assert_eq!(u16::from_le_bytes([bytes[11], bytes[12]]), sector);
            let system = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
            for (path, content) in files {
                let mut found = Vec::new();
                let file = system.root_dir().open_file(path);
                let mut file = file.unwrap_or_else(|e| panic!("{path} of {sector}: {e}"));
                file.read_to_end(&mut found).unwrap();
                assert_eq!(&found, content, "{path}");
            }
        }
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        assert!(build(520, &[("a", b"")]).is_err());
        assert!(build(512, &[]).is_err());
        assert!(build(512, &[("a/../b", b"x")]).is_err() || build(512, &[("a:b", b"x")]).is_err());
        assert!(build(512, &[("a:b", b"x")]).is_err());
    }
}
