//! File systems on loop devices, whose device is changed behind them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::MIB;

/// The smallest blocks that a file system here has: ext4 below 512 MiB.
const BLOCK: usize = 1024;

/// A mounted file system.
pub struct Volume {
    image: PathBuf,
    pub path: PathBuf,
}

impl Volume {
    /// Make one of that many MiB in a directory; `None`, with the reason on stderr, where that is
    /// not to be had.
    pub fn new(directory: &Path, name: &str, filesystem: &str, mib: u64) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root mounts");
            return None;
        }
        let (image, path) = (directory.join(format!("{name}.img")), directory.join(name));
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        std::fs::create_dir_all(&path).unwrap();
        let make = Command::new(format!("mkfs.{filesystem}")).arg("-q").arg(&image).status();
        if !make.is_ok_and(|status| status.success()) {
            eprintln!("skipped: there is no mkfs.{filesystem}");
            return None;
        }
        let mounted = Command::new("mount").args(["-o", "loop"]).args([&image, &path]).status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: {filesystem} cannot be mounted from a loop device");
            return None;
        }
        Some(Self { image, path })
    }

    /// Flip a bit on the device where one of its blocks begins with these bytes, behind the file
    /// system.
    pub fn flip(&self, needle: &[u8]) {
        assert!(self.try_flip(needle), "the device does not have these bytes");
    }

    /// The same, if the device has these bytes by now.
    pub fn try_flip(&self, needle: &[u8]) -> bool {
        rustix::fs::syncfs(File::open(&self.path).unwrap()).unwrap();
        let image = File::options().read(true).write(true).open(&self.image).unwrap();
        let length = image.metadata().unwrap().len();
        let mut window = vec![0; MIB];
        let mut at = 0;
        while at < length {
            let count = image.read_at(&mut window, at).unwrap();
            let mut blocks = window[..count].chunks(BLOCK);
            if let Some(place) = blocks.position(|block| block.starts_with(needle)) {
                let offset = at + (BLOCK * place) as u64;
                image.write_all_at(&[needle[0] ^ 1], offset).unwrap();
                image.sync_all().unwrap();
                return true;
            }
            at += MIB as u64;
        }
        false
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
