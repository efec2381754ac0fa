//! Of which group a physical volume is, and what else that group is on.

use super::physical::{HEAD, Layout, metadata};
use super::text::Section;
use super::the_group;
use crate::ReadAt;
use crate::superblock::lvm_uuid;

/// The place of a physical volume in its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The group's name.
    pub name: String,
    /// Its UUID, as LVM prints it.
    pub group: String,
    /// UUIDs of all its physical volumes.
    pub physical: Vec<String>,
}

/// The group of the physical volume on a device; `None` for anything else, and where no copy of the
/// metadata is whole. Of several the newest counts.
pub fn membership(device: &dyn ReadAt) -> Option<Membership> {
    let layout = Layout::of(&device.bytes_up_to(0, HEAD))?;
    let texts = layout.areas.iter().filter_map(|(offset, _)| metadata(device, *offset));
    let groups = texts.filter(|text| text.valid).filter_map(|text| group_in(&text.text));
    groups.max_by_key(|(number, _)| *number).map(|(_, group)| group)
}

/// The UUID of the physical volume on a device.
pub fn physical_uuid(device: &dyn ReadAt) -> Option<String> {
    Some(Layout::of(&device.bytes_up_to(0, HEAD))?.uuid)
}

/// A group and how often it was changed.
fn group_in(text: &str) -> Option<(u64, Membership)> {
    let root = Section::parse(text)?;
    let (name, group) = the_group(&root)?;
    let volumes = &group.section("physical_volumes")?.0;
    let physical =
        volumes.iter().map(|(_, value)| uuid(value.section()?)).collect::<Option<_>>()?;
    let found = Membership { name: name.to_owned(), group: uuid(group)?, physical };
    Some((group.number("seqno").unwrap_or(0), found))
}

fn uuid(section: &Section) -> Option<String> {
    let plain: String = section.text("id")?.chars().filter(|c| *c != '-').collect();
    Some(lvm_uuid(&plain))
}
