//! Residency by what files are to the datastore that they belong to.

mod names;
mod postgres;

use std::collections::{BTreeMap, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

pub use self::names::Part;
use self::names::{Store, split};
use self::postgres::{Catalogues, Relation, Relations};
use super::residency::Sums;
use crate::record::PathText;
use crate::tree::root_path::RootPath;
use crate::{Progress, Root};

/// By what to group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// A table with all that belongs to it, or what comes nearest to one.
    Table,
    /// An index.
    Index,
    /// The kind of file.
    FileKind,
}

/// A group of files and their residency.
#[derive(Debug, Serialize)]
pub struct Group {
    /// The directory it is in; what was asked for where that is more than one.
    #[serde(flatten)]
    path: PathText,
    /// `None` for files that are of no known store.
    store: Option<Store>,
    /// By file kind: which.
    kind: Option<&'static str>,
    /// By table or index: its name; `None` for files of a store that are of none.
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_b64: Option<String>,
    #[serde(flatten)]
    sums: Sums,
}

/// The groups that are not listed.
#[derive(Debug, Default, Serialize)]
pub struct Rest {
    groups: usize,
    #[serde(flatten)]
    sums: Sums,
}

/// All files, grouped.
#[derive(Debug, Serialize)]
pub struct Groups {
    by: By,
    groups: Vec<Group>,
    rest: Rest,
    /// Why some have no name, a sentence each.
    notes: Vec<String>,
}

/// Sums of the files of each directory by what they could be, as a walk finds them.
#[derive(Debug, Default)]
pub struct Collected(HashMap<Vec<u8>, Directory>);

#[derive(Debug, Default)]
struct Directory {
    markers: u8,
    parts: HashMap<Option<Part>, Sums>,
}

/// What one group is: store, kind, path relative to the root, name.
type Key = (Option<Store>, Option<&'static str>, Vec<u8>, Option<Vec<u8>>);

impl Collected {
    /// Note a name, also of a file that is not counted: others are recognized by it.
    pub fn note(&mut self, path: &[u8]) {
        let (directory, name) = split(path);
        if let Some(marker) = names::marker(name) {
            self.0.entry(directory.to_vec()).or_default().markers |= marker as u8;
        }
    }

    /// Return what a file of a place could be; its path is relative to the root.
    pub fn part(path: &[u8], place: &RootPath) -> Option<Part> {
        let (directory, name) = split(path);
        names::part(&place.absolute(directory), name)
    }

    /// Add a file that could be this; its path is relative to the root.
    pub fn add(&mut self, path: &[u8], part: Option<Part>, sums: &Sums) {
        self.note(path);
        let directory = split(path).0;
        let entry = match self.0.get_mut(directory) {
            Some(known) => known,
            None => self.0.entry(directory.to_vec()).or_default(),
        };
        entry.parts.entry(part).or_default().add(sums);
    }

    /// Group what was found; list up to `top` groups, those with most in memory.
    pub fn into_groups(
        mut self,
        by: By,
        top: usize,
        (root, place): (&Root, &RootPath),
        progress: &Progress,
    ) -> Groups {
        self.forget_unproven(root, place);
        let mut grouping = Grouping::new(by, root, place, progress, &self.0);
        let mut groups: HashMap<Key, Sums> = HashMap::new();
        for (directory, found) in self.0 {
            for (part, sums) in found.parts {
                let key = grouping.key(&directory, part.as_ref());
                groups.entry(key).or_default().add(&sums);
            }
        }
        let mut list: Vec<_> = groups.into_iter().collect();
        list.sort_by(|a, b| b.1.resident().cmp(&a.1.resident()).then_with(|| a.0.cmp(&b.0)));
        let mut rest = Rest { groups: list.len().saturating_sub(top), ..Rest::default() };
        list.iter().skip(top).for_each(|(_, sums)| rest.sums.add(sums));
        list.truncate(top);
        let groups = list.into_iter().map(|(key, sums)| group(key, sums, place)).collect();
        Groups { by, groups, rest, notes: grouping.into_notes() }
    }

    /// Files that are known only by what is beside them are of no store where that is missing.
    fn forget_unproven(&mut self, root: &Root, place: &RootPath) {
        let one = crate::tree::root_path::bytes(&place.path);
        for (directory, found) in &mut self.0 {
            if split(one).0 == directory && !one.is_empty() {
                found.markers |= markers_in(root, directory);
            }
            let unproven = |part: &Option<Part>| {
                let needs = part.as_ref().and_then(|part| part.needs);
                needs.is_some_and(|marker| found.markers & marker as u8 == 0)
            };
            let keys: Vec<_> = found.parts.keys().filter(|part| unproven(part)).cloned().collect();
            for key in keys {
                let sums = found.parts.remove(&key).unwrap_or_default();
                found.parts.entry(None).or_default().add(&sums);
            }
        }
    }
}

/// What the names in a directory prove, where the walk began at one of its files.
fn markers_in(root: &Root, directory: &[u8]) -> u8 {
    let Ok(directory) = root.open_directory(directory) else { return 0 };
    let Ok(entries) = rustix::fs::Dir::read_from(&directory) else { return 0 };
    let marker = |name: &[u8]| names::marker(name).map_or(0, |marker| marker as u8);
    entries.flatten().fold(0, |found, entry| found | marker(entry.file_name().to_bytes()))
}

fn group((store, kind, path, name): Key, sums: Sums, place: &RootPath) -> Group {
    let utf8 = name.as_ref().is_none_or(|name| std::str::from_utf8(name).is_ok());
    Group {
        path: PathText::new(&place.absolute(&path)),
        store,
        kind,
        name_b64: name.as_ref().filter(|_| !utf8).map(|name| STANDARD.encode(name)),
        name: name.map(|name| String::from_utf8_lossy(&name).into_owned()),
        sums,
    }
}

/// Finds the group of each part.
struct Grouping<'a> {
    by: By,
    place: &'a RootPath,
    catalogues: Catalogues<'a>,
    relations: HashMap<Vec<u8>, Option<Relations>>,
    notes: Vec<String>,
    /// Relations without a name by directory.
    nameless: BTreeMap<Vec<u8>, std::collections::BTreeSet<u32>>,
}

