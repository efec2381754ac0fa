//! Writing only where a disk differs: after a cut most of it is there, and is checked rather than trusted.

use holdfast_engine::image::is_zero;

use super::Blocks;
use crate::Result;
use crate::disk::Buffer;

/// Bytes that are compared at once.
const BLOCK: usize = 1 << 20;

/// Write what the disk does not have; return how many bytes that was. What cannot be read is written.
///
/// # Errors
/// The disk's.
pub fn write(disk: &dyn Blocks, bytes: &[u8], offset: u64) -> Result<u64> {
    let mut buffer = Buffer::new(BLOCK.min(bytes.len()));
    let mut written = 0;
    for (at, block) in (offset..).step_by(BLOCK).zip(bytes.chunks(BLOCK)) {
        let found = &mut buffer[..block.len()];
        if disk.read_at(found, at).is_err() || found != block {
            disk.write_at(block, at)?;
            written += block.len() as u64;
        }
    }
    Ok(written)
}

/// Zero what is not zeros on the disk.
///
/// # Errors
/// The disk's.
pub fn zero(disk: &dyn Blocks, offset: u64, length: u64) -> Result<()> {
    let mut buffer = Buffer::new(BLOCK);
    let end = offset + length;
    let mut at = offset;
    while at < end {
        let length = (end - at).min(BLOCK as u64);
        let found = &mut buffer[..length as usize];
        if disk.read_at(found, at).is_err() || !is_zero(found) {
            disk.zero(at, length)?;
        }
        at += length;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::disk::Disk;

    #[test]
    fn only_what_differs_is_written() {
        const MIB: usize = 1 << 20;
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = directory.path().join("disk");
        let mut wanted = crate::disk::Buffer::new(3 * MIB + 512);
        wanted.fill(7);
        let mut old = vec![7; 4 * MIB];
        old[4096 + MIB + 9] = 8;
        old[4096 + 3 * MIB + 511] = 8;
        std::fs::write(&path, &old).unwrap();
        let disk = Disk::open_exclusively(&path).unwrap();
        assert_eq!(super::write(&disk, &wanted, 4096).unwrap(), (MIB + 512) as u64);
        assert_eq!(super::write(&disk, &wanted, 4096).unwrap(), 0);
        assert!(std::fs::read(&path).unwrap().iter().all(|&byte| byte == 7));
        super::zero(&disk, MIB as u64, 2 * MIB as u64).unwrap();
        let found = std::fs::read(&path).unwrap();
        assert!(found[MIB..3 * MIB].iter().all(|&byte| byte == 0));
        assert!(found[..MIB].iter().chain(&found[3 * MIB..]).all(|&byte| byte == 7));
    }
}
