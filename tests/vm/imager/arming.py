"""Makes the imager's initramfs with the project's own code, as the arming of a machine does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.node.models import BlockDevice
from holdfast.privileged.boot.models import ArmRequest, NetworkImage, StagedImage, Target
from holdfast.privileged.boot.payload import cpio, initramfs
from holdfast.privileged.boot.payload.job import Job
from tests.vm.image import CHECKOUT
from tests.vm.imager.images import MIB, NONCE, Image, outcome_offset
from tests.vm.imager.kernel import Kernel
from tests.vm.imager.machine import HOST, MAC

IMAGER = CHECKOUT / "target" / "imager" / "holdfast-imager"
ROOT_SERIAL = "root-0001"
NOTHING: Mapping[str, Any] = {"files": [], "directories": [], "remove": []}

DHCP: Mapping[str, Any] = {"interface": {"mac": MAC, "name": "eth0"}, "dhcp": True, "static": None}
ADDRESSES: Mapping[str, Any] = {
    "addresses": ["10.0.2.15/24"],
    "gateway": HOST,
    "dns": ["10.0.2.3"],
    "mtu": 1500,
}
FIXED: Mapping[str, Any] = {**DHCP, "dhcp": False, "static": ADDRESSES}
"""The addresses that QEMU's network has for its machine, without asking for them."""


@dataclass(frozen=True)
class DataDisk:
    """A disk that the job names as one that is never written to."""

    serial: str
    size_bytes: int


@dataclass(frozen=True)
class Arming:
    """What a machine was armed with."""

    target: Path
    """The disk as it was then."""
    image: Image
    source: Mapping[str, Any]
    """The job's."""
    data_disks: Sequence[DataDisk] = ()
    network: Mapping[str, Any] | None = None
    identity: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Others in the initramfs."""
    change: Callable[[dict[str, Any]], None] = lambda job: None
    """What of the job is different from what an arming writes."""

    def job(self, kernel: Kernel) -> bytes:
        """Return job.json."""
        head = min(MIB, self.target.stat().st_size)
        with self.target.open("rb") as disk:
            digest = hashlib.sha256(disk.read(head)).hexdigest()
        sha256 = hashlib.sha256(self.image.descriptor).hexdigest()
        staged = self.source["kind"] == "staged"
        request = ArmRequest(
            nonce=NONCE,
            operation="01K0",
            descriptor_path="/descriptor.json",
            descriptor_sha256=sha256,
            source=StagedImage(path="/image") if staged else NetworkImage(url=self.source["url"]),
        )
        made = Job(
            request=request,
            hostname="node-7",
            target=Target(
                path="/dev/vda",
                serial=ROOT_SERIAL,
                model=None,
                wwid=None,
                size_bytes=self.target.stat().st_size,
                head_bytes=head,
                head_sha256=digest,
            ),
            source=dict(self.source),
            network=None if self.network is None else dict(self.network),
            outcome_offset=outcome_offset(self.target),
            data_disks=[_device(disk) for disk in self.data_disks],
            modules=[module.name for module in kernel.modules],
        )
        document = json.loads(made.document())
        document["options"]["allow_unprotected"] = True
        self.change(document)
        return json.dumps(document).encode()

    def initramfs(self, kernel: Kernel, path: Path) -> Path:
        """Write the initramfs."""
        listed = initramfs.entries(
            imager=IMAGER,
            job=self.job(kernel),
            descriptor=self.image.descriptor,
            identity=self.identity,
            modules=kernel.modules,
            files=self.files,
        )
        with path.open("wb") as file:
            file.writelines(cpio.archive(listed))
        return path


def _device(disk: DataDisk) -> BlockDevice:
    known: dict[str, Any] = {"serial": disk.serial, "size_bytes": disk.size_bytes}
    everything: dict[str, Any] = dict.fromkeys(BlockDevice.model_fields)
    return BlockDevice.model_construct(None, **everything | known)
