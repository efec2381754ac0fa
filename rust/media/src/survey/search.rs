//! Which of an image's trees is the root: by what is in them, by what boot loaders name, and by the
//! types of partitions, in this order.

use std::collections::BTreeSet;

use super::{Candidate, Content, Root};
use crate::loader::CommandLine;
use crate::lvm::Volume;
use crate::system::root_of_fstab;
use crate::table::{Partition, Table};
use crate::{Kind, Signature};

/// Partition types of roots, by architecture: the discoverable partitions specification.
const ROOT_TYPES: [(&str, &str); 3] = [
    ("4f68bce3-e8cd-4db1-96e7-fbcaf984b709", "x86_64"),
    ("b921b045-1df0-41c3-af44-4c6f280d3fae", "aarch64"),
    ("44479540-f297-41b2-9af7-d131d5f0458a", "i686"),
];
/// Types of partitions with the hashes of a root, by which the kernel refuses a root that was changed
/// (dm-verity): x86-64, x86, arm64, arm, riscv64, riscv32, ia64, loongarch64, ppc64-le, s390x. UAPI
/// Group, Discoverable Partitions Specification.
pub const ROOT_VERITY: [&str; 10] = [
    "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
    "d13c5d3b-b5d1-422a-b29f-9454fdc89d76",
    "df3300ce-d69f-4c92-978c-9bfb0f38d820",
    "7386cdf2-203c-47a9-a498-f2ecce45a2d6",
    "b6ed5582-440b-4209-b8da-5ff7c419ea3d",
    "ae0253be-1167-4007-ac68-43926c14c5de",
    "86ed10d5-b607-45bb-8957-d350f23d0571",
    "f3393b22-e9af-4613-a948-9d3bfbd0c535",
    "906bd944-4589-4aae-a4e4-dd983917446a",
    "b325bfbe-c7be-4ab8-8357-139e652d2f6b",
];
/// The same of a `/usr`.
const USR_VERITY_TYPES: [&str; 2] =
    ["77ff5f63-e7b6-4633-acf4-1565b864c0e6", "6e11a4e7-fbca-4ded-b9e9-e1a512bb664e"];
/// What the choice is made from.
pub(super) struct Search<'a> {
    pub table: &'a Table,
    pub contents: &'a [Content],
    pub candidates: &'a [Candidate],
    pub volumes: &'a [Volume],
    pub lines: &'a [CommandLine],
}

pub(super) type Chosen<'a> = Option<(Root, Option<&'a Candidate>)>;

impl<'a> Search<'a> {
    /// The root, and sentences about why there is none.
    pub fn root(&self) -> (Chosen<'a>, Vec<String>) {
        let mut pool: Vec<&Candidate> =
            self.candidates.iter().filter(|candidate| candidate.evidence.certain()).collect();
        if pool.is_empty() {
            pool = self.candidates.iter().filter(|candidate| candidate.evidence.files).collect();
        }
        let named: BTreeSet<_> = self
            .lines
            .iter()
            .filter_map(|line| line.root.as_deref())
            .filter_map(|device| self.resolve(device))
            .collect();
        let mut because = "it is the only one that has a system (an os-release in it)";
        let within: Vec<_> =
            pool.iter().copied().filter(|candidate| named.contains(&place(candidate))).collect();
        if !within.is_empty() {
            because = "the boot loader's command line names it, and it has a system";
            pool = within;
        } else if let [(number, volume)] = &*named.into_iter().collect::<Vec<_>>()
            && !self.readable(*number, volume.as_deref())
        {
            // An encrypted one, for instance: nobody can see what is in it.
            let mut root = self.bare(*number, "the boot loader's command line names it");
            root.volume.clone_from(volume);
            return (Some((root, None)), Vec::new());
        }
        if places(&pool).len() > 1 {
            let typed: Vec<_> = pool
                .iter()
                .copied()
                .filter(|candidate| self.partition(candidate.partition).is_some_and(is_root_type))
                .collect();
            if places(&typed).len() == 1 {
                because = "it has a system, and the type of its partition is that of a root";
                pool = typed;
            }
        }
        if places(&pool).len() > 1 {
            let mounted: Vec<_> = pool
                .iter()
                .copied()
                .filter(|candidate| {
                    root_of_fstab(&*candidate.tree).and_then(|device| self.resolve(&device))
                        == Some(place(candidate))
                })
                .collect();
            if places(&mounted).len() == 1 {
                because = "it has a system whose fstab mounts it at /";
                pool = mounted;
            }
        }
        let several = places(&pool);
        if several.len() > 1 {
            let list: Vec<_> = several.iter().map(shown).collect();
            let note = format!(
                "Several partitions have a system, and nothing shows which is booted: {}. Choose one \
                 with --root-partition.",
                list.join(", ")
            );
            return (None, vec![note]);
        }
        if let Some(one) = self.subvolume(&pool) {
            return (Some((self.chosen(one, because), Some(one))), Vec::new());
        }
        self.by_type()
    }

