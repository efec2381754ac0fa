"""Which settings the profiles of root name: those that come with holdfast, and root's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from functools import cache
from pathlib import Path

from holdfast.node.paths.guarded import why_unguarded
from holdfast.operations.model import RequestError
from holdfast.privileged.allowed import AllowList, Named
from holdfast.privileged.writes import sysctl_path
from holdfast.tuning.profile.layers import Layer, ProfileError
from holdfast.tuning.profile.library import Library

log = logging.getLogger(__name__)

_NOWHERE = Path("/dev/null/none")


def allow_list(profiles_dir: Path, owners: Collection[int]) -> AllowList:
    """Make the list of what may be written, of which `profiles_dir` names more.

    Only files that belong to `owners`, in a directory that nobody else can write, count.
    """
    return AllowList(named_by(profiles_dir, owners), profiles_dir)


def named_by(profiles_dir: Path, owners: Collection[int]) -> Callable[[], Named]:
    """Return a function that reads what profiles name now; those that are wrong name nothing."""
    own = _Own(profiles_dir, owners)

    def named() -> Named:
        layers = [*_builtin(), *own.layers()]
        tables = [table for layer in layers for table in layer.tables]
        return Named(
            sysctls=frozenset(
                ".".join(sysctl_path(entry.name))
                for table in tables
                for entry in table.entries
                if table.subsystem == "sysctl"
            ),
            modules=frozenset(
                (table.target, entry.name)
                for table in tables
                for entry in table.entries
                if table.subsystem == "modules"
            ),
            units=frozenset(table.target for table in tables if table.subsystem == "limits"),
        )

    return named


@cache
def _builtin() -> tuple[Layer, ...]:
    library = Library(_NOWHERE)
    return tuple(library.layer(name) for name in library.names())


class _Own:
    """The layers of a directory; a file is parsed again when it was changed."""

    def __init__(self, directory: Path, owners: Collection[int]) -> None:
        self._library = Library(directory)
        self._owners = owners
        self._known: dict[Path, tuple[tuple[int, ...], Layer | None]] = {}

    def layers(self) -> Iterator[Layer]:
        """Yield those that only `owners` can have written."""
        for path in self._library.own_files():
            try:
                if why_unguarded(path, self._owners) is not None:
                    continue
                status = path.stat()
                stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                if path not in self._known or self._known[path][0] != stamp:
                    self._known[path] = stamp, self._read(path)
            except OSError:
                continue
            layer = self._known[path][1]
            if layer is not None:
                yield layer

    def _read(self, path: Path) -> Layer | None:
        try:
            return self._library.layer(path.stem)
        except (ProfileError, RequestError) as error:
            log.info("profile %s names nothing that may be set: %s", path, error)
            return None
