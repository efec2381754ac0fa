"""What the methods of routes are made of, with and without an event loop."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from holdfast_client.core import Content, Core, operation_path
from holdfast_client.exchange import Reply, run, run_each
from holdfast_client.following import Patience, events, follow, lines
from holdfast_client.record import OperationRecord

Members = Mapping[str, Any]
WAIT_SECONDS = 3600.0
"""How long an operation is waited for unless the caller knows better."""
_SILENCE_SECONDS = 30.0
_NDJSON = "application/x-ndjson"


class Operation(OperationRecord):
    """An operation of a node, as last seen, which can be waited for."""

    def __init__(self, data: Members, core: Core) -> None:
        super().__init__(data)
        self._core = core

    def refresh(self) -> Operation:
        """Return it as it is now."""
        answer = run(self._core.call("GET", operation_path(self.id)))
        return Operation(answer.document, self._core)

    def wait(
        self,
        timeout: float = WAIT_SECONDS,
        on_progress: Callable[[OperationRecord], None] | None = None,
    ) -> Operation:
        """Return it once it succeeded, over restarts and boots of the node.

        `timeout` is in seconds; `math.inf` for none. Raises `OperationFailed` if it ended
        otherwise, `OperationLost` if that is not known by then, `OperationUnfinished` if it
        has not ended by then.
        """
        patience = Patience(self._core, self.data, timeout)
        record = run(_followed(self._core, patience, on_progress))
        return Operation(record.data, self._core)

    def events(self, timeout: float = math.inf) -> Iterator[Operation]:
        """Yield it as it changes, until it has ended in any way. Raises as `wait` for the rest."""
        for record in run_each(events(self._core, Patience(self._core, self.data, timeout))):
            yield Operation(record.data, self._core)

    def cancel(self) -> Operation:
        """Ask it to end, and return it; it does within a second."""
        answer = run(self._core.call("POST", f"{operation_path(self.id)}/cancel"))
        return Operation(answer.document, self._core)


class AsyncOperation(OperationRecord):
    """An operation of a node, as last seen, which can be awaited."""

    def __init__(self, data: Members, core: Core) -> None:
        super().__init__(data)
        self._core = core

    async def refresh(self) -> AsyncOperation:
        """Return it as it is now."""
        answer = await self._core.call("GET", operation_path(self.id))
        return AsyncOperation(answer.document, self._core)

    async def wait(
        self,
        timeout: float = WAIT_SECONDS,
        on_progress: Callable[[OperationRecord], None] | None = None,
    ) -> AsyncOperation:
        """Return it once it succeeded; see `Operation.wait`."""
        patience = Patience(self._core, self.data, timeout)
        record = await _followed(self._core, patience, on_progress)
        return AsyncOperation(record.data, self._core)

    async def events(self, timeout: float = math.inf) -> AsyncIterator[AsyncOperation]:
        """Yield it as it changes, until it has ended in any way; see `Operation.events`."""
        async for record in events(self._core, Patience(self._core, self.data, timeout)):
            yield AsyncOperation(record.data, self._core)

    async def cancel(self) -> AsyncOperation:
        """Ask it to end, and return it; it does within a second."""
        answer = await self._core.call("POST", f"{operation_path(self.id)}/cancel")
        return AsyncOperation(answer.document, self._core)


async def _followed(
    core: Core, patience: Patience, on_progress: Callable[[OperationRecord], None] | None
) -> OperationRecord:
    if on_progress is None:
        return await follow(core, patience)
    async for record in events(core, patience):
        on_progress(record)
        if record.final:
            patience.saw(record.data)  # raises if it failed
            break
    # An event has no long result; the operation itself does.
    return await follow(core, patience)


class Calls:
    """Blocking calls."""

    def __init__(self, core: Core) -> None:
        self.core = core

    def json(self, method: str, path: str, **options: Any) -> Any:
        """Return the document of an answer."""
        return run(self.core.call(method, path, **options)).document

    def operation(self, method: str, path: str, **options: Any) -> Operation:
        """Return the operation that was answered."""
        return Operation(self.json(method, path, **options), self.core)

    def either(self, method: str, path: str, **options: Any) -> Any:
        """Return what was answered, or with 202 the operation that does it."""
        answer = run(self.core.call(method, path, **options))
        document = answer.document
        return Operation(document, self.core) if answer.status == 202 else document

    def nothing(self, method: str, path: str, **options: Any) -> None:
        """Make a call that is answered without a body."""
        run(self.core.call(method, path, **options))

    def text(self, path: str, **options: Any) -> str:
        """Return a text."""
        return run(self.core.call("GET", path, **options)).body.decode()

    def upload(self, path: str, content: Content) -> Any:
        """Send a file; return the document of the answer."""
        return run(self.core.upload(path, content)).document

    @contextmanager
    def download(self, path: str, **options: Any) -> Iterator[Iterator[bytes]]:
        """Give the pieces of a body; `options` are those of `Core.open`."""
        context = self.core.open(path, **options)
        reply: Reply = run(context.__aenter__())
        try:
            yield run_each(reply.pieces)
        finally:
            run(context.__aexit__(None, None, None))

    def lines(self, path: str, **options: Any) -> Iterator[bytes]:
        """Yield the lines of a body as they come; `options` are those of `Core.open`."""
        return run_each(_lines(self.core, path, **options))

    def events(self, path: str) -> Iterator[Members]:
        """Yield the events of one connection."""
        return run_each(_events(self.core, path))

    def watch(self, operation_id: str) -> Iterator[Operation]:
        """Yield an operation as it changes, until it has ended."""
        return Operation({"id": operation_id}, self.core).events()


class AsyncCalls:
    """Calls that are awaited."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def json(self, method: str, path: str, **options: Any) -> Any:
        """Return the document of an answer."""
        return (await self.core.call(method, path, **options)).document

    async def operation(self, method: str, path: str, **options: Any) -> AsyncOperation:
        """Return the operation that was answered."""
        return AsyncOperation(await self.json(method, path, **options), self.core)

    async def either(self, method: str, path: str, **options: Any) -> Any:
        """Return what was answered, or with 202 the operation that does it."""
        answer = await self.core.call(method, path, **options)
        document = answer.document
        return AsyncOperation(document, self.core) if answer.status == 202 else document

    async def nothing(self, method: str, path: str, **options: Any) -> None:
        """Make a call that is answered without a body."""
        await self.core.call(method, path, **options)

    async def text(self, path: str, **options: Any) -> str:
        """Return a text."""
        return (await self.core.call("GET", path, **options)).body.decode()

    async def upload(self, path: str, content: Content) -> Any:
        """Send a file; return the document of the answer."""
        return (await self.core.upload(path, content)).document

    @asynccontextmanager
    async def download(self, path: str, **options: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        """Give the pieces of a body; `options` are those of `Core.open`."""
        async with self.core.open(path, **options) as reply:
            yield reply.pieces

    def events(self, path: str) -> AsyncIterator[Members]:
        """Yield the events of one connection."""
        return _events(self.core, path)

    def watch(self, operation_id: str) -> AsyncIterator[AsyncOperation]:
        """Yield an operation as it changes, until it has ended."""
        return AsyncOperation({"id": operation_id}, self.core).events()


async def _lines(core: Core, path: str, **options: Any) -> AsyncIterator[bytes]:
    async with core.open(path, **options) as reply:
        async for line in lines(reply.pieces):
            yield line


async def _events(core: Core, path: str) -> AsyncIterator[Members]:
    async with core.open(path, accept=_NDJSON, read_seconds=_SILENCE_SECONDS) as reply:
        async for line in lines(reply.pieces):
            document: Members = json.loads(line)
            yield document
