"""Runs a program on a terminal of its own, as a person would: types, and reads what it shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from typing import Self

INTERRUPT = "\x03"  # what Ctrl-C sends
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A program on a pseudo terminal, which is its controlling one: Ctrl-C sends it SIGINT."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, columns: int = 120
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={"TERM": "xterm-256color", **environment},
        )
        os.close(slave)
        self.raw = ""

    @property
    def shown(self) -> str:
        """Everything shown so far, without colours and movements."""
        return _ESCAPES.sub("", self.raw)

    def type(self, text: str) -> None:
        """Type on the keyboard."""
        os.write(self._master, text.encode())

    def wait_for(self, text: str, *, seconds: float = 20.0, times: int = 1) -> None:
        """Read until `text` was shown; fails when it does not come."""
        deadline = time.monotonic() + seconds
        while self.shown.count(text) < times:
            left = deadline - time.monotonic()
            assert left > 0, f"{text!r} was not shown in {seconds:g} s: {self.shown}"
            if not self._read(left):
                raise AssertionError(f"the program ended without {text!r}: {self.shown}")

    def wait(self, seconds: float = 20.0) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + seconds
        while self._read(max(0.0, deadline - time.monotonic())):
            assert time.monotonic() < deadline, f"it continues: {self.shown}"
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, seconds: float) -> bool:
        """Read what there is; False at the end of the program."""
        ready, _, _ = select.select([self._master], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other side open any more
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)
