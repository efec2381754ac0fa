//! What a block device is part of or holds: read past the page cache, recognised by `holdfast-media`.

use holdfast_media::superblock::{HEAD, Member, TAIL, member};
use holdfast_media::{Ends, Signature, probe};

use crate::Result;
use crate::disk::{Buffer, Disk};

/// What was found on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signatures {
    /// All that is known, those first that make it part of something else.
    pub all: Vec<Signature>,
    /// A place in an md array whose superblock is whole.
    pub member: Option<Member>,
}

impl Signatures {
    /// The hexadecimal digits of the file system's UUID, if there is one and nothing else.
    pub fn file_system(&self) -> Option<String> {
        let first = self.all.first().filter(|signature| signature.kind.is_file_system())?;
        first.uuid.as_deref().map(holdfast_media::digits)
    }
}

/// Read the superblock of a device.
///
/// # Errors
/// The disk's.
pub fn read(disk: &Disk) -> Result<Signatures> {
    let size = disk.size_bytes() / 4096 * 4096;
    let mut head = Buffer::new(HEAD.min(usize::try_from(size).unwrap_or(HEAD)));
    disk.read_at(&mut head, 0)?;
    // At the device's own end, which need not be a multiple of 4096.
    let end = disk.size_bytes() / 512 * 512;
    let length = end.min(TAIL as u64);
    let mut tail = Buffer::new(length as usize);
    disk.read_at(&mut tail, end - length)?;
    Ok(recognise(&head, &tail, end))
}

/// Recognise what is on a device by its beginning and its end; `size` is the device's.
pub fn recognise(head: &[u8], tail: &[u8], size: u64) -> Signatures {
    let ends = Ends { head, tail, size };
    Signatures { all: probe(&ends), member: member(&ends) }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use holdfast_media::{Kind, digits};

    use super::{HEAD, recognise};

    /// What mdadm 4.2 wrote at 4096 for the first of two members of a RAID0; zeros follow.
    const MEMBER: &str = "/E4rqQEAAAAAAAAAAAAAAOUxuSA4GyK43NvsgOt8G4Aobm9uZSk6MAAAAAAAAAAAAAAAAAAAAAAAAAAA\
         AAAAAJkFBmsAAAAAAAAAAAEAAAAAAAAAAAAAAAAEAAACAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\
         AAAAAAAAAAAAEAAAAAAAAADwHwAAAAAACAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA7xTf4WsdomLAJ0Dr\
         hvjJMQAACAAIAAAAmQUGawAAAAAAAAAAAAAAAP//////////2e54WYAAAAAAAAAAAAAAAAAAAAAAAAAA\
         AAAAAAAAAAAAAAAAAAAAAAAAAQD/////////////////////////////////////////////////////\
         ////////////////////////////////////////////////////////////////////////////////\
         ////////////////////////////////////////////////////////////////////////////////\
         ////////////////////////////////////////////////////////////////////////////////\
         //////////////////////////////////////////8=";
    const UUID: &str = "e531b920:381b22b8:dcdbec80:eb7c1b80";
    const SIZE: usize = 1 << 20;

    /// A device with a superblock at a place.
    fn device(at: usize) -> Vec<u8> {
        let mut bytes = vec![0; SIZE];
        let member = STANDARD.decode(MEMBER).unwrap();
        bytes[at..at + member.len()].copy_from_slice(&member);
        bytes
    }

    fn look(bytes: &[u8]) -> super::Signatures {
        recognise(&bytes[..HEAD], &bytes[bytes.len() - (128 << 10)..], bytes.len() as u64)
    }

    #[test]
    fn a_member_is_found_at_all_three_places_and_only_if_it_is_whole() {
        for (minor, at) in [(2, 4096), (1, 0), (0, SIZE - 8192)] {
            let mut bytes = device(at);
            let member = look(&bytes).member.unwrap();
            assert_eq!((member.minor_version, member.level, member.raid_disks), (minor, 0, 2));
            assert_eq!((member.array.clone(), member.role), (digits(UUID), Some(0)));
            bytes[at + 80] ^= 1;
            assert_eq!(look(&bytes).member, None);
        }
        assert_eq!(look(&device(8192)).member, None);
    }

    #[test]
    fn signatures_are_found_at_both_ends() {
        let with = |at: usize, magic: &[u8]| {
            let mut bytes = vec![0; SIZE];
            bytes[at..at + magic.len()].copy_from_slice(magic);
            look(&bytes).all.first().map(|signature| (signature.kind, signature.offset))
        };
        assert_eq!(with(65536 + 64, b"_BHRfS_M"), Some((Kind::Btrfs, 65600)));
        // Code of a boot loader may have these two bytes there.
        assert_eq!(with(1024 + 56, &[0x53, 0xef]), None);
        let label = *b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001";
        assert_eq!(with(512, &label), Some((Kind::Lvm, 512)));
        // As wipefs leaves it.
        assert_eq!(with(512, &label[..24]), None);
        assert_eq!(with(0, b"LUKS\xba\xbe"), Some((Kind::Luks, 0)));
        assert_eq!(with(4086, b"SWAPSPACE2"), Some((Kind::Swap, 4086)));
        let old = SIZE - 65536;
        assert_eq!(with(old, &[0xfc, 0x4e, 0x2b, 0xa9]), Some((Kind::Md, old as u64)));
        assert_eq!(with((128 << 10) + 1024, &[0x0c, 0xb1, 0xba, 0]), Some((Kind::Zfs, 132_096)));
        assert_eq!(look(&vec![0; SIZE]).all, []);
    }

    proptest! {
        #[test]
        fn anything_is_recognised_without_a_panic(
            head in prop::collection::vec(any::<u8>(), 0..600),
            tail in prop::collection::vec(any::<u8>(), 0..600),
            size: u64,
            at in 0_usize..300,
            byte: u8,
        ) {
            let _ = recognise(&head, &tail, size);
            let mut bytes = device(4096);
            bytes[4096 + at] = byte;
            let _ = look(&bytes);
        }
    }
}
