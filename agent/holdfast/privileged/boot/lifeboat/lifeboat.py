"""The lifeboat of an arming: planned, held, written, checked, and removed again.

What `remove` needs is noted beside the payload before anything is written to the tail of the disk;
a file of ours has a name of its own.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from holdfast.node.paths.files import read_text
from holdfast.node.paths.machine_files import MachineFiles
from holdfast.node.storage.disks import DiskPosition, system_position
from holdfast.privileged.boot.disk.file_io import read_plain, write_file
from holdfast.privileged.boot.disk.read_back import raw, read_raw
from holdfast.privileged.boot.kernel import kernel_of
from holdfast.privileged.boot.lifeboat import bios, region
from holdfast.privileged.boot.lifeboat.efi_lifeboat import EfiLifeboat
from holdfast.privileged.boot.lifeboat.held_file import protect, release_file
from holdfast.privileged.boot.lifeboat.parts import (
    MAX_BYTES,
    PARTS_AT,
    LifeboatError,
    Parts,
    Region,
    aligned,
)
from holdfast.privileged.boot.lifeboat.place import (
    FILES,
    Place,
    hold,
    is_held,
    prospect,
    sector_bytes_of,
    uncovered,
)
from holdfast.privileged.boot.loaders.cmdline import imager_words
from holdfast.privileged.boot.models import BootMode, LifeboatKind, LifeboatReport

NOTE = "lifeboat.json"
WORD = "holdfast.lifeboat"
"""On the kernel's command line where the lifeboat boots."""
_NOTE_BYTES = 4096
_ABOUT = 16 << 20
"""For the boot loader, and what in the initramfs is only known when it is made: modules."""


class _Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: LifeboatKind
    nonce: str
    offset_bytes: int
    length_bytes: int


