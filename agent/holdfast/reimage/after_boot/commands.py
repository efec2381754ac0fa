"""Runs the operator's commands: without a shell, for so long, and with what they said kept."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from holdfast.process import trace

_POLL_SECONDS = 0.25
_KEPT_BYTES = 4096


@dataclass(frozen=True)
class Ended:
    """How a command ended. `code` is None where it was not started or took too long."""

    code: int | None
    said: str
    """The end of what it wrote."""
    sentence: str
    """For a person, with what it said."""
    output: str = ""
    """What it wrote, of which the end is `said`, with its lines."""

    @property
    def passed(self) -> bool:
        """Whether it ended well."""
        return self.code == 0


def _traced() -> dict[str, str]:
    """Return the environment that names the trace of a command."""
    found = trace.outgoing()
    return {} if found is None else {"TRACEPARENT": found}


def run_command(
    command: Sequence[str],
    seconds: float,
    check: Callable[[], None],
    environment: Mapping[str, str] | None = None,
    kept_bytes: int = _KEPT_BYTES,
) -> Ended:
    """Run a command of the settings with the rights of this process, and wait for its end.

    `check` is called meanwhile; what it raises ends the command, with all that it has started. The
    last `kept_bytes` of what it writes are kept.
    """
    name = command[0]
    # A file and not a pipe: what a command leaves behind may keep a pipe open for ever.
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(  # noqa: S603 - from the settings file, no shell
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_traced(), **(environment or {})},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return Ended(None, "", f"{name} could not be started: {reason}.")
        deadline = time.monotonic() + seconds
        try:
            while process.poll() is None and time.monotonic() <= deadline:
                check()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_POLL_SECONDS)
        finally:
            late = process.poll() is None
            if late:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(max(0, output.seek(0, os.SEEK_END) - kept_bytes))
        written = output.read(kept_bytes).decode(errors="replace")
    said = " ".join(written[-_KEPT_BYTES:].split())
    said = "".join(character if character.isprintable() else "?" for character in said)
    tail = f": {said[-500:]}" if said else ""
    if late:
        return Ended(None, said, f"{name} took longer than {seconds:g} s{tail}.")
    ended = f"{name} ended with {process.returncode}{tail}."
    return Ended(process.returncode, said, ended, written)