impl<'a> Grouping<'a> {
    fn new(
        by: By,
        root: &'a Root,
        place: &'a RootPath,
        progress: &'a Progress,
        found: &HashMap<Vec<u8>, Directory>,
    ) -> Self {
        let relations =
            |found: &&Directory| found.parts.keys().flatten().any(|part| part.node.is_some());
        let directories: Vec<_> =
            found.iter().filter(|(_, found)| relations(found)).map(|(path, _)| &path[..]).collect();
        let catalogues = Catalogues::new(root, progress, &directories);
        let (relations, nameless) = (HashMap::new(), BTreeMap::new());
        Self { by, place, catalogues, relations, notes: Vec::new(), nameless }
    }

    fn key(&mut self, directory: &[u8], part: Option<&Part>) -> Key {
        let place = crate::tree::root_path::bytes(&self.place.path).to_vec();
        let Some(part) = part else { return (None, None, place, None) };
        let relation = part.node.map(|node| self.relation(directory, part, node));
        if self.by == By::FileKind {
            let kind = match relation {
                Some(Relation { kind, .. }) if part.kind == "relation" => kind,
                _ => part.kind,
            };
            return (Some(part.store), Some(kind), place, None);
        }
        let named = match (part.store, relation) {
            (Store::Postgresql, Some(relation)) => {
                let data = self.catalogues.data(directory).unwrap_or_else(|| directory.to_vec());
                let name = match self.by {
                    By::Table => Some(relation.table),
                    _ => relation.index.then_some(relation.name),
                };
                name.map(|name| (data, name))
            }
            (Store::Postgresql, None) => None,
            (Store::Cassandra, _) => self.cassandra(directory, part),
            (Store::Lucene, _) => Some(self.named_after(index_of(directory))),
            (Store::Rocksdb, _) if self.by == By::Table => {
                Some(self.named_after(directory.to_vec()))
            }
            (Store::Rocksdb, _) => None,
        };
        let (path, name) = named.map_or((place, None), |(path, name)| (path, Some(name)));
        (Some(part.store), None, path, name)
    }

    /// What a relation is, as far as it is known.
    fn relation(&mut self, directory: &[u8], part: &Part, node: u32) -> Relation {
        if !self.relations.contains_key(directory) {
            let read = self.catalogues.relations(directory);
            let read = read.map_err(|problem| {
                let whole = self.place.absolute(directory);
                self.notes.push(format!(
                    "Relations in {} are shown by number: {problem}.",
                    String::from_utf8_lossy(&whole)
                ));
            });
            self.relations.insert(directory.to_vec(), read.ok());
        }
        let known = self.relations.get(directory).and_then(Option::as_ref);
        if let Some(relation) = known.and_then(|relations| relations.get(&node)) {
            return relation.clone();
        }
        if known.is_some() {
            self.nameless.entry(directory.to_vec()).or_default().insert(node);
        }
        let database = split(directory).1;
        let name = [database, format!("/{node}").as_bytes()].concat();
        // Without the catalogue it may be an index as well as a table.
        Relation { table: name.clone(), name, index: true, kind: part.kind }
    }

    fn into_notes(mut self) -> Vec<String> {
        for (directory, nodes) in &self.nameless {
            let whole = self.place.absolute(directory);
            self.notes.push(format!(
                "{} of {} are not in its catalogue on the disk, which is as of the last checkpoint; \
                 shown by number.",
                if nodes.len() == 1 { "1 relation".into() } else { format!("{} relations", nodes.len()) },
                String::from_utf8_lossy(&whole)
            ));
        }
        self.notes.sort();
        self.notes
    }

