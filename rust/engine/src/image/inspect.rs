//! What an image is, by what is in it: the part of a descriptor that is found by reading here and there.

use std::io;
use std::path::Path;
use std::rc::Rc;

use holdfast_media::bytes::printable;
use holdfast_media::survey::{self, Survey};
use holdfast_media::table::TableKind as MediaTableKind;
use holdfast_media::{Guard, Source, loader};

use super::descriptor::{
    BootMode, Inspection, Partition, PartitionTable, Root, System, TableKind, VolumeRange,
};
use crate::{Error, Result};

/// The most bytes of an image that are read to detect what it is.
const BUDGET: u64 = 1 << 30;
/// Sentences that a descriptor has at most, and bytes of one.
const NOTES: usize = 32;
const NOTE: usize = 500;

/// What was found.
pub(super) struct Found {
    pub table: Option<PartitionTable>,
    pub boot_modes: Vec<BootMode>,
    pub root_partition: Option<u32>,
    pub inspection: Inspection,
    /// Clauses: why no disk can be made of it.
    pub problems: Vec<String>,
}

/// Inspect the image at `path`, of `size` bytes, through `read`; `wanted` is the partition that is known
/// to have the root.
///
/// # Errors
/// [`Error::Io`] if it cannot be read.
pub(super) fn inspect(
    path: &Path,
    size: u64,
    wanted: Option<u32>,
    read: impl Fn(u64, &mut [u8]) -> io::Result<()> + 'static,
) -> Result<Found> {
    let guard = Rc::new(Guard::new(size, BUDGET, read));
    let source: Source = Rc::clone(&guard) as Source;
    let mut survey = survey::survey(&source, wanted);
    if let Some(error) = guard.failure() {
        return Err(Error::io(path, error));
    }
    if guard.exhausted() {
        survey.notes.push("Not all of it was looked into: there is too much.".to_owned());
    }
    Ok(Found::of(survey))
}

impl Found {
    fn of(survey: Survey) -> Self {
        let mut boot_modes = Vec::new();
        if survey.bios {
            boot_modes.push(BootMode::Bios);
        }
        if survey.uefi {
            boot_modes.push(BootMode::Uefi);
        }
        let root_partition = survey.root.as_ref().map(|root| root.partition);
        let table = survey.table.as_ref().map(|table| PartitionTable {
            kind: match table.kind {
                MediaTableKind::Gpt => TableKind::Gpt,
                MediaTableKind::Mbr => TableKind::Mbr,
            },
            id: table.id.clone(),
            partitions: table
                .partitions
                .iter()
                .map(|partition| {
                    let content = survey.contents.iter().find(|c| c.partition == partition.number);
                    Partition {
                        number: partition.number,
                        start_bytes: partition.start_bytes,
                        size_bytes: partition.size_bytes,
                        kind: partition.kind.clone(),
                        name: partition.name.clone(),
                        part_uuid: Some(partition.part_uuid.clone()),
                        file_system: content.map(|c| c.signature.kind.name().to_owned()),
                        uuid: content.and_then(|c| c.signature.uuid.clone()),
                        label: content.and_then(|c| c.signature.label.clone()),
                    }
                })
                .collect(),
        });
        let mut notes = survey.notes;
        notes.truncate(NOTES);
        for note in &mut notes {
            *note = printable(note);
            let end = (0..=note.len().min(NOTE)).rev().find(|at| note.is_char_boundary(*at));
            note.truncate(end.unwrap_or(0));
        }
        let inspection = Inspection {
            inspected: true,
            sector_bytes: survey.table.as_ref().map(|table| table.sector_bytes),
            architecture: survey.architecture,
            root: survey.root.map(|root| Root {
                partition: root.partition,
                volume: root.volume.map(|name| printable(&name)),
                volume_range: root
                    .volume_range
                    .map(|(start_bytes, size_bytes)| VolumeRange { start_bytes, size_bytes }),
                volume_problem: root.volume_problem,
                subvolume: root.subvolume.map(|path| printable(&path)),
                deployment: root.deployment.map(|path| printable(&path)),
                verity: root.verity,
                file_system: root.kind.map(|kind| kind.name().to_owned()),
                uuid: root.uuid,
                label: root.label,
                free_bytes: root.space.map(|space| space.free_bytes),
                features: root.features,
                os_release: root.os_release,
                because: root.because,
            }),
            system: survey.system.map(|system| System {
                name: system.name,
                id: system.id,
                version: system.version,
                kernels: system.kernels,
                cloud_init: system.cloud_init,
                selinux: system.selinux,
                holdfast: system.holdfast,
            }),
            notes,
        };
        Self { table, boot_modes, root_partition, inspection, problems: survey.problems }
    }

    /// As for a disk that is known to boot the machine that it is in: firmware may start it in a way
    /// that the disk itself does not show. What is impossible in it is left out.
    pub fn of_running_disk(
        mut self,
        source: &dyn Fn(u64, &mut [u8]) -> io::Result<()>,
        size: u64,
    ) -> Self {
        let mut first = [0; 512];
        let code = source(0, &mut first).is_ok() && first[..440].iter().any(|byte| *byte != 0);
        self.boot_modes.clear();
        if code && first[510..] == [0x55, 0xaa] {
            self.boot_modes.push(BootMode::Bios);
        }
        if let Some(table) = &mut self.table {
            table.partitions.retain(|partition| {
                let end = partition.start_bytes.checked_add(partition.size_bytes);
                partition.size_bytes > 0 && end.is_some_and(|end| end <= size)
            });
            if table
                .partitions
                .iter()
                .any(|partition| loader::SYSTEM_PARTITIONS.contains(&&*partition.kind))
            {
                self.boot_modes.push(BootMode::Uefi);
            }
        }
        self.inspection.notes.append(&mut self.problems);
        self
    }
}
