//! Which parts of a file hold data: holes are zeros, and need not be read to be known.

use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Holes smaller than this are read like data: asking and splitting costs more.
const SMALLEST: u64 = 64 << 10;

/// The next part of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// To be read.
    Data {
        /// Where it begins.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
    /// This many zeros.
    Hole(u64),
}

/// Iterates over `[position, end)` of a file.
#[derive(Debug)]
pub struct Extents {
    position: u64,
    end: u64,
    /// Up to here it is known to be data.
    data_until: u64,
    alignment: u64,
}

impl Extents {
    /// All parts of a stretch; `position` is a multiple of `alignment`, and so are the offsets of all
    /// data. Unless the file is `sparse` everything is data.
    pub fn new(position: u64, end: u64, alignment: u64, sparse: bool) -> Self {
        let data_until = if sparse { position } else { end };
        Self { position, end, data_until, alignment }
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.position >= self.end
    }

    /// The next part, with at most `most` bytes of data (a multiple of the alignment).
    pub fn next(&mut self, file: &OwnedFd, most: u64) -> Option<Part> {
        if self.is_empty() {
            return None;
        }
        if self.position >= self.data_until {
            let hole = self.next_hole(file, most);
            if hole > 0 {
                self.position += hole;
                return Some(Part::Hole(hole));
            }
        }
        let offset = self.position;
        let length = most.min(self.data_until.min(self.end) - offset);
        self.position += length;
        Some(Part::Data { offset, length })
    }

    /// Determine what is at the position: the length of a hole, or zero after `data_until` was
    /// moved.
    fn next_hole(&mut self, file: &OwnedFd, most: u64) -> u64 {
        let data = match seek(file, SeekFrom::Data(self.position)) {
            Ok(data) => data,
            // Nothing but a hole up to the end of the file.
            Err(Errno::NXIO) => return self.end - self.position,
            Err(_) => {
                // The file system does not report holes.
                self.data_until = self.end;
                return 0;
            }
        };
        let begin = data - data % self.alignment;
        if begin >= self.position + SMALLEST {
            return begin.min(self.end) - self.position;
        }
        let mut until = data;
        while until < self.position + most {
            match seek(file, SeekFrom::Hole(until)) {
                Ok(hole) => until = hole,
                Err(_) => until = self.end,
            }
            match seek(file, SeekFrom::Data(until)) {
                Ok(next) if next < until + SMALLEST => until = next + 1,
                _ => break,
            }
        }
        self.data_until = until.next_multiple_of(self.alignment).min(self.end);
        0
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::FileExt;

    use proptest::prelude::*;

    use super::{Extents, Part};

    const ALIGNMENT: u64 = 4096;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn parts_follow_each_other_and_holes_are_zeros(
            writes in prop::collection::vec((0_u64..600, 1_usize..9000), 0..5),
            size in 0_u64..3_000_000,
            from in 0_u64..100,
        ) {
            let file = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap();
            for (block, length) in writes {
                let offset = block * ALIGNMENT;
                let length = length.min(size.saturating_sub(offset) as usize);
                file.write_all_at(&vec![7; length], offset).unwrap();
            }
            let mut content = vec![0; size as usize];
            file.read_exact_at(&mut content, 0).unwrap();
            let fd = OwnedFd::from(file);
            let mut position = from * ALIGNMENT;
            let mut extents = Extents::new(position, size, ALIGNMENT, true);
            while let Some(part) = extents.next(&fd, 1 << 20) {
                position += match part {
                    Part::Data { offset, length } => {
                        prop_assert_eq!(offset, position);
                        prop_assert_eq!(offset % ALIGNMENT, 0);
                        prop_assert!(length > 0 && length <= 1 << 20);
                        length
                    }
                    Part::Hole(length) => {
                        prop_assert!(length > 0);
                        let range = position as usize..(position + length) as usize;
                        prop_assert!(content[range].iter().all(|&byte| byte == 0));
                        length
                    }
                };
            }
            prop_assert_eq!(position.max(size), (from * ALIGNMENT).max(size));
        }
    }
}
