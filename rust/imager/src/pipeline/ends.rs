//! The first and the last mebibyte of a disk, which are written apart from all else: the first because
//! a disk that is not complete must not look as if it were, the last because a disk that is larger than
//! the image needs another partition table there than the image has.

use super::HEAD_BYTES;
use crate::disk::Buffer;

#[cfg(test)]
const TEST_HEADS: [u64; 3] = [512, 63 * 512, HEAD_BYTES];

/// Both ends of a disk, in memory.
#[derive(Debug, Clone)]
pub struct Ends {
    /// From the first byte on; less than a mebibyte if the image has less, or a root that begins there.
    pub head: Buffer,
    /// Up to the disk's last byte; empty if the head is all there is.
    pub tail: Buffer,
    /// Where the tail begins.
    pub tail_at: u64,
}

impl Ends {
    /// Of a disk on which there are zeros only; `head_bytes` as [`super::head_bytes`] returns.
    pub fn new(head_bytes: u64, disk_bytes: u64) -> Self {
        let tail_at = disk_bytes.saturating_sub(HEAD_BYTES).max(HEAD_BYTES).min(disk_bytes);
        Self {
            head: Buffer::new(head_bytes as usize),
            tail: Buffer::new((disk_bytes - tail_at) as usize),
            tail_at,
        }
    }

    /// Of a range of the disk the part between both ends, as offsets from the range's beginning.
    pub fn between(&self, offset: u64, length: u64) -> std::ops::Range<usize> {
        let from = (self.head.len() as u64).saturating_sub(offset).min(length);
        let to = self.tail_at.saturating_sub(offset).min(length).max(from);
        from as usize..to as usize
    }

    /// Take over what of these bytes is in one of the ends; `offset` is their place on the disk.
    pub fn keep(&mut self, offset: u64, bytes: &[u8]) {
        let middle = self.between(offset, bytes.len() as u64);
        if middle.start > 0 {
            self.head[offset as usize..][..middle.start].copy_from_slice(&bytes[..middle.start]);
        }
        let rest = &bytes[middle.end..];
        if !rest.is_empty() {
            let at = (offset + middle.end as u64 - self.tail_at) as usize;
            self.tail[at..][..rest.len()].copy_from_slice(rest);
        }
    }

    /// The other way about: put into these bytes what of them is in one of the ends.
    pub fn fill_in(&self, offset: u64, bytes: &mut [u8]) {
        let middle = self.between(offset, bytes.len() as u64);
        if middle.start > 0 {
            bytes[..middle.start].copy_from_slice(&self.head[offset as usize..][..middle.start]);
        }
        let rest = &mut bytes[middle.end..];
        if !rest.is_empty() {
            let at = (offset + middle.end as u64 - self.tail_at) as usize;
            rest.copy_from_slice(&self.tail[at..][..rest.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Ends;

    proptest! {
        #[test]
        fn every_byte_is_in_one_end_or_between_them(
            image in 1_u64..6144,
            more in 0_u64..6144,
            at in 0_u64..6144,
            length in 1_u64..4096,
            head in 0_usize..3,
        ) {
            let (image, disk) = (image * 512, (image + more) * 512);
            let (at, length) = (at * 512, length * 512);
            prop_assume!(at + length <= image);
            let mut ends = Ends::new(super::TEST_HEADS[head].min(image), disk);
            prop_assert_eq!(ends.tail_at + ends.tail.len() as u64, disk);
            let bytes: Vec<u8> = (0..length).map(|index| (index % 251) as u8 + 1).collect();
            ends.keep(at, &bytes);
            let mut back = vec![0; bytes.len()];
            ends.fill_in(at, &mut back);
            let between = ends.between(at, length);
            for (index, byte) in back.iter().enumerate() {
                prop_assert_eq!(*byte, if between.contains(&index) { 0 } else { bytes[index] });
            }
        }
    }
}
