//! Paths, for file systems that are read by inodes.

use super::{ENTRIES, Tree, Type};
use crate::bytes::index;

/// The most symbolic links of one path.
const LINKS: usize = 16;
/// The most components of one path.
const DEPTH: usize = 128;

/// A file system's inodes.
pub(super) trait Inodes {
    /// Names one.
    type Id: Copy;

    /// The root directory.
    fn root(&self) -> Self::Id;

    /// What it is.
    fn kind_of(&self, id: Self::Id) -> Option<Type>;

    /// Call `each` with the names of a directory and what they refer to, until it returns false.
    fn each(&self, id: Self::Id, each: &mut dyn FnMut(&[u8], Self::Id) -> bool) -> Option<()>;

    /// The first bytes of a file, or the target of a link.
    fn content(&self, id: Self::Id, most: usize) -> Option<Vec<u8>>;

    /// Whether two names are the same.
    fn same(&self, one: &[u8], other: &[u8]) -> bool {
        one == other
    }
}

fn find<T: Inodes>(files: &T, path: &str) -> Option<T::Id> {
    let mut pending: Vec<String> = components(path);
    let mut above = Vec::new();
    let mut here = files.root();
    let (mut links, mut steps) = (0, 0);
    while let Some(name) = pending.pop() {
        steps += 1;
        if steps > DEPTH {
            return None;
        }
        if name == ".." {
            here = above.pop().unwrap_or_else(|| files.root());
            continue;
        }
        let mut next = None;
        files.each(here, &mut |found, id| {
            if files.same(found, name.as_bytes()) {
                next = Some(id);
            }
            next.is_none()
        })?;
        let next = next?;
        if files.kind_of(next)? == Type::Link {
            links += 1;
            let target = files.content(next, 4096).filter(|_| links <= LINKS)?;
            let target = String::from_utf8(target).ok()?;
            if target.starts_with('/') {
                here = files.root();
                above.clear();
            }
            pending.extend(components(&target));
        } else {
            above.push(here);
            here = next;
        }
    }
    Some(here)
}

/// The parts of a path, the last one first.
fn components(path: &str) -> Vec<String> {
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    parts.rev().map(str::to_owned).collect()
}

impl<T: Inodes> Tree for T {
    fn read(&self, path: &str, most: usize) -> Option<Vec<u8>> {
        let id = find(self, path)?;
        (self.kind_of(id)? == Type::File).then_some(())?;
        self.content(id, most)
    }

    fn list(&self, path: &str) -> Option<Vec<String>> {
        let id = find(self, path)?;
        (self.kind_of(id)? == Type::Directory).then_some(())?;
        let mut names = Vec::new();
        self.each(id, &mut |name, _| {
            if name != b"." && name != b".." {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            names.len() < ENTRIES
        })?;
        Some(names)
    }

    fn kind(&self, path: &str) -> Option<Type> {
        self.kind_of(find(self, path)?)
    }
}

/// A type by the upper bits of a mode.
pub(super) fn type_of(mode: u32) -> Type {
    match mode & 0o170_000 {
        0o040_000 => Type::Directory,
        0o100_000 => Type::File,
        0o120_000 => Type::Link,
        _ => Type::Other,
    }
}

/// A file's first bytes, as long as it or `most` is.
pub(super) fn length(size: u64, most: usize) -> usize {
    index(size).min(most)
}
