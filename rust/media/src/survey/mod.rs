//! What a disk image is: its partitions, which of them the root is on, and how it boots. Found by
//! reading its file systems; nothing is guessed from sizes.

mod search;

pub use search::ROOT_VERITY;

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::loader::{self, CommandLine};
use crate::lvm::{self, Volume};
use crate::superblock::probe;
use crate::survey::search::{Search, type_architecture};

use crate::system::{Evidence, System};
use crate::table::{self, Table};
use crate::tree::{Btrfs, FileSystem, Space, Tree};
use crate::{Kind, Signature, Source};

/// The most bytes of a kernel that are read.
const KERNEL: usize = 4096;

/// Where the root is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The number of its partition: of the first one, for a volume on several.
    pub partition: u32,
    /// The logical volume, as group, `/`, volume.
    pub volume: Option<String>,
    /// Where on the disk the volume is, and how long, if it may be written there.
    pub volume_range: Option<(u64, u64)>,
    /// A clause about why it may not.
    pub volume_problem: Option<String>,
    /// The subvolume of a btrfs that is not mounted by default.
    pub subvolume: Option<String>,
    /// The deployment of an OSTree.
    pub deployment: Option<String>,
    /// Whether dm-verity protects it, so that not a byte of it may change.
    pub verity: bool,
    /// Its file system; of what cannot be read, what is on the partition.
    pub kind: Option<Kind>,
    /// Its UUID and label.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
    /// Its space.
    pub space: Option<Space>,
    /// Names of its features.
    pub features: Vec<String>,
    /// Whether it has an os-release; `None` where it cannot be read.
    pub os_release: Option<bool>,
    /// How it was found, as the end of "because".
    pub because: String,
}

/// What a partition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its number.
    pub partition: u32,
    /// What it is.
    pub signature: Signature,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The partition table.
    pub table: Option<Table>,
    /// What is on the partitions, as far as it is known.
    pub contents: Vec<Content>,
    /// Whether a BIOS starts it.
    pub bios: bool,
    /// Whether UEFI starts it without knowing the disk.
    pub uefi: bool,
    /// What its loader, kernel and programs are for, as `uname -m` names it.
    pub architecture: Option<String>,
    /// The root.
    pub root: Option<Root>,
    /// The operating system.
    pub system: Option<System>,
    /// Sentences for people: what is odd, and what could not be determined.
    pub notes: Vec<String>,
    /// Clauses: why this is no image that a disk can be made of.
    pub problems: Vec<String>,
}

/// A tree that may be the root.
struct Candidate {
    partition: u32,
    volume: Option<String>,
    subvolume: Option<String>,
    default: bool,
    system: Rc<FileSystem>,
    tree: Rc<dyn Tree>,
    evidence: Evidence,
}

/// Read an image; `wanted` is the partition that is known to have the root.
pub fn survey(disk: &Source, wanted: Option<u32>) -> Survey {
    let mut found = Survey::default();
    let read = table::read(disk);
    found.problems = read.problems;
    found.notes = read.notes;
    found.table = read.table;
    let Some(table) = found.table.clone() else {
        if wanted.is_some() {
            found.problems.push("it has no partition table, and so no such root".to_owned());
        }
        return found;
    };
    for partition in table.partitions.iter().filter(|partition| !partition.is_extended()) {
        if let Some(signature) = probe(&*partition.on(disk)).into_iter().next() {
            found.contents.push(Content { partition: partition.number, signature });
        }
    }
    let (candidates, volumes) = candidates(disk, &table, &mut found.notes);
    let mut lines: Vec<CommandLine> =
        candidates.iter().flat_map(|candidate| loader::command_lines(&*candidate.tree)).collect();
    lines.sort();
    lines.dedup();
    let search = Search {
        table: &table,
        contents: &found.contents,
        candidates: &candidates,
        volumes: &volumes,
        lines: &lines,
    };
    let (chosen, mut notes) = match wanted {
        Some(number) if !table.partitions.iter().any(|partition| partition.number == number) => {
            found.problems.push(format!("it has no partition {number} to have the root"));
            (None, Vec::new())
        }
        Some(number) => (search.on(number, "--root-partition names it"), Vec::new()),
        None => search.root(),
    };
    found.notes.append(&mut notes);
    let chosen = chosen.map(|(mut root, candidate)| {
        root.verity = search.verity();
        search.place_volume(&mut root);
        (root, candidate)
    });
    let mut architectures = BTreeSet::new();
    if let Some((root, candidate)) = chosen {
        let top = root.deployment.clone().unwrap_or_default();
        found.system = candidate.map(|candidate| System::of(&*candidate.tree, &top));
        if let Some(system) = &mut found.system
            && lines.iter().any(|line| line.selinux_off)
            && system.selinux.is_some()
        {
            system.selinux = Some("disabled".to_owned());
        }
        architectures.extend(found.system.as_ref().and_then(|system| system.architecture));
        let typed = table.partitions.iter().find(|partition| partition.number == root.partition);
        architectures.extend(typed.and_then(type_architecture));
        found.root = Some(root);
    }
    architectures
        .extend(candidates.iter().filter_map(|candidate| kernel_architecture(&*candidate.tree)));
    boots(disk, &table, &candidates, architectures, &mut found);
    found
}

