"""Clients that only want to be served, and how long they wait."""

from __future__ import annotations

import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.daemon.harness import Daemon

_PAUSE_SECONDS = 0.05
_OPERATION_SECONDS = 10.0
_TIMEOUT_SECONDS = 10.0


@dataclass
class Waits:
    """Seconds that requests took, by what was asked and over which transport, and failures."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, what: str, request: Callable[[], httpx.Response], *codes: int) -> None:
        """Send one request and note how long it took, and whether the response was right."""
        begin = time.perf_counter()
        try:
            status = request().status_code
            problem = None if status in codes else f"{what}: {status}"
        except httpx.HTTPError as error:
            problem = f"{what}: {type(error).__name__}: {error}"
        taken = time.perf_counter() - begin
        with self.lock:
            self.seconds[what].append(taken)
            if problem is not None:
                self.failures.append(problem)

    def percentile(self, share: float, prefix: str) -> float:
        """Return a percentile of what begins with `prefix`, in seconds; infinite without any."""
        values = sorted(
            value
            for what, taken in self.seconds.items()
            if what.startswith(prefix)
            for value in taken
        )
        return values[min(len(values) - 1, int(len(values) * share))] if values else float("inf")


class Honest:
    """Three clients in threads: over the unix socket, over one TLS connection, over new ones."""

    def __init__(self, daemon: Daemon, authority: Path) -> None:
        self.waits = Waits()
        self._daemon = daemon
        self._context = ssl.create_default_context(cafile=authority)
        self._end = threading.Event()
        self._threads: Sequence[threading.Thread] = [
            threading.Thread(target=run, name=run.__name__)
            for run in (self._unix, self._kept, self._new)
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop asking."""
        self._end.set()
        for thread in self._threads:
            thread.join(30)

    def _client(self) -> httpx.Client:
        secret = self._daemon.tokens.secrets["operate"]
        return httpx.Client(
            base_url=f"https://127.0.0.1:{self._daemon.port}",
            verify=self._context,
            headers={"Authorization": f"Bearer {secret}"},
            timeout=_TIMEOUT_SECONDS,
            trust_env=False,
        )

    def _unix(self) -> None:
        http = httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self._daemon.socket)),
            base_url="http://holdfast",
            timeout=_TIMEOUT_SECONDS,
            trust_env=False,
        )
        due = time.monotonic()
        with http:
            while not self._end.wait(_PAUSE_SECONDS):
                self.waits.ask("healthz unix", lambda: http.get("/healthz"), 200)
                self.waits.ask("read unix", lambda: http.get("/v1/operations?limit=5"), 200)
                if time.monotonic() >= due:
                    due = time.monotonic() + _OPERATION_SECONDS
                    # The last one may still run.
                    self.waits.ask("dump unix", lambda: http.post("/v1/pagecache/dumps"), 202, 409)

    def _kept(self) -> None:
        with self._client() as http:
            while not self._end.wait(_PAUSE_SECONDS):
                self.waits.ask("healthz tls", lambda: http.get("/healthz"), 200)
                self.waits.ask("read tls", lambda: http.get("/v1/node"), 200)

    def _new(self) -> None:
        while not self._end.wait(1.0):
            with self._client() as http:
                self.waits.ask("connect tls", lambda http=http: http.get("/healthz"), 200)  # type: ignore[misc]
