"""The HTTP client for a daemon at a URL, which may ask for TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from holdfast.cli.run.exchange import (
    CONNECT_SECONDS,
    BrokenError,
    CannotConnectError,
    Request,
    TimedOutError,
    WrongSchemeError,
)
from holdfast.cli.terminal.errors import UsageError

_SCHEMES = ("http", "https")
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
"""OpenSSL's messages for a reply that is not TLS."""


class UrlClient:
    """Keeps its connections from one request to the next."""

    def __init__(
        self,
        url: str,
        token: str | None,
        *,
        ca_file: Path | None,
        client_cert: Path | None,
        client_key: Path | None,
    ) -> None:
        """Raise `UsageError` for a URL or files that cannot be used."""
        self._url = url
        with self._explained():
            parsed = httpx.URL(url)
        if parsed.scheme not in _SCHEMES or not parsed.host:
            raise UsageError(
                f"--url {url} is not a URL like http://127.0.0.1:9918 or https://node:9918"
            )
        secure = parsed.scheme == "https"
        self._http = httpx.Client(
            base_url=url,
            verify=_tls(ca_file, client_cert, client_key) if secure else True,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            trust_env=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @contextmanager
    def send(self, request: Request) -> Iterator[UrlAnswer]:
        """Make a request; see `Client`."""
        with self._explained():
            sent = self._http.build_request(
                request.method,
                request.path,
                params=request.params or None,
                headers=request.headers,
                content=request.content,
                timeout=httpx.Timeout(request.seconds, connect=CONNECT_SECONDS),
            )
            response = self._http.send(sent, stream=True)
        try:
            yield UrlAnswer(self, response)
        finally:
            response.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what httpx raises into the errors of an exchange."""
        try:
            yield
        except httpx.ConnectError as error:
            if _answered_plainly(error):
                raise WrongSchemeError(_with_scheme(self._url, "http")) from error
            raise CannotConnectError(_reason(error)) from error
        except httpx.TimeoutException as error:
            raise TimedOutError(_reason(error)) from error
        except httpx.TransportError as error:
            if self._url.startswith("http:") and _speaks_tls(httpx.URL(self._url)):
                raise WrongSchemeError(_with_scheme(self._url, "https")) from error
            raise BrokenError(_reason(error)) from error
        except httpx.InvalidURL as error:
            raise UsageError(f"--url {self._url} is not a valid URL: {error}") from error


class UrlAnswer:
    """An answer that is being read; see `Answer`."""

    def __init__(self, client: UrlClient, response: httpx.Response) -> None:
        self._client = client
        self._response = response
        self.status = response.status_code
        self.reason = response.reason_phrase
        self.url = str(response.request.url)

    def read(self) -> bytes:
        """Return the whole body."""
        with self._client._explained():
            return self._response.read()

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes."""
        with self._client._explained():
            yield from self._response.iter_bytes()


def _reason(error: BaseException) -> str:
    """Find the most specific message in a chain of exceptions."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"{cause.verify_message}; name the authority with --ca-file"
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__


def _with_scheme(url: str, scheme: str) -> str:
    """Return a message that a URL has the wrong scheme, with the right one."""
    speaks = "speaks TLS" if scheme == "https" else "speaks plain HTTP, not TLS"
    right = f"{scheme}://{url.partition('://')[2]}"
    return f"what listens at {url} {speaks}; write --url {right}"


def _answered_plainly(error: BaseException) -> bool:
    """Whether the peer replied to a TLS handshake with something else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and cause.reason in _NOT_TLS:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _speaks_tls(url: httpx.URL) -> bool:
    """Whether what listens at a URL begins a TLS handshake."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    address = (url.host, url.port or 80)
    try:
        with socket.create_connection(address, timeout=CONNECT_SECONDS) as connection:
            context.wrap_socket(connection).close()
    except ssl.SSLError as error:
        return error.reason not in _NOT_TLS
    except OSError:
        return False
    return True


def _tls(ca_file: Path | None, client_cert: Path | None, client_key: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise UsageError(
            f"--ca-file {ca_file} cannot be used: {error.strerror or error}"
        ) from error
    if client_cert is not None:
        try:
            context.load_cert_chain(client_cert, client_key)
        except OSError as error:
            raise UsageError(
                f"--client-cert {client_cert} with --client-key {client_key or client_cert} "
                f"cannot be used: {error.strerror or error}"
            ) from error
    return context
