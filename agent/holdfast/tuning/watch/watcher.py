"""Watches for drift and for devices: a thread that sleeps until the kernel reports an event.

The kernel reports when devices appear (uevents), when interfaces and their qdiscs change
(rtnetlink), and when something is mounted (/proc/self/mountinfo). It does not report when a sysctl
or an attribute of a queue is written, so these are read every few seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger(__name__)

SETTLE_SECONDS = 0.2
"""Events come in bursts: after the first, wait this long, then handle all of them together."""
PAUSE_SECONDS = 1.0
"""Devices are checked no more often, however many events arrive."""
# include/uapi/linux/rtnetlink.h: RTMGRP_LINK and RTMGRP_TC.
_GROUPS = 0x1 | 0x8
_MESSAGES = 1 << 16


class Watcher:
    """Calls `look(thorough=…)` every `seconds` and when something happened."""

    def __init__(self, check: Callable[..., None], seconds: float) -> None:
        self._check = check
        self._seconds = seconds
        self._epoll = select.epoll()
        self._wake, self._waken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._drains: dict[int, Callable[[], None]] = {}
        self._sources: list[Any] = []

    def start(self) -> None:
        """Begin to watch."""
        self._add(self._wake, self._drain_pipe)
        for what in (self._watch_devices, self._watch_links, self._watch_mounts):
            try:
                what()
            except (OSError, ImportError) as error:
                log.warning("settings are checked every %g s only: %s", self._seconds, error)
        self._thread = threading.Thread(target=self._run, name="tuning-watch", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Check now, thoroughly."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._waken, b"!")

    def stop(self, seconds: float) -> None:
        """End within about `seconds`."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        self._check(thorough=True)
        checked = time.monotonic()
        while not self._stopping:
            news = self._wait(self._seconds)
            if self._stopping:
                return
            if news:
                # What follows on the heels of the first is handled with it.
                self._pause(max(SETTLE_SECONDS, checked + PAUSE_SECONDS - time.monotonic()))
            if self._stopping:
                return
            self._check(thorough=news)
            if news:
                checked = time.monotonic()

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            self._wait(left)

    def _wait(self, seconds: float) -> bool:
        """Wait for news; they are taken, not read."""
        ready = self._epoll.poll(seconds)
        for fd, _ in ready:
            self._drains[fd]()
        return bool(ready)

    def _watch_devices(self) -> None:
        import pyudev  # noqa: PLC0415 - loads libudev, which not everybody needs

        # Where udev runs, its rules come first; where it does not, only the kernel speaks.
        source = "udev" if os.path.exists("/run/udev/control") else "kernel"  # noqa: PTH110
        monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source)
        monitor.filter_by("block")
        monitor.filter_by("net")
        monitor.start()

        def drain() -> None:
            while monitor.poll(timeout=0) is not None:
                pass

        self._add(monitor, drain)

    def _watch_links(self) -> None:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        netlink.setblocking(False)
        netlink.bind((0, _GROUPS))

        def drain() -> None:
            while True:
                try:
                    netlink.recv(_MESSAGES)
                except BlockingIOError:
                    return
                except OSError:  # more came than the kernel could keep: that is news as well
                    continue

        self._add(netlink, drain)

    def _watch_mounts(self) -> None:
        # The kernel marks it as exceptional when a mount came or went, until it is polled again.
        mounts = open("/proc/self/mountinfo", "rb")  # noqa: SIM115, PTH123 - kept open
        self._add(mounts, lambda: None, select.EPOLLPRI)

    def _add(self, source: Any, drain: Callable[[], None], events: int = select.EPOLLIN) -> None:
        fd = source if isinstance(source, int) else source.fileno()
        self._sources.append(source)
        self._epoll.register(fd, events)
        self._drains[fd] = drain

    def _drain_pipe(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake, _MESSAGES)
