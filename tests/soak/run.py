"""One soak: a daemon with all its listeners, hostile and honest clients, and what is measured."""

from __future__ import annotations

import itertools
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.soak.echo import Echo
from tests.soak.honest import Honest
from tests.support.daemon.harness import Daemon, create_tokens, daemons
from tests.support.servers.certificates import Authority
from tests.support.waiting import until

MOST_WAIT_SECONDS = 0.1
BUSY_SECONDS = 0.01
"""A machine on which an echo takes longer (p99) is too busy to measure how quick a daemon is."""
MOST_RESIDENT_BYTES = 200 << 20
SPARE_DESCRIPTORS = 16
"""More than at the start that may be open at the end: the pools have grown by then."""


@dataclass
class Report:
    """What came out of a soak."""

    span: tuple[float, float]
    """Of the hostile clients, by the monotonic clock."""
    healthz_p99: float
    """Seconds; of all transports over connections that are kept."""
    rows: list[str]
    failures: list[str]
    most_resident: int
    descriptors: tuple[int, int, int]
    """At the start, at most, and at the end."""
    hostile: dict[str, int]
    machine_p99: float
    """Seconds; of an echo between two other processes at the same time."""
    watchdog_limit: float = 0.0
    longest_gap: float = 0.0
    problems: list[str] = field(default_factory=list)

    def judge(self) -> None:
        """Fill `problems` with everything that is not as promised."""
        start, _, end = self.descriptors
        checks = (
            (
                self.healthz_p99 < MOST_WAIT_SECONDS or self.machine_p99 > BUSY_SECONDS,
                f"/healthz: p99 {self.healthz_p99 * 1e3:.1f} ms",
            ),
            (not self.failures, f"{len(self.failures)} failures, such as {self.failures[:3]}"),
            (self.most_resident < MOST_RESIDENT_BYTES, f"resident: {self.most_resident} bytes"),
            (end <= start + SPARE_DESCRIPTORS, f"descriptors: {start} before, {end} after"),
            (self.longest_gap < self.watchdog_limit, f"watchdog: {self.longest_gap:.1f} s"),
        )
        self.problems = [text for fine, text in checks if not fine]

    def __str__(self) -> str:
        """Describe it for a person."""
        start, most, end = self.descriptors
        return "\n".join(
            [
                f"{self.span[1] - self.span[0]:.0f} s; hostile: {json.dumps(self.hostile)}",
                *self.rows,
                f"echo: p99 {self.machine_p99 * 1e3:.1f} ms"
                + (" (too busy to judge /healthz)" if self.machine_p99 > BUSY_SECONDS else ""),
                f"honest failures: {len(self.failures)}",
                f"resident: at most {self.most_resident / (1 << 20):.0f} MiB",
                f"descriptors: {start} before, at most {most}, {end} after",
                f"watchdog: longest gap {self.longest_gap:.1f} s of {self.watchdog_limit:g} s",
                *(f"NOT AS PROMISED: {problem}" for problem in self.problems),
            ]
        )


class _Notified:
    """A socket in systemd's place, and when the daemon reported to be alive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.settimeout(0.5)
        self.beats: list[float] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notified")
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                if b"WATCHDOG=1" in self._sock.recv(4096):
                    self.beats.append(time.monotonic())
            except TimeoutError:
                continue

    def longest_gap(self, begin: float, end: float) -> float:
        """Return the longest time without a beat between two moments, in seconds."""
        moments = [begin, *(beat for beat in self.beats if begin < beat < end), end]
        return max(after - before for before, after in itertools.pairwise(moments))

    def stop(self) -> None:
        self._end.set()
        self._thread.join(5)
        self._sock.close()


def soak(
    base: Path,
    seconds: float,
    *,
    connections: int = 1000,
    watchdog_limit: float = 30.0,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run one for `seconds`, with files below `base`, and judge it."""
    authority = Authority(base, "authority")
    server = authority.issue("server")
    notified = _Notified(base / "notify")
    try:
        with daemons(base, create_tokens(base)) as start:
            daemon: Daemon = start(
                tls={"certificate": str(server.certificate), "key": str(server.key)},
                log_level="error",
                environment={
                    "NOTIFY_SOCKET": str(notified.path),
                    "WATCHDOG_USEC": str(int(watchdog_limit * 1e6)),
                },
            )
            honest = Honest(daemon, authority.file)
            report = _run(daemon, honest, seconds, connections, say)
            report.watchdog_limit = watchdog_limit
            begin, end = report.span
            report.longest_gap = notified.longest_gap(begin, end)
            report.judge()
            return report
    finally:
        notified.stop()


def _run(
    daemon: Daemon,
    honest: Honest,
    seconds: float,
    connections: int,
    say: Callable[[str], None],
) -> Report:
    honest.start()
    echo = Echo()
    time.sleep(1.0)  # for its connections, which count
    begin, descriptors_before = time.monotonic(), _descriptors(daemon)
    hostile = subprocess.Popen(
        [sys.executable, "-m", "tests.soak.hostile", str(daemon.port), str(seconds),
         str(connections)],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    resident = most = 0
    next_line = begin + 60
    try:
        while hostile.poll() is None:
            resident = max(resident, _resident(daemon))
            most = max(most, _descriptors(daemon))
            if time.monotonic() >= next_line:
                next_line += 60
                say(
                    f"{time.monotonic() - begin:.0f} s: /healthz p99 "
                    f"{honest.waits.percentile(0.99, 'healthz') * 1e3:.1f} ms, "
                    f"{resident / (1 << 20):.0f} MiB, {_descriptors(daemon)} descriptors"
                )
            time.sleep(0.25)
    finally:
        echo.stop()
        hostile.kill()
        output = hostile.communicate()[0]
    end = time.monotonic()
    until(
        lambda: _descriptors(daemon) <= descriptors_before + SPARE_DESCRIPTORS or None,
        seconds=90,
        what="the end of the hostile connections",
    )
    honest.stop()
    waits = honest.waits
    return Report(
        span=(begin, end),
        healthz_p99=waits.percentile(0.99, "healthz"),
        rows=[
            f"{what:<13}{len(waits.seconds[what]):>7} requests; ms: "
            + ", ".join(
                f"{name} {waits.percentile(share, what) * 1e3:.1f}"
                for name, share in (("p50", 0.5), ("p99", 0.99), ("most", 1.0))
            )
            for what in sorted(waits.seconds)
        ],
        failures=waits.failures,
        most_resident=resident,
        descriptors=(descriptors_before, most, _descriptors(daemon)),
        hostile=json.loads(output or "{}"),
        machine_p99=echo.p99(),
    )


def _descriptors(daemon: Daemon) -> int:
    return sum(1 for _ in Path(f"/proc/{daemon.pid}/fd").iterdir())


def _resident(daemon: Daemon) -> int:
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the daemon has no VmRSS")
