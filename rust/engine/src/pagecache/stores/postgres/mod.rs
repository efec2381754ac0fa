//! Names of PostgreSQL's relations, from its own catalogue on the disk.
//!
//! The server is not asked: that would take a connection and a role, and a server that runs. The
//! catalogue is read as files like any other of the root, so names are those of the last checkpoint.
//! A relation that is newer has none, and is shown by its number. A catalogue that does not
//! describe itself as expected is not believed.

mod heap;
mod reading;

use std::collections::HashMap;
use std::rc::Rc;

use self::reading::{Commits, Reading, shown};
use super::names::{is_tablespace, split};
use crate::tree::root_path::bytes;
use crate::{Progress, Root};

/// Object ids of the catalogue's tables that have the same one everywhere (`pg_class.h` and others).
const PG_CLASS: u32 = 1259;
const PG_DATABASE: u32 = 1262;
const PG_INDEX: u32 = 2610;
const PG_NAMESPACE: u32 = 2615;
/// An index of `pg_class`, which shows that `relkind` is where it is expected.
const PG_CLASS_OID_INDEX: u32 = 2662;
/// The schemas `pg_catalog` and `pg_toast`, and the tablespace of `global`.
const CATALOG: u32 = 11;
const TOAST: u32 = 99;
const GLOBAL: u32 = 1664;
/// The database that every data directory has.
const TEMPLATE: &[u8] = b"base/1";

/// What one relation is called, and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Database, schema and name, joined by dots.
    pub name: Vec<u8>,
    /// The table that it belongs to, or itself.
    pub table: Vec<u8>,
    /// Whether it is an index.
    pub index: bool,
    /// The kind of file; part of the HTTP contract.
    pub kind: &'static str,
}

/// The relations of a directory by the number of their files.
pub type Relations = HashMap<u32, Relation>;

/// Where the columns of `pg_class` are, by version.
#[derive(Debug, Clone, Copy)]
struct Layout {
    toast: usize,
    kind: usize,
}

impl Layout {
    const NAME: usize = 4;
    const NAMESPACE: usize = 68;
    const FILE: usize = 88;
    const TABLESPACE: usize = 92;

    fn of(version: u32) -> Option<Self> {
        match version {
            12..=17 => Some(Self { toast: 108, kind: 115 }),
            // With `relallfrozen` before them.
            18 => Some(Self { toast: 112, kind: 119 }),
            _ => None,
        }
    }
}

/// A row of `pg_class`.
#[derive(Debug, Clone)]
struct Class {
    name: Vec<u8>,
    namespace: u32,
    file: u32,
    tablespace: u32,
    toast: u32,
    kind: u8,
}

/// The catalogue of one database.
#[derive(Debug)]
struct Database {
    name: Vec<u8>,
    classes: HashMap<u32, Class>,
    /// Tables by their indexes.
    indexes: HashMap<u32, u32>,
    /// Tables by the tables of their large values.
    owners: HashMap<u32, u32>,
    namespaces: HashMap<u32, Vec<u8>>,
}

/// Reads catalogues below a root, each once.
#[derive(Debug)]
pub struct Catalogues<'a> {
    reading: Reading<'a>,
    databases: HashMap<Vec<u8>, Result<Rc<Database>, String>>,
    /// Data directories below the root, by the directories of their tablespaces, with their ids.
    tablespaces: HashMap<Vec<u8>, (Vec<u8>, u32)>,
}

impl<'a> Catalogues<'a> {
    /// Of a root in which these directories have files of relations; paths are relative to it.
    pub fn new(root: &'a Root, progress: &'a Progress, directories: &[&[u8]]) -> Self {
        let mut tablespaces = HashMap::new();
        for data in directories.iter().filter_map(|directory| data_of(directory)) {
            tablespaces.extend(links_of(root, data));
        }
        let reading = Reading { root, progress };
        Self { reading, databases: HashMap::new(), tablespaces }
    }

    /// The data directory that a directory of relations belongs to, where it is known.
    pub fn data(&self, directory: &[u8]) -> Option<Vec<u8>> {
        data_of(directory)
            .map(<[u8]>::to_vec)
            .or_else(|| self.tablespace(directory).map(|(data, _)| data.clone()))
    }