    /// The root where no tree has a system: by the type of its partition alone.
    fn by_type(&self) -> (Chosen<'a>, Vec<String>) {
        let typed: Vec<_> =
            self.table.partitions.iter().filter(|partition| is_root_type(partition)).collect();
        if let [one] = typed[..] {
            let because = "the type of its partition is that of a root; no system was found on it";
            return (self.on(one.number, because), Vec::new());
        }
        let closed = self.contents.iter().filter(|content| !self.readable(content.partition, None));
        let closed: Vec<_> = closed
            .filter(|content| {
                !matches!(content.signature.kind, Kind::Swap | Kind::Fat | Kind::Verity)
            })
            .map(|content| {
                format!("partition {} is {}", content.partition, content.signature.kind.describe())
            })
            .collect();
        let closed = if closed.is_empty() {
            String::new()
        } else {
            format!("; what could not be looked into: {}", closed.join(", "))
        };
        let note = format!(
            "No root was found: no file system has an os-release, and no boot loader names \
             one{closed}. If there is one, say which with --root-partition."
        );
        (None, vec![note])
    }

    /// The root on a certain partition.
    pub fn on(&self, number: u32, because: &str) -> Chosen<'a> {
        let here: Vec<_> =
            self.candidates.iter().filter(|candidate| candidate.partition == number).collect();
        let with: Vec<_> = here
            .iter()
            .copied()
            .filter(|candidate| candidate.evidence.certain() || candidate.evidence.files)
            .collect();
        let pool = if with.is_empty() { here } else { with };
        Some(match self.subvolume(&pool) {
            Some(one) => (self.chosen(one, because), Some(one)),
            None => (self.bare(number, because), None),
        })
    }

    /// Which of several trees of one file system is booted.
    fn subvolume(&self, pool: &[&'a Candidate]) -> Option<&'a Candidate> {
        let named = |candidate: &&&Candidate| {
            let path = candidate.subvolume.as_deref().unwrap_or_default();
            self.lines.iter().any(|line| line.subvolume.as_deref() == Some(path))
        };
        let usual = |candidate: &&&Candidate| {
            matches!(candidate.subvolume.as_deref(), Some("root" | "@" | "@rootfs" | "@root"))
        };
        let found = pool.iter().find(named);
        let found = found.or_else(|| pool.iter().find(|candidate| candidate.default));
        found.or_else(|| pool.iter().find(usual)).or_else(|| pool.first()).copied()
    }

    fn chosen(&self, candidate: &Candidate, because: &str) -> Root {
        let default = candidate.default && candidate.system.kind == Kind::Btrfs;
        Root {
            partition: candidate.partition,
            volume: candidate.volume.clone(),
            volume_range: None,
            volume_problem: None,
            // The default subvolume is mounted without its name.
            subvolume: candidate.subvolume.clone().filter(|_| !default),
            deployment: candidate.evidence.deployment.clone(),
            verity: false,
            kind: Some(candidate.system.kind),
            uuid: candidate.system.uuid.clone(),
            label: candidate.system.label.clone(),
            space: candidate.system.space,
            features: candidate.system.features.clone(),
            os_release: Some(candidate.evidence.certain()),
            because: because.to_owned(),
        }
    }

    /// A root of which no more than the partition is known.
    fn bare(&self, number: u32, because: &str) -> Root {
        let content = self.contents.iter().find(|content| content.partition == number);
        Root {
            partition: number,
            volume: None,
            volume_range: None,
            volume_problem: None,
            subvolume: None,
            deployment: None,
            verity: false,
            kind: content.map(|content| content.signature.kind),
            uuid: content.and_then(|content| content.signature.uuid.clone()),
            label: content.and_then(|content| content.signature.label.clone()),
            space: None,
            features: Vec::new(),
            os_release: None,
            because: because.to_owned(),
        }
    }

    /// Return where on the disk the volume of a root is, or why it may not be written.
    pub fn place_volume(&self, root: &mut Root) {
        let Some(name) = &root.volume else { return };
        let Some(volume) = self.volumes.iter().find(|volume| volume.name == *name) else { return };
        root.volume_problem.clone_from(&volume.problem);
        let start = self.partition(root.partition).map(|partition| partition.start_bytes);
        root.volume_range = volume
            .range
            .zip(start)
            .and_then(|((at, length), start)| Some((start.checked_add(at)?, length)));
    }

    /// Whether dm-verity protects the root.
    pub fn verity(&self) -> bool {
        let types = |all: &[&str]| {
            self.table.partitions.iter().any(|partition| all.contains(&partition.kind.as_str()))
        };
        let hashes = self.contents.iter().any(|content| content.signature.kind == Kind::Verity);
        self.lines.iter().any(|line| line.verity)
            || types(&ROOT_VERITY)
            || hashes && !types(&USR_VERITY_TYPES)
    }

    fn partition(&self, number: u32) -> Option<&Partition> {
        self.table.partitions.iter().find(|partition| partition.number == number)
    }

    fn readable(&self, number: u32, volume: Option<&str>) -> bool {
        self.candidates
            .iter()
            .any(|candidate| candidate.partition == number && candidate.volume.as_deref() == volume)
    }

    /// The partition, and the volume, that a device of a command line or an fstab names.
    fn resolve(&self, device: &str) -> Option<(u32, Option<String>)> {
        let device = device.trim_matches('"');
        let by_id = |kind: &str| {
            device
                .strip_prefix("/dev/disk/by-")
                .and_then(|rest| rest.strip_prefix(kind)?.strip_prefix('/'))
        };
        let tag = |name: &str, kind: &str| {
            device
                .strip_prefix(name)
                .and_then(|rest| rest.strip_prefix('='))
                .or_else(|| by_id(kind))
        };
        let file_system = |matches: &dyn Fn(&Signature) -> bool| {
            let inside = self.candidates.iter().find(|candidate| {
                let signature = Signature {
                    kind: candidate.system.kind,
                    offset: 0,
                    uuid: candidate.system.uuid.clone(),
                    label: candidate.system.label.clone(),
                };
                matches(&signature)
            });
            let whole = self.contents.iter().find(|content| matches(&content.signature));
            inside.map(place).or_else(|| whole.map(|content| (content.partition, None)))
        };
        if let Some(uuid) = tag("UUID", "uuid") {
            let same = |signature: &Signature| {
                signature.uuid.as_deref().is_some_and(|id| id.eq_ignore_ascii_case(uuid))
            };
            return file_system(&same);
        }
        if let Some(label) = tag("LABEL", "label") {
            return file_system(&|signature: &Signature| signature.label.as_deref() == Some(label));
        }
        let partitions = &self.table.partitions;
        if let Some(id) = tag("PARTUUID", "partuuid") {
            let found =
                partitions.iter().find(|partition| partition.part_uuid.eq_ignore_ascii_case(id))?;
            return Some((found.number, None));
        }
        if let Some(name) = tag("PARTLABEL", "partlabel") {
            let found = partitions.iter().find(|partition| partition.name == name)?;
            return Some((found.number, None));
        }
        let name = device.strip_prefix("/dev/")?;
        for volume in self.volumes {
            let (group, one) = volume.name.split_once('/')?;
            let escaped = |part: &str| part.replace('-', "--");
            let mapped = format!("mapper/{}-{}", escaped(group), escaped(one));
            if name == mapped || name == volume.name {
                return Some((*volume.partitions.first()?, Some(volume.name.clone())));
            }
        }
        disk_partition(name)
            .filter(|number| self.partition(*number).is_some())
            .map(|number| (number, None))
    }
}

/// The number in the kernel's name of a partition: 2 in `sda2`, `nvme0n1p2`.
fn disk_partition(name: &str) -> Option<u32> {
    let digits = name.len() - name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
    let (disk, number) = name.split_at(name.len() - digits);
    let plain = ["sd", "vd", "xvd", "hd"].iter().any(|kind| disk.starts_with(kind));
    let numbered = ["nvme", "mmcblk"].iter().any(|kind| disk.starts_with(kind));
    (plain || numbered && disk.ends_with('p')).then(|| number.parse().ok())?
}

fn place(candidate: &Candidate) -> (u32, Option<String>) {
    (candidate.partition, candidate.volume.clone())
}

fn places(pool: &[&Candidate]) -> BTreeSet<(u32, Option<String>)> {
    pool.iter().map(|candidate| place(candidate)).collect()
}

fn shown((number, volume): &(u32, Option<String>)) -> String {
    volume.as_ref().map_or_else(|| format!("partition {number}"), |name| format!("volume {name}"))
}

fn is_root_type(partition: &Partition) -> bool {
    type_architecture(partition).is_some()
}

pub(super) fn type_architecture(partition: &Partition) -> Option<&'static str> {
    ROOT_TYPES.iter().find(|(kind, _)| *kind == partition.kind).map(|(_, known)| *known)
}
