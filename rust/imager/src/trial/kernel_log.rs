//! What the kernel logs while a file system is mounted: the error number alone never shows which
//! feature it does not know.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

/// The most messages that are kept.
const MESSAGES: usize = 5;
/// The longest record of the kernel's log, in bytes.
const RECORD: usize = 8192;

/// The kernel's log from a moment on.
#[derive(Debug)]
pub struct KernelLog(Option<File>);

impl KernelLog {
    /// Begin to listen; where this process may not, nothing is ever heard.
    pub fn from_now() -> Self {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        Self(options.open("/dev/kmsg").ok().and_then(|mut file| {
            file.seek(SeekFrom::End(0)).ok()?;
            Some(file)
        }))
    }

    /// The messages about a device so far, the last ones if there are many.
    pub fn about(&mut self, device: &str) -> Vec<String> {
        let Some(file) = &mut self.0 else { return Vec::new() };
        let mut found = Vec::new();
        let mut record = vec![0; RECORD];
        // Each read is a record; an error is the end, or that records were overwritten.
        while let Ok(length @ 1..) = file.read(&mut record) {
            let text = String::from_utf8_lossy(&record[..length]);
            let message = text.lines().next().and_then(|line| line.split_once(';'));
            if let Some((_, message)) = message
                && names(message, device)
                && !message.contains("capacity change")
            {
                let plain: String =
                    message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                found.push(plain.trim().trim_end_matches('.').to_owned());
            }
        }
        found.split_off(found.len().saturating_sub(MESSAGES))
    }
}

/// Whether a message has the device's name as a word: `loop1` is not in a message about `loop12`.
fn names(message: &str, device: &str) -> bool {
    message.match_indices(device).any(|(at, _)| {
        let after = message[at + device.len()..].chars().next();
        !after.is_some_and(|c| c.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn a_device_is_a_word() {
        assert!(names("XFS (loop1): unknown incompatible features (0x40000000)", "loop1"));
        assert!(names("loop1: rw=0, sector=9, nr_sectors = 8 limit=0", "loop1"));
        assert!(!names("EXT4-fs (loop12): unmounting", "loop1"));
    }
}
