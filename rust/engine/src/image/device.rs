//! What is on a block device of this machine, by its first and last bytes.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use holdfast_media::superblock::{HEAD, TAIL};
use holdfast_media::{Ends, Guard, ReadAt, lvm, probe, rules};
use serde::Serialize;

use crate::{Error, Result};

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Found {
    /// As `blkid` names it.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether it holds files by itself, and is no part of something else.
    pub file_system: bool,
    /// As `blkid` prints it; with colons for an array.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
}

/// What is on a device, and why it must not be written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Those first that make it part of something else.
    pub signatures: Vec<Found>,
    /// Why not, if it is the whole disk of the system: a sentence without a full stop.
    pub refused_as_disk: Option<String>,
    /// Why not, if it is a partition of that disk.
    pub refused_as_partition: Option<String>,
}

/// Inspect the device at `path`.
///
/// # Errors
/// [`Error::Io`], for want of rights as well.
pub fn report(path: &Path) -> Result<Report> {
    let (head, tail, size) = ends(path).map_err(|e| Error::io(path, e))?;
    let found = probe(&Ends { head: &head, tail: &tail, size });
    let name = path.to_string_lossy();
    Ok(Report {
        refused_as_disk: rules::whole_disk(&name, &found),
        refused_as_partition: rules::partition(&name, &found),
        signatures: found
            .into_iter()
            .map(|signature| Found {
                kind: signature.kind.name(),
                file_system: signature.kind.is_file_system(),
                uuid: signature.uuid,
                label: signature.label,
            })
            .collect(),
    })
}

/// Why a partition of the disk of a system that runs from LVM must not be written, as a sentence without
/// a full stop: `own` are the UUIDs of the system's volume groups, `partitions` all of the disk.
///
/// # Errors
/// [`Error::Io`], for want of rights as well.
pub fn refused_in_system(
    path: &Path,
    own: &[String],
    partitions: &[PathBuf],
) -> Result<Option<String>> {
    let mut on_disk = Vec::new();
    for partition in partitions {
        let found = reader(partition).map_err(|e| Error::io(partition, e))?;
        on_disk.extend(lvm::physical_uuid(&found));
    }
    let (head, tail, size) = ends(path).map_err(|e| Error::io(path, e))?;
    let found = probe(&Ends { head: &head, tail: &tail, size });
    let group = lvm::membership(&reader(path).map_err(|e| Error::io(path, e))?);
    let name = path.to_string_lossy();
    Ok(rules::partition_of_system(&name, &found, group.as_ref(), own, &on_disk))
}

/// The most bytes of a partition that are read for what LVM has on it.
const BUDGET: u64 = 64 << 20;

fn reader(path: &Path) -> io::Result<impl ReadAt> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    Ok(Guard::new(size, BUDGET, move |offset, buffer: &mut [u8]| {
        file.read_exact_at(buffer, offset)
    }))
}

fn ends(path: &Path) -> io::Result<(Vec<u8>, Vec<u8>, u64)> {
    let mut file = File::open(path)?;
    let size = file.seek(SeekFrom::End(0))?;
    let length = |most: usize| usize::try_from(size).map_or(most, |size| size.min(most));
    let mut head = vec![0; length(HEAD)];
    file.read_exact_at(&mut head, 0)?;
    let mut tail = vec![0; length(TAIL)];
    let at = size - tail.len() as u64;
    file.read_exact_at(&mut tail, at)?;
    Ok((head, tail, size))
}
