//! Logical volumes of LVM2: labels, and metadata in LVM's own text (`lib/format_text` of LVM).

mod extend;
mod membership;
mod physical;
mod text;

pub use extend::{Extended, extend};
pub use membership::{Membership, membership, physical_uuid};

use std::collections::BTreeMap;
use std::rc::Rc;

use self::physical::{Metadata, Physical, SECTOR};
use self::text::{Section, VALUES, Value};
use crate::bytes::index;
use crate::superblock::lvm_uuid;
use crate::{ReadAt, Source};

/// A logical volume.
pub struct Volume {
    /// Its name: group, `/`, volume.
    pub name: String,
    /// Numbers of the partitions that it is on; of one that is not linear, those of its group.
    pub partitions: Vec<u32>,
    /// Its bytes; `None` if it is not linear, or a physical volume is missing.
    pub device: Option<Source>,
    /// Where it is on its only partition, and how long, if it may be written there.
    pub range: Option<(u64, u64)>,
    /// A clause about why it may not: `is a volume of type raid1`.
    pub problem: Option<String>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The logical volumes on these partitions, each with its number. Those that LVM itself keeps for
/// others, as the legs of a mirror, are not among them.
pub fn volumes(partitions: &[(u32, Source)]) -> Vec<Volume> {
    let physical: Vec<(u32, Physical)> = partitions
        .iter()
        .filter_map(|(number, device)| Some((*number, Physical::on(device)?)))
        .collect();
    // Every physical volume of a group has the same text, unless one missed an update.
    let mut newest: BTreeMap<String, (bool, u64, Section)> = BTreeMap::new();
    for Metadata { text, valid } in physical.iter().filter_map(|(_, piece)| piece.metadata.as_ref())
    {
        let Some(root) = Section::parse(text) else { continue };
        let Some((_, group)) = the_group(&root) else { continue };
        let key = group.text("id").unwrap_or_default().to_owned();
        let found = (*valid, group.number("seqno").unwrap_or(0), root);
        match newest.get(&key) {
            Some(known) if (known.0, known.1) >= (found.0, found.1) => {}
            _ => {
                newest.insert(key, found);
            }
        }
    }
    newest
        .values()
        .filter_map(|(valid, _, root)| volumes_of(root, *valid, &physical))
        .flatten()
        .collect()
}

/// The group that a text is about, and its name.
fn the_group(root: &Section) -> Option<(&str, &Section)> {
    root.0.iter().find_map(|(name, value)| Some((name.as_str(), value.section()?)))
}

/// A physical volume by its name in the metadata: number of the partition, device, first extent.
type Places<'a> = BTreeMap<&'a str, (u32, &'a Source, u64)>;

fn volumes_of(root: &Section, valid: bool, physical: &[(u32, Physical)]) -> Option<Vec<Volume>> {
    let (group_name, group) = the_group(root)?;
    let extent = group.number("extent_size")?.checked_mul(SECTOR)?;
    let mut places: Places<'_> = BTreeMap::new();
    for (name, value) in &group.section("physical_volumes")?.0 {
        let section = value.section()?;
        let id: String = section.text("id")?.chars().filter(|c| *c != '-').collect();
        let start = section.number("pe_start")?.checked_mul(SECTOR)?;
        if let Some((number, one)) = physical.iter().find(|(_, piece)| piece.uuid == lvm_uuid(&id))
        {
            places.insert(name, (*number, &one.device, start));
        }
    }
    let sections = group.section("logical_volumes");
    let sections = sections.map_or(&[][..], |section| &section.0);
    let origins: Vec<&str> = sections
        .iter()
        .filter_map(|(_, value)| value.section())
        .flat_map(segments)
        .filter(|segment| segment.text("type") == Some("snapshot"))
        .filter_map(|segment| segment.text("origin"))
        .collect();
    let whole_group = if !valid {
        Some("has metadata with a wrong checksum, which LVM does not read".to_owned())
    } else if group.lists("status", "EXPORTED") {
        Some("is of a group that was exported".to_owned())
    } else {
        None
    };
    let mut volumes = Vec::new();
    for (name, value) in sections {
        let volume = value.section()?;
        if !volume.lists("status", "VISIBLE") {
            continue;
        }
        let mut found = volume_of(volume, extent, &places)?;
        found.name = format!("{group_name}/{name}");
        let state = if origins.contains(&name.as_str()) {
            Some("has a snapshot".to_owned())
        } else if volume.lists("status", "LOCKED") {
            Some("is being moved".to_owned())
        } else if !volume.lists("status", "WRITE") {
            Some("is read-only".to_owned())
        } else {
            None
        };
        found.problem = found.problem.or(state).or_else(|| whole_group.clone());
        if found.problem.is_some() {
            found.range = None;
        }
        volumes.push(found);
    }
    Some(volumes)
}

/// The segments of a logical volume, in order.
fn segments(volume: &Section) -> Vec<&Section> {
    let count = volume.number("segment_count").unwrap_or(0).min(VALUES as u64);
    (1..=count).filter_map(|n| volume.section(&format!("segment{n}"))).collect()
}

/// On what a segment is, and from which extent on, if it is linear.
fn linear(segment: &Section) -> Option<(&str, u64)> {
    match (segment.list("stripes"), segment.text("type")?) {
        ([Value::Text(on), Value::Number(first, _)], "striped" | "linear") => Some((on, *first)),
        _ => None,
    }
}

fn volume_of(volume: &Section, extent: u64, places: &Places<'_>) -> Option<Volume> {
    let all = segments(volume);
    let mut partitions = Vec::new();
    let mut pieces: Vec<Piece> = Vec::new();
    let mut problem = None;
    for segment in &all {
        let length = segment.number("extent_count").and_then(|n| n.checked_mul(extent))?;
        let start = segment.number("start_extent").and_then(|n| n.checked_mul(extent))?;
        match linear(segment) {
            Some((on, first)) => match places.get(on) {
                Some((number, device, data)) => {
                    partitions.push(*number);
                    let at = first.checked_mul(extent)?.checked_add(*data)?;
                    pieces.push(Piece { start, length, device: Rc::clone(device), at });
                }
                None => {
                    problem = Some("is partly on a physical volume that is not there".to_owned());
                }
            },
            None => {
                // What other volumes it is made of is not followed: it is somewhere in the group.
                partitions.extend(places.values().map(|(number, _, _)| *number));
                problem = Some(kind_of(segment));
            }
        }
    }
    partitions.sort_unstable();
    partitions.dedup();
    let whole = problem.is_none() && pieces.len() as u64 == volume.number("segment_count")?;
    let mut range = None;
    if whole && partitions.len() > 1 {
        problem = Some(format!("is on {} physical volumes", partitions.len()));
    } else if whole && let Some(first) = pieces.first() {
        let joined = pieces.windows(2).all(|pair| match pair {
            [one, next] => {
                one.at.checked_add(one.length) == Some(next.at)
                    && one.start.checked_add(one.length) == Some(next.start)
            }
            _ => true,
        });
        let length = pieces.iter().try_fold(0_u64, |sum, one| sum.checked_add(one.length))?;
        let inside = first.at.checked_add(length).is_some_and(|end| end <= first.device.size());
        if !joined || first.start != 0 {
            problem = Some(format!("is in {} pieces that are apart", pieces.len()));
        } else if inside {
            range = Some((first.at, length));
        } else {
            problem = Some("reaches beyond the end of its partition".to_owned());
        }
    }
    let device = (whole && !pieces.is_empty()).then(|| Rc::new(Linear { pieces }) as Source);
    Some(Volume { name: String::new(), partitions, device, range, problem })
}

/// A clause about a segment that is not linear.
fn kind_of(segment: &Section) -> String {
    match segment.text("type") {
        Some("striped") => {
            let count = segment.number("stripe_count").unwrap_or(0);
            format!("is striped over {count} physical volumes")
        }
        Some(kind) => format!("is a volume of type {}", crate::bytes::printable(kind)),
        None => "is of a type that is not known".to_owned(),
    }
}

/// A part of a logical volume.
struct Piece {
    start: u64,
    length: u64,
    device: Source,
    at: u64,
}

struct Linear {
    pieces: Vec<Piece>,
}

impl ReadAt for Linear {
    fn size(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.start.saturating_add(piece.length)).max().unwrap_or(0)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let mut done = 0;
        while done < buffer.len() {
            let here = offset.checked_add(done as u64)?;
            let (piece, within) = self.pieces.iter().find_map(|piece| {
                let within = here.checked_sub(piece.start)?;
                (within < piece.length).then_some((piece, within))
            })?;
            let length = (buffer.len() - done).min(index(piece.length - within));
            let at = piece.at.checked_add(within)?;
            piece.device.read_at(at, &mut buffer[done..done + length])?;
            done += length;
        }
        Some(())
    }
}
