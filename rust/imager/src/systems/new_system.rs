//! What the new system gets that is not of the image: a root of the disk's size, who the machine is, and
//! the marker. All of it before the disk boots.

use std::path::Path;

use holdfast_engine::image::Descriptor;
use holdfast_engine::image::descriptor::{Partition, VolumeRange};
use holdfast_engine::image::rules::{Facts, carried_root, is_verified};
use holdfast_media::lvm::Extended;
use rustix::mount::MountFlags;

use crate::disk::Disk;
use crate::disk::grow;
use crate::disk::mount;
use crate::disk::mount::Mounted;
use crate::disk::partition;
use crate::disk::table::Fitted;
use crate::disk::volume_group;
use crate::identity::place::Root;
use crate::identity::system_root::{self, SystemRoot};
use crate::identity::{Identity, Report};
use crate::status::{Phase, Status};
use crate::systems::marker::{self, Subject};
use crate::{Fault, Result, say};

/// Check before the first write that the new system can be given what belongs to it.
///
/// # Errors
/// A sentence about why not.
pub fn check(image: &Descriptor, identity: &Identity) -> Result<()> {
    match root_of(image) {
        Ok(root) => mount::check_root(root.kind),
        Err(_) if identity.is_empty() && needs_no_root(image) => Ok(()),
        Err(why) => Err(Fault(format!("{why} Nothing of the old system could be carried over."))),
    }
}

/// Where the file system of the root is.
struct RootLocation<'a> {
    partition: &'a Partition,
    /// The logical volume that it is on, and where on the disk that is.
    volume: Option<(&'a str, VolumeRange)>,
    kind: &'a str,
}

/// The file system that is mounted; a sentence about why there is none.
fn root_of(image: &Descriptor) -> std::result::Result<RootLocation<'_>, String> {
    carried_root(&Facts::from(image))?;
    let partition =
        image.root().ok_or_else(|| "The root is no partition of the image.".to_owned())?;
    let root = image.inspection.root.as_ref();
    let volume = root.and_then(|root| Some((root.volume.as_deref()?, root.volume_range?)));
    let kind = match volume {
        Some(_) => root.and_then(|root| root.file_system.as_deref()),
        None => partition.file_system.as_deref(),
    };
    Ok(RootLocation { partition, volume, kind: kind.unwrap_or("no file system") })
}

/// Whether nothing can be mounted by intent: the inspection of the image saw this root.
fn needs_no_root(image: &Descriptor) -> bool {
    let Some(partition) = image.root() else { return true };
    let seen = image.inspection.root.as_ref().is_some_and(|root| {
        root.volume.is_some()
            || root.file_system.is_some() && root.file_system == partition.file_system
    });
    seen || is_verified(&Facts::from(image))
}

/// The work on the new system.
#[derive(Debug, Clone, Copy)]
pub struct NewSystem<'a> {
    /// Job and image.
    pub subject: Subject<'a>,
    /// What is carried over.
    pub identity: &'a Identity,
    /// Where problems and progress go.
    pub status: &'a Status,
}

