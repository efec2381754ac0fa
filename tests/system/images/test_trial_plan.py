"""What a plan reports of the trial of a new root, and that arming obeys it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.privileged.boot.models import StagedImage
from holdfast.privileged.trial.features import features_row
from holdfast.privileged.writes import Refused
from tests.support.capabilities.reimage import IMAGE, UNCONFIRMED
from tests.support.daemon.harness import Daemon, run_cli
from tests.support.disks.bootdisk import boot_disk, run
from tests.support.disks.images import MIB, put_grub
from tests.support.disks.trials import IMAGER, ext4_disk
from tests.support.machine.loops import attach
from tests.support.machine.mounts import mounted
from tests.support.servers.fileserver import Behaviour, serving

Start = Callable[..., Daemon]
NAMES = ("--name", "new", "--image-version", "2")
RO_COMPAT = MIB + 1024 + 100
"""Where an ext4 at 1 MiB has the features with which it may only be read."""


@pytest.fixture(autouse=True)
def able() -> None:
    if os.geteuid() != 0 or not IMAGER.exists():
        pytest.skip("loop devices are root's, and `make imager` builds the imager")


def readable_only(disk: Path) -> Path:
    with disk.open("r+b") as file:
        file.seek(RO_COMPAT)
        (features,) = struct.unpack("<I", file.read(4))
        file.seek(RO_COMPAT)
        file.write(struct.pack("<I", features | 0x4000_0000))
    return disk


def new_image(directory: Path) -> Path:
    """Make an image for a BIOS whose root this machine's kernel mounts for reading only."""
    directory.mkdir()
    disk = ext4_disk(directory, options=("-O", "^metadata_csum,^orphan_file"))
    put_grub(disk, core=True)
    return readable_only(disk)


def described(daemon: Daemon, disk: Path) -> tuple[Path, str]:
    output = disk.with_suffix(".json")
    done = daemon.cli("image", "describe", disk, *NAMES, "--output", output)
    assert done.returncode == 0, done.stderr
    return output, hashlib.sha256(output.read_bytes()).hexdigest()


def rows(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in document["trial"]}


def test_a_plan_says_what_was_tried_and_what_was_not(start_daemon: Start, disk_dir: Path) -> None:
    daemon = start_daemon(reimage={"imager": str(IMAGER)}, data={"free_space_floor": "1 MiB"})
    disk = new_image(daemon.root / "image")
    descriptor, sha256 = described(daemon, disk)
    body = {"descriptor": descriptor.as_uri(), "descriptor_sha256": sha256}

    plan = daemon.http.post("/v1/reimage/plan", json=body).json()
    assert rows(plan)["mount"]["outcome"] == "not_tried"
    assert "not staged yet" in rows(plan)["mount"]["detail"]
    assert (rows(plan)["features"]["outcome"], "ro_compat:0x40000000") == (
        "warning",
        rows(plan)["features"]["detail"].rpartition(" ")[2].rstrip("."),
    )
    assert not any("trial" in reason for reason in plan["blocked"])

    # Its state once the image was staged.
    staged = daemon.state_dir / "images" / sha256
    staged.mkdir(parents=True)
    shutil.copy(descriptor, staged / "descriptor.json")
    shutil.copy(disk, staged / "image")
    job = UNCONFIRMED | {
        "state": "staged",
        "image": IMAGE | {"descriptor_sha256": sha256},
        "request": body,
        "reason": None,
        "checks": [],
        "booted_at": None,
        "rebooted_at": None,
    }
    assert daemon.stop() == 0
    file = daemon.state_dir / "reimage" / "job.json"
    file.parent.mkdir(mode=0o700, exist_ok=True)
    file.write_text(json.dumps(job))
    daemon.restart()

    plan = daemon.http.post("/v1/reimage/plan", json=body).json()
    assert rows(plan)["mount"]["outcome"] == "passed", plan["trial"]
    assert rows(plan)["write"]["outcome"] == "failed", plan["trial"]
    assert any("trial of the new root failed (write)" in reason for reason in plan["blocked"])
    assert plan["ok"] is False
    shown = daemon.cli("reimage", "plan", descriptor.as_uri(), "--sha256", sha256)
    assert "Trial of the new root" in shown.stdout
    assert "FAILED" in shown.stdout
    # Without identity it is still recognised, by its root's UUID.
    plan = daemon.http.post("/v1/reimage/plan", json=body | {"identity": []}).json()
    assert rows(plan)["write"]["outcome"] == "warning"


