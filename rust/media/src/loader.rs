//! What firmware and boot loaders start from a disk: programs for UEFI, code for a BIOS, and the command
//! lines that loaders give to kernels.

use std::collections::BTreeSet;

use crate::Source;
use crate::bytes::{index, u16_le, u32_le, u64_le};
use crate::table::{Partition, Table, TableKind};
use crate::tree::Tree;

/// Bytes of the first sector that are code.
const BOOT_CODE: usize = 440;
/// The most bytes of a configuration file, and of a program's headers.
const CONFIGURATION: usize = 4 << 20;
const HEADERS: usize = 64 << 10;

/// Names of UEFI's removable path by machine: 0x8664 is x86-64, 0xaa64 64-bit ARM (PE/COFF).
const FALLBACKS: [(&str, &str); 2] = [("BOOTX64.EFI", "x86_64"), ("BOOTAA64.EFI", "aarch64")];

/// A program that firmware starts without knowing the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// Its path on the EFI system partition.
    pub path: String,
    /// The architecture that it is for, as `uname -m` names it.
    pub architecture: &'static str,
}

/// The programs at UEFI's removable path, and sentences about what is there and cannot be started.
pub fn fallbacks(system_partition: &dyn Tree) -> (Vec<Fallback>, Vec<String>) {
    let (mut found, mut odd) = (Vec::new(), Vec::new());
    for (name, architecture) in FALLBACKS {
        let path = format!("EFI/BOOT/{name}");
        let Some(head) = system_partition.read(&path, HEADERS) else { continue };
        match program(&head) {
            Some(machine) if machine == architecture => found.push(Fallback { path, architecture }),
            Some(machine) => {
                odd.push(format!(
                    "{path} is a program for {machine}, which firmware does not start."
                ));
            }
            None => odd.push(format!("{path} is no program for UEFI.")),
        }
    }
    (found, odd)
}

/// The architecture of a program for UEFI.
pub fn program(head: &[u8]) -> Option<&'static str> {
    head.starts_with(b"MZ").then_some(())?;
    let at = u32_le(head, 60)? as usize;
    let header = head.get(at..)?;
    header.starts_with(b"PE\0\0").then_some(())?;
    match u16_le(header, 4)? {
        0x8664 => Some("x86_64"),
        0xaa64 => Some("aarch64"),
        0x014c => Some("i686"),
        0x5064 => Some("riscv64"),
        _ => None,
    }
}

/// The architecture of a kernel: a bzImage, or an image of 64-bit ARM.
pub fn kernel(head: &[u8]) -> Option<&'static str> {
    if head.get(0x202..0x206) == Some(b"HdrS") {
        return Some("x86_64");
    }
    if head.get(0x38..0x3c) == Some(b"ARM\x64") {
        return Some("aarch64");
    }
    program(head)
}

/// The architecture of a program for Linux.
pub fn elf(head: &[u8]) -> Option<&'static str> {
    head.starts_with(b"\x7fELF").then_some(())?;
    match u16_le(head, 18)? {
        62 => Some("x86_64"),
        183 => Some("aarch64"),
        3 => Some("i686"),
        243 => Some("riscv64"),
        _ => None,
    }
}

/// Whether a BIOS finds a boot loader on a disk; else a sentence about what is missing.
pub fn bios(disk: &Source, table: Option<&Table>) -> Result<(), String> {
    let sector = disk.bytes_up_to(0, 512);
    let code = sector.get(..BOOT_CODE).filter(|code| code.iter().any(|byte| *byte != 0));
    let Some(code) = code.filter(|_| sector.get(510..512) == Some(&[0x55, 0xaa])) else {
        return Err("Sector 0 has no boot code.".to_owned());
    };
    if code.windows(5).any(|word| word == b"GRUB ") {
        return grub_core(disk, code);
    }
    // Whatever else is there starts the first sector of the partition that is marked.
    let partitions = table.map_or(&[][..], |table| &table.partitions);
    let Some(marked) = partitions.iter().find(|partition| partition.bootable) else {
        return Err(match table.map(|table| table.kind) {
            Some(TableKind::Gpt) => {
                "Sector 0 has boot code that is not GRUB's, and no partition is \
                                     marked for it (`legacy_boot`)."
            }
            _ => "Sector 0 has boot code that is not GRUB's, and no partition is active.",
        }
        .to_owned());
    };
    let first = marked.on(disk).bytes_up_to(0, 512);
    if starts_something(&first) {
        Ok(())
    } else {
        Err(format!(
            "Sector 0 starts partition {}, whose first sector has no boot loader.",
            marked.number
        ))
    }
}

/// Whether the first sector of a partition has a boot loader.
fn starts_something(sector: &[u8]) -> bool {
    let signed = sector.get(510..512) == Some(&[0x55, 0xaa]);
    let jump = matches!(sector.first(), Some(0xeb | 0xe9 | 0xfa | 0x33));
    // mkfs.fat puts a program there that only prints this.
    let says_no = sector.windows(25).any(|text| text == b"This is not a bootable disk");
    let dummy = sector.windows(19).any(|text| text == b"not a bootable disk");
    signed && jump && !says_no && !dummy
}

