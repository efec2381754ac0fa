"""Paths that clients give, confined to the configured roots."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from holdfast import _engine
from holdfast.node.storage.mounts import mount_of, read_mounts
from holdfast.node.storage.volumes import missing
from holdfast.operations.model import RequestError, Slug


@dataclass(frozen=True)
class RootPath:
    """A root, and what in it is meant: `path` is relative to it and empty for all of it.

    The engine parses its two fields.
    """

    root: Path
    path: str = ""


class Roots:
    """Finds the place of a path.

    What is checked here can be reported to a client at once. The engine makes sure that a path
    stays within its root also when another process changes it a moment later: it opens everything
    relative to the open root and through no symbolic link.
    """

    def __init__(self, roots: Sequence[Path], state_dir: Path) -> None:
        self.roots = tuple(roots)
        self._state_dir = state_dir

    def all(self) -> list[RootPath]:
        """Every root that is there. Raises `RequestError` if there is none."""
        places = [RootPath(root) for root in self.roots if missing(root) is None]
        if not places:
            reasons = "; ".join(f"{root} {missing(root)}" for root in self.roots)
            raise RequestError(
                Slug.UNAVAILABLE, f"No configured root is there: {reasons}. Mount the data volume."
            )
        return places

    def root(self, text: str, field: str) -> RootPath:
        """Find a root by its path.

        Raises `RequestError` if it is not a configured root, or not there.
        """
        # Of "/" nothing would be left.
        named = text.rstrip("/") or "/"
        root = next((root for root in self.roots if str(root) == named), None)
        if root is None:
            names = ", ".join(map(str, self.roots))
            raise RequestError(
                Slug.OUTSIDE_ROOTS, f"{text} is not a configured root; those are {names}.", field
            )
        self._check_there(root, field)
        return RootPath(root)

    def find(self, text: str, field: str) -> RootPath:
        """Find the place of an absolute path of an existing file or directory.

        Raises `RequestError` if it is malformed, not in a root, or not there, or the root is not.
        """
        if "\0" in text:
            raise RequestError(Slug.INVALID_REQUEST, "The path contains a NUL character.", field)
        path = Path(text)
        if not path.is_absolute() or ".." in path.parts:
            raise RequestError(
                Slug.OUTSIDE_ROOTS,
                f"{text} must be an absolute path without `..`, in a configured root.",
                field,
            )
        # The innermost of nested roots.
        inside = [root for root in self.roots if path.is_relative_to(root)]
        if not inside:
            names = ", ".join(map(str, self.roots))
            raise RequestError(
                Slug.OUTSIDE_ROOTS, f"{text} is in no configured root; those are {names}.", field
            )
        root = max(inside, key=lambda root: len(root.parts))
        self._check_there(root, field)
        if path.is_relative_to(self._state_dir):
            raise RequestError(
                Slug.OUTSIDE_ROOTS, f"{text} is holdfast's own state; name something else.", field
            )
        relative = path.relative_to(root)
        try:
            real = Path(os.path.realpath(path, strict=True))
        except FileNotFoundError:
            raise RequestError(Slug.NOT_FOUND, f"{text} does not exist.", field) from None
        except (OSError, ValueError) as error:
            raise RequestError(
                Slug.INVALID_REQUEST, f"{text} cannot be inspected: {error}.", field
            ) from None
        if real != Path(os.path.realpath(root)) / relative:
            raise RequestError(
                Slug.OUTSIDE_ROOTS,
                f"{text} leads through a symbolic link; name what it points to.",
                field,
            )
        self._check_kind(path, root, field)
        return RootPath(root, "" if relative == Path() else str(relative))

    @staticmethod
    def _check_there(root: Path, field: str) -> None:
        reason = missing(root)
        if reason is not None:
            raise RequestError(
                Slug.UNAVAILABLE, f"Root {root} {reason}; mount the data volume.", field
            )

    @staticmethod
    def _check_kind(path: Path, root: Path, field: str) -> None:
        """Ask the engine, which decides for all of its calls what belongs to a root."""
        try:
            kind = _engine.kind_of(root, path.relative_to(root))
        except OSError as error:
            raise _not_in_root(path, root, field, error) from None
        if kind == "other":
            raise RequestError(
                Slug.INVALID_REQUEST,
                f"{path} is neither a directory nor a regular file; name one of those.",
                field,
            )


def _not_in_root(path: Path, root: Path, field: str, error: OSError) -> RequestError:
    """Return why a path that exists, or did a moment ago, is not part of a root."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return RequestError(Slug.NOT_FOUND, f"{path} is there no longer: {error.strerror}.", field)
    if error.errno == errno.EXDEV:
        return RequestError(
            Slug.OUTSIDE_ROOTS,
            f"{path} is not part of root {root}: something else is mounted there"
            f"{_mounted_at(path)}; make it a root of its own.",
            field,
        )
    if error.errno == errno.ELOOP:
        return RequestError(
            Slug.OUTSIDE_ROOTS,
            f"{path} leads through a symbolic link; name what it points to.",
            field,
        )
    return RequestError(
        Slug.INVALID_REQUEST, f"{path} cannot be inspected: {error.strerror}.", field
    )


def _mounted_at(path: Path) -> str:
    """Name the innermost mount around a path, where this process can see its mounts."""
    try:
        mount = mount_of(Path(os.path.realpath(path)), read_mounts())
    except OSError:
        return ""
    return f" ({mount.file_system} on {mount.point})" if mount is not None else ""
