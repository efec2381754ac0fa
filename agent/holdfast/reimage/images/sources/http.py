"""Images on a web server."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from holdfast.operations.model import Slug
from holdfast.reimage.images.sources.allowed import AllowedSources
from holdfast.reimage.images.sources.base import (
    Reach,
    SourceBusyError,
    SourceError,
    SourceTroubleError,
    range_total,
)
from holdfast.reimage.images.sources.network import Connections, Transport

MOST_REDIRECTS = 5
_TIMEOUTS = httpx.Timeout(30.0, connect=10.0)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({408, 425, 429})
"""Of the 4xx, those that ask to come back: RFC 9110 and 6585."""
_SLUGS = {
    401: Slug.NOT_PERMITTED,
    403: Slug.NOT_PERMITTED,
    404: Slug.NOT_FOUND,
    410: Slug.NOT_FOUND,
}


class HttpSource:
    """A file named by an http or https URL. A user and password in the URL go to its host only."""

    def __init__(self, url: str, reach: Reach) -> None:
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise SourceError(Slug.INVALID_REQUEST, f"The URL is malformed: {error}.") from None
        if not self._url.host:
            raise SourceError(Slug.INVALID_REQUEST, f"{url} names no host.")
        try:
            self._trust = reach.trust or ssl.create_default_context(cafile=reach.ca_file)
        except OSError as error:  # SSLError is one
            raise SourceError(
                Slug.IO_ERROR, f"{reach.ca_file} cannot be used for https: {error}."
            ) from error
        self._allowed = reach.allowed or AllowedSources(())
        self._guarded = reach.guarded
        self._token = reach.token
        self._connections: Connections | None = None
        """Those of the newest opening: one that was aborted may be followed by another."""

    def open(self, offset: int, validator: str | None) -> OpenedHttp:
        """Ask for the file, and follow where the server sends to. Raises `SourceError`."""
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator is not None:
                headers["If-Range"] = validator
        self._connections = Connections(self._allowed, guarded=self._guarded)
        transport = Transport(self._trust, self._connections)
        client = httpx.Client(timeout=_TIMEOUTS, transport=transport, trust_env=False)
        try:
            response = self._ask(client, headers)
            if response.status_code == 416 and offset:
                # The file is shorter by now: it is another one.
                response.close()
                response = self._ask(client, {"Accept-Encoding": "identity"})
                offset = 0
            return OpenedHttp(client, response, offset)
        except BaseException:
            client.close()
            raise

    def abort(self) -> None:
        """Break off the connections of the newest opening."""
        if self._connections is not None:
            self._connections.abort()

    def _ask(self, client: httpx.Client, headers: dict[str, str]) -> httpx.Response:
        url = self._url
        for _ in range(MOST_REDIRECTS + 1):
            auth = None
            if _origin(url) == _origin(self._url) and self._url.userinfo:
                auth = httpx.BasicAuth(self._url.username, self._url.password)
            request = client.build_request("GET", _bare(url), headers=headers)
            if _origin(url) == _origin(self._url) and self._token is not None:
                request.headers["Authorization"] = f"Bearer {self._token}"
            with _troubles(url):
                response = client.send(request, auth=auth, stream=True, follow_redirects=False)
            if response.status_code not in _REDIRECTS:
                return response
            response.close()
            url = self._next(url, response.headers.get("Location", ""))
        raise SourceError(
            Slug.UNAVAILABLE, f"{shown(self._url)} redirects more than {MOST_REDIRECTS} times."
        )

    def _next(self, url: httpx.URL, location: str) -> httpx.URL:
        try:
            target = _bare(url).join(location)
        except httpx.InvalidURL:
            target = httpx.URL("")
        downgrade = url.scheme == "https" and target.scheme != "https"
        if not location or target.scheme not in ("http", "https") or downgrade:
            raise SourceError(
                Slug.UNAVAILABLE, f"{shown(url)} redirects to where images are not fetched from."
            )
        self._allowed.check(str(target))
        return target


class OpenedHttp:
    """A response that is being read; see `Opened`."""

    def __init__(self, client: httpx.Client, response: httpx.Response, offset: int) -> None:
        self._client = client
        self._response = response
        self._url = response.url
        _check_status(response, offset)
        packed = response.headers.get("Content-Encoding", "identity")
        if packed != "identity":
            raise SourceError(
                Slug.UNAVAILABLE,
                f"{shown(self._url)} comes packed as {packed!r}, and was requested unpacked.",
            )
        self.validator = _validator(response)
        self.offset, self.size = 0, _number(response.headers.get("Content-Length"))
        if response.status_code == 206:
            header = response.headers.get("Content-Range", "")
            self.offset, self.size = offset, range_total(header, offset, shown(self._url))

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes as they arrive. Raises `SourceTroubleError`."""
        with _troubles(self._url):
            yield from self._response.iter_raw()

    def close(self) -> None:
        """Let go of it."""
        self._response.close()
        self._client.close()


def shown(url: httpx.URL) -> str:
    """Write a URL for messages, without what may be secret: user, password and query."""
    bare = _bare(url).copy_with(query=None, fragment=None)
    return f"{bare}?…" if url.query else str(bare)


@contextmanager
def _troubles(url: httpx.URL) -> Iterator[None]:
    """Turn what httpx raises into the source's own errors."""
    try:
        yield
    except httpx.HTTPError as error:
        words = str(error) or type(error).__name__
        raise SourceTroubleError(f"{shown(url)} cannot be read: {words}.") from error


def _check_status(response: httpx.Response, offset: int) -> None:
    status = response.status_code
    if status in (200, 206) and not (status == 206 and offset == 0):
        return
    said = f"{shown(response.url)} answers {status} {response.reason_phrase}".rstrip()
    if status == 503:
        raise SourceBusyError(f"{said}.")
    if status >= 500 or status in _PASSING:
        raise SourceTroubleError(f"{said}.")
    raise SourceError(_SLUGS.get(status, Slug.UNAVAILABLE), f"{said}.")


def _validator(response: httpx.Response) -> str | None:
    """Return what `If-Range` takes: a strong entity tag, or else a date (RFC 9110, 13.1.5)."""
    tag: str | None = response.headers.get("ETag")
    if tag is not None and not tag.startswith("W/"):
        return tag
    date: str | None = response.headers.get("Last-Modified")
    return date


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _bare(url: httpx.URL) -> httpx.URL:
    return url.copy_with(userinfo=b"") if url.userinfo else url
