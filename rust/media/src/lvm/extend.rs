//! A physical volume on a partition that became larger: what has to be written so that LVM finds the
//! new extents, and a volume at its end that takes them. Nothing is written here.

use std::ops::Range;

use super::physical::{HEAD, HEADER, LOCATION, Layout, SECTOR, checksum, metadata};
use super::text::{Section, Value};
use super::{segments, the_group};
use crate::ReadAt;
use crate::bytes::{u32_le, u64_le};

/// What has to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extended {
    /// Places on the partition, and bytes for them, in the order in which to write them.
    pub writes: Vec<(u64, Vec<u8>)>,
    /// Bytes that the group has more.
    pub added_bytes: u64,
    /// The new size of the volume in bytes; `None` if it is not the last one, and so as large as before.
    pub volume_bytes: Option<u64>,
}

/// Extend the physical volume on a partition to `size` bytes, and the logical volume `name` (group, `/`,
/// volume) if it is the last one on it.
///
/// # Errors
/// A clause on why it is left unchanged.
pub fn extend(partition: &dyn ReadAt, size: u64, name: &str) -> Result<Extended, String> {
    let damaged = || "its metadata cannot be understood".to_owned();
    let mut head = partition.bytes_up_to(0, HEAD);
    let layout = Layout::of(&head).ok_or("it has no label of LVM")?;
    let label = layout.label..layout.label + HEADER;
    let sector = head.get(label.clone()).ok_or_else(damaged)?;
    if u32_le(sector, 16) != Some(checksum(&sector[20..])) {
        return Err("its label has a wrong checksum".to_owned());
    }
    let [(area, _)] = layout.areas[..] else {
        return Err(format!("it has {} copies of its metadata", layout.areas.len()));
    };
    let found = metadata(partition, area).filter(|text| text.valid).ok_or_else(damaged)?;
    let mut header = partition.bytes(area, HEADER).ok_or_else(damaged)?;
    let number = |at: usize| u64_le(&header, at).ok_or_else(damaged);
    let (ring, offset, length) = (number(32)?, number(LOCATION)?, number(LOCATION + 8)?);
    if number(24)? != area || number(LOCATION + 24)? != 0 {
        return Err("an update of its metadata was not completed".to_owned());
    }
    let end = area.checked_add(ring).filter(|end| *end <= partition.size()).ok_or_else(damaged)?;
    let (text, added_bytes, volume_bytes) =
        edited(&found.text, &layout.uuid, size, name, end).ok_or_else(damaged)??;

    let place = place_of(ring, offset..offset.saturating_add(length), text.len() as u64)
        .ok_or("its metadata has no free space")?;
    header[LOCATION..LOCATION + 8].copy_from_slice(&place.to_le_bytes());
    header[LOCATION + 8..LOCATION + 16].copy_from_slice(&(text.len() as u64).to_le_bytes());
    header[LOCATION + 16..LOCATION + 20].copy_from_slice(&checksum(text.as_bytes()).to_le_bytes());
    let crc = checksum(&header[4..]);
    header[..4].copy_from_slice(&crc.to_le_bytes());

    let device_size = layout.header + 32;
    head.get_mut(device_size..device_size + 8)
        .ok_or_else(damaged)?
        .copy_from_slice(&size.to_le_bytes());
    let mut sector = head[label].to_vec();
    let crc = checksum(&sector[20..]);
    sector[16..20].copy_from_slice(&crc.to_le_bytes());
    Ok(Extended {
        writes: vec![
            (area + place, text.into_bytes()),
            (area, header),
            (layout.label as u64, sector),
        ],
        added_bytes,
        volume_bytes,
    })
}

