"""A memcached that is stopped, loses its tmpfs and is started again has all of its items."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.capabilities.memory import MIB, memory_node
from tests.support.daemon.harness import Daemon, dying_with_parent
from tests.support.waiting import until

ITEMS = 10_000
SIZE = 96 * MIB
REQUIRED = "memory_file.meta"

pytestmark = pytest.mark.skipif(shutil.which("memcached") is None, reason="there is no memcached")


class Memcached:
    """A memcached with a restartable cache, reached by a unix socket."""

    def __init__(self, root: Path, socket_path: Path) -> None:
        self.root = root
        self.socket_path = socket_path
        self.stopped = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it, and stop it with SIGUSR1, after which it writes its metadata."""
        # It takes no metadata of the second in which it starts.
        until(lambda: time.time() > self.stopped + 2, what="the next second")
        user = ["-u", "root"] if os.geteuid() == 0 else []
        process = subprocess.Popen(
            dying_with_parent(
                ["memcached", *user, "-m", "64", "-s", self.socket_path, "-e",
                 self.root / "memory_file"]
            ),
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(self.answers, what="an answer of memcached")
            yield
            process.send_signal(signal.SIGUSR1)
            assert process.wait(30) == 0
            self.stopped = time.time()
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            return self.ask(b"version\r\n", b"\r\n").startswith(b"VERSION")
        except OSError:
            return False

    def ask(self, request: bytes, end: bytes) -> bytes:
        """Send requests, and return what comes up to the last answer's end."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.socket_path))
            connection.sendall(request)
            answer = b""
            while not answer.endswith(end):
                piece = connection.recv(1 << 20)
                assert piece, answer[-100:]
                answer += piece
            return answer

    def fill(self) -> None:
        """Set items, each with its own time to live."""
        for begin in range(0, ITEMS, 500):
            numbers = range(begin, begin + 500)
            items = [b"set key-%d %d %d %d noreply\r\n%s\r\n" % (n, n % 7, 3600 + n, len(v), v)
                     for n in numbers for v in [value(n)]]  # fmt: skip
            self.ask(b"".join(items) + b"mn\r\n", b"MN\r\n")

    def items(self) -> dict[int, tuple[int, int, bytes]]:
        """Return flags, time to live and value of each item that is there."""
        found: dict[int, tuple[int, int, bytes]] = {}
        for begin in range(0, ITEMS, 500):
            asked = b"".join(b"mg key-%d f t v k\r\n" % n for n in range(begin, begin + 500))
            answer = self.ask(asked + b"mn\r\n", b"MN\r\n")
            while answer != b"MN\r\n":
                head, _, answer = answer.partition(b"\r\n")
                if head.startswith(b"EN"):
                    continue
                size, flags, ttl, key = head.split()[1:]
                text, answer = answer[: int(size)], answer[int(size) + 2 :]
                found[int(key.removeprefix(b"kkey-"))] = (int(flags[1:]), int(ttl[1:]), text)
        return found


def value(number: int) -> bytes:
    """Return the value of an item."""
    return b"value %d " % number * (1 + number % 40)


def test_a_memcached_keeps_all_of_its_items(
    start_daemon: Callable[..., Daemon], disk_dir: Path, tmp_path: Path
) -> None:
    with memory_node(start_daemon, disk_dir, size=SIZE) as node:
        cache = Memcached(node.root, tmp_path / "socket")
        with cache.running():
            cache.fill()
            before, asked = cache.items(), time.monotonic()
            assert len(before) == ITEMS
            running = node.refused("saves", requires=[REQUIRED])
            assert running["type"] == "/problems/conflict"
        saved = node.save(requires=[REQUIRED])
        assert saved["files"] == 2
        node.lose(SIZE)
        assert node.restore(before_start=True)["restored"]
        with cache.running():
            after, passed = cache.items(), time.monotonic() - asked
        assert len(after) == ITEMS  # a hit rate of 1
        for number, (flags, ttl, text) in after.items():
            assert (flags, text) == (number % 7, value(number))
            # Its life went on meanwhile, by memcached's clock of whole seconds.
            assert abs(before[number][1] - passed - ttl) <= 3
