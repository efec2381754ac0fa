"""Listens: a unix socket and TCP, in one event loop, for one application.

Signals are not handled here: the caller that runs the loop does that, and calls `stop`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import anyio.to_thread
import uvicorn
from starlette.types import ASGIApp

from holdfast.api.app import create_app
from holdfast.api.http.transport.connections import Connection, Connections
from holdfast.api.http.transport.listener import Listener, Security
from holdfast.api.http.transport.protocol import Protocol
from holdfast.api.http.transport.tls import Certificates, ListenError
from holdfast.api.services import Services
from holdfast.process.descriptors import connection_limits

log = logging.getLogger(__name__)

BACKLOG = 1024
_HANG_UP_SECONDS = 0.05
"""For connections to be gone, after they are closed and before their requests are cancelled."""


class HttpServer:
    """All listeners of the daemon."""

    def __init__(self, services: Services) -> None:
        self.app = create_app(services)
        self._settings = services.settings
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []
        self._socket: tuple[Path, int] | None = None
        self._certificates: Certificates | None = None
        self._watching: asyncio.Task[None] | None = None
        self.addresses: tuple[str, ...] = ()
        """Where it listens: `unix:/run/holdfast/holdfast.sock`, `http://127.0.0.1:9918`."""

    async def start(self) -> None:
        """Bind everything and begin to answer. Raises `ListenError`, with nothing left bound."""
        bound: list[tuple[socket.socket, str, Connections]] = []
        limits = connection_limits()
        try:
            if self._settings.socket is not None:
                path = self._settings.socket
                sock = _bind_unix(path, self._settings.socket_mode)
                bound.append((sock, f"unix:{path}", Connections(limits.unix, limits.unix)))
                self._socket = path, path.stat().st_ino
            if self._settings.listen_address is not None:
                connections = Connections(limits.tcp)
                self._start_tls(connections)
                sock = _bind_tcp(*self._settings.listen_address)
                bound.append((sock, _url(sock, self._settings.tls.enabled), connections))
        except BaseException:
            for sock, _, _ in bound:
                sock.close()
            self._remove_socket()
            raise
        await self._warm_up()
        for sock, _, connections in bound:
            server = _Server(_uvicorn_config(self.app), sock, connections, self._security)
            task = asyncio.create_task(server.serve())
            self._servers.append((server, task))
        for server, task in self._servers:
            up = asyncio.create_task(server.up.wait())
            await asyncio.wait({up, task}, return_when=asyncio.FIRST_COMPLETED)
            up.cancel()
            if task.done():
                await self.stop(0)
                task.result()
                raise ListenError(
                    "A listener ended as soon as it was started; the log has the reason."
                )
        self.addresses = tuple(address for _, address, _ in bound)
        for address in self.addresses:
            log.info("listening on %s", address)

    async def _warm_up(self) -> None:
        """Do once, before anybody waits, what the first request would do in the event loop."""
        self.app.middleware_stack = self.app.build_middleware_stack()
        await anyio.to_thread.run_sync(lambda: None)

    def reload(self) -> None:
        """Take the TLS certificates from their files again, for connections made from now on."""
        if self._certificates is None:
            log.info("nothing to reload: TLS is off, and tokens are read when their file changes")
            return
        self._certificates.reload()

    def _start_tls(self, connections: Connections) -> None:
        if not self._settings.tls.enabled:
            return

        def close_older(authorities: int) -> None:
            closed = connections.close_older(authorities)
            log.info("the client authorities changed: %d connections were closed", closed)

        self._certificates = Certificates(self._settings.tls, close_older)
        self._watching = asyncio.create_task(self._certificates.watch())

    def _security(self) -> tuple[ssl.SSLContext | None, int]:
        if self._certificates is None:
            return None, 0
        return self._certificates.context, self._certificates.authorities

    async def stop(self, seconds: float = 2.0) -> None:
        """Accept nothing more, end event streams and long polls, and let answers finish.

        What is not finished after `seconds` is broken off. Idempotent.
        """
        self.app.state.stopping.set()
        if self._watching is not None:
            self._watching.cancel()
        self._remove_socket()
        servers, self._servers = self._servers, []
        for server, _ in servers:
            server.leave(seconds)
        tasks = [task for _, task in servers]
        if tasks:
            await asyncio.wait(tasks)
        for server, _ in servers:
            await server.break_off()
        self.app.state.work.close()
        self.app.state.audit.close()
        for task in tasks:
            task.result()

    def _remove_socket(self) -> None:
        if self._socket is None:
            return
        (path, inode), self._socket = self._socket, None
        # Another daemon may have put its own in place.
        with contextlib.suppress(FileNotFoundError):
            if path.lstat().st_ino == inode:
                path.unlink()


class _Server(uvicorn.Server):
    """A server that leaves signals alone and can be stopped without waiting for a tick."""

    def __init__(
        self,
        config: uvicorn.Config,
        sock: socket.socket,
        connections: Connections,
        security: Security,
    ) -> None:
        super().__init__(config)
        self._sock = sock
        self._connections = connections
        self._security = (lambda: (None, 0)) if sock.family == socket.AF_UNIX else security
        self.up = asyncio.Event()
        self._leave = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept through a listener of our own, which counts connections from their accept."""
        await self.lifespan.startup()

        def make_protocol(connection: Connection) -> Protocol:
            return Protocol(
                connection,
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
            )

        listener = Listener(self._sock, make_protocol, self._connections, self._security)
        self.servers = [listener]  # type: ignore[list-item]
        self.started = True

    def leave(self, seconds: float) -> None:
        """Begin to shut down, with this much time for answers under way."""
        # uvicorn answers a request that it cancels with 500: its connection has to be gone by then.
        asyncio.get_running_loop().call_later(seconds, self._hang_up)
        # Annotated as whole seconds, used as the timeout that it is.
        self.config.timeout_graceful_shutdown = seconds + _HANG_UP_SECONDS  # type: ignore[assignment]
        self.should_exit = True
        self._leave.set()

    def _hang_up(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def break_off(self) -> None:
        """Close the connections that are still there, and end their requests."""
        self._hang_up()
        # Transports close in a later turn of the loop.
        await asyncio.sleep(0)
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the daemon."""
        yield

    async def main_loop(self) -> None:
        """Tick once a second, for the Date header, instead of ten times."""
        while not await self.on_tick(0):
            self.up.set()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leave.wait(), 1.0)


def _uvicorn_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        # The peer is the client: no header that it sends changes that.
        proxy_headers=False,
    )


def _bind_unix(path: Path, mode: int) -> socket.socket:
    if len(os.fsencode(path)) > 107:
        raise ListenError(
            f"The socket path {path} is too long for a unix socket (107 bytes at most); set "
            "`socket` to a shorter one."
        )
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError as error:
        raise _cannot(f"socket {path}", error) from error
    # Nobody else may connect between bind and chmod.
    previous = os.umask(0o777 & ~(mode & 0o600))
    try:
        sock.bind(os.fspath(path))
    except OSError as error:
        sock.close()
        raise _cannot(f"socket {path}", error) from error
    finally:
        os.umask(previous)
    try:
        path.chmod(mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        path.unlink(missing_ok=True)
        raise _cannot(f"socket {path}", error) from error
    return sock


def _remove_stale(path: Path) -> None:
    """Remove a socket that a daemon left behind; raise `ListenError` for anything else there."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise ListenError(f"{path} exists and is not a socket; move it away or set `socket`.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # another process listens, with a full queue
        except FileNotFoundError:
            return
    raise ListenError(
        f"Another process listens on the socket {path}; stop it, or set `socket` to another path."
    )


def _bind_tcp(host: str, port: int) -> socket.socket:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        # `localhost` is the only name that settings allow.
        address = "127.0.0.1" if host == "localhost" else host
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        # Only sockets with this protocol named get TCP_NODELAY from asyncio, and without that an
        # answer of two writes waits 40 ms for a delayed acknowledgement.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise _cannot(f"address {shown}", error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _cannot(f"address {shown}", error) from error
    return sock


def _cannot(what: str, error: OSError) -> ListenError:
    return ListenError(f"Cannot listen on the {what}: {error.strerror or error}.")


def _url(sock: socket.socket, secure: bool) -> str:
    host, port = sock.getsockname()[:2]
    scheme = "https" if secure else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
