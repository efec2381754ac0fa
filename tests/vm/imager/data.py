"""Data disks with a staged image on them, as a machine leaves them that went down."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tests.vm.imager.arming import DataDisk
from tests.vm.imager.builder import build
from tests.vm.imager.images import MIB, Image
from tests.vm.imager.kernel import Kernel

PATH = ".holdfast/images/abc/image"
"""Where the image lies, from the file system's root."""
SERIALS = ("data-0000", "data-0001")

Ended = Literal["in_order", "journal", "only_in_journal"]
"""How the machine went down: unmounted; cut off after the image was flushed; or before."""

_BYTES = {"ext4": 96 * MIB, "xfs": 320 * MIB}
"""The least that each can be, and some space."""
_ARRAY = r"""
top=/dev/md/data
mdadm --create "$top" --run --quiet --homehost=any --level={level} --assume-clean \
    --raid-devices={count} {devices}
echo "array=$(mdadm --detail "$top" | sed -n 's/^ *UUID : //p')"
"""
_FILL = r"""
mkfs.{kind} -q "$top"
echo "uuid=$(blkid -p -o value -s UUID "$top")"
mount "$top" /mnt
mkdir -p /mnt/{parent}
echo state >/mnt/state
# Everything so far is where the file system wants to have it, and its journal is empty.
fsfreeze --freeze /mnt; fsfreeze --unfreeze /mnt
"""
_ENDS: Mapping[Ended, str] = {
    "in_order": """
cp /image /mnt/{path}
umount /mnt
[[ -z "{level}" ]] || mdadm --stop --quiet "$top"
sync
""",
    "journal": """
cp /image /mnt/{path}
fsfreeze --freeze /mnt; fsfreeze --unfreeze /mnt
for number in 1 2 3 4 5 6 7 8; do echo $number >/mnt/state-$number; done
sync /mnt/state-8
""",
    # It is durable: the journal has it, and nothing else of the file system knows.
    "only_in_journal": """
cp /image /mnt/{path}
sync /mnt/{path} /mnt/{parent}
""",
}


@dataclass(frozen=True)
class Data:
    """Data disks, and where on them the job places the image."""

    disks: tuple[Path, ...]
    source: Mapping[str, Any]
    serials: tuple[str, ...] = SERIALS

    def copy(self, directory: Path) -> Data:
        """Make disks that begin as these."""
        disks = tuple(directory / disk.name for disk in self.disks)
        for source, target in zip(self.disks, disks, strict=True):
            subprocess.run(("cp", "--sparse=always", source, target), check=True)
        return replace(self, disks=disks)

    def named(self) -> Sequence[DataDisk]:
        """The disks as the job names them."""
        pairs = zip(self.disks, self.serials, strict=False)
        return [DataDisk(serial, disk.stat().st_size) for disk, serial in pairs]


def make(
    kernel: Kernel,
    directory: Path,
    image: Image,
    kind: str,
    *,
    level: str = "",
    ended: Ended = "in_order",
) -> Data:
    """Make one disk with a file system, or with a level of md an array of two with one."""
    directory.mkdir(parents=True)
    count = 2 if level else 1
    disks = tuple(directory / f"data{number}.raw" for number in range(count))
    for disk in disks:
        with disk.open("wb") as file:
            file.truncate(_BYTES[kind])
    words = {
        "kind": kind,
        "level": level,
        "count": count,
        "devices": "/dev/vda /dev/vdb",
        "path": PATH,
        "parent": PATH.rpartition("/")[0],
    }
    top = _ARRAY if level else "top=/dev/vda\n"
    script = (top + _FILL + _ENDS[ended]).format(**words)
    reported = build(kernel, disks, script, directory, image.content)
    array = {"uuid": reported["array"], "level": level, "devices": count} if level else None
    source = {"kind": "staged", "path": PATH, "file_system": kind}
    return Data(disks, {**source, "uuid": reported["uuid"], "array": array})
