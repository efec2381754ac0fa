"""The HTTP client: the daemon's unix socket, or a URL with a bearer token."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.cli.run.exchange import (
    Answer,
    CannotConnectError,
    Client,
    ExchangeError,
    Request,
    TimedOutError,
    WrongSchemeError,
)
from holdfast.cli.terminal.errors import CliError

# Generous: nothing but a long poll or an upload keeps the daemon from answering at once.
SECONDS = 30.0
_UPLOAD_SECONDS = 600.0
"""The daemon checks the whole file before it answers."""
_UNAUTHORIZED = 401


@dataclass(frozen=True)
class Target:
    """Where the daemon is and how to prove who asks."""

    socket: Path
    url: str | None = None
    token: str | None = None
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    way_out: str = ""
    """What else could be done where no daemon answers."""

    def __str__(self) -> str:
        return self.url or str(self.socket)


class ProblemError(CliError):
    """The daemon returned a problem; `body` is the problem object."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self.body = body
        super().__init__(_sentence(status, body), problem=body)


class ConnectionLostError(CliError):
    """The daemon went away in the middle of an answer, or does not answer."""


class Api:
    """Calls of the HTTP API; every failure is a `CliError` that states what to do."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._client = _client_of(target)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str, /, *, seconds: float | None = None, **params: Any) -> Any:
        """GET a JSON document; parameters that are None are left out.

        `seconds` is for answers that the daemon has to work for.
        """
        return self._call(Request("GET", path, seconds or SECONDS, params=_given(params)))

    def post(self, path: str, body: Any = None, *, seconds: float | None = None) -> Any:
        """POST a JSON document and return the response; `seconds` as for `get`."""
        if body is None:
            return self._call(Request("POST", path, seconds or SECONDS))
        # ASCII, so that a name which is not UTF-8 gets there as the escape that it is.
        headers = {"Content-Type": "application/json"}
        content = json.dumps(body)
        return self._call(
            Request("POST", path, seconds or SECONDS, headers=headers, content=content)
        )

    def delete(self, path: str) -> None:
        """DELETE what is at `path`."""
        self._call(Request("DELETE", path, SECONDS))

    def put_stream(self, path: str, content: Iterator[bytes], media_type: str) -> Any:
        """PUT a body piece by piece and return the response."""
        headers = {"Content-Type": media_type}
        return self._call(Request("PUT", path, _UPLOAD_SECONDS, headers=headers, content=content))

    @contextmanager
    def stream(
        self, path: str, *, accept: str, read_timeout: float = SECONDS, **params: Any
    ) -> Iterator[Answer]:
        """GET a body that is read piece by piece."""
        headers = {"Accept": accept}
        request = Request("GET", path, read_timeout, params=_given(params), headers=headers)
        with self._explained(), self._client.send(request) as answer:
            if answer.status >= 400:
                _raise_problem(answer)
            yield answer

    def _call(self, request: Request) -> Any:
        """Make a request and return the document of the answer, None where it has none."""
        with self._explained(), self._client.send(request) as answer:
            if answer.status >= 300:
                _raise_problem(answer)
            body = answer.read()
        return json.loads(body) if body else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except CannotConnectError as error:
            raise ConnectionLostError(self._why_not_connected(error)) from error
        except TimedOutError as error:
            raise ConnectionLostError(
                f"the daemon at {self.target} did not answer in time; see its log"
            ) from error
        except WrongSchemeError as error:
            raise ConnectionLostError(str(error)) from error
        except ExchangeError as error:
            raise ConnectionLostError(
                f"the connection to the daemon at {self.target} broke ({error}); "
                f"{self._why_broken()}look at its log"
            ) from error

    def _why_broken(self) -> str:
        url = self.target.url or ""
        if url.startswith("https:") and self.target.client_cert is None:
            # A server that wants one only shows it by hanging up.
            return "if it asks for a client certificate, give --client-cert; else "
        return ""

    def _why_not_connected(self, error: CannotConnectError) -> str:
        if self.target.url is not None:
            return (
                f"cannot connect to {self.target.url} ({error}); "
                "is the daemon running and listening there?"
            )
        path = self.target.socket
        start = (
            f"start it with `holdfast serve`, or name its socket with --socket{self.target.way_out}"
        )
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            return f"no daemon: there is no socket {path}; {start}"
        except OSError as problem:
            return f"cannot use the socket {path}: {problem.strerror}; {start}"
        if not stat.S_ISSOCK(mode):
            return f"{path} is not a socket; name the daemon's socket with --socket"
        return _why_no_answer(path, start)


def _why_no_answer(path: Path, start: str) -> str:
    """Ask the kernel once more, as the client library keeps the number of the error to itself."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fsencode(path))
        except PermissionError:
            return (
                f"not permitted to use the socket {path}; run this as root or as a member of the "
                "socket's group"
            )
        except OSError as problem:
            if problem.errno == errno.ECONNREFUSED:
                return f"no daemon answers on {path}, which one left behind; {start}"
            return f"cannot connect to {path}: {problem.strerror}; {start}"
    return f"the daemon on {path} closed the connection; try again"


def _client_of(target: Target) -> Client:
    """Choose the client, of which only one is imported: that for URLs needs httpx."""
    if target.url is None:
        from holdfast.cli.run.unix_client import UnixClient  # noqa: PLC0415

        return UnixClient(target.socket)
    from holdfast.cli.run.url_client import UrlClient  # noqa: PLC0415

    return UrlClient(
        target.url,
        target.token,
        ca_file=target.ca_file,
        client_cert=target.client_cert,
        client_key=target.client_key,
    )


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def _raise_problem(answer: Answer) -> None:
    try:
        body = json.loads(answer.read())
    except ValueError:
        body = None
    if not isinstance(body, dict) or "title" not in body:
        # Something else listens there.
        raise CliError(
            f"{answer.url} answered {answer.status} {answer.reason}, which is no answer of "
            "holdfast; check --url or --socket"
        )
    raise ProblemError(answer.status, body)


def _sentence(status: int, body: dict[str, Any]) -> str:
    text = str(body.get("detail") or body.get("title")).rstrip(".")
    for error in body.get("errors") or ():
        field, message = str(error.get("field")), str(error.get("message")).rstrip(".")
        if message not in text:
            text += f"; {field}: {message}"
    if status == _UNAUTHORIZED and "--token-file" not in text:
        text += "; give a token with --token-file, made by `holdfast token create`"
    return text
