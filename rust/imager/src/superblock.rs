//! What a block device is part of or holds, told by magic numbers: enough to find the data's file
//! system, and to refuse to write to what isn't a plain disk of partitions.

use crate::Result;
use crate::disk::{Buffer, Disk};

/// Bytes at the beginning that are looked at: the first label of ZFS has 256 KiB.
const HEAD: usize = 256 << 10;
/// Bytes at the end that are looked at: md's version 0.90 has its superblock in the last 128 KiB.
const TAIL: u64 = 128 << 10;

/// A file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// `xfs`, `ext4` (which stands for its forebears as well), `btrfs`.
    pub kind: &'static str,
    /// Its UUID, 32 hexadecimal digits in lower case.
    pub uuid: String,
}

/// A member of an md array with a superblock of version 1.x (`include/uapi/linux/raid/md_p.h`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// 0, 1 or 2: at the end, at the beginning, 4 KiB after it.
    pub minor_version: u32,
    /// The array's UUID, 32 hexadecimal digits in the order in which mdadm prints them.
    pub array: String,
    /// 0 for RAID0, and so on.
    pub level: i32,
    /// How many members the array has.
    pub raid_disks: u32,
    /// Counts changes of the superblocks: members with fewer are out of date.
    pub events: u64,
    /// Its place in the array; `None` for spares and what failed.
    pub role: Option<u16>,
}

/// What was found on a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signatures {
    /// A file system.
    pub file_system: Option<FileSystem>,
    /// A place in an array.
    pub member: Option<Member>,
    /// Anything else that is on whole disks or partitions and is not a file system, for people.
    pub other: Option<&'static str>,
}

impl Signatures {
    /// What was found, for people, or `None` if nothing was.
    pub fn describe(&self) -> Option<String> {
        if let Some(member) = &self.member {
            return Some(format!("a member of the array {}", member.array));
        }
        if let Some(other) = self.other {
            return Some(other.to_owned());
        }
        self.file_system.as_ref().map(|fs| format!("a file system ({})", fs.kind))
    }
}

/// Look at a device.
///
/// # Errors
/// The disk's.
pub fn look(disk: &Disk) -> Result<Signatures> {
    let size = disk.size_bytes() / 4096 * 4096;
    let mut head = Buffer::new(HEAD.min(usize::try_from(size).unwrap_or(HEAD)));
    disk.read_at(&mut head, 0)?;
    // At the device's own end, which need not be a multiple of 4096.
    let end = disk.size_bytes() / 512 * 512;
    let length = TAIL.min(end);
    let mut tail = Buffer::new(length as usize);
    disk.read_at(&mut tail, end - length)?;
    Ok(recognise(&head, &tail, end))
}

/// Recognise what is on a device by its beginning and its end; `size` is the device's.
pub fn recognise(head: &[u8], tail: &[u8], size: u64) -> Signatures {
    let tail_start = size.saturating_sub(tail.len() as u64);
    let at = |offset: u64| {
        let from = usize::try_from(offset.checked_sub(tail_start)?).ok()?;
        tail.get(from..)
    };
    // Version 1.0: at least 8 KiB and less than 12 KiB before the end, at a multiple of 4 KiB.
    let last = (size / 512).checked_sub(16).map(|sector| sector / 8 * 8 * 512);
    let member = [(2, head.get(4096..)), (1, Some(head)), (0, last.and_then(at))]
        .into_iter()
        .find_map(|(minor, bytes)| Member::parse(minor, bytes?));
    // Version 0.90: the last 64 KiB that begin at a multiple of 64 KiB.
    let old = (size / 65536).checked_sub(1).and_then(|block| at(block * 65536));
    let has = |offset: usize, magic: &[u8]| {
        head.get(offset..offset + magic.len()).is_some_and(|bytes| bytes == magic)
    };
    let other = if old.is_some_and(|bytes| bytes.starts_with(&MD_MAGIC.to_le_bytes())) {
        Some("a member of an array with an old superblock (0.90)")
    } else if (0..4).any(|sector| has(sector * 512, b"LABELONE")) {
        Some("an LVM physical volume")
    } else if has(0, b"LUKS\xba\xbe") {
        Some("a LUKS volume")
    } else if has(4086, b"SWAPSPACE2") || has(4086, b"SWAP-SPACE") {
        Some("swap space")
    } else if has_uberblock(head) {
        Some("a ZFS device")
    } else {
        None
    };
    Signatures { file_system: file_system(head), member, other }
}

const MD_MAGIC: u32 = 0xa92b_4efc;

