"""Speaks to QEMU itself: what the machine does, without its knowledge.

The protocol is JSON lines: https://www.qemu.org/docs/master/interop/qmp-spec.html
"""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any


class QmpError(Exception):
    """QEMU refused a command, or is gone; the message states which and why."""


class Qmp:
    """A connection to QEMU's monitor. Events that come between answers are kept."""

    def __init__(self, path: Path, seconds: float = 10.0) -> None:
        self._rest = b""
        self._events: list[dict[str, Any]] = []
        deadline = time.monotonic() + seconds
        while True:
            self._socket = socket.socket(socket.AF_UNIX)
            try:
                self._socket.connect(str(path))
                break
            except OSError as error:  # not there yet: QEMU announces it nowhere
                self._socket.close()
                if time.monotonic() > deadline:
                    raise QmpError(f"QEMU does not listen at {path}: {error}") from error
                time.sleep(0.05)
        self._receive(seconds)  # the greeting
        self.ask("qmp_capabilities")

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command and return its result. Raises `QmpError`."""
        message = {"execute": command.replace("_", "-") if command not in _PLAIN else command}
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        self._socket.sendall(json.dumps(message | {"arguments": named}).encode() + b"\n")
        while True:
            answer = self._receive(60.0)
            if "error" in answer:
                raise QmpError(f"{command}: {answer['error'].get('desc')}")
            if "return" in answer:
                return answer["return"]
            self._events.append(answer)

    def event(self, name: str, seconds: float) -> dict[str, Any]:
        """Wait for an event, forgetting those before it. Raises `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while True:
            while self._events:
                event = self._events.pop(0)
                if event["event"] == name:
                    return event
            try:
                answer = self._receive(deadline - time.monotonic())
            except TimeoutError:
                raise TimeoutError(f"no {name} within {seconds:g} s") from None
            self._events.append(answer)

    def times(self, name: str) -> list[float]:
        """Return when events of this name came, on the host's clock, and keep them."""
        self.ask("query-status")  # events that QEMU sent before its reply have arrived by then
        stamps = [event["timestamp"] for event in self._events if event["event"] == name]
        return [stamp["seconds"] + stamp["microseconds"] / 1e6 for stamp in stamps]

    def forget(self, name: str) -> None:
        """Forget events of this name that have come already."""
        self.ask("query-status")  # events that QEMU sent before its reply have arrived by then
        self._events = [event for event in self._events if event["event"] != name]

    def close(self) -> None:
        """Let go of the connection."""
        self._socket.close()

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.01))
            chunk = self._socket.recv(65536)
            if not chunk:
                raise QmpError("QEMU is gone")
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer


_PLAIN = {"qmp_capabilities", "system_reset", "system_powerdown", "device_del", "device_add"}
