"""Makes the two systems of the story from one Debian: the machine's old disk, and image ABC."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.vm.image import CACHE
from tests.vm.reimage.authority import make_certificates, make_ssh_keys
from tests.vm.reimage.debian import ROOT_START_BYTES, debian_disk
from tests.vm.reimage.disks import in_own_mounts
from tests.vm.service import PATIENCE

TARGET_BYTES = 3 << 30
"""The machine's root disk is larger than the image: what lies behind it is to be dealt with too."""

OLD_IMAGE, NEW_IMAGE = "old-1", "abc-2"
OLD_MACHINE_ID = "0123456789abcdef0123456789abcdef"

_SETTINGS = """\
listen = "0.0.0.0:9918"
[tls]
certificate = "/etc/holdfast/tls/server.pem"
key = "/etc/holdfast/tls/server.key"
[pagecache]
reserve_bytes = "64 MiB"  # of about 1 GiB
[data]
free_space_floor = "64 MiB"  # of a small volume
"""

_DATASTORE = """\
[Unit]
Description=Stand-in for a datastore
RequiresMountsFor=/mnt/data
ConditionPathExists=/mnt/data/db/file
[Service]
ExecStart=/usr/bin/python3 /usr/local/lib/datastore.py /mnt/data/db/file /run/datastore.json
[Install]
WantedBy=multi-user.target
"""

# Both scripts run with the root mounted at $root.
_COMMON = f"""
mount -t proc none "$root/proc"
mount -t tmpfs none "$root/dev"
for path in null zero urandom; do cp -a "/dev/$path" "$root/dev/$path"; done
cp "$package" "$root/tmp/holdfast.deb"
DEBIAN_FRONTEND=noninteractive chroot "$root" dpkg --force-unsafe-io --install /tmp/holdfast.deb
rm "$root/tmp/holdfast.deb"
cd "$root"
echo WARM_UNTIL=100% >etc/default/holdfast
install -D -m 0644 "$datastore" usr/local/lib/datastore.py
cat >etc/systemd/system/datastore.service <<'END'
{_DATASTORE}END
install -D -m 0644 usr/share/holdfast/datastore.conf \
    etc/systemd/system/datastore.service.d/50-holdfast.conf
chroot . systemctl enable --quiet datastore.service
# An emulated processor takes thirty times as long, and longer beside other tests.
install -d etc/systemd/system/holdfast.service.d
cat >etc/systemd/system/holdfast.service.d/emulated.conf <<'END'
{PATIENCE}END
rm -f etc/ssh/ssh_host_*
: >etc/machine-id
# Ansible connects as root. By a socket, which costs a boot nothing, in place of the masked service.
install -D -m 0600 "$secrets/ssh.pub" root/.ssh/authorized_keys
rm etc/systemd/system/ssh.service
chroot . systemctl disable --quiet ssh.service
chroot . systemctl enable --quiet ssh.socket
"""

_OLD = f"""
cd "$root"
chroot . ssh-keygen -q -A >/dev/null
echo node-7 >etc/hostname
echo {OLD_MACHINE_ID} >etc/machine-id
echo {OLD_IMAGE} >etc/holdfast/image-id
cat >etc/holdfast/holdfast.toml <<'END'
{_SETTINGS}END
install -d -m 0750 etc/holdfast/tls
cp "$secrets"/server.* etc/holdfast/tls/
chmod 0640 etc/holdfast/tls/server.key
chroot . chown -R root:holdfast /etc/holdfast/tls
chroot . holdfast token create controller --scope admin
"""

# What is different in image ABC: host keys, name, and the numbers of holdfast's user, as they would
# be in an image that was not made from the same tree.
_NEW = f"""
cd "$root"
chroot . ssh-keygen -q -A >/dev/null
echo abc >etc/hostname
echo {NEW_IMAGE} >etc/holdfast/image-id
chroot . groupmod --gid 887 holdfast
chroot . usermod --uid 888 holdfast
"""

_ON_ROOT = r"""
disk=$1 package=$2 datastore=$3 secrets=$4
root=$(mktemp -d)
loop=$(losetup --find --show --offset "$offset" "$disk")
trap 'cd /; umount --lazy --recursive "$root"; rmdir "$root"; losetup --detach "$loop"' EXIT
mount "$loop" "$root"
"""