/// How the image boots, and for which machines.
fn boots(
    disk: &Source,
    table: &Table,
    candidates: &[Candidate],
    mut architectures: BTreeSet<&'static str>,
    found: &mut Survey,
) {
    let mut loaders = Vec::new();
    for partition in
        table.partitions.iter().filter(|partition| loader::is_system_partition(table, partition))
    {
        let number = partition.number;
        let Some(here) = candidates
            .iter()
            .find(|candidate| candidate.partition == number && candidate.system.kind == Kind::Fat)
        else {
            found.notes.push(format!(
                "Partition {number} is an EFI system partition and has no FAT file system."
            ));
            continue;
        };
        let (mut programs, odd) = loader::fallbacks(&*here.tree);
        if programs.is_empty() && odd.is_empty() {
            let others = here.tree.list("EFI").unwrap_or_default();
            let others = if others.is_empty() {
                String::new()
            } else {
                format!(
                    " (there is {})",
                    others
                        .iter()
                        .map(|name| format!("EFI/{}", crate::bytes::printable(name)))
                        .collect::<Vec<_>>()
                        .join(", ")
                )
            };
            found.notes.push(format!(
                "Partition {number} is an EFI system partition without EFI/BOOT/BOOTX64.EFI or \
                 BOOTAA64.EFI{others}, so firmware does not start it on a disk that it does not know."
            ));
        }
        found.notes.extend(odd);
        loaders.append(&mut programs);
    }
    let bios = loader::bios(disk, Some(table));
    if architectures.is_empty() {
        // Both loaders may be there, for media that boot anywhere.
        architectures.extend(loaders.iter().map(|loader| loader.architecture));
        if bios.is_ok() {
            architectures.insert("x86_64");
        }
    }
    match architectures.iter().collect::<Vec<_>>()[..] {
        [one] => found.architecture = Some((*one).to_owned()),
        [] => {}
        [..] => found.notes.push(format!(
            "Its parts are for several architectures: {}.",
            architectures.iter().copied().collect::<Vec<_>>().join(", ")
        )),
    }
    let ours = |architecture: &str| {
        found.architecture.as_deref().is_none_or(|known| known == architecture)
    };
    found.uefi = loaders.iter().any(|loader| ours(loader.architecture));
    match bios {
        Ok(()) => found.bios = ours("x86_64"),
        // An image for UEFI needs no code there.
        Err(why) if !found.uefi => found.notes.push(why),
        Err(_) => {}
    }
}

/// All trees, and the logical volumes that they are on.
fn candidates(
    disk: &Source,
    table: &Table,
    notes: &mut Vec<String>,
) -> (Vec<Candidate>, Vec<Volume>) {
    let mut all = Vec::new();
    let mut physical = Vec::new();
    for partition in table.partitions.iter().filter(|partition| !partition.is_extended()) {
        let device = partition.on(disk);
        if probe(&*device).first().is_some_and(|signature| signature.kind == Kind::Lvm) {
            physical.push((partition.number, Rc::clone(&device)));
        }
        collect(&device, partition.number, None, &mut all, notes);
    }
    let volumes = lvm::volumes(&physical);
    for volume in &volumes {
        let (Some(device), Some(number)) = (&volume.device, volume.partitions.first()) else {
            continue;
        };
        collect(device, *number, Some(&volume.name), &mut all, notes);
    }
    (all, volumes)
}

fn collect(
    device: &Source,
    partition: u32,
    volume: Option<&str>,
    all: &mut Vec<Candidate>,
    notes: &mut Vec<String>,
) {
    let Some(mut system) = FileSystem::on(device) else { return };
    let place = volume.map_or_else(|| format!("partition {partition}"), str::to_owned);
    if system.problem.is_some() || system.tree.is_none() {
        let why = system.problem.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        notes.push(format!("The {} on {place} cannot be read{why}.", system.kind));
    }
    let Some(tree) = system.tree.take() else { return };
    let system = Rc::new(system);
    let mut add = |tree: Rc<dyn Tree>, subvolume: Option<&str>, default: bool| {
        let evidence = Evidence::of(&*tree);
        all.push(Candidate {
            partition,
            volume: volume.map(str::to_owned),
            subvolume: subvolume.map(str::to_owned),
            default,
            system: Rc::clone(&system),
            tree,
            evidence,
        });
    };
    let default = system.subvolumes.iter().find(|subvolume| subvolume.default);
    add(
        Rc::from(tree),
        default.map(|subvolume| &*subvolume.path).filter(|path| !path.is_empty()),
        true,
    );
    if let Some(btrfs) = Btrfs::open(device).filter(|_| system.kind == Kind::Btrfs) {
        for subvolume in system.subvolumes.iter().filter(|subvolume| !subvolume.default) {
            if let Some(tree) = btrfs.tree(subvolume.id) {
                add(Rc::from(tree), Some(&subvolume.path), false);
            }
        }
    }
}

/// What the kernels in a tree are for: a root with `/boot`, or a `/boot` of its own.
fn kernel_architecture(tree: &dyn Tree) -> Option<&'static str> {
    ["boot", ""].iter().find_map(|place| {
        let names = tree.list(place)?;
        let kernels =
            names.iter().filter(|name| name.starts_with("vmlinuz") || name.starts_with("Image"));
        kernels
            .take(8)
            .find_map(|name| loader::kernel(&tree.read(&format!("{place}/{name}"), KERNEL)?))
    })
}
