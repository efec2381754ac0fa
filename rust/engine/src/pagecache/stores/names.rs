//! What a file is to its datastore, from its name and the name of its directory.
//!
//! The formats of names: PostgreSQL's manual, "Database File Layout"; Cassandra's
//! `SSTableFormat.Components` and `Descriptor`; Lucene's `IndexFileNames` and the package
//! description of its codec; RocksDB's `file/filename.cc`.

use std::str::from_utf8;

use serde::Serialize;

/// A datastore whose files are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Store {
    /// PostgreSQL, from its data directory and tablespaces.
    Postgresql,
    /// Apache Cassandra and ScyllaDB.
    Cassandra,
    /// Lucene, and Elasticsearch's or OpenSearch's translog.
    Lucene,
    /// RocksDB.
    Rocksdb,
}

/// A file beside which names mean what they seem to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Marker {
    /// `PG_VERSION` or `pg_control`: relations of PostgreSQL.
    Database = 1,
    /// `segments_N`: an index of Lucene.
    Segments = 2,
    /// `MANIFEST-N`: a database of RocksDB.
    Manifest = 4,
}

/// What one file is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Part {
    /// The datastore.
    pub store: Store,
    /// The kind of file; part of the HTTP contract.
    pub kind: &'static str,
    /// The file is this only if one of these is beside it.
    pub needs: Option<Marker>,
    /// PostgreSQL: the relation's file number, with or without a fork.
    pub node: Option<u32>,
    /// Cassandra: the index that it belongs to, where its name has it.
    pub index: Option<Vec<u8>>,
}

impl Part {
    fn new(store: Store, kind: &'static str, needs: Option<Marker>) -> Self {
        Self { store, kind, needs, node: None, index: None }
    }
}

/// Return what the presence of a file proves of its directory.
pub fn marker(name: &[u8]) -> Option<Marker> {
    match name {
        b"PG_VERSION" | b"pg_control" => Some(Marker::Database),
        _ if numbered(name, b"segments_", base36) => Some(Marker::Segments),
        _ if numbered(name, b"MANIFEST-", digit) => Some(Marker::Manifest),
        _ => None,
    }
}

/// Return what a file could be; `directory` is the absolute path of its directory.
pub fn part(directory: &[u8], name: &[u8]) -> Option<Part> {
    // Names of all these files are ASCII.
    let name = from_utf8(name).ok()?;
    postgres(directory, name)
        .or_else(|| cassandra(directory, name))
        .or_else(|| lucene(directory, name))
        .or_else(|| rocksdb(name))
}

/// Split a path into what is before its last component, and that.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

fn digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

fn base36(byte: u8) -> bool {
    byte.is_ascii_digit() || byte.is_ascii_lowercase()
}

fn hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit() && !byte.is_ascii_lowercase()
}

fn all(text: &[u8], accepted: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.iter().all(|&byte| accepted(byte))
}

fn numbered(name: &[u8], prefix: &[u8], accepted: impl Fn(u8) -> bool) -> bool {
    name.strip_prefix(prefix).is_some_and(|number| all(number, accepted))
}

/// Whether this is the directory of one version in a tablespace, such as `PG_15_202209061`.
pub fn is_tablespace(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(b"PG_") else { return false };
    let (major, catalog) = match rest.iter().position(|&byte| byte == b'_') {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => return false,
    };
    all(major, |byte| digit(byte) || byte == b'.') && catalog.len() == 9 && all(catalog, digit)
}

fn postgres(directory: &[u8], name: &str) -> Option<Part> {
    let (above, here) = split(directory);
    let part = |kind, needs| Some(Part::new(Store::Postgresql, kind, needs));
    let (_, parent) = split(above);
    match here {
        b"pg_wal" | b"pg_xlog" => {
            let name = name.strip_suffix(".partial").unwrap_or(name).as_bytes();
            let log = name.len() == 24 && all(name, hex);
            let history = name.strip_suffix(b".history").is_some_and(|line| all(line, hex));
            return if log || history { part("wal", None) } else { None };
        }
        b"pg_xact" | b"pg_clog" | b"pg_subtrans" | b"pg_commit_ts" | b"pg_serial"
        | b"pg_notify" => {
            return if all(name.as_bytes(), hex) { part("status", None) } else { None };
        }
        b"offsets" | b"members" if parent == b"pg_multixact" => {
            return if all(name.as_bytes(), hex) { part("status", None) } else { None };
        }
        b"pgsql_tmp" => {
            return if name.starts_with("pgsql_tmp") { part("temporary", None) } else { None };
        }
        _ => {}
    }
    if matches!(name, "PG_VERSION" | "pg_control" | "pg_filenode.map" | "pg_internal.init") {
        return part("control", Some(Marker::Database));
    }
    let needs = if is_tablespace(parent) { None } else { Some(Marker::Database) };
    let (rest, segment) = name.split_once('.').map_or((name, None), |(a, b)| (a, Some(b)));
    if segment.is_some_and(|segment| !all(segment.as_bytes(), digit)) {
        return None;
    }
    let (node, fork) = match rest.split_once('_') {
        // Of temporary tables: `t3_16384`, by the number of the session.
        Some((session, node)) if numbered(session.as_bytes(), b"t", digit) => {
            let node = node.split_once('_').map_or(node, |(node, _)| node);
            return if all(node.as_bytes(), digit) { part("temporary", needs) } else { None };
        }
        Some((node, fork)) => (node, fork),
        None => (rest, "main"),
    };
    let kind = match fork {
        "main" => "relation",
        "fsm" => "fsm",
        "vm" => "vm",
        "init" => "init",
        _ => return None,
    };
    if !all(node.as_bytes(), digit) {
        return None;
    }
    let node = Some(node.parse().ok()?);
    Some(Part { node, ..Part::new(Store::Postgresql, kind, needs) })
}

