"""Which URLs images are fetched from: those below prefixes that the settings list."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace
from urllib.parse import unquote, urlsplit

from holdfast.operations.model import Slug
from holdfast.reimage.images.sources.base import SourceError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_PORTS = {"http": 80, "https": 443}
_SCHEMES = ("http", "https", "file", "s3", "ami")


@dataclass(frozen=True)
class _Place:
    """The parts of a URL that determine where it leads, as the fetching code reads them."""

    scheme: str
    host: str
    port: int | None
    path: str
    port_named: bool = False
    """The URL names its port, rather than leave it to the scheme."""


def _place(url: str) -> _Place:
    """Raise `ValueError` for a URL that several readers might understand in several ways."""
    if "\\" in url or any(not "!" <= char <= "~" for char in url):
        raise ValueError("it has characters that a URL has not")
    scheme = urlsplit(url).scheme
    if scheme in _PORTS:
        import httpx  # noqa: PLC0415 - slow to import, and few nodes name such sources

        try:
            read = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise ValueError(str(error)) from None
        host = read.raw_host.decode("ascii").lower().removesuffix(".").strip("[]")
        port_named = read.port is not None
        port, path = read.port or _PORTS[scheme], read.raw_path.decode("ascii").partition("?")[0]
    else:
        parts = urlsplit(url)
        host, port, path, port_named = parts.netloc, None, parts.path, False
        if scheme == "file" and host == "localhost":
            host = ""
    for part in path.split("/"):
        plain = unquote(part)
        if plain in (".", "..") or "/" in plain or "\\" in plain:
            raise ValueError("its path has parts that lead elsewhere")
    return _Place(scheme, host, port, path or "/", port_named)


class AllowedSources:
    """A list of prefixes of URLs: scheme, host, port and the beginning of the path.

    Without a port, a name means the port of its scheme, and an address all of its ports.
    """

    def __init__(self, prefixes: Sequence[str]) -> None:
        """Raise `ValueError` for a prefix that is malformed."""
        self._places = []
        for prefix in prefixes:
            try:
                place = _place(prefix)
            except ValueError as error:
                raise ValueError(f"should have prefixes of URLs; of {prefix!r} {error}") from None
            if place.scheme not in _SCHEMES or (place.scheme in _PORTS and not place.host):
                raise ValueError(
                    "should have prefixes of URLs such as https://images.example.org/linux/, "
                    f"not {prefix!r}"
                )
            if "?" in prefix or "#" in prefix or "@" in place.host:
                raise ValueError(f"should have no query, fragment or user, as {prefix!r} has")
            if place.scheme in _PORTS and not place.port_named and _literal(place.host):
                place = replace(place, port=None)
            self._places.append(place)

    def __bool__(self) -> bool:
        """Whether there are any; without, URLs are not restricted."""
        return bool(self._places)

    def check(self, url: str) -> None:
        """Raise `SourceError` unless a URL is below a prefix, where there are any."""
        if not self._places:
            return
        try:
            place = _place(url)
        except ValueError as error:
            raise SourceError(Slug.INVALID_REQUEST, f"The URL is refused: {error}.") from None
        if not any(_covers(allowed, place) for allowed in self._places):
            raise SourceError(
                Slug.FORBIDDEN,
                f"{place.scheme}://{place.host}{place.path} is not below one of the sources that "
                "`reimage.sources` allows.",
            )

    def names(self, host: str, address: Address) -> bool:
        """Whether a prefix has this address itself for its host, and a URL does, too.

        A name that resolves to it is not enough, but for `localhost` and loopback.
        """
        host = host.lower().removesuffix(".").strip("[]")
        if host not in {place.host for place in self._places if place.scheme in _PORTS}:
            return False
        if host == "localhost":
            return address.is_loopback
        try:
            return ipaddress.ip_address(host) == address
        except ValueError:
            return False


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return True


def _covers(allowed: _Place, place: _Place) -> bool:
    if allowed.scheme != place.scheme or allowed.port not in (None, place.port):
        return False
    if allowed.scheme == "ami" and not allowed.host:
        return True
    if allowed.host != place.host:
        return False
    beginning = allowed.path if allowed.path.endswith("/") else f"{allowed.path}/"
    return place.path == allowed.path or place.path.startswith(beginning)
