"""What an operator does once on a machine of these tests: an array, a file system, and data."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from pathlib import Path

from tests.vm.image import CACHE, built_package
from tests.vm.reimage.images import NEW_IMAGE, Systems, systems
from tests.vm.reimage.node import BOOT_SECONDS, Disks, new_disks, running
from tests.vm.reimage.telling import tell
from tests.vm.service import FILE_MIB

# The boot waits for the array, which is made here: its mount is stopped, and done once there is a
# file system.
_INSTALL = f"""
set -e
systemctl stop mnt-data.mount
by_id=/dev/disk/by-id/nvme-QEMU_NVMe_Ctrl_data-000
mdadm --create /dev/md/data --run --quiet --homehost=any --name=data --level=0 --raid-devices=2 \
    --uuid=5ca1ab1e:0ddba11a:cafef00d:10c0ffee "$by_id"0 "$by_id"1
mkfs.xfs -q /dev/md/data
mount /mnt/data
install -d -m 0700 -o datastore /mnt/data/db
dd if=/dev/urandom of=/mnt/data/db/file bs=1M count={FILE_MIB} status=none
printf 'a name that is not like others\\n' >"/mnt/data/db/two  spaces"
chown datastore /mnt/data/db/*
systemctl restart holdfast
systemctl start datastore
sync
"""


def made_systems() -> Systems:
    """Make the old disk and image ABC from the package in dist/, or take those made before."""
    package = built_package()
    assert package is not None, "there is no package; run `make deb`"
    return systems(package)


def installed_disks(made: Systems) -> Disks:
    """Make the disks of a machine with the old system and data, shut down in order."""
    key = hashlib.sha256(_INSTALL.encode()).hexdigest()[:12]
    directory = made.directory / f"installed-{key}"
    data = (directory / "data0.raw", directory / "data1.raw")
    if not directory.exists():
        began = time.monotonic()
        partial = made.directory / "partial"
        with running(made, new_disks(made, partial), CACHE / "run-install") as node:
            node.guest.wait(BOOT_SECONDS)
            node.guest.sh(_INSTALL, seconds=300)
            node.settled()
            node.power_off()
        partial.rename(directory)
        tell(f"installed the machine in {time.monotonic() - began:.0f} s")
    return Disks(directory / "root.qcow2", data)


def described(image: Path) -> Path:
    """Describe an image with the command, once; return the descriptor's path."""
    descriptor = image.with_name(f"{image.name}.json")
    if not descriptor.exists():
        began = time.monotonic()
        command = (sys.executable, "-m", "holdfast", "image", "describe", str(image))
        more = ("--name", "abc", "--image-version", NEW_IMAGE.rpartition("-")[2])
        done = subprocess.run([*command, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        tell(f"described {image.name} in {time.monotonic() - began:.0f} s")
    return descriptor
