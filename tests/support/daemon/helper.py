"""Helpers that run as a process of their own, and connections to them."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.daemon.harness import HOLDFAST, clean_environment, dying_with_parent
from tests.support.waiting import until

NOBODY = 65534


SOMEONE_ELSE = 12345


class Helper:
    """A helper process, and what passes through its socket."""

    def __init__(self, process: subprocess.Popen[Any], path: Path) -> None:
        self.process = process
        self.socket = path

    def ask(self, request: object) -> dict[str, Any]:
        """Send a request as JSON and return the response."""
        answer: dict[str, Any] = json.loads(self.send(json.dumps(request).encode() + b"\n"))
        return answer

    def send(self, data: bytes) -> bytes:
        """Send bytes, end the sending side, and answer everything that comes back."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(20)
            connection.connect(str(self.socket))
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except BrokenPipeError:  # it had read enough
                pass
            received = b""
            try:
                while chunk := connection.recv(65536):
                    received += chunk
            except ConnectionResetError:
                pass
            return received


@contextmanager
def helping(
    path: Path, *options: str, wrapper: Sequence[str] = (), user: str = "nobody"
) -> Iterator[Helper]:
    """Run a helper for a user, its record of settings beside its socket."""
    command = [*wrapper, *HOLDFAST, "helper", "--socket", str(path), "--user", user]
    command += ["--journal-dir", str(path.parent / "journal")]
    command += ["--profiles-dir", str(path.parent / "profiles.d"), *options]
    process = subprocess.Popen(
        dying_with_parent(command), stderr=subprocess.DEVNULL, env=clean_environment()
    )
    try:
        until(
            lambda: path.exists() and path.stat().st_mode & 0o777 == 0o600,
            what="the helper's socket",
        )
        yield Helper(process, path)
    finally:
        process.kill()
        process.wait()


def write(**fields: Any) -> dict[str, Any]:
    return {"do": "write", "write": fields}
