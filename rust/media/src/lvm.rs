//! Linear logical volumes of LVM2: labels, and metadata in LVM's own text (`lib/format_text` of LVM).

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::bytes::{index, u32_le, u64_le};
use crate::superblock::{lvm_label, lvm_uuid};
use crate::{ReadAt, Source};

/// The most bytes of metadata.
const METADATA: u64 = 4 << 20;
/// The most nested sections of metadata, and the most values in it.
const DEPTH: usize = 12;
const VALUES: usize = 1 << 16;
const SECTOR: u64 = 512;

/// A physical volume.
struct Physical {
    uuid: String,
    device: Source,
    metadata: Option<String>,
}

/// A logical volume.
pub struct Volume {
    /// Its name: group, `/`, volume.
    pub name: String,
    /// Numbers of the partitions that it is on.
    pub partitions: Vec<u32>,
    /// Its bytes; `None` if it is not linear, or a physical volume is missing.
    pub device: Option<Source>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Volume").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The logical volumes on these partitions, each with its number.
pub fn volumes(partitions: &[(u32, Source)]) -> Vec<Volume> {
    let physical: Vec<(u32, Physical)> = partitions
        .iter()
        .filter_map(|(number, device)| Some((*number, Physical::on(device)?)))
        .collect();
    let mut texts: Vec<&str> =
        physical.iter().filter_map(|(_, one)| one.metadata.as_deref()).collect();
    // Every physical volume of a group has the same.
    texts.sort_unstable();
    texts.dedup();
    texts.iter().filter_map(|text| group(text, &physical)).flatten().collect()
}

impl Physical {
    fn on(device: &Source) -> Option<Self> {
        let head = device.bytes_up_to(0, 4096);
        let label = lvm_label(&head)?;
        let header = label + u32_le(&head, label + 20)? as usize;
        let uuid = lvm_uuid(std::str::from_utf8(head.get(header..header + 32)?).ok()?);
        // Lists of areas end with a zero: first those of data, then those of metadata.
        let area = |at: usize| Some((u64_le(&head, at)?, u64_le(&head, at + 8)?));
        let mut at = header + 40;
        while area(at)?.0 != 0 {
            at += 16;
        }
        at += 16;
        let mut metadata = None;
        while let Some((offset, _)) = area(at).filter(|(offset, _)| *offset != 0) {
            metadata = metadata.or_else(|| text(&**device, offset));
            at += 16;
        }
        Some(Self { uuid, device: Rc::clone(device), metadata })
    }
}

/// The newest text in an area of metadata, which is a ring after its first sector.
fn text(device: &dyn ReadAt, area: u64) -> Option<String> {
    let header = device.bytes(area, 512)?;
    (&header[4..20] == b" LVM2 x[5A%r0N*>").then_some(())?;
    let ring = u64_le(&header, 32)?;
    let (offset, length) = (u64_le(&header, 40)?, u64_le(&header, 48)?);
    (offset >= SECTOR && length <= METADATA && offset <= ring).then_some(())?;
    let first = length.min(ring - offset);
    let mut bytes = device.bytes(area.checked_add(offset)?, index(first))?;
    bytes.extend(device.bytes(area + SECTOR, index(length - first))?);
    String::from_utf8(bytes).ok()
}

/// The volumes of the group that a text is about.
fn group(text: &str, physical: &[(u32, Physical)]) -> Option<Vec<Volume>> {
    let root = Parser::new(text).section(0)?;
    let (group_name, group) =
        root.0.iter().find_map(|(name, value)| Some((name, value.section()?)))?;
    let extent = group.number("extent_size")?.checked_mul(SECTOR)?;
    let mut places: BTreeMap<&str, (u32, &Source, u64)> = BTreeMap::new();
    for (name, value) in &group.get("physical_volumes")?.section()?.0 {
        let section = value.section()?;
        let id: String = section.text("id")?.chars().filter(|c| *c != '-').collect();
        let start = section.number("pe_start")?.checked_mul(SECTOR)?;
        if let Some((number, one)) = physical.iter().find(|(_, one)| one.uuid == lvm_uuid(&id)) {
            places.insert(name, (*number, &one.device, start));
        }
    }
    let mut volumes = Vec::new();
    for (name, value) in &group.get("logical_volumes")?.section()?.0 {
        let volume = value.section()?;
        let mut partitions = Vec::new();
        let mut pieces = Vec::new();
        let count = volume.number("segment_count")?.min(VALUES as u64);
        for segment in (1..=count).filter_map(|n| volume.get(&format!("segment{n}"))?.section()) {
            let stripes = segment.get("stripes").and_then(Value::list).unwrap_or_default();
            let length = segment.number("extent_count").and_then(|n| n.checked_mul(extent))?;
            let start = segment.number("start_extent").and_then(|n| n.checked_mul(extent))?;
            if let [Value::Text(on), Value::Number(first)] = stripes
                && let Some((number, device, data)) = places.get(on.as_str())
                && segment.text("type").is_some_and(|kind| matches!(kind, "striped" | "linear"))
            {
                partitions.push(*number);
                let at = first.checked_mul(extent)?.checked_add(*data)?;
                pieces.push(Piece { start, length, device: Rc::clone(device), at });
            }
        }
        partitions.sort_unstable();
        partitions.dedup();
        let device = (pieces.len() as u64 == count && !pieces.is_empty())
            .then(|| Rc::new(Linear { pieces }) as Source);
        volumes.push(Volume { name: format!("{group_name}/{name}"), partitions, device });
    }
    Some(volumes)
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
        self.pieces.iter().map(|one| one.start.saturating_add(one.length)).max().unwrap_or(0)
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

/// A value of LVM's text.
#[derive(Debug)]
enum Value {
    Number(u64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

#[derive(Debug)]
struct Section(Vec<(String, Value)>);

impl Value {
    fn section(&self) -> Option<&Section> {
        if let Self::Section(section) = self { Some(section) } else { None }
    }

    fn list(&self) -> Option<&[Value]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }
}

impl Section {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    fn number(&self, name: &str) -> Option<u64> {
        if let Some(Value::Number(number)) = self.get(name) { Some(*number) } else { None }
    }

    fn text(&self, name: &str) -> Option<&str> {
        if let Some(Value::Text(text)) = self.get(name) { Some(text) } else { None }
    }
}

struct Parser<'a> {
    rest: &'a str,
    values: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self { rest: text.trim_end_matches('\0'), values: 0 }
    }

    /// Skip blanks and comments.
    fn skip(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }

    fn take(&mut self, token: char) -> bool {
        self.skip();
        let rest = self.rest.strip_prefix(token);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn word(&mut self) -> Option<&'a str> {
        self.skip();
        let part = |c: char| c.is_ascii_alphanumeric() || "_-.+".contains(c);
        let end = self.rest.find(|c: char| !part(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(word).filter(|word| !word.is_empty())
    }

    fn section(&mut self, depth: usize) -> Option<Section> {
        let mut values = Vec::new();
        loop {
            self.skip();
            if self.rest.is_empty() || self.take('}') {
                return Some(Section(values));
            }
            let name = self.word()?.to_owned();
            let value = if self.take('{') {
                (depth < DEPTH).then_some(())?;
                Value::Section(self.section(depth + 1)?)
            } else {
                self.take('=').then_some(())?;
                self.value()?
            };
            values.push((name, value));
        }
    }

    fn value(&mut self) -> Option<Value> {
        self.values += 1;
        (self.values < VALUES).then_some(())?;
        if self.take('"') {
            let (text, rest) = self.rest.split_once('"')?;
            self.rest = rest;
            return Some(Value::Text(text.to_owned()));
        }
        if self.take('[') {
            let mut list = Vec::new();
            while !self.take(']') {
                let item = self.value()?;
                // Lists have no lists.
                (!matches!(item, Value::List(_))).then_some(())?;
                list.push(item);
                self.take(',');
            }
            return Some(Value::List(list));
        }
        let word = self.word()?;
        Some(word.parse().map_or_else(|_| Value::Text(word.to_owned()), Value::Number))
    }
}
