"""An armed machine whose disk has a lifeboat, ready to be recorded and cut."""

from __future__ import annotations

import shutil
import struct
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from holdfast.privileged.boot.disk.gpt import ESP, GptPartition
from holdfast.privileged.boot.lifeboat import bios, region, uefi
from holdfast.privileged.boot.lifeboat.efi_loader import choose
from holdfast.privileged.boot.lifeboat.parts import Parts, Region
from tests.oracles.powerloss.bios import Bios
from tests.oracles.powerloss.sectors import Contents, Extent
from tests.oracles.powerloss.uefi import REMOVABLE, Uefi
from tests.oracles.powerloss.verdict import Lifeboat, Scene
from tests.support.servers.fileserver import Behaviour, serving
from tests.vm.cuts.kernel import small_kernel
from tests.vm.cuts.systems import (
    DISK_BYTES,
    REGION_AT,
    REGION_BYTES,
    ROOT_AT,
    Layout,
    System,
    image_of,
)
from tests.vm.imager.arming import DHCP, ROOT_SERIAL, Arming, DataDisk
from tests.vm.imager.images import MIB, NONCE, Image, outcome_offset
from tests.vm.imager.kernel import Kernel
from tests.vm.imager.machine import COMMAND_LINE, HOST, USER

Origin = Literal["staged", "network"]

DATA_SERIAL = "data-0000"
_DATA_BYTES = 24 * MIB
_IMAGE_PATH = ".holdfast/images/abc/image"
_DATA_UUID = "6f1b1a52-9d1c-4d42-8d7b-0d6f3f2c1a10"
_WORD = "holdfast.lifeboat"
_MENU = r"\EFI\debian\grubx64.efi"
"""Where the firmware's own entry has a loader."""
_TABLE_BYTES = 128 * 128
_OUTCOME_BYTES = 16 << 10
# Of the region, the imager's journal is all that changes while it boots.
_JOURNAL = (4096, 69632)


@dataclass(frozen=True)
class Kind:
    """What distinguishes the machines."""

    layout: Layout
    origin: Origin

    @property
    def uefi(self) -> bool:
        """Whether its firmware is UEFI."""
        return self.layout == "uefi-gpt"

    def __str__(self) -> str:
        return f"{self.layout}-{self.origin}"


_LAYOUTS: tuple[Layout, ...] = ("bios-mbr", "bios-gpt", "uefi-gpt")
_ORIGINS: tuple[Origin, ...] = ("staged", "network")
KINDS = [Kind(layout, origin) for layout in _LAYOUTS for origin in _ORIGINS]


@dataclass(frozen=True)
class Scenario:
    """An armed machine; its files are not written to."""

    kind: Kind
    kernel: Kernel
    image: Image
    armed: Path
    """The target."""
    initramfs: Path
    data: Path | None
    url: str | None

    @property
    def network(self) -> str | None:
        """QEMU's network."""
        return USER if self.url else None

    @cached_property
    def record(self) -> Extent:
        """The outcome record's sectors."""
        return Extent.of_bytes(outcome_offset(self.armed), _OUTCOME_BYTES)

    @cached_property
    def region(self) -> Extent:
        """The lifeboat's sectors."""
        return Extent.of_bytes(REGION_AT, REGION_BYTES)

    def scene(self, contents: Contents, before: bytes, final: bytes, *, resumed: bool) -> Scene:
        """Return what the judge of states has to know; disks as numbers of their sectors."""
        header = Extent.of_bytes(REGION_AT, _JOURNAL[0])
        rest = Extent.of_bytes(REGION_AT + _JOURNAL[1], REGION_BYTES - _JOURNAL[1])
        return Scene(
            firmware=Uefi((), (REMOVABLE, _MENU)) if self.kind.uefi else Bios(),
            before=before,
            final=final,
            owned=(self.record, self.region),
            spare=(self.region,),
            lifeboat=Lifeboat(
                self.kernel.path.read_bytes(), self.initramfs.read_bytes(), _WORD, (header, rest)
            ),
            old_is_gone=resumed,
        )


