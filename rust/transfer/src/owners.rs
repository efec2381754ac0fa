//! Owners by name: the numbers of one machine become those of another.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde::Serialize;

use crate::message::{Metadata, Names};
use crate::{Error, Result};

/// Owners that are named in a result.
const NAMED: usize = 100;
/// Owners that a listing has at most.
const MOST: usize = 1 << 16;
/// The longest name.
const LONGEST: usize = 256;

/// The files in which machines name their owners, below `/etc` as a rule.
#[derive(Debug)]
struct Accounts {
    users: Vec<(u32, String)>,
    groups: Vec<(u32, String)>,
}

impl Accounts {
    /// Read `passwd` and `group` in a directory.
    fn read(directory: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = directory.join(name);
            let text = std::fs::read(&path).map_err(|error| Error::io(&path, error))?;
            Ok::<_, Error>(parse(&String::from_utf8_lossy(&text)))
        };
        Ok(Self { users: read("passwd")?, groups: read("group")? })
    }
}

/// Return numbers and names of lines of `passwd` or `group`; the first of two lines counts.
fn parse(text: &str) -> Vec<(u32, String)> {
    let line = |line: &str| {
        let mut members = line.split(':');
        let (name, _, number) = (members.next()?, members.next()?, members.next()?);
        let usable = !name.is_empty() && name.len() <= LONGEST && !name.starts_with('#');
        Some((number.parse().ok()?, name.to_owned())).filter(|_| usable)
    };
    text.lines().filter_map(line).collect()
}

/// Return the names of owners, of users and of groups; an empty one for an owner without a name.
///
/// # Errors
/// [`Error::Engine`] if the files cannot be read.
pub fn names(directory: &Path, users: &BTreeSet<u32>, groups: &BTreeSet<u32>) -> Result<Names> {
    let accounts = Accounts::read(directory)?;
    let of = |known: &[(u32, String)], wanted: &BTreeSet<u32>| {
        let name = |number: &u32| {
            let known = known.iter().find(|(other, _)| other == number).cloned();
            known.unwrap_or((*number, String::new()))
        };
        wanted.iter().map(name).take(MOST).collect()
    };
    Ok(Names { users: of(&accounts.users, users), groups: of(&accounts.groups, groups) })
}

/// Turns the owners of the source into those of the destination.
#[derive(Debug, Default)]
pub struct Owners {
    /// By name, if that was asked for.
    maps: Option<[HashMap<u32, Mapped>; 2]>,
}

/// An owner of the source.
#[derive(Debug, Clone)]
enum Mapped {
    /// Its number here.
    Here(u32),
    /// It has a name that nobody has here, or none.
    Unknown(String),
}

/// Owners that have no name, or one that nobody has here; they keep their numbers.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Unmapped {
    /// How many.
    pub count: u64,
    /// Some of them: `user` or `group`, the name if there is one, the number.
    pub names: Vec<String>,
}

impl Owners {
    /// Map names of the source to the numbers in `passwd` and `group` in a directory.
    ///
    /// # Errors
    /// [`Error::Engine`] if the files cannot be read.
    pub fn by_name(directory: &Path, names: &Names) -> Result<Self> {
        let accounts = Accounts::read(directory)?;
        let map = |known: &[(u32, String)], names: &[(u32, String)]| {
            let mapped = |(number, name): &(u32, String)| {
                let here = known.iter().find(|(_, other)| other == name);
                let unknown = || Mapped::Unknown(name.chars().take(LONGEST).collect());
                (*number, here.map_or_else(unknown, |(here, _)| Mapped::Here(*here)))
            };
            names.iter().take(MOST).map(mapped).collect()
        };
        let maps = [map(&accounts.users, &names.users), map(&accounts.groups, &names.groups)];
        Ok(Self { maps: Some(maps) })
    }

    /// Replace the owners of something.
    pub fn map(&self, metadata: &mut Metadata) {
        let Some([users, groups]) = &self.maps else { return };
        if let Some(Mapped::Here(uid)) = users.get(&metadata.uid) {
            metadata.uid = *uid;
        }
        if let Some(Mapped::Here(gid)) = groups.get(&metadata.gid) {
            metadata.gid = *gid;
        }
    }

    /// Return the owners that keep their numbers.
    pub fn unmapped(&self) -> Unmapped {
        let Some(maps) = &self.maps else { return Unmapped::default() };
        let mut unmapped = Unmapped::default();
        for (kind, map) in ["user", "group"].into_iter().zip(maps) {
            let unknown = |(number, mapped): (&u32, &Mapped)| match mapped {
                Mapped::Unknown(name) if name.is_empty() => Some(format!("{kind} {number}")),
                Mapped::Unknown(name) => Some(format!("{kind} {name} ({number})")),
                Mapped::Here(_) => None,
            };
            let mut words: Vec<_> = map.iter().filter_map(unknown).collect();
            words.sort();
            unmapped.count += words.len() as u64;
            unmapped.names.extend(words);
        }
        unmapped.names.truncate(NAMED);
        unmapped
    }
}

#[cfg(test)]
mod tests {
    use super::{Owners, parse};
    use crate::message::{Metadata, Names};

    #[test]
    fn owners_get_the_numbers_of_their_names_and_others_keep_theirs() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("passwd"), "root:x:0:0::/:/sh\ndb:x:77:88::/:/sh\n")
            .unwrap();
        std::fs::write(directory.path().join("group"), "root:x:0:\nbad\ndb:x:88:a,b\n").unwrap();
        let name = |number, name: &str| (number, name.to_owned());
        let names = Names {
            users: vec![name(1, "db"), name(2, "ghost")],
            groups: vec![name(3, "db"), name(4, "")],
        };
        let owners = Owners::by_name(directory.path(), &names).unwrap();
        let mapped = |uid, gid| {
            let mut metadata = Metadata { uid, gid, ..Metadata::default() };
            owners.map(&mut metadata);
            (metadata.uid, metadata.gid)
        };
        assert_eq!([mapped(1, 3), mapped(2, 4)], [(77, 88), (2, 4)]);
        let unmapped = owners.unmapped();
        assert_eq!(unmapped.names, ["user ghost (2)", "group 4"]);
        assert_eq!(parse("#a:x:1\n:x:2\nb:x:-3\nc:x:4"), [(4, "c".to_owned())]);
    }
}
