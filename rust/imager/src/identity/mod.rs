//! Who the machine is: files of the old system that go into the new one. They were read when the
//! machine was armed; here they are put in place, and nowhere outside of the new root. Everything is
//! written beside its place first: a root without space keeps the files of its image.

pub mod cloud_init;
pub mod labels;
pub mod names;
pub mod place;
pub mod system_root;

use std::collections::HashSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use holdfast_engine::image::Sha256;
use serde::{Deserialize, Serialize};

use crate::{Context as _, Result};
use labels::Origin;
use names::Names;
use place::{Entry, Failure, Owner, Root, Staged};

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

/// The outcome.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Files that are in place.
    pub carried: Vec<String>,
    /// The same, as they were written.
    pub files: Vec<Placed>,
    /// What is not, and why.
    pub problems: Vec<String>,
    /// The ostree deployment that the paths are below, if the root has deployments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// The settings of cloud-init, if the root has it and they were needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_init: Option<Placed>,
    /// What was done about labels, if the root's configuration turns SELinux on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux: Option<Labelling>,
}

/// A file as it was written: what reads it back later can compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// Where it is.
    pub path: String,
    /// The digest of its content.
    pub sha256: Sha256,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner in the new system.
    pub uid: u32,
    /// Its group in the new system.
    pub gid: u32,
    /// Its SELinux label, if one was known.
    pub label: Option<String>,
    /// Where the label comes from.
    pub label_from: Option<Origin>,
}

/// What was done about SELinux labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Labelling {
    /// `enforcing` or `permissive`, as the root's configuration states.
    pub mode: &'static str,
    /// A relabelling of all files at the next boot is ordered, since some labels are not known.
    pub relabel: bool,
}

impl Placed {
    fn new(path: &str, content: &[u8], mode: u32, owner: Owner) -> Self {
        let Owner { uid, gid } = owner;
        let (label, label_from) = (None, None);
        let sha256 = Sha256::of(content);
        Self { path: path.to_owned(), sha256, mode: mode & 0o7777, uid, gid, label, label_from }
    }

    fn labelled(mut self, label: Option<&labels::Label>) -> Self {
        self.label = label.map(labels::Label::text);
        self.label_from = label.map(|label| label.origin);
        self
    }

    /// Whether the root has the file as it was written.
    pub fn is_in(&self, root: &Root) -> bool {
        let owned = root.status(&self.path).is_some_and(|status| {
            (status.st_mode & 0o7777, status.st_uid, status.st_gid)
                == (self.mode, self.uid, self.gid)
        });
        owned
            && root.read(&self.path).is_ok_and(|found| Sha256::of(&found) == self.sha256)
            && (self.label.is_none() || labels::read(root, &self.path) == self.label)
    }
}

impl Report {
    /// A report that nothing was carried over, and why.
    pub fn nothing(problem: impl Into<String>) -> Self {
        Self { problems: vec![problem.into()], ..Self::default() }
    }

    /// Check that the root has what was put there as it was written.
    ///
    /// # Errors
    /// The path of the first file that differs.
    pub fn check(&self, root: &Root) -> std::result::Result<(), String> {
        let mut placed = self.files.iter().chain(&self.cloud_init);
        placed.find(|file| !file.is_in(root)).map_or(Ok(()), |file| Err(file.path.clone()))
    }
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

    /// Put everything in place below `root`; see [`Identity::put`].
    ///
    /// # Errors
    /// If the root cannot be opened.
    pub fn apply(&self, root: &Path) -> Result<Report> {
        Ok(self.put(&Root::open(root)?))
    }

    /// Put everything in place below `root`. What fails is reported, and the rest is done all the same,
    /// unless the file system is full: then nothing is, and the root's own files are as they were.
    pub fn put(&self, root: &Root) -> Report {
        let names = Names::read(root);
        let mut report = Report::default();
        let Some(staged) = self.stage(root, &names, &mut report) else { return report };
        for directory in &self.directories {
            let CarriedDirectory { path, mode, uid, gid, user, group } = directory;
            let owner = names.owner(*uid, *gid, user.as_deref(), group.as_deref());
            // One that could not be made was reported.
            if root.directory_status(path).is_some()
                && let Err(fault) = root.own_directory(path, *mode, owner)
            {
                report.problems.push(format!("{path} cannot be made: {fault}"));
            }
        }
        let mut entries = HashSet::new();
        for (staged, placed) in staged {
            match root.commit(&staged) {
                Ok(entry) => {
                    entries.insert(entry);
                    report.carried.push(placed.path.clone());
                    report.files.push(placed);
                }
                Err(failure) => report.problems.push(not_carried(&placed.path, &failure)),
            }
        }
        self.remove(root, &entries, &mut report);
        self.keep_from_cloud_init(root, &mut report);
        if !self.is_empty() {
            order_labels(root, &mut report);
        }
        report
    }

