//! Where on the disk the root's file system is: on a partition, or on a linear logical volume.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use holdfast_engine::image::Descriptor;
use holdfast_engine::image::descriptor::Partition;
use holdfast_engine::image::rules::{Facts, carried_root};
use holdfast_media::ReadAt;
use holdfast_media::lvm;

use crate::Fault;
use crate::disk::volume_group;

/// The place of a file system in the copy.
pub struct RootLocation<'a> {
    /// The partition that it is on.
    pub partition: &'a Partition,
    /// The logical volume, group`/`volume, if it is on one.
    pub volume: Option<&'a str>,
    /// Its first byte.
    pub start: u64,
    /// Its bytes.
    pub length: u64,
    /// What it is.
    pub kind: &'a str,
    /// Its UUID, or nothing.
    pub uuid: &'a str,
}

/// Why there are not more bytes for it.
pub enum Unextended {
    /// This machine cannot extend the copy.
    Copy(io::Error),
    /// The imager would leave the volume unchanged: a note about it.
    Volume(String),
}

impl<'a> RootLocation<'a> {
    /// The place of an image's root.
    ///
    /// # Errors
    /// A sentence about why it is not mounted.
    pub fn of(image: &'a Descriptor, partition: &'a Partition) -> Result<Self, String> {
        let root = image.inspection.root.as_ref();
        let Some((root, volume)) = root.and_then(|root| Some((root, root.volume.as_deref()?)))
        else {
            return Ok(Self {
                partition,
                volume: None,
                start: partition.start_bytes,
                length: partition.size_bytes,
                kind: partition.file_system.as_deref().unwrap_or("no file system"),
                uuid: partition.uuid.as_deref().unwrap_or_default(),
            });
        };
        let Some(range) = root.volume_range else {
            let why = carried_root(&Facts::from(image)).err();
            return Err(why.unwrap_or_else(|| format!("Where {volume} is is not known.")));
        };
        Ok(Self {
            partition,
            volume: Some(volume),
            start: range.start_bytes,
            length: range.size_bytes,
            kind: root.file_system.as_deref().unwrap_or("no file system"),
            uuid: root.uuid.as_deref().unwrap_or_default(),
        })
    }

    /// Extend the partition to `bytes` in a copy, and what of LVM is on it; returns the bytes that there
    /// are then.
    ///
    /// # Errors
    /// Why there are not more than before.
    pub fn extend(&self, copy: &File, bytes: u64) -> Result<u64, Unextended> {
        let end = self.partition.start_bytes + bytes;
        if copy.metadata().map_err(Unextended::Copy)?.len() < end {
            copy.set_len(end).map_err(Unextended::Copy)?;
        }
        let Some(name) = self.volume else { return Ok(bytes) };
        let start = self.partition.start_bytes;
        let done = lvm::extend(&Part { copy, start, length: bytes }, bytes, name).map_err(Fault);
        let note = volume_group::note(name, &done);
        match done {
            Ok(lvm::Extended { writes, volume_bytes: Some(bytes), .. }) => {
                for (offset, content) in writes {
                    copy.write_all_at(&content, start + offset).map_err(Unextended::Copy)?;
                }
                Ok(bytes)
            }
            _ => Err(Unextended::Volume(note)),
        }
    }
}

/// A part of the copy.
struct Part<'a> {
    copy: &'a File,
    start: u64,
    length: u64,
}

impl ReadAt for Part<'_> {
    fn size(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Option<()> {
        let end = offset.checked_add(buffer.len() as u64)?;
        (end <= self.length).then_some(())?;
        self.copy.read_exact_at(buffer, self.start + offset).ok()
    }
}
