//! Why an image cannot be written to a disk, or cannot be given what it should get: one list for `plan`,
//! arming and the imager. All results are sentences with a full stop.

use holdfast_media::survey::ROOT_VERITY;
use serde::{Deserialize, Serialize};

use super::descriptor::{BootMode, Descriptor, Inspection, Root};

/// File systems that the imager mounts to write to them.
const MOUNTED: [&str; 5] = ["ext2", "ext3", "ext4", "xfs", "btrfs"];
/// What carrying identity over and the marker take at most, in bytes.
const CARRIED: u64 = 1 << 20;
/// Sectors of the disks that are written, in bytes.
const SECTORS: [u64; 2] = [512, 4096];

/// What of a descriptor the rules are about. Members that are absent are not known.
#[derive(Debug, Clone, Deserialize)]
pub struct Facts {
    name: String,
    size_bytes: u64,
    #[serde(default)]
    boot_modes: Vec<BootMode>,
    #[serde(default)]
    partition_table: Option<Table>,
    #[serde(default)]
    root_partition: Option<u32>,
    #[serde(flatten)]
    inspection: Inspection,
}

#[derive(Debug, Clone, Deserialize)]
struct Table {
    #[serde(default)]
    partitions: Vec<Part>,
}

#[derive(Debug, Clone, Deserialize)]
struct Part {
    number: u32,
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    file_system: Option<String>,
}

impl From<&Descriptor> for Facts {
    fn from(image: &Descriptor) -> Self {
        let table = image.partition_table.as_ref().map(|table| Table {
            partitions: table
                .partitions
                .iter()
                .map(|partition| Part {
                    number: partition.number,
                    kind: partition.kind.clone(),
                    file_system: partition.file_system.clone(),
                })
                .collect(),
        });
        Self {
            name: image.name.clone(),
            size_bytes: image.size_bytes,
            boot_modes: image.boot_modes.clone(),
            partition_table: table,
            root_partition: image.root_partition,
            inspection: image.inspection.clone(),
        }
    }
}

/// A disk that an image is to be written to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Its name, for people.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// Its logical sectors.
    pub sector_bytes: u64,
}

/// What the new system is to get.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wishes {
    /// Some of the old system's identity.
    #[serde(default)]
    pub identity: bool,
    /// A root as large as the disk allows.
    #[serde(default)]
    pub grow_root: bool,
}

/// The machine that an image is to boot.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// As `uname -m` names it.
    #[serde(default)]
    pub architecture: Option<String>,
    /// How its firmware boots.
    #[serde(default)]
    pub boot_mode: Option<BootMode>,
}

/// Why an image cannot be on a disk.
pub fn fit(image: &Facts, target: &Target) -> Vec<String> {
    let mut reasons = Vec::new();
    let path = &target.path;
    if image.size_bytes > target.size_bytes {
        reasons.push(format!(
            "{path} has {} bytes, and the image {}.",
            target.size_bytes, image.size_bytes
        ));
    }
    reasons.extend(sectors(image, path, target.sector_bytes));
    reasons
}

/// Why an image cannot be on a disk with sectors of this size. Nothing is known of an image without a
/// size.
fn sectors(image: &Facts, path: &str, unit: u64) -> Option<String> {
    if !SECTORS.contains(&unit) {
        return Some(format!(
            "{path} has sectors of {unit} bytes, and only disks with sectors of 512 or 4096 bytes \
             are written."
        ));
    }
    if image.size_bytes == 0 {
        return None;
    }
    match image.inspection.sector_bytes {
        Some(sector) if sector != unit => Some(format!(
            "The image is of a disk with sectors of {sector} bytes, and {path} has sectors of {unit} \
             bytes: its partitions would not be found. Build it for sectors of {unit} bytes."
        )),
        None if unit != SECTORS[0] => Some(format!(
            "{path} has sectors of {unit} bytes, and the descriptor of {} does not state for which \
             sectors its partition table is; describe an image that was built for sectors of {unit} \
             bytes.",
            image.name
        )),
        _ if !image.size_bytes.is_multiple_of(unit) => Some(format!(
            "{path} has sectors of {unit} bytes, and the image has {} bytes, which are not whole \
             sectors.",
            image.size_bytes
        )),
        _ => None,
    }
}

/// Why a machine does not boot an image.
pub fn boot(image: &Facts, machine: &Machine) -> Vec<String> {
    let mut reasons = Vec::new();
    if let (Some(image), Some(machine)) = (&image.inspection.architecture, &machine.architecture)
        && image != machine
    {
        reasons.push(format!("This machine is {machine}, and the image is for {image}."));
    }
    if let Some(mode) = machine.boot_mode
        && !image.boot_modes.contains(&mode)
    {
        let name = |mode: BootMode| match mode {
            BootMode::Bios => "bios",
            BootMode::Uefi => "uefi",
        };
        let modes: Vec<_> = image.boot_modes.iter().map(|mode| name(*mode)).collect();
        let modes =
            if modes.is_empty() { "no mode at all".to_owned() } else { modes.join(" and ") };
        reasons
            .push(format!("This machine boots in mode {}, and the image in {modes}.", name(mode)));
    }
    reasons
}

