"""The old system as the imager kept it: an image and its descriptor, on the data volume.

There is one at a time: it is replaced when a later attempt has kept another and arrived, or removed
on request. It is no part of any attempt, whose images come and go.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from holdfast._engine import RecordError
from holdfast.operations.model import RequestError, Slug
from holdfast.reimage.images.library import Obtained
from holdfast.reimage.images.models import Descriptor
from holdfast.reimage.models import PreviousSystem, SpaceReport
from holdfast.storage.atomic_files import flush_directory, make_directory
from holdfast.storage.space import floor_of

log = logging.getLogger(__name__)

_NAME = re.compile(r"[0-9a-f]{32}")


class PreviousStore:
    """The directory `previous` in the state directory, with one directory named by an attempt."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "previous"

    def place(self, nonce: str) -> Path:
        """Return where an attempt's old system goes."""
        return self._directory / nonce

    def prepare(self) -> None:
        """Make the directory that the imager writes into, as its owner. Raises `OSError`."""
        make_directory(self._directory)
        for path in self._partial():
            shutil.rmtree(path)

    def found(self) -> PreviousSystem | None:
        """Return what is kept; None if nothing is, or nothing that can be understood."""
        best: tuple[datetime, PreviousSystem] | None = None
        for path in self._complete():
            try:
                content = (path / "descriptor.json").read_bytes()
                descriptor = Descriptor.parse(content)
                created = datetime.fromisoformat(descriptor.created)
                created = created.replace(tzinfo=created.tzinfo or UTC)
                system = PreviousSystem(
                    path=str(path),
                    name=descriptor.name,
                    size_bytes=(path / "image").stat().st_size,
                    when=created,
                    descriptor_sha256=hashlib.sha256(content).hexdigest(),
                )
            except (OSError, ValueError, RecordError) as error:
                log.warning("the system kept in %s cannot be used: %s", path, error)
                continue
            if best is None or created > best[0]:
                best = (created, system)
        return None if best is None else best[1]

    def of(self, descriptor_sha256: str | None) -> PreviousSystem | None:
        """Return what is kept if its descriptor has this digest."""
        found = self.found()
        return found if found is not None and found.descriptor_sha256 == descriptor_sha256 else None

    def obtained(self, descriptor_sha256: str | None) -> Obtained | None:
        """Return the descriptor of what is kept if it has this digest. Raises `OSError`."""
        kept = self.of(descriptor_sha256)
        if kept is None:
            return None
        data = (Path(kept.path) / "descriptor.json").read_bytes()
        return Obtained(data, kept.descriptor_sha256, own=True)

    def require(self) -> PreviousSystem:
        """Return what is kept. Raises `RequestError` if nothing is."""
        found = self.found()
        if found is None:
            raise RequestError(
                Slug.CONFLICT,
                "No system was kept that could be rolled back to: it is with `save_previous`.",
            )
        return found

    def link(self, system: PreviousSystem, directory: Path) -> None:
        """Have its image in an attempt's directory, without a copy. Raises `OSError`."""
        make_directory(directory)
        image = directory / "image"
        image.unlink(missing_ok=True)
        os.link(Path(system.path) / "image", image)
        flush_directory(directory)

    def arrived(self, nonce: str) -> None:
        """Keep what this attempt kept, if it did, in place of what was there before."""
        if (self.place(nonce) / "descriptor.json").is_file():
            self._remove(path for path in self._complete() if path.name != nonce)

    def withdraw(self, nonce: str) -> None:
        """Remove what an attempt kept that has replaced nothing."""
        place = self.place(nonce)
        self._remove(directory for directory in (place, *self._partial()) if directory.is_dir())

    def forget(self) -> None:
        """Remove all of it. Raises `OSError`."""
        if self._directory.is_dir():
            shutil.rmtree(self._directory)
            flush_directory(self._directory.parent)

    def _complete(self) -> Iterator[Path]:
        if self._directory.is_dir():
            yield from (
                directory
                for directory in self._directory.iterdir()
                if _NAME.fullmatch(directory.name)
            )

    def _partial(self) -> list[Path]:
        return list(self._directory.glob("*.partial")) if self._directory.is_dir() else []

    def _remove(self, paths: Iterator[Path]) -> None:
        try:
            for path in list(paths):
                shutil.rmtree(path)
        except OSError as error:
            # The space is lost, and the attempt is not.
            log.warning("a kept system that is not needed was not removed: %s", error)


def saving_space(state_dir: Path, staging: SpaceReport | None) -> SpaceReport:
    """Return about what keeping the old system takes at most, beside what staging takes.

    It is what is in use on its file systems: packing makes it less, and blocks of removed files
    that the disk still has make it more. The imager gives up if it does not fit after all. Raises
    `OSError`.
    """
    devices = set()
    used = 0
    for path in (Path("/"), Path("/boot"), Path("/boot/efi")):
        if path.is_dir() and (device := path.stat().st_dev) not in devices:
            devices.add(device)
            found = os.statvfs(path)
            used += found.f_frsize * (found.f_blocks - found.f_bfree)
    volume = os.statvfs(state_dir)
    free = volume.f_frsize * volume.f_bavail
    floor = floor_of(state_dir)
    # What staging needs has the floor in it already.
    free -= staging.needed_bytes - floor if staging else 0
    return SpaceReport(
        what=f"the old system, in {state_dir}",
        needed_bytes=used + floor,
        available_bytes=max(0, free),
    )
