"""The real HTTP server in a thread of the test, with operations that the test directs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from holdfast.api.http.callers import tokens
from holdfast.api.server import HttpServer
from holdfast.api.services import Services
from holdfast.capability import Capability
from holdfast.config import Settings, load_settings
from holdfast.manifests.service import Manifests
from holdfast.manifests.verification import Verifications
from holdfast.memory.service import MemoryStates
from holdfast.metrics import Metrics
from holdfast.node.service import Node
from holdfast.operations.kinds import Kind
from holdfast.operations.service import Operations
from holdfast.pagecache.service import PageCache
from holdfast.privileged.executor import LocalExecutor
from holdfast.reimage.after_boot.checks import PostBootChecks
from holdfast.reimage.assembly import serving_pace_of
from holdfast.reimage.images import ImageLibrary
from holdfast.reimage.images.sharing import ImageSharing
from holdfast.reimage.service import Reimage
from holdfast.transfer.service import Transfers
from holdfast.tuning.service import Tuning
from tests.support.daemon.operations import operations

STOP_SECONDS = 1.0
WAIT_SECONDS = 20.0


@dataclass
class Served:
    """A server that answers."""

    services: Services
    server: HttpServer
    socket: Path
    url: str
    secrets: dict[str, str]
    loop: asyncio.AbstractEventLoop

    @property
    def operations(self) -> Operations:
        return self.services.operations

    def http(self, **options: Any) -> httpx.Client:
        """Make a client over the unix socket."""
        return httpx.Client(
            transport=httpx.HTTPTransport(uds=str(self.socket), verify=False),
            base_url="http://holdfast",
            timeout=WAIT_SECONDS,
            trust_env=False,
            **options,
        )

    def tcp(self, scope: str | None = None, **headers: str) -> httpx.Client:
        """Make a client over TCP, with the token of a scope if one is passed."""
        if scope is not None:
            headers["Authorization"] = f"Bearer {self.secrets[scope]}"
        return httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=WAIT_SECONDS,
            trust_env=False,
            verify=False,
        )

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        """Stop the server and wait until it has."""
        asyncio.run_coroutine_threadsafe(self.server.stop(seconds), self.loop).result(WAIT_SECONDS)


@contextmanager
def served(
    base: Path,
    *kinds: Kind[Any, Any],
    change: Callable[[Services], Services] = lambda services: services,
    degraded: Sequence[str] = (),
    **overrides: Any,
) -> Iterator[Served]:
    """Serve on a unix socket and a free port; `overrides` are settings.

    `change` may replace parts of the services.
    """
    (base / "data").mkdir()
    (base / "state").mkdir(mode=0o700)
    token_file = base / "tokens.json"
    secrets = {scope.value: tokens.create(token_file, scope.value, scope) for scope in tokens.Scope}
    settings = load_settings(
        None,
        {
            "roots": [str(base / "data")],
            "state_dir": str(base / "state"),
            "listen": "127.0.0.1:0",
            "socket": str(base / "s"),
            "tokens_file": str(token_file),
        }
        | overrides,
    )
    with operations(base / "state", *kinds) as service:
        capabilities = _capabilities(settings, base, service, degraded)
        for capability in capabilities:
            for kind in capability.kinds():
                service.registry.register(kind)
        services = change(
            Services(
                settings=settings,
                state_dir=base / "state",
                operations=service,
                capabilities=capabilities,
                node=Node(roots=settings.roots),
                metrics=Metrics(service),
                degraded=lambda: degraded,
            )
        )
        with _loop() as loop:
            server = HttpServer(services)
            asyncio.run_coroutine_threadsafe(server.start(), loop).result(WAIT_SECONDS)
            url = next((address for address in server.addresses if address.startswith("http")), "")
            result = Served(services, server, base / "s", url, secrets, loop)
            try:
                yield result
            finally:
                result.stop()


def _capabilities(
    settings: Settings, base: Path, service: Operations, degraded: Sequence[str]
) -> Sequence[Capability]:
    pagecache = PageCache(
        roots=settings.roots,
        state_dir=base / "state",
        dumps_kept=5,
        reserve_bytes=0,
        max_record_bytes=settings.max_record_bytes,
    )
    pagecache.prepare()
    manifests = Manifests(
        roots=settings.roots,
        state_dir=base / "state",
        kept=20,
        reader="auto",
        max_record_bytes=settings.max_record_bytes,
    )
    manifests.prepare()
    tuning = Tuning(
        roots=settings.roots,
        state_dir=base / "state",
        profiles_dir=settings.tuning.profiles_dir,
        privileged=LocalExecutor(),
        journal_dir=base / "journal",
    )
    reimage = Reimage(
        roots=settings.roots,
        state_dir=base / "state",
        privileged=LocalExecutor(),
        imager=settings.reimage.imager,
        ca_file=None,
        images=ImageLibrary(settings.roots, base / "state", trusted_keys=base / "keys"),
        examiner=PostBootChecks(
            roots=settings.roots,
            proof=Verifications(manifests, service),
            command=(),
            command_seconds=1,
        ),
        status_server=None,
        sharing=ImageSharing(pace=serving_pace_of(settings)),
        degraded=lambda: degraded,
    )
    transfer = Transfers(
        roots=settings.roots,
        state_dir=base / "state",
        listen=None,
        addresses=(),
        connections=8,
        manifests=manifests.target,
        page_cache=pagecache,
        writers=LocalExecutor().writers,
    )
    memory = MemoryStates(
        roots=settings.memory.roots,
        state_dir=base / "state",
        reserve_bytes=0,
        writers=LocalExecutor().writers,
    )
    return pagecache, manifests, memory, transfer, tuning, reimage


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="http")
    thread.start()
    try:
        yield loop
    finally:
        asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result(
            WAIT_SECONDS
        )
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT_SECONDS)
        loop.close()


__all__ = ["Served", "replace", "served"]
