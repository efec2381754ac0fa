"""The audit log: one JSON line for each call that changes something, written before its answer."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from holdfast.api.rendering import printable

log = logging.getLogger("holdfast.audit")
errors = logging.getLogger(__name__)

FILE_NAME = "audit.log"
MAX_BYTES = 8 << 20
KEPT = 5
"""`audit.log` and `audit.log.1` to `audit.log.4`."""
_MAX_TEXT = 512


class AuditLog:
    """Appends lines to `audit.log` in the state directory and to the logger `holdfast.audit`.

    A file that cannot be written is reported in the log and does not stop the daemon's work; the
    logger has the line all the same.
    """

    def __init__(self, directory: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> None:
        self._path = directory / FILE_NAME
        self._max_bytes = max_bytes
        self._kept = kept
        self._lock = threading.Lock()
        self._handle: int | None = None

    def record(self, entry: Mapping[str, Any], *, to_file: bool = True) -> None:
        """Write one line; blocks on the disk. `to_file=False` is for calls by nobody known.

        Those go to the logger alone, so that strangers cannot push others' lines out of the file.
        """
        line = printable(json.dumps(entry, ensure_ascii=False, default=str))
        log.info("%s", line)
        if not to_file:
            return
        with self._lock:
            try:
                self._append(line.encode() + b"\n")
            except OSError as error:
                errors.error("audit log %s cannot be written: %s", self._path, error)
                self._close()

    def close(self) -> None:
        """Close the file; a later record opens it again."""
        with self._lock:
            self._close()

    def _append(self, line: bytes) -> None:
        if self._handle is None:
            self._handle = self._open()
        if os.fstat(self._handle).st_size + len(line) > self._max_bytes:
            self._rotate()
        # One write with O_APPEND: lines of two writers never mix.
        os.write(self._handle, line)

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self._path, flags, 0o600)

    def _rotate(self) -> None:
        self._close()
        for number in range(self._kept - 1, 0, -1):
            source = self._path if number == 1 else self._numbered(number - 1)
            with suppress(FileNotFoundError):
                source.replace(self._numbered(number))
        self._handle = self._open()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def summary(params: Any) -> Any:
    """Shorten what a call was asked with, for a line: long texts and lists are cut."""
    if isinstance(params, str):
        return params if len(params) <= _MAX_TEXT else f"{params[:_MAX_TEXT]}…"
    if isinstance(params, Mapping):
        return {str(key): summary(value) for key, value in params.items()}
    if isinstance(params, list | tuple):
        shown = [summary(one) for one in params[:10]]
        return [*shown, f"… {len(params) - 10} more"] if len(params) > 10 else shown
    return params
