# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Calls of a node's daemon over its unix socket, with the standard library only."""

from __future__ import annotations

import errno
import http.client
import json
import random
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

PREFIX = "/problems/"
SOCKET = "/run/holdfast/holdfast.sock"
FINAL = frozenset({"succeeded", "failed", "cancelled", "interrupted"})

_ATTEMPTS_BASE = 0.1
_ATTEMPTS_CAP = 5.0
"""Seconds: bounds of the pause before the first retry, and of any."""
_CONNECT_SECONDS = 5.0
_SILENCE_SECONDS = 30.0
"""An event stream has a line every ten seconds."""
_TRANSIENT = frozenset({429, 502, 503, 504})


class NodeError(Exception):
    """A call was refused, or no answer came; its text is one sentence for a person."""

    def __init__(
        self,
        sentence: str,
        *,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
        away: bool = False,
    ) -> None:
        """`away` is set where no whole answer came."""
        super().__init__(sentence)
        self.status = status
        self.problem = dict(problem or {})
        self.retry_after = retry_after
        self.away = away

    @property
    def slug(self) -> str:
        """The kind of the problem, such as `held-back`; empty without one."""
        kind = str(self.problem.get("type", ""))
        return kind[len(PREFIX) :] if kind.startswith(PREFIX) else ""

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed soon."""
        return self.away or self.status in _TRANSIENT

    def facts(self) -> dict[str, Any]:
        """Return what a module reports beside the sentence."""
        return {
            "problem": self.problem,
            "problem_type": self.slug,
            "status": self.status,
            "retry_after": self.retry_after,
            "away": self.away,
        }


class Answer:
    """A whole answer: status and document."""

    def __init__(self, status: int, document: Any) -> None:
        self.status = status
        self.document = document


class Node:
    """The daemon behind a unix socket. Every method may raise `NodeError`."""

    def __init__(self, path: str = SOCKET, seconds: float = 60.0) -> None:
        """`seconds` is the budget of one call with its retries."""
        self._path = path
        self._seconds = seconds

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """Return the document of a GET."""
        return self.call("GET", path, query=query).document

    def operation(self, name: str) -> dict[str, Any]:
        """Return an operation as it is now, asked once without retries."""
        target = f"/v1/operations/{quote(name, safe='')}"
        answer = self._once("GET", target, {"Accept": "application/json"}, None, _SILENCE_SECONDS)
        document: dict[str, Any] = answer.document
        return document

    def post(
        self,
        path: str,
        body: Mapping[str, Any],
        *,
        key: str | None = None,
        read_seconds: float = 90.0,
    ) -> Answer:
        """POST a document; members that are None are left out.

        The idempotency key is the caller's, or made here, before the first attempt.
        """
        return self.call("POST", path, body=body, key=key, read_seconds=read_seconds)

    def delete(self, path: str) -> bool:
        """DELETE a path; return whether there was something."""
        try:
            self.call("DELETE", path)
        except NodeError as error:
            if error.status == 404:
                return False
            raise
        return True

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        key: str | None = None,
        read_seconds: float = 30.0,
    ) -> Answer:
        """Make a call until it is answered, within the budget. Raises the last `NodeError`."""
        headers = {"Accept": "application/json"}
        content = None
        if method == "POST":
            headers["Content-Type"] = "application/json"
            headers["Idempotency-Key"] = key or uuid.uuid4().hex
            content = json.dumps(given(body or {})).encode()
        target = path + (f"?{urlencode(given(query))}" if query else "")
        deadline = time.monotonic() + self._seconds
        failures = 0
        while True:
            try:
                return self._once(method, target, headers, content, read_seconds)
            except NodeError as error:
                failures += 1
                pause = pause_before(failures) + (error.retry_after or 0.0)
                if not error.transient or time.monotonic() + pause > deadline:
                    raise
            time.sleep(pause)

    def _once(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        content: bytes | None,
        read_seconds: float,
    ) -> Answer:
        connection = _Connection(self._path, read_seconds)
        try:
            reply = self._sent(connection, method, target, headers, content)
            return _whole(reply, self._path)
        finally:
            connection.close()

    def _sent(
        self,
        connection: _Connection,
        method: str,
        target: str,
        headers: Mapping[str, str],
        content: bytes | None = None,
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, target, body=content, headers=dict(headers))
            return connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self._path, error) from error

    def events(self, operation: str, seconds: float) -> Iterator[dict[str, Any]]:
        """Yield an operation as it changes, over one connection, for at most `seconds`.

        Ends when the stream does, also if the operation did not.
        """
        deadline = time.monotonic() + seconds
        connection = _Connection(self._path, min(_SILENCE_SECONDS, max(seconds, 0.1)))
        target = f"/v1/operations/{quote(operation, safe='')}/events"
        try:
            reply = self._sent(connection, "GET", target, {"Accept": "application/x-ndjson"})
            if reply.status >= 300:
                _whole(reply, self._path)
            while time.monotonic() < deadline:
                connection.patience(deadline - time.monotonic())
                line = reply.readline()
                if not line.endswith(b"\n"):
                    return
                if line.strip():
                    yield json.loads(line)
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _unreachable(self._path, error) from error
        finally:
            connection.close()


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, read_seconds: float) -> None:
        super().__init__("holdfast", timeout=read_seconds)
        self._path = path
        self._read_seconds = read_seconds

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_SECONDS)
        self.sock.connect(self._path)
        self.sock.settimeout(self._read_seconds)

    def patience(self, seconds: float) -> None:
        """Wait no longer than this for the next bytes."""
        if self.sock is not None:
            self.sock.settimeout(max(0.05, min(self._read_seconds, seconds)))


def given(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def pause_before(failures: int) -> float:
    """Return the seconds to wait after this many failures in a row: full jitter."""
    return random.uniform(0.0, min(_ATTEMPTS_CAP, _ATTEMPTS_BASE * 2 ** min(failures - 1, 30)))


def sentence_of(problem: Mapping[str, Any], status: int) -> str:
    """Return a problem as one line: what is wrong, with the fields that are to blame."""
    detail = str(problem.get("detail") or problem.get("title") or f"The answer is {status}.")
    text = " ".join(detail.split())
    for error in problem.get("errors") or ():
        field, message = str(error.get("field", "")), str(error.get("message", ""))
        if message and message not in text:
            text += f" `{field}` {message}."
    return text


def _unreachable(path: str, error: Exception) -> NodeError:
    number = getattr(error, "errno", None)
    advice = {
        errno.ENOENT: "there is no such socket; is holdfast installed and running?",
        errno.ECONNREFUSED: "nothing listens there; is holdfast running?",
        errno.EACCES: "permission denied; use become, or a member of the group holdfast.",
        errno.EPERM: "permission denied; use become, or a member of the group holdfast.",
    }.get(number or 0, f"the connection broke: {str(error) or type(error).__name__}")
    # Permission does not come back by itself.
    away = number not in (errno.EACCES, errno.EPERM)
    return NodeError(f"holdfast does not answer at {path}: {advice}", away=away)


def _whole(reply: http.client.HTTPResponse, path: str) -> Answer:
    try:
        # A head that was cut off is taken for a whole one by http.client.
        if reply.status != 204 and reply.headers.get("Content-Length") is None:
            raise http.client.HTTPException("the head of the answer was cut off")
        content = reply.read()
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(path, error) from error
    try:
        document = json.loads(content) if content.strip() else None
    except ValueError:
        document = None
        if reply.status < 300:
            raise NodeError(f"What answers at {path} is not holdfast: no JSON.") from None
    if reply.status < 300:
        return Answer(reply.status, document)
    problem = document if isinstance(document, dict) else {}
    after = reply.headers.get("Retry-After") or ""
    raise NodeError(
        sentence_of(problem, reply.status),
        status=reply.status,
        problem=problem,
        retry_after=float(after) if after.isdigit() else None,
    )
