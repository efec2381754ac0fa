"""Images with the layouts that fleets have, as replicas: small, filled from Debian's packages."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.vm.imager.images import MIB
from tests.vm.reimage.disks import in_own_mounts

PACKAGES = "base-files,busybox-static"
ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
VERITY_TYPE = "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5"

_INIT = """#!/bin/busybox sh
marker=no; [ -e /etc/holdfast/reimaged.json ] && marker=yes
echo "<1>booted: $(cat /etc/hostname) marker=$marker var=$(cat /var/mark)" >/dev/kmsg
exec /bin/busybox reboot -f
"""

# What the scripts of the layouts use; the disk is $disk, the tree $tree, places are in MiB.
COMMON = r"""
disk=$1 tree=$2 sector=$3 work=$(mktemp -d)
loops=()
finish() {
    umount --lazy --recursive "$work" 2>/dev/null || true
    rmdir "$work"
    for loop in "${loops[@]}"; do losetup --detach "$loop"; done
}
trap finish EXIT
attach() {
    loop=$(losetup --find --show --sector-size "$sector" \
        --offset $(($1 * 1048576)) --sizelimit $(($2 * 1048576)) "$disk")
    loops+=("$loop")
}
table() {
    loop=$(losetup --find --show --sector-size "$sector" "$disk")
    sfdisk --quiet "$loop"
    losetup --detach "$loop"
}
fill() { mount "$@" "$loop" "$work"; cp -a "$tree/." "$work/"; umount "$work"; }
run_lvm() {
    local command=$1 seen="filter=[\"a|^$loop\$|\",\"r|.*|\"] use_devicesfile=0 scan_lvs=0"
    shift
    lvm "$command" --driverloaded n --yes --quiet --config "devices{$seen
        obtain_device_list_from_udev=0 external_device_info_source=\"none\"}
        activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}
        global{use_lvmpolld=0 locking_dir=\"$tree.lock\"}" "$@" >&2
}
"""

_ACTIVATION = (
    'devices{use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source="none"} '
    "activation{udev_sync=0 udev_rules=0} global{use_lvmpolld=0} backup{backup=0 archive=0}"
)


@dataclass(frozen=True)
class Layout:
    """How a system is laid out on its disk."""

    name: str
    mib: int
    script: str
    """Makes it on `$disk`, which is empty, from `$tree`."""
    mount: str
    """Mounts it at /mnt in the machine that boots it, as its own initramfs would."""
    sector_bytes: int = 512
    verity: bool = False
    needs: str | None = None
    """A program without which it cannot be made."""
    modules: Sequence[str] = ()
    """Modules of the kernel that its root needs."""


def _plain(name: str, make: str, *, mib: int = 96, mount: str, sector: int = 512) -> Layout:
    """Return a layout of one partition; `make` is the command that makes its file system."""
    script = f"""
    table <<<'label: gpt
start=1MiB, size={mib - 2}MiB, type={ROOT_TYPE}'
    attach 1 {mib - 2}; {make} "$loop"; fill
    """
    return Layout(name, mib, script, f"mount {mount} /dev/vda1 /mnt", sector)


LAYOUTS = [
    _plain("ext4", "mkfs.ext4 -q", mount="-t ext4"),
    _plain("ext4-old", "mkfs.ext4 -q -O ^metadata_csum,^64bit,^extents", mount="-t ext4"),
    _plain("ext4-4096", "mkfs.ext4 -q -b 4096", mount="-t ext4", sector=4096),
    _plain(
        "xfs-old",
        "mkfs.xfs -q -f -m finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0 -i sparse=0",
        mib=320,
        mount="-t xfs",
    ),
    _plain(
        "xfs-new",
        "mkfs.xfs -q -f -m rmapbt=1,bigtime=1,inobtcount=1 -i nrext64=1",
        mib=320,
        mount="-t xfs",
    ),
    _plain("xfs-4096", "mkfs.xfs -q -f", mib=320, mount="-t xfs", sector=4096),
    Layout(
        "btrfs-subvolumes",
        160,
        f"""
    table <<<'label: gpt
start=1MiB, size=150MiB, type={ROOT_TYPE}'
    attach 1 150; mkfs.btrfs -q "$loop"
    mount "$loop" "$work"
    btrfs -q subvolume create "$work/@"; btrfs -q subvolume create "$work/@home"
    cp -a "$tree/." "$work/@/"; umount "$work"
    """,
        "mount -t btrfs -o subvol=@ /dev/vda1 /mnt",
        modules=("btrfs",),
    ),
    Layout(
        "separate-boot",
        140,
        """
    table <<<'label: gpt