class Lifeboat:
    """The lifeboat of a machine."""

    def __init__(self, machine: MachineFiles, imager: Path) -> None:
        self._machine = machine
        self._imager = imager
        self._mode: BootMode = "uefi" if machine.boots_with_efi else "bios"

    def explain(self, image_bytes: int, descriptor_bytes: int) -> LifeboatReport:
        """Return where it would be; writes nothing, and needs no rights. Raises `OSError`."""
        system = system_position(self._machine)
        if isinstance(system, str):
            return LifeboatReport(kind="none", reason=system)
        why = self._unfit(system)
        if why is not None:
            return LifeboatReport(kind="none", reason=why)
        contents = [kernel_of(self._machine), self._imager]
        known = sum(path.stat().st_size for path in contents if path.is_file())
        # Not by making one: this is asked whenever the state is shown.
        needed = PARTS_AT + aligned(known + descriptor_bytes) + _ABOUT
        return prospect(self._machine, system, image_bytes, min(needed, MAX_BYTES))

    def hold(self, image_bytes: int, initramfs_bytes: int, *, last: bool) -> Place:
        """Hold a region for it; with `last` as far back on the disk as can be.

        Raises `LifeboatError` with nothing left where there can be none, `OSError`.
        """
        system = system_position(self._machine)
        if isinstance(system, str):
            raise LifeboatError(system)
        why = self._unfit(system)
        if why is not None:
            raise LifeboatError(why)
        needed = self._length(kernel_of(self._machine).stat().st_size + initramfs_bytes)
        if needed > MAX_BYTES:
            raise LifeboatError(f"It would have {needed} bytes, more than {MAX_BYTES}.")
        return hold(self._machine, system, image_bytes, needed, last=last)

    def write(self, place: Place, payload: Path, nonce: str) -> None:
        """Write it, made of the kernel and the initramfs in `payload`, and read it back.

        Raises `LifeboatError`, `OSError`.
        """
        note = _Note(kind=place.kind, nonce=nonce, **vars(place.region))
        parts = self._parts(place, payload, nonce)
        write_file(payload / NOTE, [note.model_dump_json().encode() + b"\n"], None, NOTE)
        with place.sink() as sink:
            region.write(place.device, sink, place.region, parts, nonce)
        if place.file is not None:
            protect(place.file.path)

    def check(self, payload: Path) -> None:
        """Raise `OSError` unless the disk has all of it; does nothing where there is none.

        A file of it must still have its blocks: what is written to freed ones is not known.
        """
        note = _note(payload)
        system = system_position(self._machine)
        if note is None or not isinstance(system, DiskPosition):
            return
        place = Region(note.offset_bytes, note.length_bytes)
        if note.kind == "file" and not is_held(self._machine, place):
            reason = "no file holds the blocks of the lifeboat any more; disarm, and arm again"
            raise OSError(errno.ESTALE, reason, system.disk.path)
        region.verify(self._machine.dev / system.disk.name, place, note.nonce)

    def remove(self, payloads: Sequence[Path]) -> tuple[list[str], list[str]]:
        """Remove what is left of it in the old system; `payloads` are where its note may be.

        Returns what was removed, and sentences on what was not. Raises `OSError`.
        """
        notes: list[str] = []
        for payload in payloads:
            note = _note(payload)
            if note is not None and note.kind == "tail":
                notes += self._wipe_tail(Region(note.offset_bytes, note.length_bytes))
        removed = [path for path in FILES if release_file(self._machine.path(path))]
        return removed, notes

    def forget(self, place: Region, nonce: str) -> list[str]:
        """Wipe what the imager left of it in the new system, if it is still that of `nonce`.

        Returns sentences on what was not done. Raises `OSError`.
        """
        system = system_position(self._machine)
        if isinstance(system, str):
            return [f"What is left of the lifeboat cannot be inspected: {system}"]
        if place.offset_bytes < 0 or place.end_bytes > (system.disk.size_bytes or 0):
            return []
        if region.nonce_in(self._machine.dev / system.disk.name, place) != nonce:
            return []
        return self._wipe_tail(place)

    def _wipe_tail(self, place: Region) -> list[str]:
        system = system_position(self._machine)
        if isinstance(system, str):
            return [f"The lifeboat cannot be wiped: {system}"]
        if not uncovered(self._machine, system, place):
            return [
                f"The lifeboat at {place.offset_bytes} of {system.disk.path} was not wiped: a "
                "partition is there now."
            ]
        held = Place("tail", self._machine.dev / system.disk.name, place)
        with held.sink() as sink:
            region.wipe(held.device, sink, place)
        return []

    def _parts(self, place: Place, payload: Path, nonce: str) -> Parts:
        cmdline = read_text(self._machine.proc / "cmdline") or ""
        words = [*imager_words(cmdline, nonce), WORD]
        kernel, initramfs = payload / "vmlinuz", payload / "initramfs.img"
        try:
            if self._mode == "uefi":
                return self._efi().build(place, kernel, initramfs, words)
            with raw(place.device) as file:
                first = b"".join(read_raw(file, 0, bios.SECTOR))
            return bios.build(place.region, kernel, initramfs, words, first)
        except ValueError as error:
            raise LifeboatError(
                f"The kernel's command line cannot be taken over: {error}."
            ) from None

    def _unfit(self, system: DiskPosition) -> str | None:
        """Return why there can be none on this machine, whatever its disk has."""
        if self._mode == "uefi":
            return self._efi().unfit(system)
        size = sector_bytes_of(self._machine, system)
        if size != bios.SECTOR:
            return f"{system.disk.path} has sectors of {size} bytes, from which no BIOS boots."
        return bios.missing_tools()

    def _efi(self) -> EfiLifeboat:
        return EfiLifeboat(self._machine)

    def _length(self, contents: int) -> int:
        """Return the most that it takes. Raises `LifeboatError`, `OSError`."""
        if self._mode == "uefi":
            return self._efi().length_bytes(contents)
        return PARTS_AT + aligned(contents) + 2 * aligned(1) + bios.MOST_CORE


def _note(payload: Path) -> _Note | None:
    try:
        return _Note.model_validate_json(read_plain(payload / NOTE, _NOTE_BYTES))
    except FileNotFoundError:
        return None
    except (ValidationError, json.JSONDecodeError):
        return None  # half of one: nothing else was written yet
