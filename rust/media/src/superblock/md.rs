//! Members of md arrays: `include/uapi/linux/raid/md_p.h` of the kernel.

use super::{Kind, Signature};
use crate::ReadAt;
use crate::bytes::{hex, u16_le, u32_le};

const MAGIC: u32 = 0xa92b_4efc;
/// The most bytes of a superblock of version 1.
const LENGTH: usize = 4096;

/// A member of an md array with a superblock of version 1.x.
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

/// The superblock of version 1.x on a device, if its checksum is right.
pub fn member(device: &dyn ReadAt) -> Option<Member> {
    places(device.size())
        .into_iter()
        .find_map(|(minor, at)| Member::parse(minor, &device.bytes_up_to(at, LENGTH)))
}

/// Minor versions and where their superblocks are.
fn places(size: u64) -> Vec<(u32, u64)> {
    // Version 1.0: at least 8 KiB and less than 12 KiB before the end, at a multiple of 4 KiB.
    let last = (size / 512).checked_sub(16).map(|sector| sector / 8 * 8 * 512);
    [(2, Some(4096)), (1, Some(0)), (0, last)]
        .into_iter()
        .filter_map(|(minor, at)| Some((minor, at?)))
        .collect()
}

/// A superblock of any version.
pub(super) fn signature(head: &[u8], device: &dyn ReadAt) -> Option<Signature> {
    let found = |at: u64, uuid: &str| {
        let groups: Vec<_> = (0..4).filter_map(|n| uuid.get(8 * n..8 * n + 8)).collect();
        Signature::new(Kind::Md, at).uuid(Some(groups.join(":")))
    };
    for (_, at) in places(device.size()) {
        let within = usize::try_from(at).ok().and_then(|at| head.get(at..at + 32));
        let bytes = within.map_or_else(|| device.bytes_up_to(at, 32), <[u8]>::to_vec);
        if u32_le(&bytes, 0) == Some(MAGIC) && u32_le(&bytes, 4) == Some(1) {
            return Some(found(at, &hex(bytes.get(16..32)?)));
        }
    }
    // Version 0.90: the last 64 KiB that begin at a multiple of 64 KiB.
    let at = (device.size() / 65536).checked_sub(1)? * 65536;
    let bytes = device.bytes_up_to(at, 64);
    (u32_le(&bytes, 0)? == MAGIC && u32_le(&bytes, 4)? == 0).then_some(())?;
    // Its four words are apart, and in the machine's order.
    let words = [20, 52, 56, 60].map(|at| u32_le(&bytes, at));
    let uuid: String = words.into_iter().flatten().map(|word| format!("{word:08x}")).collect();
    Some(found(at, &uuid))
}

impl Member {
    /// Read a superblock; `None` if there is none or it is damaged.
    fn parse(minor_version: u32, bytes: &[u8]) -> Option<Self> {
        let magic_and_major = u32_le(bytes, 0)? == MAGIC && u32_le(bytes, 4)? == 1;
        let max_dev = u32_le(bytes, 220)?;
        // The kernel's own bound: the superblock has 4 KiB.
        if !magic_and_major || max_dev > (LENGTH as u32 - 256) / 2 {
            return None;
        }
        let whole = bytes.get(..256 + 2 * max_dev as usize)?;
        if checksum(whole) != u32_le(whole, 216)? {
            return None;
        }
        let number = u32_le(whole, 160)? as usize;
        // 0xffff is a spare, 0xfffe failed, 0xfffd a journal.
        let role = number
            .checked_mul(2)
            .and_then(|at| u16_le(whole, at.checked_add(256)?))
            .filter(|role| *role < 0xfffd);
        Some(Self {
            minor_version,
            array: hex(whole.get(16..32)?),
            level: u32_le(whole, 72)?.cast_signed(),
            raid_disks: u32_le(whole, 92)?,
            events: u64::from(u32_le(whole, 204)?) << 32 | u64::from(u32_le(whole, 200)?),
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
