"""Finds profiles, those of the operator before those that come with holdfast, and their parents."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from holdfast.operations.model import RequestError, Slug
from holdfast.tuning.profile.layers import Layer, Mistake, Policy, ProfileError
from holdfast.tuning.profile.reader import MAX_BYTES, PROFILE_NAME, read_layer

_SUFFIX = ".toml"
_MOST_LAYERS = 32


@dataclass(frozen=True)
class Lineage:
    """A profile with all it inherits."""

    layers: Sequence[Layer]
    """Each after its parents; the profile itself is the last."""

    @property
    def name(self) -> str:
        """The name of the profile."""
        return self.layers[-1].name

    @cached_property
    def policy(self) -> Policy:
        """The policy of the profile, or of the nearest parent that has one."""
        said = (layer.policy for layer in reversed(self.layers) if layer.policy is not None)
        return next(said, "report")

    @cached_property
    def ancestors(self) -> dict[str, frozenset[str]]:
        """By name of a layer: all it inherits from."""
        found: dict[str, frozenset[str]] = {}
        for layer in self.layers:
            parents = frozenset(layer.extends)
            found[layer.name] = parents.union(*(found[parent] for parent in parents))
        return found


class Library:
    """The profiles of this machine. Files are read anew each time: they are small, and change."""

    def __init__(self, directory: Path) -> None:
        """`directory` holds the operator's own; it need not exist."""
        self._directory = directory

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted({*self._own(), *_builtin()})

    def layer(self, name: str) -> Layer:
        """Read one profile without its parents.

        Raises `RequestError` if there is none, and `ProfileError` if it is wrong.
        """
        own = self._own().get(name)
        if own is not None:
            return read_layer(name, str(own), _content(own), builtin=False)
        if name in _builtin():
            content = (files("holdfast.tuning") / "profiles" / f"{name}{_SUFFIX}").read_bytes()
            return read_layer(name, f"{name}{_SUFFIX}", content, builtin=True)
        close = difflib.get_close_matches(name, self.names(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"there is {', '.join(self.names())}."
        raise RequestError(
            Slug.NOT_FOUND, f"There is no profile {name[:64]!r}; {hint}", field="profile"
        )

    def lineage(self, name: str) -> Lineage:
        """Read a profile and all it inherits. Raises `RequestError` and `ProfileError`."""
        layers: dict[str, Layer] = {}
        self._visit(self.layer(name), layers, ())
        return Lineage(list(layers.values()))

    def _visit(self, layer: Layer, layers: dict[str, Layer], path: tuple[str, ...]) -> None:
        path = (*path, layer.name)
        for parent in layer.extends:
            if parent in path:
                loop = " > ".join([*path[path.index(parent) :], parent])
                raise ProfileError([layer.extends_spot.mistake(f"inherits in a circle: {loop}")])
            if parent in layers:
                continue
            if len(layers) >= _MOST_LAYERS:
                raise ProfileError([layer.extends_spot.mistake("inherits from too many profiles")])
            try:
                found = self.layer(parent)
            except RequestError as error:
                detail = error.detail[:1].lower() + error.detail[1:].rstrip(".")
                raise ProfileError(
                    [layer.extends_spot.mistake(f"names a parent that is not there: {detail}")]
                ) from None
            self._visit(found, layers, path)
        layers[layer.name] = layer

    def own_files(self) -> list[Path]:
        """Return the operator's own files."""
        return list(self._own().values())

    def _own(self) -> dict[str, Path]:
        try:
            entries = sorted(self._directory.iterdir())
        except OSError:
            return {}
        return dict(_named(entries))


def _named(entries: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    for path in entries:
        if path.suffix == _SUFFIX and PROFILE_NAME.fullmatch(path.stem):
            yield path.stem, path


def _builtin() -> frozenset[str]:
    directory = files("holdfast.tuning") / "profiles"
    return frozenset(
        file.name.removesuffix(_SUFFIX)
        for file in directory.iterdir()
        if file.name.endswith(_SUFFIX)
    )


def _content(path: Path) -> bytes:
    """Read a file of the operator's. Raises `ProfileError` if others could have written it."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ProfileError(
            [Mistake(str(path), 0, "", f"cannot be read: {error.strerror}")]
        ) from None
    with os.fdopen(file, "rb") as stream:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise ProfileError([Mistake(str(path), 0, "", "is not a regular file")])
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise ProfileError(
                [
                    Mistake(
                        str(path),
                        0,
                        "",
                        "could have been written by other users; it should belong to root and be "
                        "writable by root alone",
                    )
                ]
            )
        return stream.read(MAX_BYTES + 1)
