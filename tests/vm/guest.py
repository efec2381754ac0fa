"""Speaks to a virtual machine's guest agent: runs commands in it, as root."""

from __future__ import annotations

import base64
import json
import random
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.vm.pace import patience

_POLL_SECONDS = 0.05  # the agent announces nothing by itself


class GuestError(Exception):
    """The agent does not answer, or a command failed; the message states which and why."""


class Guest:
    """A machine with qemu-guest-agent, behind the unix socket of its serial port.

    The protocol is JSON lines: https://www.qemu.org/docs/master/interop/qemu-ga-ref.html
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._rest = b""

    def wait(self, seconds: float) -> None:
        """Wait until the agent answers. Raises `GuestError`."""
        deadline = time.monotonic() + patience(seconds)
        while True:
            try:
                self._sync(2.0)
            except (OSError, GuestError) as error:
                self.close()
                if time.monotonic() > deadline:
                    raise GuestError(f"no answer of the agent within {seconds:g} s") from error
                time.sleep(0.2)
            else:
                return

    def run(self, *command: str, seconds: float = 300.0, check: bool = True) -> str:
        """Run a command and return what it printed. Raises `GuestError` if it fails."""
        done = self.call(*command, seconds=seconds)
        if check and done.returncode != 0:
            raise GuestError(f"{' '.join(command)}: {done.returncode}: {done.stdout}{done.stderr}")
        return str(done.stdout)

    def sh(self, script: str, *, seconds: float = 300.0, check: bool = True) -> str:
        """Run a shell script and return what it printed."""
        return self.run("/bin/sh", "-c", script, seconds=seconds, check=check)

    def json(self, *command: str, seconds: float = 300.0) -> Any:
        """Run a command that prints JSON."""
        return json.loads(self.run(*command, seconds=seconds))

    def call(self, *command: str, seconds: float = 300.0) -> subprocess.CompletedProcess[str]:
        """Run a command and return how it ended."""
        started = self._ask(
            "guest-exec", {"path": command[0], "arg": command[1:], "capture-output": True}
        )
        deadline = time.monotonic() + patience(seconds)
        while True:
            status = self._ask("guest-exec-status", {"pid": started["pid"]})
            if status["exited"]:
                out, err = (
                    base64.b64decode(status.get(name, "")).decode(errors="replace")
                    for name in ("out-data", "err-data")
                )
                code = status.get("exitcode", -status.get("signal", 0))
                return subprocess.CompletedProcess(command, code, out, err)
            if time.monotonic() > deadline:
                raise GuestError(f"{' '.join(command)} took longer than {seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def tell(self, command: str, arguments: dict[str, Any]) -> None:
        """Give the agent a command that it does not answer."""
        self._send({"execute": command, "arguments": arguments})

    def close(self) -> None:
        """Let go of the connection; the next use makes another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._rest = b""

    def _sync(self, seconds: float) -> None:
        """Throw away what is left over from before, as the protocol wants it after a reset."""
        number = random.getrandbits(30)
        self._rest = b""
        self._send({"execute": "guest-sync", "arguments": {"id": number}})
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            answer = self._receive(deadline - time.monotonic())
            if answer.get("return") == number:
                return
        raise GuestError("the agent answers others' questions only")

    def _ask(self, command: str, arguments: dict[str, Any]) -> Any:
        self._send({"execute": command, "arguments": arguments})
        answer = self._receive(patience(30.0))
        if "error" in answer:
            raise GuestError(f"{command}: {answer['error'].get('desc')}")
        return answer["return"]

    def _send(self, message: dict[str, Any]) -> None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(10)
            self._socket.connect(str(self._path))
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _receive(self, seconds: float) -> dict[str, Any]:
        assert self._socket is not None
        self._socket.settimeout(max(seconds, 0.01))
        while b"\n" not in self._rest:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise GuestError("the machine is gone")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line.lstrip(b"\xff"))
        return answer
