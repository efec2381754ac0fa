//! Files and superblocks of file systems that their own tools made.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use holdfast_media::tree::{FileSystem, NoPlace, Tree, Type, runs};
use holdfast_media::{Kind, Source, probe};

const UUID: &str = "12345678-9abc-def0-1234-56789abcdef0";

fn run(program: &str, arguments: &[&str]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let done = Command::new(program).args(arguments).env("PATH", path).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// An empty file of this size.
fn device(directory: &Path, mib: u64) -> PathBuf {
    let path = directory.join("device");
    std::fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path
}

fn source(path: &Path) -> Source {
    Rc::new(std::fs::read(path).unwrap())
}

/// A small system: a link to its release file, a large directory, and a file of several blocks.
fn system(directory: &Path) -> PathBuf {
    let root = directory.join("system");
    let write = |path: &str, bytes: &[u8]| {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write("usr/lib/os-release", b"ID=debian\n");
    write("boot/large", &large());
    for number in 0..600 {
        write(&format!("usr/lib/modules/a-long-name-of-a-module-{number:04}.ko"), b"");
    }
    std::fs::create_dir_all(root.join("etc")).unwrap();
    std::os::unix::fs::symlink("../usr/lib/os-release", root.join("etc/os-release")).unwrap();
    std::os::unix::fs::symlink("/usr/lib", root.join("lib")).unwrap();
    root
}

fn large() -> Vec<u8> {
    (0..600_000_u32).map(|n| (n >> 4) as u8).collect()
}

fn check(tree: &dyn Tree, what: &str) {
    assert_eq!(tree.read("etc/os-release", 100).as_deref(), Some(&b"ID=debian\n"[..]), "{what}");
    assert_eq!(tree.read("/lib/os-release", 3).as_deref(), Some(&b"ID="[..]), "{what}");
    assert_eq!(tree.list("lib/modules").map(|all| all.len()), Some(600), "{what}");
    assert!(tree.exists("lib/modules/a-long-name-of-a-module-0599.ko"), "{what}");
    assert_eq!(tree.kind("etc"), Some(Type::Directory), "{what}");
    assert!(!tree.exists("etc/passwd") && !tree.exists("etc/os-release/x"), "{what}");
    assert!(tree.read("boot/large", 4 << 20) == Some(large()), "{what}");
}

#[test]
fn ext_is_read_whatever_its_features() {
    let directory = tempfile::tempdir().unwrap();
    let root = system(directory.path());
    for (options, kind) in [
        (&["-t", "ext2"][..], Kind::Ext2),
        (&["-t", "ext3"], Kind::Ext3),
        (&["-t", "ext4"], Kind::Ext4),
        // Neither is known to ext3, though there are no extents.
        (&["-t", "ext4", "-O", "^extent,^64bit,^metadata_csum"], Kind::Ext4),
        (&["-t", "ext3", "-O", "dir_nlink"], Kind::Ext4),
        (&["-t", "ext4", "-b", "1024", "-O", "quota,project"], Kind::Ext4),
    ] {
        let path = device(directory.path(), 64);
        let (path_text, root) = (path.to_str().unwrap(), root.to_str().unwrap());
        let fixed = ["-q", "-F", "-U", UUID, "-L", "system", "-d", root, path_text];
        run("mke2fs", &[options, &fixed].concat());
        let found = FileSystem::on(&source(&path)).unwrap();
        assert_eq!((found.kind, found.uuid.as_deref()), (kind, Some(UUID)), "{options:?}");
        assert_eq!(found.label.as_deref(), Some("system"));
        let free = found.space.unwrap().free_bytes;
        assert!((20 << 20..64 << 20).contains(&free), "{options:?}: {free}");
        check(
            &**found.tree.as_ref().unwrap_or_else(|| panic!("{options:?}")),
            &format!("{options:?}"),
        );
    }
}

#[test]
fn xfs_is_read_in_both_versions() {
    let directory = tempfile::tempdir().unwrap();
    let root = system(directory.path());
    let prototype = directory.path().join("prototype");
    let modules: String = (0..600)
        .map(|n| {
            format!("a-long-name-of-a-module-{n:04}.ko ---644 0 0 {}/usr/lib/modules/a-long-name-of-a-module-{n:04}.ko\n", root.display())
        })
        .collect();
    let root = root.display();
    let text = format!(
        "/\n0 0\nd--755 0 0\netc d--755 0 0\nos-release l--777 0 0 ../usr/lib/os-release\n$\n\
         lib l--777 0 0 /usr/lib\nboot d--755 0 0\nlarge ---644 0 0 {root}/boot/large\n$\n\
         usr d--755 0 0\nlib d--755 0 0\nos-release ---644 0 0 {root}/usr/lib/os-release\n\
         modules d--755 0 0\n{modules}$\n$\n$\n$\n"
    );
    std::fs::write(&prototype, text).unwrap();
    for options in [
        &["-m", "crc=1"][..],
        &["-m", "crc=0,finobt=0"],
        &["-n", "size=8192"],
        &["-b", "size=1024"],
        &["-i", "nrext64=1,size=1024"],
    ] {
        let path = device(directory.path(), 320);
        let label = format!("uuid={UUID}");
        let (prototype, path_text) = (prototype.to_str().unwrap(), path.to_str().unwrap());
        // Version 4 is deprecated, and mkfs.xfs warns about it.
        let fixed = ["-q", "-f", "-m", &label, "-L", "system", "-p", prototype, path_text];
        run("mkfs.xfs", &[options, &fixed].concat());
        let found = FileSystem::on(&source(&path)).unwrap();
        assert_eq!((found.kind, found.uuid.as_deref()), (Kind::Xfs, Some(UUID)));
        assert_eq!((found.label.as_deref(), &found.problem), (Some("system"), &None));
        assert_eq!(found.features.contains(&"crc".to_owned()), options[1] != "crc=0,finobt=0");
        check(
            &**found.tree.as_ref().unwrap_or_else(|| panic!("{options:?}")),
            &format!("{options:?}"),
        );
    }
}

#[test]
fn btrfs_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = system(directory.path());
    for options in [&[][..], &["-n", "4096"], &["-m", "dup", "-O", "no-holes"]] {
        let path = device(directory.path(), 256);
        let fixed = ["-q", "-U", UUID, "-L", "pool", "-r", root.to_str().unwrap()];
        run("mkfs.btrfs", &[options, &fixed, &[path.to_str().unwrap()]].concat());
        let found = FileSystem::on(&source(&path)).unwrap();
        assert_eq!((found.kind, found.uuid.as_deref()), (Kind::Btrfs, Some(UUID)));
        assert_eq!((found.label.as_deref(), found.subvolumes.len()), (Some("pool"), 1));
        check(
            &**found.tree.as_ref().unwrap_or_else(|| panic!("{options:?}")),
            &format!("{options:?}"),
        );
    }
}

#[test]
fn fat_is_read_in_all_sizes() {
    let directory = tempfile::tempdir().unwrap();
    let loader = directory.path().join("BOOTX64.EFI");
    std::fs::write(&loader, large()).unwrap();
    for (mib, bits, sector) in
        [(4, "12", "512"), (40, "16", "512"), (64, "32", "512"), (300, "32", "4096")]
    {
        let path = device(directory.path(), mib);
        let path_text = path.to_str().unwrap();
        run("mkfs.vfat", &["-F", bits, "-S", sector, "-n", "ESP", "-i", "12ab34cd", path_text]);
        for made in ["::/EFI", "::/EFI/BOOT", "::/EFI/a directory of a long name"] {
            run("mmd", &["-i", path_text, made]);
        }
        run("mcopy", &["-i", path_text, loader.to_str().unwrap(), "::/EFI/BOOT/"]);
        let found = FileSystem::on(&source(&path)).unwrap();
        assert_eq!((found.kind, found.uuid.as_deref()), (Kind::Fat, Some("12AB-34CD")));
        assert_eq!(found.label.as_deref(), Some("ESP"));
        let tree = found.tree.unwrap();
        assert!(tree.read("efi/boot/bootx64.efi", 4 << 20) == Some(large()), "FAT{bits}");
        let mut names = tree.list("EFI").unwrap();
        names.sort();
        assert_eq!(names, ["BOOT", "a directory of a long name"]);
        assert!(!tree.exists("EFI/BOOT/BOOTAA64.EFI"));
        let device = source(&path);
        let found = runs(&device, "/efi/BOOT/bootx64.EFI").unwrap();
        let bytes: Vec<u8> = found
            .iter()
            .flat_map(|run| device.bytes(run.place, run.length as usize).unwrap())
            .collect();
        assert!(bytes[..large().len()] == large(), "FAT{bits}");
        assert_eq!(runs(&device, "EFI/BOOT/BOOTAA64.EFI"), Err(NoPlace::Missing));
        assert_eq!(runs(&device, "EFI/BOOT/BOOTX64.EFI/x"), Err(NoPlace::NotDirectory));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[22] ^= 1; // the length of a table of FAT12 and FAT16, which FAT32 has elsewhere
        if bits == "32" {
            let damaged: Source = Rc::new(bytes);
            assert_eq!(runs(&damaged, "EFI"), Err(NoPlace::Damaged("cannot be recognised")));
        }
    }
}

#[test]
fn members_and_swap_are_told_from_file_systems() {
    let directory = tempfile::tempdir().unwrap();
    let path = device(directory.path(), 16);
    run("mkswap", &["-q", "-U", UUID, "-L", "swapped", path.to_str().unwrap()]);
    let found = probe(&*source(&path)).remove(0);
    assert_eq!((found.kind, found.uuid.as_deref()), (Kind::Swap, Some(UUID)));
    assert_eq!(found.label.as_deref(), Some("swapped"));
    assert!(FileSystem::on(&source(&path)).is_none());
}
