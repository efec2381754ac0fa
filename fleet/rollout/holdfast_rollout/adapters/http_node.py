"""A node by its HTTP API, through the client library."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from holdfast_client import (
    AsyncClient,
    HeldBack,
    HoldfastError,
    NodeImaging,
    OperationRecord,
    ProblemError,
    Retries,
)
from holdfast_client.errors import PREFIX
from holdfast_rollout.interfaces import Away, Json, NodeStatus, OperationStatus, Refused
from holdfast_rollout.inventory import Access, Node

_ONCE = Retries(attempts=1)
"""The steps have the patience: a node that is away is called once in `times.poll` seconds."""
_PROXIES = (502, 503, 504)


class HttpNode:
    """Calls one node; a connection, and the token as it is by now, for each call."""

    def __init__(self, node: Node, access: Access) -> None:
        self._node = node
        self._access = access

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[AsyncClient]:
        """Yield a client. Raises `Away` or `Refused` for what it raises."""
        access = self._access
        try:
            token = None
            if access.token_file is not None and self._node.url is not None:
                token = _token(access.token_file)
            certificate = None
            if access.certificate is not None:
                certificate = (access.certificate, access.key or access.certificate)
            client = AsyncClient(
                self._node.url,
                socket=self._node.socket,
                token=token,
                ca_file=access.ca_file,
                certificate=certificate,
                retries=_ONCE,
            )
        except (OSError, ValueError) as error:
            raise Refused(f"It cannot be called from here: {error}") from error
        async with client:
            try:
                yield client
            except ProblemError as error:
                raise _problem(error) from error
            except HoldfastError as error:
                raise Away(str(error), imaging=isinstance(error, NodeImaging)) from error

    async def status(self) -> NodeStatus:
        """Return the state of its re-imaging. Raises `Away`, `Refused`, as all calls here do."""
        async with self._client() as client:
            shown: Any = await client.reimage.show()
        image = shown.get("image") or {}
        return NodeStatus(
            state=str(shown.get("state", "unknown")),
            operation=shown.get("operation"),
            image_sha256=image.get("descriptor_sha256"),
            reason=shown.get("reason"),
            checked=bool(shown.get("checks")),
            blocked=tuple(shown.get("blocked") or ()),
        )

    async def boot_id(self) -> str:
        """Return the id of the boot that it runs in; empty where it is not known."""
        async with self._client() as client:
            return str((await client.node.show()).get("boot_id") or "")

    async def features(self) -> Sequence[str]:
        """Return what its holdfast can do."""
        async with self._client() as client:
            return tuple((await client.node.version()).get("features") or ())

    async def stage(self, image: Json, key: str) -> OperationStatus:
        """Start to fetch and verify an image."""
        async with self._client() as client:
            return _seen(await client.reimage.stage(**image, idempotency_key=key))

    async def operation(self, operation: str, wait: float) -> OperationStatus:
        """Return an operation once it ends, or as it is after `wait` seconds."""
        async with self._client() as client:
            return _seen(await client.operations.get(operation, wait=wait or None))

    async def take(self, step: str, operation: str, key: str) -> str:
        """Arm, disarm, reboot or confirm; return the state."""
        async with self._client() as client:
            call: Any = getattr(client.reimage, step)
            answer: Any = await call(operation=operation, idempotency_key=key)
        if isinstance(answer, OperationRecord):
            return str(answer.phase)
        return str(answer.get("state", "unknown"))

    async def rollback(self, operation: str, key: str) -> OperationStatus:
        """Start to stage the system that was kept."""
        async with self._client() as client:
            started = client.reimage.rollback(
                operation=operation,
                confirm="manual",
                # The kept system is as large as the disk, and leaves no place for a lifeboat.
                allow_unprotected=True,
                idempotency_key=key,
            )
            return _seen(await started)

    async def cancel(self, operation: str, key: str) -> None:
        """Ask an operation to end."""
        async with self._client() as client:
            await client.operations.cancel(operation, idempotency_key=key)


def _token(path: str) -> str:
    return Path(path).read_text(encoding="ascii").strip()


def _problem(error: ProblemError) -> Away | Refused:
    if error.status in _PROXIES:
        return Away(str(error))
    gate = error.problem.get("gate") if isinstance(error, HeldBack) else None
    return Refused(
        str(error),
        slug=error.type.removeprefix(PREFIX),
        gate=None if gate is None else str(gate),
        retry_after=error.retry_after,
    )


def _seen(record: OperationRecord) -> OperationStatus:
    error, progress = record.error or {}, record.progress
    return OperationStatus(
        id=record.id,
        state=record.state,
        phase=record.phase,
        problem=str(error.get("type", "")).removeprefix(PREFIX) or None,
        detail=str(error.get("detail", "")),
        bytes_done=int(progress.get("bytes_done") or 0),
        bytes_expected=progress.get("bytes_expected"),
        bytes_per_second=progress.get("bytes_per_second"),
    )
