"""What the partition tables of a disk have in use, as `sfdisk` writes them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from holdfast.privileged.boot.lifeboat.free_ranges import tables
from holdfast.privileged.boot.lifeboat.parts import Region

_MIB = 1 << 20


def _disk(path: Path, script: str) -> Path:
    with path.open("wb") as file:
        os.truncate(file.fileno(), 64 * _MIB)
    subprocess.run(["sfdisk", "--quiet", path], input=script, text=True, check=True)
    return path


def test_every_entry_of_an_mbr_is_in_use(tmp_path: Path) -> None:
    script = (
        "label: dos\nstart=8MiB,size=8MiB\nstart=24MiB,size=16MiB,type=5\nstart=25MiB,size=4MiB"
    )
    disk = _disk(tmp_path / "disk", script)
    assert tables(disk, 512) == [
        Region(0, _MIB),
        Region(8 * _MIB, 8 * _MIB),
        # With the logical partition in it, and the rest of it too.
        Region(24 * _MIB, 16 * _MIB),
    ]


def test_a_gpt_and_its_copy_are_in_use_and_what_protects_them_is_not(tmp_path: Path) -> None:
    disk = _disk(tmp_path / "disk", "label: gpt\nstart=8MiB,size=8MiB")
    partition = Region(8 * _MIB, 8 * _MIB)
    end = 64 * _MIB - 512
    assert tables(disk, 512) == [
        Region(0, _MIB),
        *(Region(512, 512), Region(1024, 16384), partition),
        *(Region(end, 512), Region(end - 16384, 16384), partition),
    ]


def test_a_sector_without_a_signature_has_nothing_in_use(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(b"\xff" * 510 + b"\x55\xab" + bytes(_MIB - 512))
    assert tables(disk, 512) == [Region(0, _MIB)]