    /// Write all files beside their places; `None` if the file system is full.
    fn stage(
        &self,
        root: &Root,
        names: &Names,
        report: &mut Report,
    ) -> Option<Vec<(Staged, Placed)>> {
        let mut staged: Vec<(Staged, Placed)> = Vec::new();
        let full = |staged: &[(Staged, Placed)], path: &str, failure: &Failure| {
            for (file, _) in staged {
                root.discard(file);
            }
            Report::nothing(format!(
                "{path} cannot be written: {}; so nothing was carried over, and the files of the \
                 image are as they were",
                failure.fault
            ))
        };
        for directory in &self.directories {
            match root.make_directory(&directory.path) {
                Ok(()) => {}
                Err(failure) if failure.full => {
                    *report = full(&staged, &directory.path, &failure);
                    return None;
                }
                Err(failure) => report
                    .problems
                    .push(format!("{} cannot be made: {}", directory.path, failure.fault)),
            }
        }
        for file in &self.files {
            match file.stage(root, names, self.kind_of(&file.path)) {
                Ok(file) => staged.push(file),
                Err(failure) if failure.full => {
                    *report = full(&staged, &file.path, &failure);
                    return None;
                }
                Err(failure) => report.problems.push(not_carried(&file.path, &failure)),
            }
        }
        Some(staged)
    }

    /// Remove the image's own files of the kinds that were carried over. A kind of which a file could
    /// not be carried over keeps what the image has.
    fn remove(&self, root: &Root, entries: &HashSet<Entry>, report: &mut Report) {
        for pattern in &self.remove {
            let failed = self
                .files
                .iter()
                .any(|file| !report.carried.contains(&file.path) && matches(pattern, &file.path));
            if failed {
                report.problems.push(format!(
                    "{pattern} is left as the image has it, since not all of it was carried over"
                ));
            } else if let Err(fault) = root.remove(pattern, entries) {
                report.problems.push(format!("{pattern} cannot be removed: {fault}"));
            }
        }
    }

    /// The pattern of the kind of files that a path is of, if there is one.
    fn kind_of(&self, path: &str) -> Option<globset::GlobMatcher> {
        let pattern = self.remove.iter().find(|pattern| matches(pattern, path))?;
        place::matcher(pattern).ok()
    }

    /// Have cloud-init, if it is there, leave alone what was carried over.
    fn keep_from_cloud_init(&self, root: &Root, report: &mut Report) {
        if !cloud_init::is_in(root) {
            return;
        }
        let hostname = self.files.iter().find(|file| file.path == "/etc/hostname");
        let hostname = hostname.and_then(|file| STANDARD.decode(&file.content).ok());
        let Some(text) = cloud_init::settings(&report.carried, hostname.as_deref()) else { return };
        let (path, mode) = (cloud_init::PATH, cloud_init::MODE);
        match root.put_file(path, text.as_bytes(), mode, SUPERUSER) {
            Ok(label) => {
                let placed = Placed::new(path, text.as_bytes(), mode, SUPERUSER);
                report.cloud_init = Some(placed.labelled(label.as_ref()));
            }
            Err(failure) => report.problems.push(format!(
                "{path} cannot be written: {}; cloud-init replaces what was carried over",
                failure.fault
            )),
        }
        for name in cloud_init::overriding(root) {
            report.problems.push(format!(
                "/etc/cloud/cloud.cfg.d/{name} comes after {path} and overrides its settings"
            ));
        }
    }
}

/// Order a relabelling where SELinux is on and the label of a file is not known.
fn order_labels(root: &Root, report: &mut Report) {
    let Some(mode) = labels::mode(root) else { return };
    let mut placed = report.files.iter().chain(&report.cloud_init);
    let relabel = placed.any(|file| file.label.is_none());
    report.selinux = Some(Labelling { mode, relabel });
    if relabel && let Err(failure) = root.put_file(labels::RELABEL, b"", 0o644, SUPERUSER) {
        report.problems.push(format!(
            "files were carried over without SELinux labels, and {} cannot be written: {}",
            labels::RELABEL,
            failure.fault
        ));
    }
}

fn not_carried(path: &str, failure: &Failure) -> String {
    format!("{path} cannot be carried over: {}", failure.fault)
}

/// Whether a path is in the directory of a pattern, and matches it.
fn matches(pattern: &str, path: &str) -> bool {
    match (place::split(pattern), place::split(path)) {
        (Ok((kinds, _)), Ok((parent, name))) => {
            kinds == parent && place::matcher(pattern).is_ok_and(|glob| glob.is_match(name))
        }
        _ => false,
    }
}

impl CarriedFile {
    fn stage(
        &self,
        root: &Root,
        names: &Names,
        kind: Option<globset::GlobMatcher>,
    ) -> std::result::Result<(Staged, Placed), Failure> {
        let content = STANDARD.decode(&self.content).context("its content is not base64")?;
        let owner = names.owner(self.uid, self.gid, self.user.as_deref(), self.group.as_deref());
        let staged = root.stage(&self.path, &content, self.mode, owner, kind.as_ref())?;
        let placed = Placed::new(&self.path, &content, self.mode, owner);
        let placed = placed.labelled(staged.label.as_ref());
        Ok((staged, placed))
    }
}

/// Owner and group by number.
pub const SUPERUSER: Owner = Owner { uid: 0, gid: 0 };