    /// The table or index of a file of Cassandra, and the directory of the table.
    fn cassandra(&self, directory: &[u8], part: &Part) -> Option<(Vec<u8>, Vec<u8>)> {
        if matches!(part.kind, "commitlog" | "saved_cache" | "hints") {
            return None;
        }
        let whole = self.place.absolute(directory);
        // The nearest directory that ends with a table's id; the names of old ones have none.
        let mut table = &whole[..];
        let mut below = None;
        while !table.is_empty() && !has_table_id(split(table).1) {
            let (above, here) = split(table);
            below = Some(here);
            table = above;
        }
        if table.is_empty() {
            (table, below) = (&whole, None);
        }
        let (above, here) = split(table);
        let name = if has_table_id(here) { &here[..here.len() - 33] } else { here };
        let mut name = [split(above).1, name].join(&b'.');
        // A secondary index that is a hidden table is in a directory of its name, `.by_mail`.
        let hidden = below.and_then(|below| below.strip_prefix(b"."));
        if self.by == By::Index {
            match (part.index.as_deref().or(hidden), part.kind) {
                (Some(index), _) => name = [&name[..], index].join(&b'.'),
                (None, "index" | "summary" | "partitions" | "rows" | "secondary_index") => {}
                (None, _) => return None,
            }
        }
        let root = crate::tree::root_path::bytes(&self.place.root);
        let relative = table.strip_prefix(root).unwrap_or(b"");
        Some((relative.strip_prefix(b"/").unwrap_or(relative).to_vec(), name))
    }

    /// A directory that is itself what a name is asked for.
    fn named_after(&self, directory: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
        let name = match &directory[..] {
            b"" => split(crate::tree::root_path::bytes(&self.place.root)).1.to_vec(),
            below => below.to_vec(),
        };
        (directory, name)
    }
}

/// The directory of an index of Lucene: Elasticsearch keeps `index` and `translog` in it.
fn index_of(directory: &[u8]) -> Vec<u8> {
    let (above, here) = split(directory);
    if here == b"translog" || here == b"index" { above.to_vec() } else { directory.to_vec() }
}

/// Whether a name ends with a table's id: a dash and 32 hexadecimal digits.
fn has_table_id(name: &[u8]) -> bool {
    name.len() > 33 && {
        let (dash, id) = name[name.len() - 33..].split_at(1);
        dash == b"-" && id.iter().all(u8::is_ascii_hexdigit)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use proptest::prelude::*;

    use super::*;
    use crate::sys::CacheStat;

    const NAMES: [&str; 15] = [
        "PG_VERSION",
        "16384",
        "16384_fsm",
        "16385.1",
        "t3_16384",
        "nb-1-big-Data.db",
        "nb-1-big-Index.db",
        "nb-1-big-SAI+aa+by+Meta.db",
        "_1.cfs",
        "segments_2",
        "_1.dvd",
        "MANIFEST-000001",
        "000002.sst",
        "000002.log",
        "CURRENT",
    ];
    const DIRECTORIES: [&str; 6] =
        ["", "base/5", "global", "base", "ks/t-5a1c395e9e3e11eb8ae3b1d5f3b3d0aa", "x/index"];
    const BYS: [By; 3] = [By::Table, By::Index, By::FileKind];

    /// Names of every store, some that only resemble them, and any other bytes.
    fn names() -> impl Strategy<Value = Vec<u8>> {
        let any = proptest::collection::vec(1_u8..=255, 1..9)
            .prop_map(|name| name.into_iter().filter(|&byte| byte != b'/').collect());
        let known = proptest::sample::select(&NAMES[..]).prop_map(|name| name.as_bytes().to_vec());
        prop_oneof![3 => known, 1 => any]
    }

    fn directories() -> impl Strategy<Value = Vec<u8>> {
        proptest::sample::select(&DIRECTORIES[..]).prop_map(|name| name.as_bytes().to_vec())
    }

    proptest! {
        #[test]
        fn no_file_is_in_no_group_or_in_two(
            files in proptest::collection::btree_map((directories(), names()), (0_u64..100, 0_u64..9), 0..40),
            by in proptest::sample::select(&BYS[..]),
            top in 0_usize..8,
        ) {
            let directory = tempfile::tempdir().expect("a directory");
            let place = RootPath { root: directory.path().to_owned(), path: PathBuf::new() };
            let root = Root::open(directory.path()).expect("it is there");
            let mut collected = Collected::default();
            let mut total = Sums::default();
            for ((directory, name), (size, cached)) in &files {
                let path = postgres::join(directory, name);
                let sums = Sums::of(*size, CacheStat { cached: *cached, ..CacheStat::default() }, true);
                total.add(&sums);
                collected.add(&path, Collected::part(&path, &place), &sums);
            }
            let found = collected.into_groups(by, top, (&root, &place), &Progress::default());
            prop_assert!(found.groups.len() <= top);
            let mut all = found.rest.sums;
            found.groups.iter().for_each(|group| all.add(&group.sums));
            prop_assert_eq!(all, total);
        }
    }
}
