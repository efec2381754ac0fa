"""What is only done if it was asked for: growing the root, and keeping the old disk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.vm.imager.conftest import MakeData, NewRig
from tests.vm.imager.images import MIB, root_image
from tests.vm.imager.machine import USER
from tests.vm.imager.serving import behaviour, served
from tests.vm.reimage.disks import in_own_mounts
from tests.vm.reimage.telling import tell

_LARGER_BYTES = 512 * MIB

# Checks the file system that begins after 1 MiB of a disk, and answers its size and a file of it.
_LOOK = r"""
root=$(mktemp -d)
loop=$(losetup --find --show --offset 1048576 --sizelimit "$3" "$1")
trap 'umount --lazy "$root" 2>/dev/null || true; rmdir "$root"; losetup --detach "$loop"' EXIT
case $2 in
    ext4) e2fsck -f -n "$loop" >&2 ;;
    xfs) xfs_repair -n "$loop" >&2 ;;
esac
mount -o ro "$loop" "$root"
stat -f -c '{"blocks": %b, "block_bytes": %S}' "$root"
cat "$root/etc/holdfast/reimaged.json"
"""


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_the_root_is_grown_to_a_larger_disk(
    rig: NewRig, staged: MakeData, tmp_path: Path, kind: str
) -> None:
    image = root_image(tmp_path / kind, kind)
    machine = rig(image)
    machine.put_data(staged("xfs", holding=image))
    with machine.target.open("r+b") as disk:
        disk.truncate(_LARGER_BYTES)
    options = {"grow_root": True}

    done = machine.run(machine.arm(change=lambda job: job.update(options=options)))

    assert "the new system is on the disk; rebooting into it" in done.said, done.said
    machine.data_unchanged()
    dumped = subprocess.run(
        ("sfdisk", "--json", machine.target), capture_output=True, text=True, check=True
    )
    table = json.loads(dumped.stdout)["partitiontable"]
    size = table["partitions"][0]["size"] * 512
    # All but what is before it, and the backup of the table at the end.
    assert _LARGER_BYTES - 3 * MIB < size < _LARGER_BYTES - MIB
    shown, _, marker = in_own_mounts(_LOOK, machine.target, kind, str(size)).partition("\n")
    grown = json.loads(shown)
    assert grown["blocks"] * grown["block_bytes"] > size * 3 // 4, grown
    notes = json.loads(marker)["notes"]
    assert any(f"the root file system ({kind}) was grown" in note for note in notes), notes
    tell(f"{notes}")


# Takes what was kept out of the data disk.
_TAKE_OUT = r"""
data=$(mktemp -d)
trap 'umount --lazy "$data"; rmdir "$data"' EXIT
mount -o loop,ro "$1" "$data"
cp "$data/.holdfast/previous/one/image" "$2/image"
cp "$data/.holdfast/previous/one/descriptor.json" "$2/descriptor.json"
cat "$data/state"
"""


_MAKE = """
data=$(mktemp -d)
trap 'umount "$data"; rmdir "$data"' EXIT
mount -o loop "$1" "$data"
mkdir -m 700 "$data/.holdfast/previous"
chmod 700 "$data/.holdfast"
stat -c '%i %u' "$data/.holdfast"
"""


def test_the_old_disk_is_kept_when_the_image_comes_from_a_server(
    rig: NewRig, staged: MakeData, tmp_path: Path
) -> None:
    machine = rig()
    data = machine.put_data(staged("xfs"))
    place = {key: data.source[key] for key in ("file_system", "uuid", "array")}
    wanted: Mapping[str, Any] = {**place, "directory": ".holdfast/previous/one"}
    inode, owner = map(int, in_own_mounts(_MAKE, data.disks[0]).split())
    noted = {"uid": owner, "dev": 0, "ino": inode, "file_system_uuid": data.source["uuid"]}
    with served(machine, behaviour(machine.image)) as how:
        initrd = machine.arm(
            **how,
            change=lambda job: job.update(options={"save_previous": dict(wanted)}, state_dir=noted),
        )
        done = machine.run(initrd, network=USER)

    assert "the new system is on the disk; rebooting into it" in done.said, done.said
    content = machine.image.raw.read_bytes()
    assert machine.target.read_bytes()[: len(content)] == content
    assert in_own_mounts(_TAKE_OUT, data.disks[0], tmp_path) == "state\n"
    kept, descriptor = tmp_path / "image", tmp_path / "descriptor.json"
    command = (sys.executable, "-m", "holdfast", "image", "verify", kept, descriptor)
    subprocess.run(command, check=True)
    unpacked = subprocess.run(("zstd", "-qdc", kept), capture_output=True, check=True).stdout
    machine.differs_by_the_record(unpacked)
