"""Boots the imager on copies of disks, and judges afterwards what is on them, byte by byte."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from holdfast.privileged.boot.models import OUTCOME_BYTES, OutcomeRecord
from holdfast.privileged.boot.payload.job import parse_outcome
from tests.vm.imager.arming import ROOT_SERIAL, Arming
from tests.vm.imager.data import Data
from tests.vm.imager.images import MIB, Image, outcome_offset
from tests.vm.imager.kernel import Kernel
from tests.vm.imager.machine import Drive, Running, running
from tests.vm.reimage.telling import tell


class Rig:
    """One armed machine: its disks are copies, which can be changed before it is switched on."""

    def __init__(self, kernel: Kernel, old: Path, image: Image, directory: Path) -> None:
        self.kernel = kernel
        self.image = image
        self.directory = directory
        self.target = directory / "target.raw"
        self.data: Data | None = None
        self.replace_target(old)

    def replace_target(self, old: Path) -> None:
        """Let the target begin as this disk."""
        subprocess.run(("cp", "--sparse=always", old, self.target), check=True)
        self.record_offset = outcome_offset(old)

    def put_data(self, data: Data) -> Data:
        """Give it data disks, which begin as these."""
        self.data = data.copy(self.directory)
        return self.data

    def arm(self, *, armed_as: Path | None = None, **more: Any) -> Path:
        """Make the initramfs; `armed_as` is the target as it was then, if it changed since."""
        if self.data is not None:
            more = {"source": self.data.source, "data_disks": self.data.named()} | more
        arming = Arming(target=armed_as or self.target, image=self.image, **more)
        return arming.initramfs(self.kernel, self.directory / "initramfs.img")

    def drives(self, *, nvme: bool = False, serial: str = ROOT_SERIAL) -> list[Drive]:
        """The disks that it has by default: the target first."""
        found = [Drive(self.target, serial)]
        if self.data is not None:
            pairs = zip(self.data.disks, self.data.serials, strict=False)
            found += [Drive(path, serial, nvme) for path, serial in pairs]
        return found

    @contextmanager
    def running(
        self, initrd: Path, drives: Sequence[Drive] | None = None, **options: Any
    ) -> Iterator[Running]:
        """Switch it on; remembers what is on the disks now."""
        self.before = self.target.read_bytes()
        self._data_before = self._data_bytes()
        used = self.drives() if drives is None else drives
        with running(self.kernel.path, initrd, used, self.directory / "run", **options) as machine:
            yield machine
            self.last = machine

    def run(self, initrd: Path, drives: Sequence[Drive] | None = None, **options: Any) -> Running:
        """Switch it on and wait until it reboots."""
        with self.running(initrd, drives, **options) as machine:
            machine.rebooted()
        return machine

    @property
    def record(self) -> OutcomeRecord:
        """The outcome record on the target."""
        content = self.target.read_bytes()[self.record_offset :][:OUTCOME_BYTES]
        return parse_outcome(content)

    def refused(self, machine: Running, reason: str, *, recorded: bool = True) -> None:
        """It gave up for this reason, and nothing changed on any disk but the record of it."""
        said = machine.said
        assert any(line.startswith("refused, and nothing was written") for line in said), said
        reported = next(line for line in said if line.startswith("refused"))
        assert re.search(reason, reported), reported
        self.only_the_record_changed()
        if recorded:
            record = self.record
            assert (record.state, record.started) == ("refused", 1), record
            assert re.search(reason, record.reason or ""), record
            assert record.log
        else:
            self.nothing_changed()
        tell(reported)

    def nothing_changed(self) -> None:
        """No byte of any disk is different."""
        assert self.target.read_bytes() == self.before
        self.data_unchanged()

    def only_the_record_changed(self) -> None:
        """No byte of any disk is different, but for those of the record."""
        self.differs_by_the_record(self.target.read_bytes())
        self.data_unchanged()

    def differs_by_the_record(self, disk: bytes) -> None:
        """These are the bytes that the target had, but for those of the record."""
        begin, end = self.record_offset, self.record_offset + OUTCOME_BYTES
        assert len(disk) == len(self.before)
        assert disk[:begin] == self.before[:begin], "other bytes than the record's changed"
        assert disk[end:] == self.before[end:], "other bytes than the record's changed"

    def data_unchanged(self) -> None:
        """No byte of a data disk is different."""
        assert self._data_bytes() == self._data_before, "a data disk was written to"

    def written(self, machine: Running) -> None:
        """The target has the image, all of it, and behind it what the document describes."""
        assert "the new system is on the disk; rebooting into it" in machine.said, machine.said
        self.has_the_image()

    def has_the_image(self) -> None:
        """The target is the image, then as before, and its last MiB zeros; data are as before."""
        image, after = self.image.raw.read_bytes(), self.target.read_bytes()
        assert after[: len(image)] == image, "the target differs from the image"
        assert after[len(image) : -MIB] == self.before[len(image) : -MIB]
        assert after[-MIB:] == bytes(MIB)
        self.data_unchanged()

    def _data_bytes(self) -> list[bytes]:
        disks = () if self.data is None else self.data.disks
        return [disk.read_bytes() for disk in disks]

    def remove(self) -> None:
        """Remove its disks."""
        shutil.rmtree(self.directory)
