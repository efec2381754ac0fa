"""A matrix of layouts: each is described, judged, tried, written by the imager, and booted."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from holdfast._engine import apply_image_rules
from tests.vm.imager import layouts
from tests.vm.imager.arming import IMAGER
from tests.vm.imager.conftest import NewRig
from tests.vm.imager.images import Image, describe
from tests.vm.imager.layouts import LAYOUTS, Layout
from tests.vm.imager.writing import (
    IDENTITY,
    NO_IDENTITY,
    TARGET_BYTES,
    armed,
    boot,
    check_file_systems,
    inspect,
    write,
)
from tests.vm.reimage.telling import tell


def refusals(image: Image, layout: Layout) -> list[str]:
    """Return why a plan would refuse it, on the disk that the machine has."""
    target = {
        "path": "/dev/vda",
        "size_bytes": TARGET_BYTES,
        "sector_bytes": layout.sector_bytes,
    }
    wishes = {"identity": True, "grow_root": True}
    question = {"image": json.loads(image.descriptor), "target": target, "wishes": wishes}
    found: list[str] = json.loads(apply_image_rules(json.dumps(question)))["refusals"]
    return found


def try_root(image: Image, identity: dict[str, Any], scratch: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the trial on this machine, by this machine's kernel."""
    request = {
        "descriptor": image.descriptor.decode(),
        "image": str(image.content),
        "scratch": str(scratch),
        "floor_bytes": 0,
        "identity": identity,
        "grow_to_bytes": TARGET_BYTES,
    }
    done = subprocess.run(
        (IMAGER, "try"),
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        check=True,
    )
    rows = json.loads(done.stdout.splitlines()[-1])["rows"]
    return {row["check"]: row for row in rows}


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_a_layout_is_described_tried_written_and_booted(
    rig: NewRig, tree: Path, tmp_path: Path, old_of_4096: Path, layout: Layout
) -> None:
    lacking = layouts.missing(layout)
    if lacking is not None:
        pytest.skip(f"there is no {lacking}")
    raw = tmp_path / f"{layout.name}.raw"
    printed = layouts.make(layout, raw, tree)
    image = describe(raw, raw)
    described = json.loads(image.descriptor)
    assert described["root"]["os_release"], described["root"]
    assert described["sector_bytes"] == layout.sector_bytes
    machine = armed(rig, image, layout, old_of_4096)
    found = refusals(image, layout)
    if layout.verity:
        assert "protected by verity" in found[0]
        said = write(machine, layout, identity=IDENTITY)
        assert any("protected by verity" in line for line in said), said
        machine.only_the_record_changed()
        machine = armed(rig, image, layout, old_of_4096)
    else:
        assert found == []
    identity = NO_IDENTITY if layout.verity else IDENTITY
    trial = try_root(image, identity, tmp_path)
    assert not [row for row in trial.values() if row["outcome"] == "failed"], trial
    assert trial["mount"]["outcome"] == "passed", trial
    if not layout.verity:
        assert (trial["identity"]["outcome"], trial["marker"]["outcome"]) == ("passed", "passed")
    said = write(machine, layout, identity=identity)
    assert "the new system is on the disk; rebooting into it" in said, said
    checked = check_file_systems(machine.target, inspect(machine.target))
    booted = boot(machine.kernel, machine.target, layout, machine.directory)
    tell(f"{layout.name}: {checked} file systems are whole; booted: {booted}")
    if layout.verity:
        verify(machine.target, tmp_path, printed)
        assert booted == "replica marker=no var=roots"
    else:
        var = "own" if layout.name == "hardened-var" else "roots"
        assert booted == f"node-7 marker=yes var={var}"
        last = layout.name != "hardened-var"
        wanted = "was grown to" if last else "is not the last one"
        assert any(wanted in line for line in said), said


def verify(disk: Path, directory: Path, root_hash: str) -> None:
    """Raise unless not a byte of the root differs from what its hashes were made of."""
    for name, start, size in (("root", 1, 90), ("hashes", 92, 8)):
        part = (f"if={disk}", f"of={directory}/{name}", "bs=1M", f"skip={start}")
        subprocess.run(("dd", *part, f"count={size}", "status=none"), check=True)
    command = ("veritysetup", "verify", f"{directory}/root", f"{directory}/hashes", root_hash)
    subprocess.run(command, check=True)
