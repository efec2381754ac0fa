"""The directory with what the boot loader boots: kernel, initramfs, and the outcome record."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition
from holdfast.privileged.boot.disk import extents
from holdfast.privileged.boot.disk.file_io import write_file
from holdfast.privileged.boot.disk.storage import Storage
from holdfast.privileged.boot.kernel import kernel_of
from holdfast.privileged.boot.lifeboat.parts import MAX_BYTES, Region
from holdfast.privileged.boot.models import OUTCOME_BYTES, ArmRequest, FileReport, Target
from holdfast.privileged.boot.payload import cpio, initramfs, job
from holdfast.privileged.boot.payload.collecting import Collected
from holdfast.privileged.boot.payload.target import pin
from holdfast.privileged.writes import Refused
from holdfast.storage.atomic_files import flush_directory

OUTCOME, KERNEL, INITRAMFS, PREVIOUS = "outcome", "vmlinuz", "initramfs.img", "previous"
_SPARE = 1 << 20  # for directories, custom.cfg and what is kept of before
_CHUNK = 1 << 20
_PLACES = 256  # of 16 KiB each: less than the kernel and the initramfs need there afterwards


class Payload:
    """The directory at a path of the machine, whether or not it is there."""

    def __init__(self, machine: MachineFiles, directory: str, imager: Path) -> None:
        self._machine = machine
        self.directory = directory
        self._path = machine.path(directory)
        self._parent = str(Path(directory).parent)
        self._imager = imager

    @property
    def path(self) -> Path:
        """Where the directory is."""
        return self._path

    @property
    def outcome(self) -> Path:
        """Where the outcome record is."""
        return self._path / OUTCOME

    def planned(self) -> Sequence[FileReport]:
        """Return what would be written, in that order, with sizes that are known before."""
        return [
            FileReport(path=f"{self.directory}/{OUTCOME}", size_bytes=OUTCOME_BYTES),
            FileReport(path=f"{self.directory}/{INITRAMFS}"),
            FileReport(
                path=f"{self.directory}/{KERNEL}", size_bytes=_size(kernel_of(self._machine))
            ),
        ]

    def refusals(self) -> Sequence[str]:
        """Return what is missing, or in the way."""
        found = []
        kernel = kernel_of(self._machine)
        if _size(kernel) is None:
            found.append(
                f"There is no {self._machine.inside(kernel)}, the kernel that runs now; "
                "reboot into one that is installed."
            )
        if _size(self._imager) is None:
            found.append(f"There is no imager at {self._imager}; the package has it.")
        if os.path.lexists(self._path):
            found.append(f"{self.directory} is still there from an earlier arming; disarm first.")
        if not found:
            try:
                self._check_space(_size(self._imager) or 0)
            except Refused as error:
                found.append(str(error))
        return found

    def rehearse(
        self,
        request: ArmRequest,
        collected: Collected,
        system: DiskPosition,
        descriptor: bytes,
        *,
        protected: bool = False,
    ) -> tuple[list[FileReport], Target]:
        """Return what `write` would write, and to which disk. Raises `Refused`, `OSError`.

        `protected` is whether there will be a lifeboat. The initramfs may become some bytes
        smaller: where the record and the lifeboat will lie is not known yet.
        """
        target = pin(self._machine, system)
        size = self.initramfs_bytes(request, collected, system, descriptor, protected=protected)
        self._check_space(size)
        shown = f"{self.directory}/{INITRAMFS}"
        files = [
            file.model_copy(update={"size_bytes": size}) if file.path == shown else file
            for file in self.planned()
        ]
        return files, target

    def initramfs_bytes(
        self,
        request: ArmRequest,
        collected: Collected,
        system: DiskPosition,
        descriptor: bytes,
        *,
        protected: bool = True,
    ) -> int:
        """Return the most that the initramfs can have; writes nothing. Raises `OSError`."""
        target = pin(self._machine, system)
        end = target.size_bytes
        place = Region(end, MAX_BYTES) if protected else None
        return cpio.size_of(
            self._entries(request, collected, target, end, descriptor, lifeboat=place)
        )

    def write(
        self,
        request: ArmRequest,
        collected: Collected,
        system: DiskPosition,
        descriptor: bytes,
        *,
        lifeboat: Region | None = None,
    ) -> tuple[list[FileReport], Target]:
        """Write all of it and read it back from the disk. Raises `Refused`, `OSError`."""
        storage = Storage.of(self._machine, self._parent)
        private = storage.mode(0o600)
        self._path.mkdir(mode=0o700)
        flush_directory(self._path.parent)
        record, offset = self._write_outcome(storage, job.blank_outcome(request.nonce), private)
        files = [record]
        target = pin(self._machine, system)
        offset += storage.place.start_bytes
        entries = self._entries(request, collected, target, offset, descriptor, lifeboat=lifeboat)
        self._check_space(cpio.size_of(entries))
        shown = f"{self.directory}/{INITRAMFS}"
        files.append(write_file(self._path / INITRAMFS, cpio.archive(entries), private, shown))
        with kernel_of(self._machine).open("rb") as stream:
            parts = iter(lambda: stream.read(_CHUNK), b"")
            shown = f"{self.directory}/{KERNEL}"
            files.append(write_file(self._path / KERNEL, parts, private, shown))
        storage.settle()
        for file in files:
            storage.check_digest(self._machine.path(file.path), file.sha256 or "")
        return files, target

    def _write_outcome(
        self, storage: Storage, content: bytes, mode: int | None
    ) -> tuple[FileReport, int]:
        """Write the outcome record in one piece; return also where that is on the partition.

        Allocators without extents (ext2, FAT) fill gaps as they come. So what was written to gaps
        is kept until another try has found a piece. Raises `Refused`, `OSError`.
        """
        tries = [self._path / f"{OUTCOME}.{number}" for number in range(_PLACES)]
        for number, path in enumerate(tries):
            report = write_file(path, [content], mode, f"{self.directory}/{OUTCOME}")
            found = storage.extents(path)
            if extents.is_single(found, OUTCOME_BYTES):
                path.rename(self.outcome)
                for earlier in tries[:number]:
                    earlier.unlink()
                flush_directory(self._path)
                return report, found[0].place
        raise Refused(
            f"The free space of {self._parent} is in pieces too small for a record of "
            f"{OUTCOME_BYTES} bytes; remove files that are not needed there."
        )

    def _entries(
        self,
        request: ArmRequest,
        collected: Collected,
        target: Target,
        outcome_offset: int,
        descriptor: bytes,
        *,
        lifeboat: Region | None,
    ) -> Sequence[cpio.Entry]:
        order = job.Job(
            request=request,
            hostname=os.uname().nodename,
            target=target,
            source=collected.source.job,
            network=collected.network,
            outcome_offset=outcome_offset,
            data_disks=collected.data_disks,
            modules=[module.name for module in collected.modules],
            previous=None if collected.previous is None else collected.previous.job,
            state_dir=collected.state_dir,
            lifeboat=None if lifeboat is None else vars(lifeboat),
            watchdog=collected.watchdog,
        )
        return initramfs.entries(
            imager=self._imager,
            job=order.document(),
            descriptor=descriptor,
            identity=collected.identity.document(),
            modules=collected.modules,
            files=collected.files,
        )

    def check(self) -> None:
        """Raise `OSError` unless the disk has the content of the files."""
        storage = Storage.of(self._machine, self._parent)
        for name in (KERNEL, INITRAMFS, OUTCOME):
            path = self._path / name
            with path.open("rb") as stream:
                storage.check_digest(path, hashlib.file_digest(stream, "sha256").hexdigest())

    def remove(self) -> list[str]:
        """Remove the directory and the copy it kept of its predecessor; return what was removed."""
        if not self._path.is_dir() or self._path.is_symlink():
            return []
        previous = self._path / PREVIOUS
        for inner in (self._path, previous):
            if inner.is_dir() and not inner.is_symlink():
                for path in sorted(inner.iterdir()):
                    if path != previous:
                        path.unlink()
                flush_directory(inner)
        if previous.is_dir():
            previous.rmdir()
        self._path.rmdir()
        flush_directory(self._path.parent)
        Storage.of(self._machine, self._parent).settle()
        return [self.directory]

    def _check_space(self, initramfs_bytes: int) -> None:
        kernel = _size(kernel_of(self._machine)) or 0
        needed = initramfs_bytes + kernel + OUTCOME_BYTES + _SPARE
        space = os.statvfs(self._path.parent)
        free = space.f_bavail * space.f_frsize
        if free < needed:
            raise Refused(f"{self._parent} has {free} bytes free, and {needed} are needed.")


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