/// Components of tables by the end of the name, in Cassandra 2.0 to 5.
const COMPONENTS: [(&str, &str); 13] = [
    ("Data.db", "data"),
    ("Index.db", "index"),
    ("Partitions.db", "partitions"),
    ("Rows.db", "rows"),
    ("Filter.db", "filter"),
    ("Summary.db", "summary"),
    ("Statistics.db", "statistics"),
    ("CompressionInfo.db", "compression_info"),
    ("Digest.crc32", "digest"),
    ("Digest.adler32", "digest"),
    ("Digest.sha1", "digest"),
    ("CRC.db", "crc"),
    ("TOC.txt", "toc"),
];

fn cassandra(directory: &[u8], name: &str) -> Option<Part> {
    let part = |kind| Part::new(Store::Cassandra, kind, None);
    let ends = |ending: &str| name.ends_with(ending);
    let number = |text: &str| all(text.as_bytes(), |byte| digit(byte) || byte == b'-');
    if let Some(rest) = name.strip_prefix("CommitLog-") {
        let rest = rest.strip_suffix("_cdc.idx").or_else(|| rest.strip_suffix(".log"))?;
        return number(rest).then(|| part("commitlog"));
    }
    for cache in ["KeyCache-", "RowCache-", "CounterCache-"] {
        if name.starts_with(cache) && (ends(".db") || ends(".crc")) {
            return Some(part("saved_cache"));
        }
    }
    if split(directory).1 == b"hints" && (ends(".hints") || ends(".crc32")) {
        return Some(part("hints"));
    }
    let version = |text: &str| text.len() == 2 && all(text.as_bytes(), |b| b.is_ascii_lowercase());
    // `nb-1-big-Data.db` since 2.2; before that keyspace and table first: `ks-table-ka-1-Data.db`.
    // Generations are numbers, or since 4.1 identifiers of letters, digits and underlines.
    let generation = |text: &str| all(text.as_bytes(), |byte| base36(byte) || byte == b'_');
    let fields: Vec<&str> = name.splitn(4, '-').collect();
    let component = match fields[..] {
        [first, number, "big" | "bti", component] if version(first) && generation(number) => {
            component
        }
        _ => {
            let old: Vec<&str> = name.split('-').collect();
            match old[..] {
                [_, _, first, number, component]
                    if version(first) && all(number.as_bytes(), digit) =>
                {
                    component
                }
                _ => return None,
            }
        }
    };
    if let Some((_, kind)) = COMPONENTS.iter().find(|(ending, _)| *ending == component) {
        return Some(part(kind));
    }
    let of_index = |index: &str| {
        let index = (!index.is_empty()).then(|| index.as_bytes().to_vec());
        Some(Part { index, ..part("secondary_index") })
    };
    if let Some(rest) = component.strip_prefix("SAI+").and_then(|rest| rest.strip_suffix(".db")) {
        // `SAI+version+index+component`; what all indexes of a table share has no index.
        let fields: Vec<&str> = rest.split('+').collect();
        return of_index(if fields.len() > 2 { fields[1] } else { "" });
    }
    let sasi = component.strip_prefix("SI_").and_then(|rest| rest.strip_suffix(".db"));
    sasi.and_then(of_index)
}

/// Files of a segment by extension, up to Lucene 10.
const EXTENSIONS: [(&str, &[&str]); 13] = [
    ("compound", &["cfs", "cfe"]),
    ("segment_info", &["si"]),
    ("field_infos", &["fnm"]),
    ("stored_fields", &["fdt", "fdx", "fdm"]),
    ("terms", &["tim", "tip", "tmd", "tmp", "blm", "bfi"]),
    ("postings", &["doc", "pos", "pay", "psm"]),
    ("norms", &["nvd", "nvm"]),
    ("doc_values", &["dvd", "dvm"]),
    ("term_vectors", &["tvd", "tvx", "tvm", "tvf"]),
    ("live_documents", &["liv", "del"]),
    ("points", &["dim", "dii", "kdd", "kdi", "kdm"]),
    ("vectors", &["vec", "vex", "vem", "vemf", "veq", "vemq", "veb", "vemb", "vel"]),
    ("lock", &["lock"]),
];

