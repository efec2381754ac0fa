//! What the new system gets that is not of the image: a root of the disk's size, who the machine is, and
//! the marker. All of it before the disk boots.

use std::path::Path;

use crate::disk::Disk;
use crate::identity::place::Root;
use crate::identity::{Identity, Report};
use crate::marker::{self, Subject};
use crate::status::{Phase, Status};
use crate::table::Fitted;
use crate::{Fault, Result, grow, mount, partition, say};

/// Check before the first write that the new system can be given what belongs to it.
///
/// # Errors
/// A sentence about why not.
pub fn check(image: &holdfast_engine::image::Descriptor, identity: &Identity) -> Result<()> {
    match image.root() {
        Some(root) => mount::check_root(root.file_system.as_deref().unwrap_or("no file system")),
        None if identity.is_empty() => Ok(()),
        None => Err(Fault::new(
            "the image has no root partition that could be told, so nothing of the old system could \
             be carried over",
        )),
    }
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
        let Some(root) = self.subject.image.root() else {
            self.status.problem(
                "the image has no root partition that could be told, so the new system has no marker",
            );
            return Ok(());
        };
        let kind = root.file_system.as_deref().unwrap_or("no file system");
        let length = table.extended_to.unwrap_or(root.size_bytes);
        let node = match partition::expose(disk, root.number, root.start_bytes, length) {
            Ok(node) => node,
            Err(fault) => return self.without(&fault),
        };
        let mounted = match mount::root(&node, kind, at) {
            Ok(mounted) => mounted,
            Err(fault) => return self.without(&fault),
        };
        if let Some(bytes) = table.extended_to {
            self.grow(mounted.path(), kind, bytes);
        }
        let left = self.put(mounted.path());
        mounted.unmount()?;
        self.settle(disk, &node)?;
        if let Some((carried, marker)) = left {
            let mounted = mount::data(&node, kind, at)?;
            let same = self.check(mounted.path(), &carried, &marker);
            mounted.unmount()?;
            same?;
        }
        // It stands in nobody's way if it stays.
        if let Err(fault) = partition::forget(disk, root.number) {
            say!("{fault}");
        }
        Ok(())
    }

    fn without(&self, fault: &Fault) -> Result<()> {
        self.status.problem(format!(
            "nothing was carried over, and the new system has no marker: {fault}"
        ));
        Ok(())
    }

    fn grow(&self, root: &Path, kind: &str, bytes: u64) {
        self.status.note(match grow::grow(root, kind, bytes) {
            Ok(bytes) => format!("the root file system ({kind}) was grown to {bytes} bytes"),
            Err(fault) => format!(
                "the root partition was extended to {bytes} bytes, and its file system ({kind}) was \
                 not grown: {fault}"
            ),
        });
    }

    /// Put everything in place; answers what is carried over, and the marker's text if that is there.
    fn put(&self, root: &Path) -> Option<(Vec<String>, Vec<u8>)> {
        let report = self.identity.apply(root).unwrap_or_else(|fault| Report {
            problems: vec![fault.to_string()],
            ..Report::default()
        });
        say!("carried over {} files", report.carried.len());
        self.status.finish();
        let text = marker::text(self.subject, &report, self.status);
        let left = marker::write(root, &text);
        for problem in &report.problems {
            self.status.problem(problem);
        }
        match left {
            Ok(()) => Some((report.carried, text)),
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

    /// Compare what is on the medium with what was put in place.
    fn check(&self, root: &Path, carried: &[String], marker: &[u8]) -> Result<()> {
        let root = Root::open(root)?;
        let differs = |path: &str| {
            Fault(format!("{path} of the new system reads back differently than it was written"))
        };
        if root.read(marker::PATH).is_ok_and(|found| found == marker) {
            self.identity.check(&root, carried).map_err(|path| differs(&path))
        } else {
            Err(differs(marker::PATH))
        }
    }
}
