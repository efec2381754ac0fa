"""What a lifeboat for UEFI takes from this machine: its table, its system partition, its loader."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, system_position
from holdfast.privileged.boot.disk.read_back import raw, read_raw
from holdfast.privileged.boot.lifeboat import uefi
from holdfast.privileged.boot.lifeboat.efi_entries import booted_partition, paths_to
from holdfast.privileged.boot.lifeboat.efi_loader import EfiLoader, choose
from holdfast.privileged.boot.lifeboat.parts import LifeboatError, Parts
from holdfast.privileged.boot.lifeboat.place import Place, sector_bytes_of
from holdfast.privileged.boot.loaders.efi_variables import EfiVariables


class EfiLifeboat:
    """The lifeboat of a machine that boots with UEFI."""

    def __init__(self, machine: MachineFiles) -> None:
        self._machine = machine

    def unfit(self, system: DiskPosition) -> str | None:
        """Return why there can be none, as far as this process may inspect. Raises `OSError`."""
        try:
            self._loader()
            uefi.switched_disk(*self._table(system))
        except (PermissionError, FileNotFoundError):  # a service may have no devices at all
            return None
        except LifeboatError as error:
            return str(error)
        return None

    def length_bytes(self, contents: int) -> int:
        """Return the most that it takes, with these bytes of kernel and initramfs.

        Raises `LifeboatError`, `OSError`.
        """
        paths = paths_to(self._machine, booted_partition(self._machine).partition)
        return uefi.length_bytes(contents, self._loader(), len(paths))

    def build(self, place: Place, kernel: Path, initramfs: Path, words: Sequence[str]) -> Parts:
        """Build it for a region that is held.

        Raises `LifeboatError`, `OSError`; `ValueError` with a clause for words no kernel takes.
        """
        system = system_position(self._machine)
        if isinstance(system, str):
            raise LifeboatError(system)
        partition = booted_partition(self._machine).partition
        mbr, header = self._table(system)
        old = uefi.OldDisk(mbr, header, partition, paths_to(self._machine, partition))
        return uefi.build(
            place.region,
            kernel,
            initramfs,
            words,
            old=old,
            loader=self._loader(),
            sector_bytes=sector_bytes_of(self._machine, system),
        )

    def _loader(self) -> EfiLoader:
        point = self._machine.path(booted_partition(self._machine).point)
        return choose(point, secure_boot=EfiVariables(self._machine).secure_boot)

    def _table(self, system: DiskPosition) -> tuple[bytes, bytes]:
        """Return LBA 0 and LBA 1."""
        size = sector_bytes_of(self._machine, system)
        with raw(self._machine.dev / system.disk.name) as file:
            content = b"".join(read_raw(file, 0, 2 * size))
        return content[:size], content[size:]