fn lucene(directory: &[u8], name: &str) -> Option<Part> {
    let part = |kind, needs| Some(Part::new(Store::Lucene, kind, needs));
    let segments = Some(Marker::Segments);
    if split(directory).1 == b"translog" {
        let (stem, extension) = name.rsplit_once('.')?;
        let log = stem == "translog" || numbered(stem.as_bytes(), b"translog-", digit);
        return if log && matches!(extension, "tlog" | "ckp") {
            part("translog", None)
        } else {
            None
        };
    }
    let commit = name.strip_prefix("pending_").unwrap_or(name);
    if name == "segments.gen" || numbered(commit.as_bytes(), b"segments_", base36) {
        return part("commit", segments);
    }
    if name == "write.lock" {
        return part("lock", segments);
    }
    // `_1a.cfs`, `_1a_Lucene90_0.dvd`, `_1a_2.liv`
    let (stem, extension) = name.strip_prefix('_')?.split_once('.')?;
    let segment = stem.split('_').next()?;
    let (kind, _) = EXTENSIONS.iter().find(|(_, known)| known.contains(&extension))?;
    if all(segment.as_bytes(), base36) { part(kind, segments) } else { None }
}

fn rocksdb(name: &str) -> Option<Part> {
    let part = |kind| Some(Part::new(Store::Rocksdb, kind, Some(Marker::Manifest)));
    if matches!(name, "CURRENT" | "IDENTITY" | "LOCK") {
        return part("metadata");
    }
    if name == "LOG" || name.starts_with("LOG.old.") {
        return part("info_log");
    }
    if numbered(name.as_bytes(), b"MANIFEST-", digit) {
        return part("manifest");
    }
    if numbered(name.as_bytes(), b"OPTIONS-", digit) {
        return part("metadata");
    }
    let (number, extension) = name.split_once('.')?;
    if !all(number.as_bytes(), digit) {
        return None;
    }
    match extension {
        "sst" | "ldb" => part("sst"),
        "log" => part("log"),
        "blob" => part("blob"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn is(directory: &str, name: &str, store: Store, kind: &str) {
        let part = part(directory.as_bytes(), name.as_bytes()).expect("known");
        assert_eq!((part.store, part.kind), (store, kind), "{directory}/{name}");
    }

    #[test]
    fn names_of_each_store() {
        for (name, kind) in [
            ("16384", "relation"),
            ("16384.3", "relation"),
            ("16384_fsm", "fsm"),
            ("16384_vm.1", "vm"),
            ("16384_init", "init"),
            ("t3_16384", "temporary"),
            ("pg_filenode.map", "control"),
        ] {
            is("/d/base/5", name, Store::Postgresql, kind);
        }
        is("/d/pg_wal", "000000010000000000000001", Store::Postgresql, "wal");
        is("/d/pg_xact", "0000", Store::Postgresql, "status");
        is("/d/pg_multixact/members", "0000", Store::Postgresql, "status");
        is("/d/base/pgsql_tmp", "pgsql_tmp812.0", Store::Postgresql, "temporary");
        for (name, kind) in [
            ("nb-1-big-Data.db", "data"),
            ("oa-3gbe_0k1o_3d9-big-Index.db", "index"),
            ("da-7-bti-Partitions.db", "partitions"),
            ("shop-orders-ka-12-CompressionInfo.db", "compression_info"),
            ("nb-1-big-Digest.crc32", "digest"),
            ("nb-1-big-SAI+aa+by_mail+Meta.db", "secondary_index"),
            ("nb-1-big-SI_by_mail.db", "secondary_index"),
            ("CommitLog-7-1700000000000.log", "commitlog"),
        ] {
            is("/d/shop/orders-0123", name, Store::Cassandra, kind);
        }
        for (name, kind) in [
            ("_a1.cfs", "compound"),
            ("_a1_Lucene90_0.dvd", "doc_values"),
            ("_a1_2.liv", "live_documents"),
            ("segments_1f", "commit"),
        ] {
            is("/d/index", name, Store::Lucene, kind);
        }
        is("/d/0/translog", "translog-12.tlog", Store::Lucene, "translog");
        for (name, kind) in [
            ("000123.sst", "sst"),
            ("000123.log", "log"),
            ("000123.blob", "blob"),
            ("MANIFEST-000004", "manifest"),
            ("LOG.old.17", "info_log"),
        ] {
            is("/d/rocks", name, Store::Rocksdb, kind);
        }
    }

    #[test]
    fn what_only_resembles_them_is_unknown() {
        for name in [
            "16384_x",
            "16384.a",
            "4294967296",
            "a16384",
            "nb-1-big-Data",
            "x-1-big-Data.db",
            "nb-1-tiny-Data.db",
            "_a1.exe",
            "a1.cfs",
            "_A1.cfs",
            "000123.txt",
            "segments",
            "",
        ] {
            assert_eq!(part(b"/d/base/5", name.as_bytes()), None, "{name}");
        }
        assert_eq!(part(b"/d/base/5", b"16384\xff"), None);
    }

    proptest! {
        #[test]
        fn any_name_has_an_answer(directory: Vec<u8>, name: Vec<u8>) {
            let _ = (part(&directory, &name), marker(&name));
        }
    }
}
