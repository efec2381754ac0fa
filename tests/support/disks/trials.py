"""A machine with a staged image, for trials of it before anything is written."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from holdfast._engine import Progress, describe_image
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.privileged.boot.arming import Boot
from holdfast.privileged.boot.models import ArmRequest, StagedImage, TryRequest
from holdfast.privileged.boot.policy import Policy
from holdfast.privileged.trial.models import TrialRow
from tests.support.disks.images import FileSystem, make_disk, run
from tests.support.waiting import until

IMAGER = Path(__file__).parents[3] / "target/imager/holdfast-imager"
STATE = "/var/lib/holdfast"
SYSTEM = {
    "etc/os-release": "ID=debian\n",
    "etc/hostname": "image\n",
    "etc/ssh/ssh_host_rsa_key": "of the image",
    "etc/passwd": "root:x:0:0::/root:/bin/sh\nholdfast:x:990:980::/:/bin/false\n",
    "etc/group": "root:x:0:\nholdfast:x:980:\n",
}


def make_tree(directory: Path, files: Mapping[str, str]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return directory


def loops(directory: Path) -> set[str]:
    """Return the loop devices over files below a directory; other tests have some of their own."""
    listed = run("losetup", "--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE")
    pairs = (line.split(" ", 1) for line in listed.splitlines())
    return {name for name, file in pairs if file.startswith(f"{directory}/")}


@dataclass
class Node:
    """A machine with a staged image, and what it carries over."""

    directory: Path
    boot: Boot
    image: Path = field(init=False)

    def __post_init__(self) -> None:
        self.image = self.boot.machine.path(f"{STATE}/images/x/image")

    def stage(
        self, disk: Path, *, root: int | None = None, pack: str | None = None
    ) -> dict[str, object]:
        """Describe a disk image and put it where the daemon stages it; return the descriptor."""
        self.image.parent.mkdir(parents=True, exist_ok=True)
        content = disk
        if pack is not None:
            content = disk.with_suffix(f".{pack}")
            run("zstd" if pack == "zst" else pack, "-q", "-k", "-f", disk, "-o", content)
        descriptor = self.image.with_name("descriptor.json")
        found = describe_image(
            json.dumps(
                {
                    "file": str(content),
                    "name": "new",
                    "image_version": "1",
                    "created": "2026-01-01T00:00:00Z",
                    "root_partition": root,
                }
            ),
            Progress(),
        )
        descriptor.write_text(found)
        content.replace(self.image)
        document: dict[str, object] = json.loads(found)
        return document

    def redescribe(self, descriptor: Mapping[str, object]) -> None:
        """Replace the descriptor, as its maker may have."""
        self.image.with_name("descriptor.json").write_text(json.dumps(descriptor))

    def arming(self, **changes: object) -> ArmRequest:
        descriptor = self.image.with_name("descriptor.json")
        fields: dict[str, object] = {
            "nonce": "0" * 32,
            "operation": "x",
            "descriptor_path": f"{STATE}/images/x/descriptor.json",
            "descriptor_sha256": hashlib.sha256(descriptor.read_bytes()).hexdigest(),
            "source": StagedImage(path=f"{STATE}/images/x/image"),
            "identity": ["ssh_host_keys", "machine_id", "hostname", "holdfast"],
        }
        return ArmRequest.model_validate(fields | changes)

    def rows(self, **changes: object) -> dict[str, TrialRow]:
        """Try it; nothing may be left, and not a byte of the staged image may change."""
        before = self.image.read_bytes()
        rows = self.boot.try_image(TryRequest(arming=self.arming(**changes))).rows
        assert self.image.read_bytes() == before
        until(lambda: not loops(self.image.parent), what="the end of the trial's loop devices")
        assert list(self.image.parent.glob(".*")) == []
        return {row.check: row for row in rows}


@pytest.fixture
def node(disk_dir: Path) -> Node:
    if os.geteuid() != 0:
        pytest.skip("loop devices and mounts are root's")
    if not IMAGER.exists():
        pytest.skip(f"there is no {IMAGER}: `make imager` builds it")
    root = disk_dir / "root"
    for path, content, mode in (
        ("etc/ssh/ssh_host_ed25519_key", "PRIVATE", 0o600),
        ("etc/ssh/ssh_host_ed25519_key.pub", "public", 0o644),
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n", 0o444),
        ("etc/hostname", "node-7\n", 0o644),
        ("etc/holdfast/holdfast.toml", "roots = ['/mnt/data']\n", 0o640),
    ):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        file.chmod(mode)
    machine = MachineFiles(root=root)
    policy = Policy(roots=["/mnt/data"], state_dir=STATE, free_space_floor="1 MiB")
    return Node(disk_dir, Boot(machine, IMAGER, lambda: policy))


def ext4_disk(
    directory: Path,
    files: Mapping[str, str] = SYSTEM,
    options: tuple[str, ...] = (),
    size_mib: int = 60,
    second: str = "",
) -> Path:
    tree = make_tree(directory / "tree", files)
    table = f"label: gpt\nstart=1MiB, size={size_mib}MiB, type=linux\n{second}"
    make = ("mkfs.ext4", "-q", *options, "-d", str(tree))
    return make_disk(directory / "a.raw", size_mib + 12, table, [FileSystem(1, size_mib, make)])
