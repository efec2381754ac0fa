# ruff: noqa: E501 - lines of a shell script
"""Makes a whole disk with Debian that boots by GRUB on a BIOS, once, kept below target/vm."""

from __future__ import annotations

import hashlib
import shutil
import time
from pathlib import Path

from tests.vm.image import CACHE, SUITE
from tests.vm.reimage.disks import in_own_mounts

DISK_BYTES = 2 << 30
ROOT_START_BYTES = 2 << 20
"""Where the root partition begins; it ends with the disk, but for the backup of the table."""

PACKAGES = (
    "dbus",
    "e2fsprogs",
    "grub-pc",
    "initramfs-tools",
    "iproute2",
    "kexec-tools",
    "kmod",
    "libudev1",
    "linux-image-cloud-amd64",
    "mdadm",
    "openssh-server",
    "procps",
    "python3",
    "qemu-guest-agent",
    "systemd",
    "systemd-sysv",
    "udev",
    "xfsprogs",
    "zstd",
)

# Runs with the new root as $1, once all packages are there. $2 is the disk, $3 the partition.
_CUSTOMIZE = r"""
set -e
cd "$1"
uuid=$(blkid -p -o value -s UUID "$3")
cat >etc/fstab <<END
UUID=$uuid / ext4 defaults 0 1
/dev/md/data /mnt/data xfs nofail,x-systemd.device-timeout=300s 0 0
END
cat >etc/default/grub <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_CMDLINE_LINUX="console=ttyS0 panic=10 no_timer_check"
GRUB_TERMINAL=serial
GRUB_SERIAL_COMMAND="serial --unit=0 --speed=115200"
END
cat >etc/systemd/network/10-wired.network <<'END'
[Match]
Name=en*
[Network]
DHCP=yes
END
echo 'ARRAY /dev/md/data metadata=1.2 UUID=5ca1ab1e:0ddba11a:cafef00d:10c0ffee' >>etc/mdadm/mdadm.conf
# What the initramfs needs to find a root on a virtio disk, and no more: it is unpacked at each boot.
echo MODULES=list >etc/initramfs-tools/conf.d/modules
printf 'virtio_pci\nvirtio_blk\next4\n' >>etc/initramfs-tools/modules
mkdir -p mnt/data var/log/journal
chroot . useradd --system --uid 899 datastore
chroot . systemctl enable --quiet systemd-networkd
# Debian's kexec-tools turn every reboot into one without firmware and boot loader.
echo 'LOAD_KEXEC=false' >etc/default/kexec
# Nothing here is for people, or for waiting.
for unit in getty@.service serial-getty@.service ssh.service e2scrub_reap.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer mdcheck_start.timer \
    mdmonitor.service systemd-networkd-wait-online.service; do
    ln -sf /dev/null "etc/systemd/system/$unit"
done

# A /dev of its own: GRUB's programs look the disk up there, and nothing else is to be found.
mount -t tmpfs none dev
mount -t proc none proc
mount -t sysfs none sys
for path in /dev/null /dev/zero /dev/urandom "$2" "$3"; do cp -a "$path" "dev/${path#/dev/}"; done
mkdir -p dev/disk/by-uuid
ln -s "$3" "dev/disk/by-uuid/$uuid"
chroot . update-initramfs -u
chroot . grub-install --target=i386-pc --boot-directory=/boot --modules=part_gpt "$2"
chroot . update-grub
umount sys proc dev
if grep -n loop boot/grub/grub.cfg; then exit 1; fi
rm -rf usr/share/doc usr/share/man usr/share/locale var/cache/apt var/lib/apt/lists/*
"""

_MAKE = r"""
set -euo pipefail
disk=$1 customize=$2 suite=$3 packages=$4 size=$5
truncate --size="$size" "$disk"
sfdisk --quiet "$disk" <<'END'
label: gpt
start=1MiB, size=1MiB, type=21686148-6449-6E6F-744E-656564454649
start=2MiB, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=root
END
loop=$(losetup --find --show "$disk")
root=$(mktemp -d)
trap 'umount --lazy --recursive "$root" || true; rmdir "$root"
    partx --delete "$loop" || true; losetup --detach "$loop"' EXIT
# Not every kernel looks for partitions by itself.
[[ -b ${loop}p2 ]] || partx --add "$loop"
mkfs.ext4 -q -F -L root "${loop}p2"
mount "${loop}p2" "$root"
mmdebstrap --quiet --variant=minbase --include="$packages" --dpkgopt=force-unsafe-io \
    "$suite" "$root"
sh "$customize" "$root" "$loop" "${loop}p2"
fstrim "$root"
"""


def debian_disk(cache: Path = CACHE) -> Path:
    """Make the disk, or reuse an earlier one from the same description; not to be written."""
    description = f"{SUITE} {PACKAGES} {DISK_BYTES} {_CUSTOMIZE} {_MAKE}"
    key = hashlib.sha256(description.encode()).hexdigest()[:12]
    directory = cache / f"{SUITE}-grub-{key}"
    if not directory.exists():
        began = time.monotonic()
        partial = cache / "partial-grub"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        print(f"installing Debian {SUITE} with GRUB in {directory}", flush=True)
        (partial / "customize").write_text(_CUSTOMIZE)
        in_own_mounts(
            _MAKE,
            partial / "disk.raw",
            partial / "customize",
            SUITE,
            ",".join(PACKAGES),
            str(DISK_BYTES),
        )
        partial.rename(directory)
        print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
    return directory / "disk.raw"