/// Where in an area of `ring` bytes a new text fits beside the old one, which stays whole.
fn place_of(ring: u64, old: Range<u64>, length: u64) -> Option<u64> {
    let fits = |at: u64, end: u64| at.checked_add(length).is_some_and(|to| to <= end);
    let after = old.end.div_ceil(SECTOR) * SECTOR;
    if old.end > ring {
        // The old one continues at the ring's start.
        let after = SECTOR + (old.end - ring).div_ceil(SECTOR) * SECTOR;
        return fits(after, old.start).then_some(after);
    }
    if fits(after, ring) {
        return Some(after);
    }
    fits(SECTOR, old.start).then_some(SECTOR)
}

type Edited = Result<(String, u64, Option<u64>), String>;

/// The text for a physical volume of `size` bytes, whose area of metadata has its end at `area_end`: with
/// it the bytes that the group has more, and the volume's new size. `None` where it makes no sense.
fn edited(text: &str, uuid: &str, size: u64, name: &str, area_end: u64) -> Option<Edited> {
    let root = Section::parse(text)?;
    let (group_name, group) = the_group(&root)?;
    let [(physical_name, physical)] = &group.section("physical_volumes")?.0[..] else {
        return Some(Err("its group has several physical volumes".to_owned()));
    };
    let physical = physical.section()?;
    let id: String = physical.text("id")?.chars().filter(|c| *c != '-').collect();
    if crate::superblock::lvm_uuid(&id) != uuid {
        return Some(Err("its metadata is of another physical volume".to_owned()));
    }
    if group.lists("status", "EXPORTED") || !group.lists("status", "RESIZEABLE") {
        return Some(Err("its group may not be changed".to_owned()));
    }
    let extent = group.number("extent_size")?.checked_mul(SECTOR).filter(|bytes| *bytes > 0)?;
    let start = physical.number("pe_start")?.checked_mul(SECTOR)?;
    if area_end > start {
        return Some(Err("its metadata is not before its extents".to_owned()));
    }
    let old = physical.number("pe_count")?;
    let count = size.checked_sub(start)? / extent;
    if count <= old {
        return Some(Err("it has no more extents then".to_owned()));
    }
    let mut edits = vec![
        (group.place("seqno")?, group.number("seqno")?.checked_add(1)?),
        (physical.place("dev_size")?, size / SECTOR),
        (physical.place("pe_count")?, count),
    ];
    let last = last_extent(group, physical_name)?;
    let mut volume_bytes = None;
    let volume = name.strip_prefix(group_name).and_then(|rest| rest.strip_prefix('/'));
    let volume = volume.and_then(|name| group.section("logical_volumes")?.section(name));
    if let Some(segment) = volume.and_then(|volume| segments(volume).pop())
        && let Some((on, first)) = super::linear(segment)
        && on == physical_name
        && first.checked_add(segment.number("extent_count")?)? == last
    {
        let extents = count.checked_sub(first)?;
        edits.push((segment.place("extent_count")?, extents));
        let before = segment.number("start_extent")?;
        volume_bytes = Some(before.checked_add(extents)?.checked_mul(extent)?);
    }
    edits.sort_by_key(|(place, _)| std::cmp::Reverse(place.start));
    let mut text = text.to_owned();
    for (place, value) in edits {
        text.replace_range(place, &value.to_string());
    }
    Some(Ok((text, (count - old).checked_mul(extent)?, volume_bytes)))
}

/// The extent after the last one that any volume has on a physical volume.
fn last_extent(group: &Section, physical: &str) -> Option<u64> {
    let mut last = 0;
    let volumes = group.section("logical_volumes").map_or(&[][..], |section| &section.0);
    for segment in volumes.iter().filter_map(|(_, one)| one.section()).flat_map(segments) {
        let stripes = segment.list("stripes");
        let each = segment.number("extent_count")? / (stripes.len() as u64 / 2).max(1);
        for pair in stripes.chunks_exact(2) {
            if let [Value::Text(on), Value::Number(first, _)] = pair
                && on == physical
            {
                last = last.max(first.checked_add(each)?);
            }
        }
    }
    Some(last)
}