/// GRUB's boot.img: whether the core image that it loads is there.
fn grub_core(disk: &Source, code: &[u8]) -> Result<(), String> {
    let missing = |what: &str| {
        Err(format!("Sector 0 has GRUB's boot code, and {what}: run `grub-install` in the image."))
    };
    // Where boot.img has the sector of the core image, and where that has the list of its blocks.
    let Some(first) = u64_le(code, 0x5c) else { return missing("it is cut") };
    let core = first.checked_mul(512).and_then(|at| disk.bytes(at, 512));
    let Some(core) = core.filter(|core| first > 0 && core.iter().any(|byte| *byte != 0)) else {
        return missing(&format!("no core image at sector {first}"));
    };
    let start = u64_le(&core, 500).unwrap_or(0);
    let count = u16_le(&core, 508).unwrap_or(0);
    let rest = start.checked_mul(512).and_then(|at| disk.bytes(at, 512));
    if count == 0 || rest.is_none_or(|rest| rest.iter().all(|byte| *byte == 0)) {
        return missing(&format!("its core image at sector {first} is not whole"));
    }
    Ok(())
}

/// What a loader passes to a kernel, as far as it names the root.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandLine {
    /// `root=`.
    pub root: Option<String>,
    /// `subvol=` of `rootflags=`.
    pub subvolume: Option<String>,
    /// `ostree=`.
    pub ostree: Option<String>,
    /// `roothash=`: the root is protected by dm-verity.
    pub verity: bool,
    /// `selinux=0`, or `enforcing=0`.
    pub selinux_off: bool,
}

impl CommandLine {
    /// Parse the words of a command line; those with variables of a boot loader are left out.
    pub fn parse(line: &str) -> Self {
        let mut found = Self::default();
        for word in line.split_whitespace() {
            let word = word.trim_matches(['"', '\'']);
            let Some((name, value)) = word.split_once('=') else { continue };
            let value = value.trim_matches(['"', '\'']);
            if value.contains('$') || value.is_empty() {
                continue;
            }
            match name {
                "root" => found.root = Some(value.to_owned()),
                "rootflags" => {
                    let subvolume =
                        value.split(',').find_map(|option| option.strip_prefix("subvol="));
                    if let Some(path) = subvolume {
                        found.subvolume = Some(path.trim_start_matches('/').to_owned());
                    }
                }
                "ostree" => found.ostree = Some(value.to_owned()),
                "roothash" | "systemd.verity_root_data" => found.verity = true,
                "selinux" => found.selinux_off = value == "0",
                _ => {}
            }
        }
        found
    }

    fn says_something(&self) -> bool {
        self.root.is_some() || self.ostree.is_some() || self.verity
    }
}

/// The command lines in the configuration of boot loaders in a tree: a root with `/boot`, a `/boot` of
/// its own, or an EFI system partition.
pub fn command_lines(tree: &dyn Tree) -> Vec<CommandLine> {
    let mut lines = BTreeSet::new();
    let mut add = |line: &str| {
        let found = CommandLine::parse(line);
        if found.says_something() {
            lines.insert(found);
        }
    };
    for above in ["", "boot/", "efi/", "boot/efi/"] {
        for place in ["grub", "grub2", "EFI/BOOT", "EFI/fedora", "EFI/redhat", "EFI/centos"] {
            let path = format!("{above}{place}");
            if let Some(text) = tree.text(&format!("{path}/grub.cfg"), CONFIGURATION) {
                for line in text.lines().map(str::trim) {
                    let kernel = ["linux ", "linux\t", "linux16 ", "linuxefi "];
                    if kernel.iter().any(|word| line.starts_with(word))
                        || line.starts_with("set kernelopts=")
                    {
                        add(line.trim_start_matches("set kernelopts="));
                    }
                }
            }
            if let Some(text) = tree.text(&format!("{path}/grubenv"), 4096) {
                text.lines().filter_map(|line| line.strip_prefix("kernelopts=")).for_each(&mut add);
            }
        }
        for place in ["extlinux/extlinux.conf", "syslinux/syslinux.cfg", "syslinux.cfg"] {
            let text = tree.text(&format!("{above}{place}"), CONFIGURATION).unwrap_or_default();
            for line in text.lines().map(str::trim) {
                if line.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("append")) {
                    add(line);
                }
            }
        }
        let entries = format!("{above}loader/entries");
        for name in tree.list(&entries).unwrap_or_default() {
            let text = tree.text(&format!("{entries}/{name}"), HEADERS).unwrap_or_default();
            text.lines().filter_map(|line| line.strip_prefix("options")).for_each(&mut add);
        }
        let unified = format!("{above}EFI/Linux");
        for name in tree.list(&unified).unwrap_or_default() {
            let head = tree.read(&format!("{unified}/{name}"), 64 << 20);
            if let Some(line) = head.as_deref().and_then(|head| section(head, b".cmdline")) {
                add(&String::from_utf8_lossy(line));
            }
        }
    }
    lines.into_iter().collect()
}

/// A section of a program for UEFI, such as a unified kernel image has.
fn section<'a>(program: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let header = u32_le(program, 60)? as usize;
    let count = usize::from(u16_le(program, header + 6)?);
    let table = header + 24 + usize::from(u16_le(program, header + 20)?);
    (0..count.min(96)).find_map(|number| {
        let at = table + 40 * number;
        program.get(at..at + name.len()).filter(|found| *found == name)?;
        let (length, place) = (u32_le(program, at + 8)?, u32_le(program, at + 20)?);
        program.get(place as usize..index(u64::from(place) + u64::from(length)))
    })
}

/// Types of EFI system partitions, in a GPT and in an MBR.
pub const SYSTEM_PARTITIONS: [&str; 2] = ["c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef"];

/// Whether a partition is an EFI system partition.
pub fn is_system_partition(table: &Table, partition: &Partition) -> bool {
    let [gpt, mbr] = SYSTEM_PARTITIONS;
    partition.kind == if table.kind == TableKind::Gpt { gpt } else { mbr }
}