start=1MiB, size=40MiB, type=linux
start=42MiB, size=90MiB, type=linux'
    attach 1 40; mkfs.ext4 -q "$loop"; mount "$loop" "$work"; mkdir -p "$work/loader/entries"
    echo 'options root=LABEL=system ro' >"$work/loader/entries/d.conf"; umount "$work"
    attach 42 90; mkfs.ext4 -q -L system "$loop"; fill
    """,
        "mount -t ext4 /dev/vda2 /mnt; mount -t ext4 /dev/vda1 /mnt/boot",
    ),
    Layout(
        "hardened-var",
        200,
        """
    table <<<'label: gpt
start=1MiB, size=60MiB, type=linux
start=62MiB, size=130MiB, type=linux'
    attach 1 60; mkfs.ext4 -q -m 0 "$loop"; fill
    attach 62 130; mkfs.ext4 -q "$loop"; mount "$loop" "$work"
    mkdir -p "$work/log" "$work/lib/dpkg"; echo own >"$work/mark"; umount "$work"
    """,
        "mount -t ext4 /dev/vda1 /mnt; mount -t ext4 /dev/vda2 /mnt/var",
    ),
    Layout(
        "lvm",
        160,
        """
    table <<<'label: gpt
start=1MiB, size=40MiB, type=linux
start=42MiB, size=110MiB, type=lvm'
    attach 1 40; mkfs.ext4 -q "$loop"; mount "$loop" "$work"; mkdir -p "$work/loader/entries"
    echo 'options root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root' >"$work/loader/entries/d.conf"
    umount "$work"
    mkdir -p "$tree.lock"
    attach 42 110
    run_lvm pvcreate "$loop"; run_lvm vgcreate --setautoactivation n rl "$loop"
    run_lvm lvcreate -an -Zn -Wn -L 8m -n swap rl; run_lvm lvcreate -an -Zn -Wn -L 80m -n root rl
    attach $((42 + 1 + 8)) 80; mkfs.ext4 -q "$loop"; fill
    """,
        # By LVM's own tools, as a system's initramfs does.
        f"lvm vgchange --activate y --config '{_ACTIVATION}' rl; "
        "mount -t ext4 /dev/mapper/rl-root /mnt",
        needs="lvm",
        modules=("dm-mod",),
    ),
    Layout(
        "ostree",
        120,
        f"""
    table <<<'label: gpt
start=1MiB, size=110MiB, type={ROOT_TYPE}'
    attach 1 110; mkfs.ext4 -q "$loop"; mount "$loop" "$work"
    deployed=$work/ostree/deploy/debian/deploy/abc.0
    mkdir -p "$deployed" "$work/boot"; cp -a "$tree/." "$deployed/"; umount "$work"
    """,
        "mkdir /top; mount -t ext4 /dev/vda1 /top; "
        "mount --bind /top/ostree/deploy/debian/deploy/abc.0 /mnt",
    ),
    Layout(
        "verity",
        120,
        f"""
    table <<<'label: gpt
start=1MiB, size=90MiB, type={ROOT_TYPE}
start=92MiB, size=8MiB, type={VERITY_TYPE}'
    attach 1 90; root=$loop; mkfs.ext4 -q "$root"; fill
    attach 92 8; veritysetup format "$root" "$loop" | sed -n 's/^Root hash:[[:blank:]]*//p'
    """,
        "mount -t ext4 -o ro /dev/vda1 /mnt",
        verity=True,
        needs="veritysetup",
    ),
]


LVM = next(layout for layout in LAYOUTS if layout.name == "lvm")


def missing(layout: Layout) -> str | None:
    """Return the program that this machine lacks to make it."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if layout.needs is None or shutil.which(layout.needs, path=path) is not None:
        return None
    return layout.needs


def debian_tree(directory: Path) -> Path:
    """Unpack Debian's packages into a tree whose init prints what it finds, and reboots."""
    tree = directory / "debian"
    command = ("mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}", "bookworm")
    subprocess.run((*command, tree), check=True)
    (tree / "etc/hostname").write_text("replica\n")
    (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    (tree / "var/mark").write_text("roots\n")
    (tree / "sbin/init").write_text(_INIT)
    (tree / "sbin/init").chmod(0o755)
    for name in ("doc", "man", "locale", "i18n", "zoneinfo"):
        shutil.rmtree(tree / "usr/share" / name, ignore_errors=True)
    return tree


def make(layout: Layout, path: Path, tree: Path) -> str:
    """Make an image; return what its script printed."""
    with path.open("wb") as file:
        file.truncate(layout.mib * MIB)
    return in_own_mounts(COMMON + layout.script, path, tree, str(layout.sector_bytes)).strip()