def test_of_an_image_from_the_network_only_the_features_are_judged(
    start_daemon: Start, disk_dir: Path
) -> None:
    behaviour = Behaviour({})
    with serving(behaviour) as url:
        daemon = start_daemon(reimage={"imager": str(IMAGER), "sources": [f"{url}/"]})
        descriptor, sha256 = described(daemon, new_image(disk_dir / "image"))
        behaviour.files["/a.json"] = descriptor.read_bytes()
        body = {"descriptor": f"{url}/a.json", "descriptor_sha256": sha256, "mode": "network"}
        plan = daemon.http.post("/v1/reimage/plan", json=body).json()
    assert rows(plan)["features"]["outcome"] == "failed", plan
    assert rows(plan)["mount"]["outcome"] == "not_tried"
    assert "for the first time once the disk is written" in rows(plan)["mount"]["detail"]
    assert any("(features)" in reason for reason in plan["blocked"])


def test_arming_is_refused_and_nothing_is_written_if_the_trial_failed(disk_dir: Path) -> None:
    with boot_disk(disk_dir) as disk:
        data_disk = attach(disk_dir / "data.img", 400 * MIB)
        run("mkfs.ext4", "-q", data_disk.device)
        (disk.root / "mnt").mkdir()
        image = new_image(disk_dir / "image")
        with mounted(disk.root / "mnt/data", data_disk.device) as data:
            place = data / "images"
            place.mkdir()
            shutil.copy(image, place / "image")
            shutil.copy(IMAGER, disk.arming.imager)
            output = image.with_suffix(".json")
            done = run_cli("image", "describe", image, *NAMES, "--output", output)
            assert done.returncode == 0, done.stderr
            shutil.copy(output, place / "descriptor.json")
            room = disk.allowing(state_dir="/mnt/data", free_space_floor="1 MiB")
            request = disk.request(
                source=StagedImage(path="/mnt/data/images/image"),
                descriptor_path="/mnt/data/images/descriptor.json",
                descriptor_sha256=hashlib.sha256(output.read_bytes()).hexdigest(),
            )
            before = disk.state()
            for dry_run in (True, False):
                with pytest.raises(Refused, match=r"trial of the new root failed \(write\)"):
                    room.arm(request.model_copy(update={"dry_run": dry_run}))
            assert disk.state() == before
            assert not room.outcome().armed
            report = room.arm(request.model_copy(update={"identity": []}))
            assert {row.check: row.outcome for row in report.trial}["write"] == "warning"
            room.disarm()
        data_disk.detach()


@pytest.mark.parametrize(
    ("kind", "features", "kernel", "decides", "outcome"),
    [
        ("xfs", ["crc", "exchange", "parent"], "6.1.0-18-amd64", True, "failed"),
        ("xfs", ["crc", "exchange", "parent"], "6.1.0-18-amd64", False, "warning"),
        ("xfs", ["crc", "exchange", "parent"], "6.10.3", True, "passed"),
        ("xfs", ["crc", "nrext64"], "5.14.0-427.el9.x86_64", True, "warning"),
        ("xfs", ["crc", "0x40000000"], "6.18.0", True, "failed"),
        ("ext4", ["extent", "orphan_file"], "5.10.0-28-amd64", True, "failed"),
        ("ext4", ["extent", "metadata_csum"], "5.10.0-28-amd64", True, "passed"),
        ("squashfs", ["x"], "6.1.0", True, None),
        ("xfs", [], "6.1.0", True, None),
        ("xfs", ["parent"], "unlike any", True, None),
    ],
)
def test_features_are_compared_with_the_kernel(
    kind: str, features: list[str], kernel: str, decides: bool, outcome: str | None
) -> None:
    image = {"root": {"file_system": kind, "features": features}}
    row = features_row(image, kernel, decides=decides)
    assert (row.outcome if row else None) == outcome
    if outcome == "failed":
        assert row is not None
        assert "staged" in (row.advice or "")
