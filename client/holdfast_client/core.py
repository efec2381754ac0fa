"""Calls of the API: retries within a budget, one key per call, problems as exceptions."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from holdfast_client.errors import (
    PREFIX,
    HoldfastError,
    NodeImaging,
    NotFound,
    UnexpectedAnswer,
    Unreachable,
    problem_error,
)
from holdfast_client.exchange import Exchange, Reply, Request
from holdfast_client.retrying import Retries, at_least, transient

Content = bytes | Path | Iterable[bytes]
"""The body of an upload. Bytes and files can be sent again, pieces cannot."""
_PIECE = 256 << 10
_UPLOAD_SECONDS = 600.0
"""The node checks an uploaded file to its end before it answers."""
_IMAGER = frozenset({404, 405})
"""With a problem of type about:blank: the imager, which has few paths."""


class Answer(NamedTuple):
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The JSON in it. Raises `UnexpectedAnswer`."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise UnexpectedAnswer("The answer is not JSON, as holdfast's are.") from error


class Core:
    """Makes calls over an exchange."""

    def __init__(self, exchange: Exchange, retries: Retries) -> None:
        self.exchange = exchange
        self.retries = retries

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        accept: str = "application/json",
        patient: bool = True,
        read_seconds: float | None = None,
    ) -> Answer:
        """Make a call and return its answer; members that are None are left out.

        A POST has an idempotency key, made here unless the caller brings one, so that no retry
        does it twice. Without `patient` the first answer counts.
        """
        headers = {"Accept": accept}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            encoded = json.dumps(given(body)).encode()
            content = lambda: encoded  # noqa: E731
        if method == "POST":
            headers["Idempotency-Key"] = new_key() if key is None else key
        # Steps of a re-imaging read and write disks before they answer.
        seconds = read_seconds or (90.0 if method == "POST" else 30.0)
        seconds += float((query or {}).get("wait") or 0.0)
        request = Request(method, path, given(query), headers, content, seconds)
        if patient:
            return await self.repeat(request)
        return await self.once(request)

    async def upload(self, path: str, content: Content) -> Answer:
        """PUT a record file. Raises `Unreachable` where it is not known whether it was stored."""
        headers = {"Accept": "application/json", "Content-Type": "application/octet-stream"}
        again = isinstance(content, bytes | Path)
        request = Request("PUT", path, {}, headers, _body(content), _UPLOAD_SECONDS)
        return await (self.repeat(request) if again else self.once(request))

    async def repeat(self, request: Request) -> Answer:
        """Make a call until it is answered, within the budget. Raises what the last one did."""
        since = time.monotonic()
        failures = 0
        unsure = False
        while True:
            try:
                return await self.once(request)
            except HoldfastError as error:  # noqa: PERF203 - this loop is for failures
                if isinstance(error, NotFound) and request.method == "DELETE" and unsure:
                    return Answer(204, {}, b"")  # by an attempt whose answer was lost
                failures += 1
                lost = isinstance(error, Unreachable) and error.sent
                unsure = unsure or lost
                if not transient(error) or (lost and request.method == "PUT"):
                    raise
                if self.retries.lost_only and not (unsure and _lost_for_now(error)):
                    raise
                pause = at_least(self.retries.pause(failures), error)
                left = since + self.retries.seconds - time.monotonic()
                if failures >= self.retries.attempts or pause > left:
                    raise
                await self.exchange.sleep(pause)

    async def once(self, request: Request) -> Answer:
        """Send a request once and return its answer. Raises `HoldfastError`."""
        async with self.exchange.open(request) as reply:
            return await _whole(reply)

    @asynccontextmanager
    async def open(
        self,
        path: str,
        *,
        accept: str,
        query: Mapping[str, Any] | None = None,
        read_seconds: float = 30.0,
        deadline: float | None = None,
    ) -> AsyncIterator[Reply]:
        """GET a body that is read piece by piece; not repeated."""
        request = Request(
            "GET",
            path,
            given(query),
            {"Accept": accept},
            read_seconds=read_seconds,
            deadline=deadline,
        )
        async with self.exchange.open(request) as reply:
            if reply.status >= 300:
                await _whole(reply)
            yield reply

    async def poll(self, operation_id: str, wait: float, left: float) -> Answer:
        """GET an operation once; the node waits for its end up to `wait` seconds."""
        wait = round(max(0.0, min(wait, left)), 3)
        request = Request(
            "GET", operation_path(operation_id), headers={"Accept": "application/json"}
        )
        if wait:
            request = replace(request, query={"wait": wait})
        # A node whose power was cut answers nothing at all.
        seconds = min(wait + 10.0, max(left, wait) + 1.0)
        return await self.once(
            replace(request, read_seconds=seconds, deadline=time.monotonic() + seconds)
        )


def _lost_for_now(error: HoldfastError) -> bool:
    return isinstance(error, Unreachable) and error.why != "silent"


async def _whole(reply: Reply) -> Answer:
    """Read an answer to its end. Raises the exception of a problem."""
    body = b"".join([piece async for piece in reply.pieces])
    answer = Answer(reply.status, reply.headers, body)
    if reply.status < 300:
        return answer
    problem = _problem(answer)
    if reply.status in _IMAGER and not str(problem["type"]).startswith(PREFIX):
        raise NodeImaging(reply.status, problem)
    raise problem_error(reply.status, problem, _seconds(reply.headers.get("retry-after")))


def _problem(answer: Answer) -> Mapping[str, Any]:
    if answer.headers.get("content-type", "").startswith("application/problem+json"):
        document = answer.document
        if isinstance(document, dict) and isinstance(document.get("type", ""), str):
            return {"type": "about:blank", **document}
    if answer.status in (502, 503, 504):  # a proxy that does not reach it
        return {"type": "about:blank", "detail": f"The answer is {answer.status}, of a proxy."}
    raise UnexpectedAnswer(
        f"The answer is {answer.status}, and not as holdfast's are.", answer.status
    )


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isascii() and value.isdigit() else None


def new_key() -> str:
    """Return a key that no other call has."""
    return os.urandom(16).hex()  # the module uuid is slow to load


def given(members: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the members that are not None."""
    return {name: value for name, value in (members or {}).items() if value is not None}


def operation_path(operation_id: str) -> str:
    """Return the path of an operation. Raises `ValueError` for what is no id."""
    return f"/v1/operations/{segment(operation_id)}"


def segment(value: str) -> str:
    """Return an id as a part of a path. Raises `ValueError` if it would lead elsewhere."""
    if not value or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in value):
        raise ValueError(f"{value!r} is not an id.")
    if value in (".", ".."):
        raise ValueError(f"{value!r} is not an id.")
    return value


def _body(content: Content) -> Callable[[], bytes | Iterable[bytes]]:
    if isinstance(content, Path):
        return lambda: _pieces_of(content)
    return lambda: content


def _pieces_of(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece
