"""Texts of operations that are too large for the database: a file each, beside it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal

from holdfast.storage.atomic_files import clear_partial, replace_file

INLINE_BYTES = 64 << 10
"""What is larger goes into a file, so that the database stays small whatever results have."""

Part = Literal["params", "result"]
_NAME = re.compile(r"(?P<id>[0-9A-Za-z]+)\.(params|result)\.json")
_SURROGATES = re.compile("[\ud800-\udfff]")


class LargeTexts:
    """Parameters and results as JSON on one line. All methods may raise `OSError`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def put(self, operation_id: str, part: Part, text: str) -> None:
        """Store a text, on the disk when this returns."""
        self._directory.mkdir(mode=0o700, exist_ok=True)
        replace_file(self._path(operation_id, part), _SURROGATES.sub("\ufffd", text).encode())

    def open(self, operation_id: str, part: Part) -> BinaryIO:
        """Open a text, which stays readable though it is removed meanwhile."""
        return self._path(operation_id, part).open("rb")

    def remove(self, operation_ids: Iterable[str]) -> None:
        """Remove what there is of these operations."""
        for operation_id in operation_ids:
            for part in ("params", "result"):
                self._path(operation_id, part).unlink(missing_ok=True)

    def retain(self, known: Collection[str]) -> None:
        """Remove what is of no operation: a crash came between its file and its row."""
        with suppress(FileNotFoundError):
            for path in list(self._directory.iterdir()):
                name = _NAME.fullmatch(path.name)
                if name is None:
                    clear_partial(path.with_name(path.name.strip(".").removesuffix(".partial")))
                elif name["id"] not in known:
                    path.unlink(missing_ok=True)

    def _path(self, operation_id: str, part: Part) -> Path:
        return self._directory / f"{operation_id}.{part}.json"
