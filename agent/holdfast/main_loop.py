"""The daemon while it runs: its event loop and its signals, until one of them ends it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from holdfast import __version__
from holdfast.api.server import HttpServer
from holdfast.api.services import Services
from holdfast.process import logs, slow_callbacks
from holdfast.process.watchdog import Watchdog

log = logging.getLogger("holdfast.daemon")

WORK_SECONDS = 2.5
"""For operations to be cancelled and recorded."""
_ANSWER_SECONDS = 0.5
_THREAD_SECONDS = 0.3
_BLOCKING_THREADS = 16
_COLLECT_AFTER = (700, 10, 10)
"""Python's own thresholds of garbage collection, which the command line raises for the start."""

OnReady = Callable[[Sequence[str]], None]
"""Called once with the addresses, such as `unix:/run/…` and `http://127.0.0.1:9918`."""


def run_until_signal(services: Services, on_ready: OnReady | None) -> int:
    """Serve HTTP until a signal comes, then stop operations and the server; return the exit code.

    Raises `ListenError`, `OSError`.
    """
    return _run_loop(_Daemon(services, on_ready).run())


class _Daemon:
    """The part that lives in the event loop."""

    def __init__(self, services: Services, on_ready: OnReady | None) -> None:
        self._services = services
        self._on_ready = on_ready
        self._stop = asyncio.Event()
        self._signal: signal.Signals | None = None

    async def run(self) -> int:
        """Listen until a signal comes, then stop."""
        loop = asyncio.get_running_loop()
        server = HttpServer(self._services)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        if sys.stdin is not None and sys.stdin.isatty():
            # The terminal is gone, and with it the user who started this.
            loop.add_signal_handler(signal.SIGHUP, self._signalled, signal.SIGHUP)
        else:
            loop.add_signal_handler(signal.SIGHUP, server.reload)
        watchdog = Watchdog.start(loop)
        try:
            await server.start()
            self._announce(server)
            await self._stop.wait()
            stopping = time.monotonic()
            log.info("%s: stopping", self._signal.name if self._signal else "stop")
            logs.notify("STOPPING=1")
            # Streams hear how their operation ended before they are closed.
            await self._stop_work(loop)
        finally:
            await server.stop(_ANSWER_SECONDS)
            if watchdog is not None:
                watchdog.stop()
        log.info("stopped after %.1f s", time.monotonic() - stopping)
        return 0

    async def _stop_work(self, loop: asyncio.AbstractEventLoop) -> None:
        # In a thread of its own: those for requests may all be busy.
        with ThreadPoolExecutor(1, thread_name_prefix="stop") as executor:
            shutdown = self._services.operations.shutdown
            await loop.run_in_executor(executor, shutdown, WORK_SECONDS)

    def _announce(self, server: HttpServer) -> None:
        for reason in self._services.degraded():
            log.warning("degraded: %s", reason)
        log.info(
            "holdfast %s is ready: roots %s, state in %s",
            __version__,
            ", ".join(map(str, self._services.settings.roots)),
            self._services.state_dir,
        )
        # What was made up to now stays: it need not be inspected by each collection.
        gc.freeze()
        gc.set_threshold(*_COLLECT_AFTER)
        slow_callbacks.install()
        logs.notify("READY=1")
        if self._on_ready is not None:
            self._on_ready(server.addresses)

    def _signalled(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            log.info("%s: already stopping", number.name)
        self._signal = number
        self._stop.set()


def _run_loop(main: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine. Unlike `asyncio.run`, never waits for threads that are still at work."""
    loop = asyncio.new_event_loop()
    executor = ThreadPoolExecutor(_BLOCKING_THREADS, thread_name_prefix="blocking")
    loop.set_default_executor(executor)
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(main)
    finally:
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            # One that waits for a thread may not end: the process does without it.
            loop.run_until_complete(asyncio.wait(tasks, timeout=_THREAD_SECONDS))
        loop.run_until_complete(loop.shutdown_asyncgens())
        executor.shutdown(wait=False, cancel_futures=True)
        asyncio.set_event_loop(None)
        loop.close()


def end_with_threads(code: int) -> None:
    """End the process if a thread is left that cannot be ended.

    Everything is recorded by now. Such a thread is inside a system call or the engine, and the
    interpreter would wait for it.
    """
    deadline = time.monotonic() + _THREAD_SECONDS
    # Threads of the engine that called back have an entry as well; the engine ends its own.
    others = [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
        and not isinstance(thread, threading._DummyThread)
    ]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    left = [thread.name for thread in others if thread.is_alive()]
    if left:
        log.warning("left behind at the end: %s", ", ".join(left))
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
