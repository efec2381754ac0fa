"""The HTTP client: the daemon's unix socket, or a URL with a bearer token."""

from __future__ import annotations

import errno
import json
import os
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from holdfast.cli.errors import CliError, UsageError

# Generous: nothing but a long poll or an upload keeps the daemon from answering at once.
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_SCHEMES = ("http", "https")


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
    """The daemon answered with a problem; `body` is the problem object."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        self.status = status
        self.body = body
        super().__init__(_sentence(status, body))


class ConnectionLostError(CliError):
    """The daemon went away in the middle of an answer, or does not answer."""


class Api:
    """Calls of the HTTP API; every failure is a `CliError` that says what to do."""

    def __init__(self, target: Target) -> None:
        self.target = target
        if target.url is None:
            self._http = httpx.Client(
                transport=httpx.HTTPTransport(uds=str(target.socket)),
                base_url="http://holdfast",
                timeout=TIMEOUT,
                trust_env=False,
            )
            return
        url = httpx.URL(target.url)
        if url.scheme not in _SCHEMES or not url.host:
            raise UsageError(
                f"--url {target.url} is not a URL like http://127.0.0.1:9918 or https://node:9918"
            )
        self._http = httpx.Client(
            base_url=target.url,
            timeout=TIMEOUT,
            verify=_tls(target) if url.scheme == "https" else True,
            headers={"Authorization": f"Bearer {target.token}"} if target.token else {},
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, /, *, seconds: float | None = None, **params: Any) -> Any:
        """GET a JSON document; parameters that are None are left out.

        `seconds` is for answers that the daemon has to work for.
        """
        timeout = TIMEOUT if seconds is None else httpx.Timeout(seconds, connect=5.0)
        return self._call("GET", path, params=_given(params), timeout=timeout).json()

    def post(self, path: str, body: Any = None, *, seconds: float | None = None) -> Any:
        """POST a JSON document and answer what came back; `seconds` as for `get`."""
        timeout = TIMEOUT if seconds is None else httpx.Timeout(seconds, connect=5.0)
        if body is None:
            return self._call("POST", path, timeout=timeout).json()
        # ASCII, so that a name which is not UTF-8 gets there as the escape that it is.
        headers = {"Content-Type": "application/json"}
        content = json.dumps(body)
        return self._call("POST", path, content=content, headers=headers, timeout=timeout).json()

    def delete(self, path: str) -> None:
        """DELETE what is at `path`."""
        self._call("DELETE", path)

    def put_stream(self, path: str, content: Iterator[bytes], media_type: str) -> Any:
        """PUT a body piece by piece and answer what came back."""
        headers = {"Content-Type": media_type}
        # The daemon checks the whole file before it answers.
        timeout = httpx.Timeout(600.0, connect=5.0)
        return self._call("PUT", path, content=content, headers=headers, timeout=timeout).json()

    @contextmanager
    def stream(
        self, path: str, *, accept: str, read_timeout: float = 30.0, **params: Any
    ) -> Iterator[httpx.Response]:
        """GET a body that is read piece by piece."""
        timeout = httpx.Timeout(read_timeout, connect=5.0)
        with (
            self._explained(),
            self._http.stream(
                "GET", path, params=_given(params), headers={"Accept": accept}, timeout=timeout
            ) as response,
        ):
            if response.is_error:
                response.read()
                _raise_problem(response)
            yield response

    def _call(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        with self._explained():
            response = self._http.request(method, path, **arguments)
        if response.is_error or response.is_redirect:
            _raise_problem(response)
        return response

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise ConnectionLostError(self._why_not_connected(error)) from error
        except httpx.TimeoutException as error:
            raise ConnectionLostError(
                f"the daemon at {self.target} did not answer in time; look at its log"
            ) from error
        except httpx.TransportError as error:
            raise ConnectionLostError(
                f"the connection to the daemon at {self.target} broke ({_reason(error)}); "
                f"{self._why_broken()}look at its log"
            ) from error
        except httpx.InvalidURL as error:
            raise UsageError(f"--url {self.target} is not a valid URL: {error}") from error

    def _why_broken(self) -> str:
        url = self.target.url or ""
        if url.startswith("https:") and self.target.client_cert is None:
            # A server that wants one only says so by hanging up.
            return "if it asks for a client certificate, give --client-cert; else "
        if url.startswith("http:"):
            return "if it speaks TLS, write https:// in --url; else "
        return ""

    def _why_not_connected(self, error: httpx.ConnectError) -> str:
        if self.target.url is not None:
            return (
                f"cannot connect to {self.target.url} ({_reason(error)}); "
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


def _reason(error: BaseException) -> str:
    """Find the most telling words in a chain of exceptions."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{cause.verify_message}; name the authority with --ca-file"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _tls(target: Target) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=target.ca_file)
    except OSError as error:
        raise UsageError(
            f"--ca-file {target.ca_file} cannot be used: {error.strerror or error}"
        ) from error
    if target.client_cert is not None:
        try:
            context.load_cert_chain(target.client_cert, target.client_key)
        except OSError as error:
            raise UsageError(
                f"--client-cert {target.client_cert} with --client-key "
                f"{target.client_key or target.client_cert} cannot be used: "
                f"{error.strerror or error}"
            ) from error
    return context


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def _raise_problem(response: httpx.Response) -> None:
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or "title" not in body:
        # Something else listens there.
        raise CliError(
            f"{response.request.url} answered {response.status_code} "
            f"{response.reason_phrase}, and not as holdfast does; check --url or --socket"
        )
    raise ProblemError(response.status_code, body)


def _sentence(status: int, body: dict[str, Any]) -> str:
    text = str(body.get("detail") or body.get("title")).rstrip(".")
    for error in body.get("errors") or ():
        field, message = str(error.get("field")), str(error.get("message")).rstrip(".")
        if message not in text:
            text += f"; {field}: {message}"
    if status == httpx.codes.UNAUTHORIZED and "--token-file" not in text:
        text += "; give a token with --token-file, made by `holdfast token create`"
    return text