# Two disks are never alike in what identifies them.
_ANOTHER = r"""
disk=$1
loop=$(losetup --find --show --offset "$offset" "$disk")
trap 'cd /; losetup --detach "$loop"' EXIT
old=$(blkid -p -o value -s UUID "$loop")
new=$(cat /proc/sys/kernel/random/uuid)
e2fsck -f -y "$loop" >/dev/null || (($? == 1))
tune2fs -U "$new" "$loop" >/dev/null
root=$(mktemp -d)
mount "$loop" "$root"
sed -i "s/$old/$new/g" "$root/boot/grub/grub.cfg" "$root/etc/fstab"
fstrim "$root"
umount "$root"
rmdir "$root"
sfdisk --quiet --disk-id "$disk" "$(cat /proc/sys/kernel/random/uuid)"
sfdisk --quiet --part-uuid "$disk" 2 "$(cat /proc/sys/kernel/random/uuid)"
"""

_LARGER = r"""
truncate --size="$2" "$1"
sfdisk --quiet --relocate gpt-bak-std "$1"
"""


@dataclass(frozen=True)
class Systems:
    """What the machine begins with and what it becomes. None of it is to be written."""

    directory: Path

    @property
    def old_disk(self) -> Path:
        """The machine's root disk, raw."""
        return self.directory / "old.raw"

    @property
    def image(self) -> Path:
        """Image ABC, raw."""
        return self.directory / "abc.raw"

    @property
    def packed(self) -> Path:
        """Image ABC, zstd."""
        return self.directory / "abc.raw.zst"

    @property
    def authority(self) -> Path:
        """The certificate that the machine's is checked against."""
        return self.directory / "secrets" / "ca.pem"

    @property
    def token_file(self) -> Path:
        """What has the controller's token."""
        return self.directory / "secrets" / "token"

    @property
    def ssh_key(self) -> Path:
        """The private key by which a controller is root on both systems."""
        return self.directory / "secrets" / "ssh"

    @property
    def token(self) -> str:
        """The controller's token."""
        return self.token_file.read_text().strip()

    def descriptor(self, content: Path) -> Path:
        """The descriptor of an image file."""
        return content.with_suffix(content.suffix + ".json")


def systems(package: Path, cache: Path = CACHE) -> Systems:
    """Make both disks, or take those made before from the same package."""
    base = debian_disk(cache)
    datastore = Path(__file__).parents[1] / "datastore.py"
    description = [
        base.parent.name,
        hashlib.sha256(package.read_bytes()).hexdigest(),
        datastore.read_text(),
        *(_COMMON, _OLD, _NEW, _ON_ROOT, _ANOTHER, _LARGER, str(TARGET_BYTES)),
    ]
    key = hashlib.sha256(json.dumps(description).encode()).hexdigest()[:12]
    directory = cache / f"systems-{key}"
    if not directory.exists():
        partial = cache / "partial-systems"
        for stale in (partial, *cache.glob("systems-*")):
            shutil.rmtree(stale, ignore_errors=True)
        partial.mkdir(parents=True)
        began = time.monotonic()
        _make(Systems(partial), base, package, datastore)
        partial.rename(directory)
        print(f"made {directory.name} in {time.monotonic() - began:.0f} s", flush=True)
    return Systems(directory)


def _make(made: Systems, base: Path, package: Path, datastore: Path) -> None:
    secrets = made.directory / "secrets"
    make_certificates(secrets)
    make_ssh_keys(made.ssh_key)
    offset = f"offset={ROOT_START_BYTES}\n"
    arguments = (package, datastore, secrets)
    _copy(base, made.image)
    in_own_mounts(offset + _ON_ROOT + _COMMON, made.image, *arguments)
    _copy(made.image, made.old_disk)
    printed = in_own_mounts(offset + _ON_ROOT + _OLD, made.old_disk, *arguments)
    made.token_file.write_text(printed)
    in_own_mounts(_LARGER, made.old_disk, str(TARGET_BYTES))
    in_own_mounts(offset + _ON_ROOT + _NEW, made.image, *arguments)
    in_own_mounts(offset + _ANOTHER, made.image)
    subprocess.run(["zstd", "-q", "-T0", made.image, "-o", made.packed], check=True)


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "--sparse=always", source, target], check=True)