impl NewSystem<'_> {
    /// Grow the root, carry over who the machine is, and leave the marker; the root is mounted at `at`.
    /// Everything is on the medium, and was read back, when this returns. What cannot be done is a
    /// problem in the status, and no reason to try again: without the marker the new system's daemon
    /// takes nothing for granted.
    ///
    /// # Errors
    /// That the disk does not keep what was written.
    pub fn finish(&self, disk: &Disk, table: &Fitted, at: &Path) -> Result<()> {
        self.status.enter(Phase::Identity, 0);
        for note in &table.notes {
            self.status.note(note);
        }
        let root = match root_of(self.subject.image) {
            Ok(root) => root,
            Err(why) => return self.without(&Fault(why)),
        };
        let kind = root.kind;
        let number = root.partition.number;
        let (start, length, grown) = self.range(disk, &root, table.extended_to);
        let node = match partition::expose(disk, number, start, length) {
            Ok(node) => node,
            Err(fault) => return self.without(&fault),
        };
        let mounted = match self.mount(&node, kind, at, MountFlags::empty()) {
            Ok(mounted) => mounted,
            Err(fault) => return self.without(&fault),
        };
        if grown {
            self.grow(mounted.path(), kind, length);
        }
        let left = self.put(mounted.path());
        mounted.unmount()?;
        self.settle(disk, &node)?;
        if let Some(left) = left {
            let mounted = self.mount(&node, kind, at, MountFlags::RDONLY)?;
            let same = left.check(mounted.path());
            mounted.unmount()?;
            same?;
        }
        // It is in nobody's way if it stays.
        if let Err(fault) = partition::forget(disk, number) {
            say!("{fault}");
        }
        Ok(())
    }

    /// Where on the disk the root's file system is, how long that is, and whether it became longer.
    fn range(
        &self,
        disk: &Disk,
        root: &RootLocation<'_>,
        extended_to: Option<u64>,
    ) -> (u64, u64, bool) {
        let Some((name, range)) = root.volume else {
            let length = extended_to.unwrap_or(root.partition.size_bytes);
            return (root.partition.start_bytes, length, extended_to.is_some());
        };
        let mut length = range.size_bytes;
        if let Some(bytes) = extended_to {
            let done = volume_group::extend(disk, root.partition.start_bytes, bytes, name);
            if let Ok(Extended { volume_bytes: Some(bytes), .. }) = done {
                length = bytes;
            }
            self.status.note(volume_group::note(name, &done));
        }
        (range.start_bytes, length, length > range.size_bytes)
    }

    fn mount(&self, node: &Path, kind: &str, at: &Path, flags: MountFlags) -> Result<Mounted> {
        let root = self.subject.image.inspection.root.as_ref();
        let subvolume = root.and_then(|root| root.subvolume.as_deref());
        mount::root_of(node, kind, subvolume, at, flags)
    }

    fn without(&self, fault: &Fault) -> Result<()> {
        self.unmarked(fault);
        Ok(())
    }

    fn unmarked(&self, fault: &Fault) {
        self.status.problem(format!(
            "nothing was carried over, and the new system has no marker: {fault}"
        ));
    }

    fn grow(&self, root: &Path, kind: &str, bytes: u64) {
        self.status.note(match grow::grow(root, kind, bytes) {
            Ok(bytes) => format!("the root file system ({kind}) was grown to {bytes} bytes"),
            Err(fault) => format!(
                "there are {bytes} bytes for the root now, and its file system ({kind}) was not \
                 grown: {fault}"
            ),
        });
    }

    /// Put everything in place; returns what is there, if the marker is.
    fn put(&self, top: &Path) -> Option<Left> {
        // Where nothing is carried over, the marker's place may be anything.
        let found = Root::open(top).and_then(|top| match self.identity.is_empty() {
            true => system_root::find_any(top),
            false => system_root::find(top),
        });
        let SystemRoot { root, deployment } = match found {
            Ok(found) => found,
            Err(fault) => {
                self.unmarked(&fault);
                return None;
            }
        };
        marker::reserve(&root, self.identity);
        let report = Report { deployment, ..self.identity.put(&root) };
        say!("carried over {} files", report.carried.len());
        self.status.finish();
        let written = marker::write(&root, self.subject, &report, self.status);
        for problem in &report.problems {
            self.status.problem(problem);
        }
        match written {
            Ok(text) => Some(Left { report, text }),
            Err(fault) => {
                self.status.problem(format!("the marker cannot be written: {fault}"));
                None
            }
        }
    }

    /// Have all of it on the medium, and nothing of it in the kernel's cache.
    fn settle(&self, disk: &Disk, node: &Path) -> Result<()> {
        let partition = Disk::open(node)?;
        partition.flush()?;
        partition.drop_cache()?;
        disk.flush()
    }
}

/// What was put into the new system.
struct Left {
    report: Report,
    text: Vec<u8>,
}

impl Left {
    /// Compare what is on the medium with what was put in place.
    fn check(&self, top: &Path) -> Result<()> {
        let top = Root::open(top)?;
        let root = match &self.report.deployment {
            Some(path) => top.open_below(path)?,
            None => top,
        };
        let differs = |path: &str| {
            Fault(format!("{path} of the new system reads back differently than it was written"))
        };
        if root.read(marker::PATH).is_ok_and(|found| found == self.text) {
            self.report.check(&root).map_err(|path| differs(&path))
        } else {
            Err(differs(marker::PATH))
        }
    }
}
