"""The audit log: one JSON line for each call that changes something, written before its answer.

Calls that change the system itself (scope `admin`) have a file of their own besides, so that a
flood of cheap calls cannot rotate their lines away. These lines are on the disk before the answer.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from holdfast.api.http.rendering import printable
from holdfast.operations.model import format_time, now
from holdfast.process import trace
from holdfast.storage.atomic_files import flush_directory

log = logging.getLogger("holdfast.audit")
errors = logging.getLogger(__name__)

FILE_NAME = "audit.log"
ADMIN_FILE_NAME = "audit-admin.log"
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
        self._lines = _LineFile(directory / FILE_NAME, max_bytes, kept)
        self._admin_lines = _LineFile(directory / ADMIN_FILE_NAME, max_bytes, kept)
        # Of the event loop: lines are in the order of their answers, and a slow flush of one is not
        # waited for by the others.
        self._write_turn = anyio.CapacityLimiter(1)
        self._flush_turn = anyio.CapacityLimiter(1)

    async def write(self, entry: Mapping[str, Any], *, to_file: bool, lasting: bool) -> None:
        """Write one line from the event loop, in a thread; return once it is written.

        `to_file=False` is for calls by nobody known: those go to the logger alone, so that
        strangers cannot push the lines of others out of the file. `lasting` also writes it to
        `audit-admin.log` and waits until it is on the disk.
        """
        record = functools.partial(self.record, entry, to_file=to_file, lasting=lasting)
        await anyio.to_thread.run_sync(record, limiter=self._write_turn)
        if lasting:
            await anyio.to_thread.run_sync(self.flush, limiter=self._flush_turn)

    def record(
        self, entry: Mapping[str, Any], *, to_file: bool = True, lasting: bool = False
    ) -> None:
        """Write one line, as `write` does, without a flush. Blocks on the disk."""
        line = printable(json.dumps(entry, ensure_ascii=False, default=str))
        log.info("%s", line)
        data = line.encode() + b"\n"
        if to_file:
            self._lines.append(data)
        if lasting:
            self._admin_lines.append(data)

    def record_event(self, event: Mapping[str, Any]) -> None:
        """Write what holdfast did without a call, to both files and to the disk. Blocks on it."""
        entry = {"time": format_time(now()), "who": "holdfast", **summary(event)}
        if trace.current() is not None:
            entry["traceparent"] = trace.current()
        self.record(entry, lasting=True)
        self.flush()

    def flush(self) -> None:
        """Put the lines of `admin` calls on the disk. Blocks on it."""
        self._admin_lines.flush()

    def close(self) -> None:
        """Close the files; a later record opens them again."""
        self._lines.close()
        self._admin_lines.close()


class _LineFile:
    """A file of lines with a bound on its size, and the older ones beside it as `NAME.1` and on."""

    def __init__(self, path: Path, max_bytes: int, kept: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._kept = kept
        self._lock = threading.Lock()
        self._handle: int | None = None

    def append(self, line: bytes) -> None:
        """Append one line; log an error if it cannot be written."""
        with self._lock:
            try:
                self._append(line)
            except OSError as error:
                self._cannot("written", error)
                self._close()

    def flush(self) -> None:
        """Put what was appended on the disk; log an error if that fails."""
        try:
            with self._lock:
                handle = None if self._handle is None else os.dup(self._handle)
            if handle is None:
                return
            try:
                os.fdatasync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            self._cannot("flushed", error)

    def close(self) -> None:
        """Close the file."""
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
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._path, flags)
        except FileNotFoundError:
            handle = os.open(self._path, flags | os.O_CREAT, 0o600)
        flush_directory(self._path.parent)
        return handle

    def _rotate(self) -> None:
        if self._handle is not None:
            os.fdatasync(self._handle)
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

    def _cannot(self, verb: str, error: OSError) -> None:
        errors.error("audit log %s cannot be %s: %s", self._path, verb, error)


def summary(params: Any) -> Any:
    """Shorten what a call was asked with, for a line: long texts and lists are cut."""
    if isinstance(params, str):
        return params if len(params) <= _MAX_TEXT else f"{params[:_MAX_TEXT]}…"
    if isinstance(params, Mapping):
        return {str(key): summary(value) for key, value in params.items()}
    if isinstance(params, list | tuple):
        shown = [summary(param) for param in params[:10]]
        return [*shown, f"… {len(params) - 10} more"] if len(params) > 10 else shown
    return params
