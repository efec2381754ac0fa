"""How long this machine takes for the least that a request needs: two wake-ups."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

_PAUSE_SECONDS = 0.05
_ECHO = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as sock:
    while data := sock.recv(16):
        sock.sendall(data)
"""


class Echo:
    """A process that sends back what it gets, and how long that takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._sock, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _ECHO, str(number)], pass_fds=(number,)
            )
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="echo")
        self._thread.start()

    def _run(self) -> None:
        self._sock.sendall(b"start")
        self._sock.recv(16)
        while not self._end.wait(_PAUSE_SECONDS):
            begin = time.perf_counter()
            self._sock.sendall(b"x")
            self._sock.recv(16)
            self.seconds.append(time.perf_counter() - begin)

    def p99(self) -> float:
        """Return the 99th percentile so far, in seconds; infinite without any."""
        values = sorted(self.seconds)
        return values[min(len(values) - 1, int(len(values) * 0.99))] if values else float("inf")

    def stop(self) -> None:
        """End both."""
        self._end.set()
        self._thread.join(30)
        self._sock.close()
        self._process.wait(30)
