"""Makes disks that boot through UEFI from those that boot on a BIOS, by a partition more."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Literal

from tests.vm.image import overlay
from tests.vm.reimage.debian import ROOT_START_BYTES
from tests.vm.reimage.disks import in_own_mounts
from tests.vm.reimage.firmware import OVMF, SECURE_OVMF
from tests.vm.reimage.images import Systems
from tests.vm.reimage.node import Disks

Loader = Literal["grub", "shim", "systemd-boot"]
"""`shim` has GRUB behind it, and Secure Boot is on."""

# Behind the root, which ends at 2 GiB. Not every kernel can mount FAT, so it is filled by mtools.
_PARTITION = r"""
disk=$1 loader=$2 esp=$3
truncate --size='>2304M' "$disk"
sfdisk --quiet --relocate gpt-bak-std "$disk"
sfdisk --quiet --append "$disk" <<'END'
start=2048MiB, size=250MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
END
root=$(mktemp -d)
loop=$(losetup --find --show --offset "$offset" "$disk")
trap 'cd /; umount --lazy "$root"; rmdir "$root"; losetup --detach "$loop"' EXIT
mount "$loop" "$root"
uuid=$(blkid -p -o value -s UUID "$loop")
id=$(od -An -N4 -tx4 /dev/urandom | tr -d ' ' | tr a-f A-F)
mkdir -p "$root/boot/efi"
echo "UUID=${id:0:4}-${id:4} /boot/efi vfat umask=0077 0 1" >>"$root/etc/fstab"

truncate --size=250M "$esp"
mkfs.vfat -F 32 -i "$id" "$esp" >/dev/null
mmd -i "$esp" ::/EFI ::/EFI/BOOT
tree=$(mktemp -d)
"""

_GRUB = r"""
# As Debian's grub-install leaves it: GRUB with a file that leads it to its own directory.
mkdir "$tree/debian"
cat >"$tree/debian/grub.cfg" <<END
search.fs_uuid $uuid root
set prefix=(\$root)'/boot/grub'
configfile \$prefix/grub.cfg
END
mcopy -i "$esp" -s "$tree/debian" ::/EFI/
signed=/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed
if [[ $loader = shim ]]; then
    mcopy -i "$esp" /usr/lib/shim/shimx64.efi.signed ::/EFI/BOOT/BOOTX64.EFI
    mcopy -i "$esp" "$signed" ::/EFI/BOOT/grubx64.efi
else
    mcopy -i "$esp" "$signed" ::/EFI/BOOT/BOOTX64.EFI
fi
"""

_SYSTEMD_BOOT = r"""
# As Debian's kernel-install leaves it.
kernel=$(echo "$root"/boot/vmlinuz-*)
release=${kernel##*/vmlinuz-}
mkdir -p "$tree/loader/entries" "$tree/debian/$release"
cp "$kernel" "$tree/debian/$release/linux"
cp "$root/boot/initrd.img-$release" "$tree/debian/$release/initrd.img"
echo 'timeout 1' >"$tree/loader/loader.conf"
cat >"$tree/loader/entries/debian-$release.conf" <<END
title Debian
version $release
sort-key debian
options root=UUID=$uuid ro console=ttyS0 panic=10 no_timer_check
linux /debian/$release/linux
initrd /debian/$release/initrd.img
END
rm -r "$root"/boot/grub
mcopy -i "$esp" -s "$tree/loader" "$tree/debian" ::/
mcopy -i "$esp" /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::/EFI/BOOT/BOOTX64.EFI
"""

_PUT = r"""
dd if="$esp" of="$disk" bs=1M seek=2048 conv=notrunc,sparse status=none
rm -r "$esp" "$tree"
"""
_LOADERS: dict[Loader, str] = {"grub": _GRUB, "shim": _GRUB, "systemd-boot": _SYSTEMD_BOOT}


def uefi_systems(made: Systems, loader: Loader) -> Systems:
    """Make both disks boot through UEFI with this boot loader, or take those made before."""
    script = _PARTITION + _LOADERS[loader] + _PUT
    key = hashlib.sha256(json.dumps([script, ROOT_START_BYTES]).encode()).hexdigest()[:12]
    directory = made.directory / f"uefi-{loader}-{key}"
    if not directory.exists():
        began = time.monotonic()
        partial = made.directory / "partial-uefi"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        shutil.copytree(made.authority.parent, partial / "secrets")
        found = Systems(partial)
        for source, target in ((made.old_disk, found.old_disk), (made.image, found.image)):
            subprocess.run(["cp", "--sparse=always", source, target], check=True)
            in_own_mounts(f"offset={ROOT_START_BYTES}\n{script}", target, loader, partial / "esp")
        subprocess.run(["zstd", "-q", "-T0", found.image, "-o", found.packed], check=True)
        partial.rename(directory)
        print(f"made {directory.name} in {time.monotonic() - began:.0f} s", flush=True)
    return Systems(directory)


def uefi_disks(made: Systems, installed: Disks, loader: Loader) -> Disks:
    """Disks of a machine with UEFI and this boot loader on them: not to be written."""
    systems = uefi_systems(made, loader)
    root = systems.directory / "root.qcow2"
    if not root.exists():
        overlay(systems.old_disk, root)
    return Disks(root, installed.data, firmware=SECURE_OVMF if loader == "shim" else OVMF)


_SMALL = r"""
esp=$1.esp
truncate --size=64M "$1"
sfdisk --quiet "$1" <<<'label: gpt
start=1MiB, size=48MiB, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B'
truncate --size=48M "$esp"
mkfs.vfat "$esp" >/dev/null
mmd -i "$esp" ::/EFI ::/EFI/BOOT
mcopy -i "$esp" /usr/lib/systemd/boot/efi/systemd-bootx64.efi ::/EFI/BOOT/BOOTX64.EFI
dd if="$esp" of="$1" bs=1M seek=1 conv=notrunc,sparse status=none
rm "$esp"
# To be damaged, where the loader is not.
dd if=/dev/urandom of="$1" bs=1M seek=4 count=16 conv=notrunc status=none
"""


def small_image(directory: Path) -> Path:
    """Make an image that is small and that UEFI can boot, with nothing behind its loader."""
    image = directory / "small.raw"
    subprocess.run(["bash", "-euc", _SMALL, "script", image], check=True)
    return image