impl Member {
    /// Read a superblock; `None` if there is none or it is damaged.
    fn parse(minor_version: u32, bytes: &[u8]) -> Option<Self> {
        let magic_and_major = u32_at(bytes, 0)? == MD_MAGIC && u32_at(bytes, 4)? == 1;
        let max_dev = u32_at(bytes, 220)?;
        // The kernel's own bound: the superblock has 4 KiB.
        if !magic_and_major || max_dev > (4096 - 256) / 2 {
            return None;
        }
        let whole = bytes.get(..256 + 2 * max_dev as usize)?;
        if checksum(whole) != u32_at(whole, 216)? {
            return None;
        }
        let number = u32_at(whole, 160)? as usize;
        let role = whole
            .get(256 + number.checked_mul(2)?..)
            .and_then(|rest| rest.first_chunk::<2>())
            .map(|role| u16::from_le_bytes(*role))
            // 0xffff is a spare, 0xfffe failed, 0xfffd a journal.
            .filter(|&role| role < 0xfffd);
        Some(Self {
            minor_version,
            array: hex(whole.get(16..32)?),
            level: u32_at(whole, 72)?.cast_signed(),
            raid_disks: u32_at(whole, 92)?,
            events: u64::from(u32_at(whole, 204)?) << 32 | u64::from(u32_at(whole, 200)?),
            role,
        })
    }
}

/// The kernel's `calc_sb_1_csum`: the sum of all words, but for the checksum's own, folded.
fn checksum(superblock: &[u8]) -> u32 {
    let mut sum: u64 = 0;
    for (index, word) in superblock.chunks(4).enumerate() {
        sum += match *word {
            _ if index == 216 / 4 => 0,
            [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
            [a, b] => u64::from(u16::from_le_bytes([a, b])),
            _ => 0,
        };
    }
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

fn file_system(head: &[u8]) -> Option<FileSystem> {
    let uuid = |offset: usize| head.get(offset..offset + 16).map(hex);
    if head.starts_with(b"XFSB") {
        return Some(FileSystem { kind: "xfs", uuid: uuid(32)? });
    }
    if head.get(65536 + 64..65536 + 72) == Some(b"_BHRfS_M") {
        return Some(FileSystem { kind: "btrfs", uuid: uuid(65536 + 32)? });
    }
    // Two bytes say little, and boot loaders have code here: the superblock must make sense besides.
    let ext = head.get(1024..2048)?;
    let sensible = ext[56..58] == [0x53, 0xef]
        && u32_at(ext, 24)? <= 6
        && u32_at(ext, 0)? > 0
        && u32_at(ext, 32)? > 0
        && u32_at(ext, 76)? <= 1;
    sensible.then(|| uuid(1024 + 104)).flatten().map(|uuid| FileSystem { kind: "ext4", uuid })
}

/// Whether there is one of ZFS's uberblocks in the first label.
fn has_uberblock(head: &[u8]) -> bool {
    let blocks = head.get(128 << 10..).unwrap_or_default();
    blocks.chunks(1024).any(|block| {
        block.starts_with(&0x00ba_b10c_u64.to_le_bytes())
            || block.starts_with(&0x00ba_b10c_u64.to_be_bytes())
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|word| u32::from_le_bytes(*word))
}

/// Only the hexadecimal digits of a UUID, in lower case: mdadm, blkid and the kernel set them apart
/// differently.
pub fn digits(uuid: &str) -> String {
    uuid.chars().filter(char::is_ascii_hexdigit).map(|c| c.to_ascii_lowercase()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::{HEAD, digits, recognise};

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
    fn file_systems_and_others_are_told() {
        let with = |at: usize, magic: &[u8]| {
            let mut bytes = vec![0; SIZE];
            bytes[at..at + magic.len()].copy_from_slice(magic);
            look(&bytes)
        };
        let kind = |found: super::Signatures| found.file_system.map(|fs| fs.kind);
        assert_eq!(kind(with(0, b"XFSB")), Some("xfs"));
        assert_eq!(kind(with(65536 + 64, b"_BHRfS_M")), Some("btrfs"));
        // Code of a boot loader may have these two bytes there.
        assert_eq!(kind(with(1024 + 56, &[0x53, 0xef])), None);
        assert!(with(512, b"LABELONE").other.unwrap().contains("LVM"));
        assert!(with(0, b"LUKS\xba\xbe").other.unwrap().contains("LUKS"));
        assert!(with(4086, b"SWAPSPACE2").other.unwrap().contains("swap"));
        assert!(with(SIZE - 65536, &[0xfc, 0x4e, 0x2b, 0xa9]).other.unwrap().contains("0.90"));
        assert!(with((128 << 10) + 1024, &[0x0c, 0xb1, 0xba, 0]).other.unwrap().contains("ZFS"));
        assert_eq!(look(&vec![0; SIZE]).describe(), None);
    }

    #[test]
    fn file_systems_are_those_that_their_tools_make() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fs");
        for (tool, option, kind) in [("mkfs.ext4", "-U", "ext4"), ("mkfs.btrfs", "-U", "btrfs")] {
            std::fs::File::create(&path).unwrap().set_len(256 << 20).unwrap();
            let uuid = "12345678-9abc-def0-1234-56789abcdef0";
            let done =
                std::process::Command::new(tool).args(["-q", option, uuid]).arg(&path).output();
            assert!(done.unwrap().status.success(), "{tool}");
            let bytes = std::fs::read(&path).unwrap();
            let found = look(&bytes).file_system.unwrap();
            assert_eq!((found.kind, found.uuid), (kind, digits(uuid)));
        }
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
