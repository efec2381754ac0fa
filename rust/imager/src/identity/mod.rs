//! Who the machine is: files of the old system that go into the new one. They were read when the
//! machine was armed; here they are put in place, and nowhere outside of the new root.

pub mod names;
pub mod place;

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::{Context as _, Result};
use names::Names;
use place::{Owner, Root};

/// What is carried over.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Identity {
    /// Files, with their contents.
    #[serde(default)]
    pub files: Vec<CarriedFile>,
    /// Directories that are to be there.
    #[serde(default)]
    pub directories: Vec<CarriedDirectory>,
    /// Patterns of files that go first; the last part of a path may have `*`, `?` and `[...]`.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// A file.
#[derive(Debug, Clone, Deserialize)]
pub struct CarriedFile {
    /// Where it goes.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, by number.
    pub uid: u32,
    /// Its group, by number.
    pub gid: u32,
    /// Its owner, by name, which counts where the new system knows it.
    pub user: Option<String>,
    /// Its group, by name, likewise.
    pub group: Option<String>,
    /// What is in it, in base64.
    pub content: String,
}

/// A directory.
#[derive(Debug, Clone, Deserialize)]
pub struct CarriedDirectory {
    /// Where it is.
    pub path: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, by number.
    pub uid: u32,
    /// Its group, by number.
    pub gid: u32,
    /// Its owner, by name.
    pub user: Option<String>,
    /// Its group, by name.
    pub group: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Files that are in place.
    pub carried: Vec<String>,
    /// What is not, and why.
    pub problems: Vec<String>,
}

impl Identity {
    /// Read what the armed machine left.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).context("identity.json cannot be used")
    }

    /// Whether nothing is carried over.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.directories.is_empty() && self.remove.is_empty()
    }

    /// Check that the files of [`Report::carried`] are as [`Identity::apply`] put them there.
    ///
    /// # Errors
    /// The path of the first one that differs.
    pub fn check(&self, root: &Root, carried: &[String]) -> std::result::Result<(), String> {
        for file in self.files.iter().filter(|file| carried.contains(&file.path)) {
            let same = STANDARD
                .decode(&file.content)
                .is_ok_and(|wanted| root.read(&file.path).is_ok_and(|found| found == wanted));
            if !same {
                return Err(file.path.clone());
            }
        }
        Ok(())
    }

    /// Put everything in place below `root`. What fails is told, and the rest is done all the same.
    ///
    /// # Errors
    /// If the root cannot be opened.
    pub fn apply(&self, root: &Path) -> Result<Report> {
        let root = Root::open(root)?;
        let names = Names::read(&root);
        let mut report = Report::default();
        for pattern in &self.remove {
            if let Err(fault) = root.remove(pattern) {
                report.problems.push(format!("{pattern} cannot be removed: {fault}"));
            }
        }
        for directory in &self.directories {
            let CarriedDirectory { path, mode, uid, gid, user, group } = directory;
            let owner = names.owner(*uid, *gid, user.as_deref(), group.as_deref());
            if let Err(fault) = root.make_directory(path, *mode, owner) {
                report.problems.push(format!("{path} cannot be made: {fault}"));
            }
        }
        for file in &self.files {
            match file.put(&root, &names) {
                Ok(()) => report.carried.push(file.path.clone()),
                Err(fault) => {
                    report.problems.push(format!("{} cannot be carried over: {fault}", file.path));
                }
            }
        }
        Ok(report)
    }
}

impl CarriedFile {
    fn put(&self, root: &Root, names: &Names) -> Result<()> {
        let content = STANDARD.decode(&self.content).context("its content is not base64")?;
        let owner = names.owner(self.uid, self.gid, self.user.as_deref(), self.group.as_deref());
        root.put_file(&self.path, &content, self.mode, owner)
    }
}

/// Owner and group by number.
pub const SUPERUSER: Owner = Owner { uid: 0, gid: 0 };
