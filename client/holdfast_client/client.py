"""A node to call: `Client`, and `AsyncClient` with the same surface to be awaited."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast_client.calls import (
    WAIT_SECONDS,
    AsyncCalls,
    AsyncOperation,
    Calls,
    Operation,
)
from holdfast_client.core import Core
from holdfast_client.exchange import blocking as blocking_exchange
from holdfast_client.exchange import non_blocking, run
from holdfast_client.reimaging import Changed, ReimageRun
from holdfast_client.retrying import Retries
from holdfast_client.routes import asynchronous, blocking
from holdfast_client.target import Target
from holdfast_client.version import AGENT

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from holdfast_client.routes.answers import StageRequest

SOCKET = Path("/run/holdfast/holdfast.sock")
_File = str | PathLike[str]


class Operations(blocking.Operations):
    """Long work of a node."""

    def attach(self, operation_id: str) -> Operation:
        """Return an operation by its id without asking the node, which may be away."""
        return Operation({"id": operation_id}, self._call.core)


class AsyncOperations(asynchronous.Operations):
    """Long work of a node."""

    def attach(self, operation_id: str) -> AsyncOperation:
        """Return an operation by its id without asking the node, which may be away."""
        return AsyncOperation({"id": operation_id}, self._call.core)


class Reimage(blocking.Reimage):
    """Replacing the system disk of a node."""

    def run(
        self,
        descriptor: str,
        *,
        key: str | None = None,
        timeout: float = WAIT_SECONDS,
        on_change: Changed | None = None,
        **stage: Unpack[StageRequest],
    ) -> Operation:
        """Stage an image, arm, reboot, and return the operation once it is confirmed.

        Called again with the same `key` and image it continues where the node is, also from
        another process. `timeout` is in seconds. `on_change` receives the node's state as it
        changes, `imaging` and `unreachable` among them. A step that the node refuses with a time
        after which to try again is tried again. Raises as `Operation.wait`; `AttemptChanged` if
        another caller disarmed it; and the `ProblemError` of a step that was refused.
        """
        attempt = ReimageRun(self._call.core, key, timeout, on_change)
        record = run(attempt.run({"descriptor": descriptor, **stage}))
        return Operation(record.data, self._call.core)


class AsyncReimage(asynchronous.Reimage):
    """Replacing the system disk of a node."""

    async def run(
        self,
        descriptor: str,
        *,
        key: str | None = None,
        timeout: float = WAIT_SECONDS,
        on_change: Changed | None = None,
        **stage: Unpack[StageRequest],
    ) -> AsyncOperation:
        """Stage an image, arm, reboot, and return the operation; see `Reimage.run`."""
        attempt = ReimageRun(self._call.core, key, timeout, on_change)
        record = await attempt.run({"descriptor": descriptor, **stage})
        return AsyncOperation(record.data, self._call.core)


class Client(blocking.Groups):
    """A node, by its URL or else its unix socket; each group of routes is an attribute.

    A `token` is needed by URL. `ca_file` has the authorities that the node's certificate may
    chain to, those of the system by default; `certificate` is the file of the client's own and
    the file of its key. Raises `ValueError` for a URL that would send a token in plain text.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        socket: _File | None = None,
        token: str | None = None,
        ca_file: _File | None = None,
        certificate: tuple[_File, _File] | None = None,
        retries: Retries | None = None,
    ) -> None:
        target = _target(url, socket, token, ca_file, certificate)
        self._core = Core(blocking_exchange(target, AGENT), retries or Retries())
        calls = Calls(self._core)
        super().__init__(calls)
        self.operations: Operations = Operations(calls)
        self.reimage: Reimage = Reimage(calls)

    def close(self) -> None:
        """Close the connections."""
        run(self._core.exchange.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class AsyncClient(asynchronous.Groups):
    """A node, as `Client` has it; what blocks there is awaited here."""

    def __init__(
        self,
        url: str | None = None,
        *,
        socket: _File | None = None,
        token: str | None = None,
        ca_file: _File | None = None,
        certificate: tuple[_File, _File] | None = None,
        retries: Retries | None = None,
    ) -> None:
        target = _target(url, socket, token, ca_file, certificate)
        self._core = Core(non_blocking(target, AGENT), retries or Retries())
        calls = AsyncCalls(self._core)
        super().__init__(calls)
        self.operations: AsyncOperations = AsyncOperations(calls)
        self.reimage: AsyncReimage = AsyncReimage(calls)

    async def close(self) -> None:
        """Close the connections."""
        await self._core.exchange.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.close()


def _target(
    url: str | None,
    socket: _File | None,
    token: str | None,
    ca_file: _File | None,
    certificate: tuple[_File, _File] | None,
) -> Target:
    if url is None and socket is None:
        socket = SOCKET
    files: Any = certificate and tuple(Path(each) for each in certificate)
    return Target(
        url=url,
        socket=None if socket is None else Path(socket),
        token=token,
        ca_file=None if ca_file is None else Path(ca_file),
        certificate=files,
    )