    /// The relations of a directory.
    ///
    /// # Errors
    /// Why they have no names, for a person.
    pub fn relations(&mut self, directory: &[u8]) -> Result<Relations, String> {
        let (above, here) = split(directory);
        if let Some(data) = data_of(directory)
            && here == b"global"
        {
            let data = data.to_vec();
            let database = self.database(&join(&data, TEMPLATE))?;
            let map = self.map(directory)?;
            return Ok(database.relations(GLOBAL, &map));
        }
        // A tablespace has the catalogue of those databases of which it is the default.
        if is_tablespace(split(above).1) && self.reading.small(&join(directory, MAP)).is_err() {
            let Some((data, tablespace)) = self.tablespace(directory).cloned() else {
                return Err("its data directory is not below what was asked for".to_owned());
            };
            let database = self.database(&join(&data, &[b"base/", here].concat()))?;
            return Ok(database.relations(tablespace, &HashMap::new()));
        }
        let map = self.map(directory)?;
        Ok(self.database(directory)?.relations(0, &map))
    }

    fn tablespace(&self, directory: &[u8]) -> Option<&(Vec<u8>, u32)> {
        let (location, version) = split(split(directory).0);
        let whole = join(bytes(self.reading.root.path()), location);
        self.tablespaces.get(&whole).filter(|_| is_tablespace(version))
    }

    fn map(&self, directory: &[u8]) -> Result<HashMap<u32, u32>, String> {
        let path = join(directory, MAP);
        let content = self.reading.small(&path)?;
        heap::map(&content).ok_or_else(|| format!("{} is not a map of files", shown(&path)))
    }

    fn database(&mut self, directory: &[u8]) -> Result<Rc<Database>, String> {
        if let Some(known) = self.databases.get(directory) {
            return known.clone();
        }
        let read = self.read(directory).map(Rc::new);
        self.databases.insert(directory.to_vec(), read.clone());
        read
    }

    fn read(&self, directory: &[u8]) -> Result<Database, String> {
        let reading = self.reading;
        let version = reading.small(&join(directory, b"PG_VERSION"))?;
        let version = String::from_utf8_lossy(&version).trim().to_owned();
        let layout = version.parse().ok().and_then(Layout::of).ok_or_else(|| {
            let version: String = version.chars().take(20).collect();
            format!("the catalogue of PostgreSQL {version} is not known; 12 to 18 are")
        })?;
        let map = self.map(directory)?;
        let file = |number: u32| join(directory, number.to_string().as_bytes());
        let Some(&class_file) = map.get(&PG_CLASS) else {
            return Err("its map of files has no pg_class".to_owned());
        };
        let data = self.data(directory);
        let page_size = reading.page_size(&file(class_file))?;
        let mut commits = Commits::new(reading, data.clone(), page_size);
        let mut classes = Versions::default();
        reading.rows(&file(class_file), |row| {
            let read = || {
                Some(Class {
                    name: row.name(Layout::NAME)?.to_vec(),
                    namespace: row.number(Layout::NAMESPACE)?,
                    file: row.number(Layout::FILE)?,
                    tablespace: row.number(Layout::TABLESPACE)?,
                    toast: row.number(layout.toast)?,
                    kind: row.byte(layout.kind)?,
                })
            };
            classes.add(row, &mut commits, read);
        })?;
        let classes = classes.0;
        let proven = |oid, name: &[u8], kind| {
            classes.get(&oid).is_some_and(|class| class.name == name && class.kind == kind)
        };
        if !proven(PG_CLASS, b"pg_class", b'r')
            || !proven(PG_CLASS_OID_INDEX, b"pg_class_oid_index", b'i')
        {
            return Err("its pg_class does not describe itself as expected".to_owned());
        }
        let of = |oid| classes.get(&oid).map(|class| file(class.file)).unwrap_or_default();
        let mut indexes = Versions::default();
        reading.rows(&of(PG_INDEX), |row| indexes.add(row, &mut commits, || row.number(4)))?;
        let mut namespaces = Versions::default();
        reading.rows(&of(PG_NAMESPACE), |row| {
            namespaces.add(row, &mut commits, || Some(row.name(4)?.to_vec()));
        })?;
        let number = split(directory).1;
        let name = data
            .and_then(|data| self.names(&data, &mut commits).ok())
            .and_then(|mut names| names.remove(&String::from_utf8_lossy(number).parse().ok()?))
            .unwrap_or_else(|| [b"database ", number].concat());
        let toasts = classes.iter().filter(|(_, class)| class.toast != 0);
        let owners = toasts.map(|(oid, class)| (class.toast, *oid)).collect();
        Ok(Database { name, classes, indexes: indexes.0, owners, namespaces: namespaces.0 })
    }