/// Whether dm-verity protects the root of an image.
pub fn is_verified(image: &Facts) -> bool {
    let partitions = image.partition_table.iter().flat_map(|table| &table.partitions);
    let hashes = |kind: &str| ROOT_VERITY.iter().any(|guid| kind.eq_ignore_ascii_case(guid));
    image.inspection.root.as_ref().is_some_and(|root| root.verity)
        || partitions.into_iter().any(|partition| hashes(&partition.kind))
}

/// The number of the partition whose file system the imager mounts to carry identity over and to leave
/// its marker; else a sentence about why there is none.
///
/// # Errors
/// The sentence.
pub fn carried_root(image: &Facts) -> Result<u32, String> {
    let name = &image.name;
    let partitions = image.partition_table.as_ref().map_or(&[][..], |table| &table.partitions);
    let root = partitions.iter().find(|partition| Some(partition.number) == image.root_partition);
    let Some(partition) = root else {
        return Err(format!("No root file system was found in {name}."));
    };
    let refused = |what: &str| Err(format!("The root of {name} {what}."));
    if is_verified(image) {
        return refused("is protected by verity and may not be changed");
    }
    let mut kind = partition.file_system.as_deref();
    if let Some(root) = &image.inspection.root
        && let Some(volume) = &root.volume
    {
        if root.volume_range.is_none() {
            return refused(&format!("is the logical volume {volume} (LVM), {}", unplaced(root)));
        }
        kind = root.file_system.as_deref();
    }
    match kind {
        Some(kind) if MOUNTED.contains(&kind) => Ok(partition.number),
        Some(kind) => refused(&format!(
            "is on {kind}, which the imager does not mount; use an image with an ext4, XFS or btrfs root"
        )),
        None => refused("has no file system that is known"),
    }
}

/// Why a logical volume is not written, as the end of a sentence.
fn unplaced(root: &Root) -> String {
    root.volume_problem.as_ref().map_or_else(
        || {
            "and its descriptor does not state where on the disk that is; describe the image again"
                .to_owned()
        },
        |why| {
            format!(
                "which {why}; the imager writes to linear volumes in one piece on one partition"
            )
        },
    )
}

/// Why an image cannot get what it should.
pub fn wishes(image: &Facts, wishes: Wishes) -> Vec<String> {
    let mut reasons = Vec::new();
    if !wishes.identity {
        return reasons;
    }
    let root = image.inspection.root.as_ref();
    if let Err(why) = carried_root(image) {
        reasons.push(format!(
            "{why} So identity cannot be carried over; with `\"identity\": []` it can be staged, and \
             the new system then has no marker, and is in state `unknown` until it is confirmed with \
             `override`."
        ));
    }
    if root.is_some_and(|root| root.os_release == Some(false)) {
        reasons.push(format!(
            "What was taken for the root of {} has no os-release, so nothing is carried into it.",
            image.name
        ));
    }
    let free = root.and_then(|root| root.free_bytes);
    if let Some(free) = free.filter(|free| *free < CARRIED && !wishes.grow_root) {
        reasons.push(format!(
            "The root of {} has {free} bytes free, and identity takes up to {CARRIED}: use \
             `grow_root` (`--grow-root`), or build the image with more free space.",
            image.name
        ));
    }
    reasons
}

/// What a descriptor of an older holdfast cannot contain.
pub fn unknown(image: &Facts) -> Option<String> {
    (!image.inspection.inspected).then(|| {
        format!(
            "The descriptor of {} was made by an older holdfast, which did not look into images: \
             its root and its boot modes are guesses, and its architecture, the size of its sectors \
             and the free space of its root are not known. Describe it again.",
            image.name
        )
    })
}

/// A question about an image; what is left out is not asked.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The image.
    pub image: Facts,
    /// The disk.
    #[serde(default)]
    pub target: Option<Target>,
    /// The machine.
    #[serde(default)]
    pub machine: Option<Machine>,
    /// What the new system is to get.
    #[serde(default)]
    pub wishes: Option<Wishes>,
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Sentences: why not.
    pub refusals: Vec<String>,
    /// Sentences: what cannot be known from the descriptor.
    pub notes: Vec<String>,
    /// The number of the partition that the imager mounts, if there is one.
    pub carried_root: Option<u32>,
}

/// Apply the rules.
pub fn apply(question: &Question) -> Answer {
    let image = &question.image;
    let mut refusals = Vec::new();
    refusals.extend(question.target.iter().flat_map(|target| fit(image, target)));
    refusals.extend(question.machine.iter().flat_map(|machine| boot(image, machine)));
    refusals.extend(question.wishes.iter().flat_map(|asked| wishes(image, *asked)));
    Answer {
        refusals,
        notes: unknown(image).into_iter().collect(),
        carried_root: carried_root(image).ok(),
    }
}