@contextmanager
def scenario(
    kind: Kind, directory: Path, code: Kernel | None = None, *, watchdog: bool = False
) -> Iterator[Scenario]:
    """Make an armed machine; with `network` its image is served meanwhile.

    `watchdog`: it has one of hardware, whose module is among those of the kernel `code`.
    """
    directory.mkdir(parents=True)
    code = code or small_kernel()
    content = code.path.read_bytes()
    image = image_of(System(kind.layout, "new"), directory, content)
    armed = System(kind.layout, "old").write(directory / "armed.raw", DISK_BYTES, content)
    if kind.origin == "network":
        behaviour = Behaviour({"/image": image.content.read_bytes()}, {"/image": '"1"'})
        with serving(behaviour) as url:
            seen = f"{url.replace('127.0.0.1', HOST)}/image"
            more: dict[str, Any] = {"source": {"kind": "network", "url": seen}, "network": DHCP}
            initramfs = _arm(kind, armed, code, image, more, watchdog=watchdog)
            yield Scenario(kind, code, image, armed, initramfs, None, seen)
    else:
        data = _data_disk(directory, image)
        source: Mapping[str, Any] = {
            "kind": "staged",
            "path": _IMAGE_PATH,
            "file_system": "ext4",
            "uuid": _DATA_UUID,
            "array": None,
        }
        disks = [DataDisk(DATA_SERIAL, data.stat().st_size)]
        more = {"source": source, "data_disks": disks}
        initramfs = _arm(kind, armed, code, image, more, watchdog=watchdog)
        yield Scenario(kind, code, image, armed, initramfs, data, None)


def _arm(
    kind: Kind, target: Path, code: Kernel, image: Image, more: dict[str, Any], *, watchdog: bool
) -> Path:
    """Write the initramfs, and the lifeboat onto the target."""

    def change(job: dict[str, Any]) -> None:
        job["lifeboat"] = {"offset_bytes": REGION_AT, "length_bytes": REGION_BYTES}
        job["options"] |= {"grow_root": True, "allow_unprotected": False}
        job["watchdog"] = watchdog

    arming = Arming(target=target, image=image, change=change, **more)
    initramfs = arming.initramfs(code, target.with_name("initramfs.img"))
    with target.open("r+b") as disk:
        place = Region(REGION_AT, REGION_BYTES)
        words = [*COMMAND_LINE.split(), _WORD]
        build = _for_uefi if kind.uefi else _for_bios
        parts = build(place, code.path, initramfs, words, disk.read(1024 + _TABLE_BYTES))
        region.write(target, region.Sink(disk.fileno(), REGION_AT), place, parts, NONCE)
    return initramfs


def _for_bios(place: Region, code: Path, initramfs: Path, words: list[str], head: bytes) -> Parts:
    return bios.build(place, code, initramfs, words, head[:512])


def _for_uefi(place: Region, code: Path, initramfs: Path, words: list[str], head: bytes) -> Parts:
    """Build a lifeboat for a machine whose firmware has an entry for its system partition."""
    own = str(uuid.UUID(bytes_le=head[1024 + 16 : 1024 + 32]))
    first, last = struct.unpack_from("<QQ", head, 1024 + 32)
    partition = GptPartition(1, ESP, own, first, last - first + 1)
    old = uefi.OldDisk(head[:512], head[512:1024], partition, [_MENU.replace("\\", "/")[1:]])
    loader = choose(Path("/nowhere"), secure_boot=False)
    return uefi.build(place, code, initramfs, words, old=old, loader=loader, sector_bytes=512)


def _data_disk(directory: Path, image: Image) -> Path:
    tree = directory / "data-tree"
    staged = tree / _IMAGE_PATH
    staged.parent.mkdir(parents=True)
    shutil.copy(image.content, staged)
    path = directory / "data.raw"
    with path.open("wb") as file:
        file.truncate(_DATA_BYTES)
    options = ("-U", _DATA_UUID, "-m", "0", "-d", tree)
    subprocess.run(("mkfs.ext4", "-q", "-F", *options, path), check=True)
    return path


def root_of(disk: Path) -> str:
    """Return a disk's root as e2fsprogs name it."""
    return f"{disk}?offset={ROOT_AT}"


__all__ = ["KINDS", "ROOT_SERIAL", "Kind", "Scenario", "root_of", "scenario"]