    /// The names of the databases of a data directory.
    fn names(
        &self,
        data: &[u8],
        commits: &mut Commits<'_>,
    ) -> Result<HashMap<u32, Vec<u8>>, String> {
        let global = join(data, b"global");
        let map = self.map(&global)?;
        let file = map.get(&PG_DATABASE).copied().unwrap_or_default();
        let mut names = Versions::default();
        self.reading.rows(&join(&global, file.to_string().as_bytes()), |row| {
            names.add(row, commits, || Some(row.name(4)?.to_vec()));
        })?;
        Ok(names.0)
    }
}

/// Rows by object id, of which one version is there.
#[derive(Debug)]
struct Versions<T>(HashMap<u32, T>);

impl<T> Default for Versions<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T> Versions<T> {
    fn add(
        &mut self,
        row: &heap::Row<'_>,
        commits: &mut Commits<'_>,
        read: impl FnOnce() -> Option<T>,
    ) {
        if row.is_there(|transaction| commits.has(transaction))
            && let Some((oid, value)) = row.number(0).zip(read())
        {
            self.0.insert(oid, value);
        }
    }
}

impl Database {
    /// The relations in one of its tablespaces, 0 for its own.
    fn relations(&self, tablespace: u32, map: &HashMap<u32, u32>) -> Relations {
        let mut relations = Relations::new();
        let mut doubtful = Vec::new();
        for (oid, class) in self.classes.iter().filter(|(_, class)| class.tablespace == tablespace)
        {
            let file = if class.file == 0 { map.get(oid).copied() } else { Some(class.file) };
            let Some(file) = file else { continue };
            let database = if tablespace == GLOBAL { b"global" } else { &self.name[..] };
            let relation = Relation {
                name: self.name_of(database, class),
                table: self.table_of(database, *oid, class),
                index: matches!(class.kind, b'i' | b'I'),
                kind: kind_of(class),
            };
            if relations.insert(file, relation).is_some() {
                doubtful.push(file);
            }
        }
        // A file that two claim has no name.
        doubtful.iter().for_each(|file| _ = relations.remove(file));
        relations
    }

    fn name_of(&self, database: &[u8], class: &Class) -> Vec<u8> {
        let schema = match self.namespaces.get(&class.namespace) {
            Some(name) => name.clone(),
            None => class.namespace.to_string().into_bytes(),
        };
        [database, &schema, &class.name].join(&b'.')
    }

    fn table_of(&self, database: &[u8], oid: u32, class: &Class) -> Vec<u8> {
        let indexed = self.indexes.get(&oid).and_then(|oid| Some((*oid, self.classes.get(oid)?)));
        let (oid, class) = indexed.unwrap_or((oid, class));
        if class.kind != b't' {
            return self.name_of(database, class);
        }
        let owner = self.owners.get(&oid).and_then(|owner| self.classes.get(owner));
        self.name_of(database, owner.unwrap_or(class))
    }
}

fn kind_of(class: &Class) -> &'static str {
    match (class.namespace, class.kind) {
        (CATALOG, _) => "catalog",
        (TOAST, _) | (_, b't') => "toast",
        (_, b'i' | b'I') => "index",
        (_, b'S') => "sequence",
        (_, b'r' | b'm') => "table",
        _ => "relation",
    }
}

/// The map of files whose numbers are not in `pg_class`.
const MAP: &[u8] = b"pg_filenode.map";

/// The data directory of `…/base/N` or `…/global`.
pub fn data_of(directory: &[u8]) -> Option<&[u8]> {
    let (above, here) = split(directory);
    if here == b"global" {
        return Some(above);
    }
    let (data, parent) = split(above);
    (parent == b"base").then_some(data)
}

/// The tablespaces of a data directory: where its links lead, with their ids.
fn links_of(root: &Root, data: &[u8]) -> HashMap<Vec<u8>, (Vec<u8>, u32)> {
    let mut found = HashMap::new();
    let Ok(directory) = root.open_directory(&join(data, b"pg_tblspc")) else { return found };
    let Ok(entries) = rustix::fs::Dir::read_from(&directory) else { return found };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let id = name.to_str().ok().and_then(|name| name.parse().ok());
        let link = rustix::fs::readlinkat(&directory, name, Vec::new());
        let (Some(id), Ok(link)) = (id, link) else { continue };
        let location = link.as_bytes();
        let location = location.strip_suffix(b"/").unwrap_or(location);
        found.insert(location.to_vec(), (data.to_vec(), id));
    }
    found
}

/// A path below another; either may be empty.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match (directory, name) {
        (b"", name) => name.to_vec(),
        (directory, b"") => directory.to_vec(),
        (directory, name) => [directory, name].join(&b'/'),
    }
}
