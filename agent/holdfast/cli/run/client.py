"""The daemon as commands call it: holdfast-client, whose errors become one line for a person."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.cli.terminal.errors import CliError, UsageError
from holdfast_client import errors
from holdfast_client.calls import Calls
from holdfast_client.core import Core
from holdfast_client.exchange import blocking
from holdfast_client.exchange import run as run_call
from holdfast_client.retrying import Retries
from holdfast_client.target import Target as Node
from holdfast_client.version import AGENT

# Generous: nothing but a long poll or an upload keeps the daemon from answering at once.
SECONDS = 30.0
ONCE = Retries(attempts=1)
LOST_ANSWERS = Retries(attempts=8, seconds=10.0, lost_only=True)
"""A person waits: a daemon that refuses or is not there is reported at once. One that broke off in
the middle, as when it is restarted, is asked again under the same key, which does nothing twice."""
_UNAUTHORIZED = 401


@dataclass(frozen=True, eq=False, repr=False)  # one that showed itself would show the token
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

    @property
    def node(self) -> Node:
        """The same for holdfast-client. Raises `UsageError` for a URL that is none."""
        if self.url is None:
            return Node(socket=self.socket)
        certificate = None
        if self.client_cert is not None:
            certificate = (self.client_cert, self.client_key)
        try:
            return Node(
                url=self.url,
                token=self.token,
                ca_file=self.ca_file,
                certificate=certificate,
                tunnelled=True,
            )
        except ValueError as error:
            raise UsageError(
                f"--url {self.url} is not a URL like http://127.0.0.1:9918 or https://node:9918"
            ) from error


class ProblemError(CliError):
    """The daemon returned a problem; `body` is the problem object."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        self.status = status
        self.body = body
        super().__init__(_sentence(status, body), problem=body)


class ConnectionLostError(CliError):
    """The daemon went away in the middle of an answer, or does not answer."""


class Stream:
    """A body that is read piece by piece."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def pieces(self) -> Iterator[bytes]:
        """Yield it as it comes."""
        return self._pieces


class Api:
    """Calls of the HTTP API; every failure is a `CliError` that states what to do."""

    def __init__(self, target: Target, retries: Retries = ONCE) -> None:
        """Raise `UsageError` for a URL or files that cannot be used."""
        self.target = target
        node = target.node
        try:
            exchange = blocking(node, AGENT)
        except (OSError, ValueError) as error:
            from holdfast.cli.run.diagnosis import why_unusable  # noqa: PLC0415

            raise UsageError(why_unusable(target, error)) from error
        self._base = node.base
        self.core = Core(exchange, retries)
        self._calls = Calls(self.core)

    def close(self) -> None:
        """Close the connections."""
        run_call(self.core.exchange.close())

    def get(self, path: str, /, *, seconds: float = SECONDS, **params: Any) -> Any:
        """GET a JSON document; parameters that are None are left out.

        `seconds` is for answers that the daemon has to work for.
        """
        return self._call("GET", path, query=params, read_seconds=seconds)

    def post(self, path: str, body: Any = None, *, seconds: float = SECONDS) -> Any:
        """POST a JSON document and return the response; `seconds` as for `get`."""
        return self._call("POST", path, body=body, read_seconds=seconds)

    def delete(self, path: str) -> None:
        """DELETE what is at `path`."""
        self._call("DELETE", path)

    def put_stream(self, path: str, content: Iterator[bytes]) -> Any:
        """PUT a record file piece by piece and return the response."""
        with self.explained(path):
            return self._calls.upload(path, content)

    @contextmanager
    def stream(
        self, path: str, *, accept: str, seconds: float = SECONDS, **params: Any
    ) -> Iterator[Stream]:
        """GET a body that is read piece by piece."""
        options = {"accept": accept, "query": params, "read_seconds": seconds}
        with self.explained(path), self._calls.download(path, **options) as pieces:
            yield Stream(pieces)

    def lines(self, path: str, *, accept: str, seconds: float = SECONDS) -> Iterator[bytes]:
        """Yield the lines of a body that are not empty, as they come, without their ends."""
        with self.explained(path):
            yield from self._calls.lines(path, accept=accept, read_seconds=seconds)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        """Make a call and return the document of the answer, None where it has none."""
        with self.explained(path):
            answer = run_call(self.core.call(method, path, **options))
            return answer.document if answer.body else None

    @contextmanager
    def explained(self, path: str) -> Iterator[None]:
        """Turn what the library raises for a call of `path` into a `CliError`."""
        try:
            yield
        except (errors.ProblemError, errors.NodeImaging) as error:
            if "title" not in error.problem:
                raise CliError(self._no_answer_of_holdfast(path, error.status)) from error
            raise ProblemError(error.status, error.problem) from error
        except errors.UnexpectedAnswer as error:
            raise CliError(self._no_answer_of_holdfast(path, error.status)) from error
        except errors.Unreachable as error:
            from holdfast.cli.run.diagnosis import why_unreachable  # noqa: PLC0415

            raise ConnectionLostError(why_unreachable(self.target, error)) from error

    def _no_answer_of_holdfast(self, path: str, status: int | None) -> str:
        from http import HTTPStatus  # noqa: PLC0415

        answer = "something else than JSON"
        if status is not None:
            known = status in HTTPStatus._value2member_map_
            answer = f"{status} {HTTPStatus(status).phrase}" if known else str(status)
        return (
            f"{self._base}{path} answered {answer}, which is no answer of holdfast; check --url "
            "or --socket"
        )


def _sentence(status: int, body: Mapping[str, Any]) -> str:
    text = str(body.get("detail") or body.get("title")).rstrip(".")
    for error in body.get("errors") or ():
        field, message = str(error.get("field")), str(error.get("message")).rstrip(".")
        if message not in text:
            text += f"; {field}: {message}"
    if status == _UNAUTHORIZED and "--token-file" not in text:
        text += "; give a token with --token-file, made by `holdfast token create`"
    return text
