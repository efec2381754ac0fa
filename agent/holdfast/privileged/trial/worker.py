"""Has the imager's program try an image: in a process of its own that can be killed.

As an installed service the process is systemd's (`holdfast-trial@.service`), which has the rights
for it and no others; without that unit it is started from here.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel, Field, ValidationError

from holdfast.privileged.trial.models import TrialCheck, TrialRow

SOCKET = "/run/holdfast-helper/trial"
"""Where systemd starts a trial for each connection."""
SILENT_SECONDS = 60.0
"""How long a trial may do one thing without a sign that it continues."""
_KILL_SECONDS = 5.0
_MOST_OUTPUT = 4 << 20
_IN_KERNEL: dict[str, TrialCheck] = {
    "boot": "boot",
    "mount": "mount",
    "write": "write",
    "check": "check",
}
"""Steps in which the kernel works on the file systems of the image."""


class _Line(BaseModel, defer_build=True):
    step: str = ""
    rows: list[TrialRow] | None = Field(default=None, max_length=64)


@dataclass
class _Running:
    """A trial under way: where its lines come from, and how it ends."""

    output: int
    process: subprocess.Popen[bytes] | None
    errors: BinaryIO | None = None

    def kill(self) -> bool:
        """End it; whether it did, which the kernel may not let it."""
        if self.process is None:
            return True  # it notices that nobody listens, and systemd kills it otherwise
        self.process.kill()
        try:
            self.process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return True

    def why(self) -> str:
        """Return a clause: why it ended without an outcome."""
        said = ""
        if self.errors is not None:
            self.errors.seek(0)
            lines = self.errors.read(1 << 16).decode("utf-8", "replace").splitlines()
            said = f": {' '.join(lines[-1].split())}" if lines else ""
        if self.process is None:
            return "it ended before it had an outcome; see the journal of holdfast-trial"
        code = self.process.wait(_KILL_SECONDS)
        return (f"signal {-code} killed it" if code < 0 else f"it ended with code {code}") + said


def run_trial(
    imager: Path,
    service: Path,
    document: bytes,
    *,
    seconds: float | None = None,
    silent_seconds: float = SILENT_SECONDS,
) -> list[TrialRow]:
    """Have a request tried; never raises for what the image or the trial does.

    `seconds` bounds all of it, `silent_seconds` each step. Rows that are `not_tried` state why.
    """
    try:
        with _started(imager, service, document) as running:
            return _followed(running, seconds, silent_seconds)
    except OSError as error:
        where = error.filename or imager
        return [_not_tried(f"The trial cannot be started: {where}: {error.strerror or error}.")]


@contextmanager
def _started(imager: Path, service: Path, document: bytes) -> Iterator[_Running]:
    """Start a trial, and have it end. Raises `OSError`."""
    if service.exists():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SILENT_SECONDS)
            connection.connect(os.fspath(service))
            connection.sendall(document + b"\n")
            yield _Running(connection.fileno(), None)
        return
    # Not a pipe, which a program that reads nothing would fill.
    with tempfile.TemporaryFile() as request, tempfile.TemporaryFile() as errors:
        request.write(document + b"\n")
        request.seek(0)
        process = subprocess.Popen(  # noqa: S603 - the imager of the package, no shell
            [imager, "try"],
            stdin=request,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
        )
        assert process.stdout is not None  # noqa: S101 - for mypy
        with process.stdout:
            try:
                yield _Running(process.stdout.fileno(), process, errors)
            finally:
                process.kill()
                # One that the kernel holds on to stays until that lets go of it.
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_KILL_SECONDS)


def _followed(running: _Running, seconds: float | None, silent_seconds: float) -> list[TrialRow]:
    """Read its output until it has an outcome, or takes too long."""
    begin = time.monotonic()
    pending, total, step = b"", 0, "start"
    poll = select.poll()
    poll.register(running.output, select.POLLIN)
    while True:
        wait = silent_seconds
        if seconds is not None:
            wait = min(wait, begin + seconds - time.monotonic())
        if wait <= 0 or not poll.poll(wait * 1000):
            return [_too_long(running, step, seconds, time.monotonic() - begin)]
        chunk = os.read(running.output, 1 << 16)
        total += len(chunk)
        if not chunk or total > _MOST_OUTPUT:
            why = "it printed too much" if chunk else running.why()
            return [_not_tried(f"The trial failed while it was at `{step}`: {why}.")]
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            try:
                message = _Line.model_validate(json.loads(line))
            except (ValidationError, ValueError):
                return [_not_tried("The trial returned something unknown.")]
            if message.rows is not None:
                return message.rows
            step = message.step


def _too_long(running: _Running, step: str, seconds: float | None, took: float) -> TrialRow:
    ended = running.kill()
    if step in _IN_KERNEL and (seconds is None or took < seconds):
        stuck = "" if ended else " Its process cannot be killed; it is in the kernel."
        return TrialRow(
            check=_IN_KERNEL[step],
            outcome="failed",
            detail=f"The kernel was not done with `{step}` after {took:.0f} s, and was not waited "
            f"for any longer.{stuck}",
            advice="Check the file systems of the image.",
        )
    return _not_tried(f"The trial was at `{step}` after {took:.0f} s, and was ended.")


def _not_tried(detail: str) -> TrialRow:
    return TrialRow(check="mount", outcome="not_tried", detail=detail)
