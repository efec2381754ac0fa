"""Where a node is, whom to believe there, and how to prove who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    import ssl

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, eq=False, repr=False)  # one that showed itself would show the token
class Target:
    """A node, by its URL or by its unix socket. Raises `ValueError` for what cannot be one."""

    url: str | None = None
    socket: Path | None = None
    token: str | None = None
    ca_file: Path | None = None
    certificate: tuple[Path, Path | None] | None = None
    """The file of the client's own, and that of its key if it is in another one."""
    tunnelled: bool = False
    """Something else protects a token that is sent over plain HTTP beyond loopback."""

    def __post_init__(self) -> None:
        if (self.url is None) == (self.socket is None):
            raise ValueError("Name a node by its URL or by its socket, and not by both.")
        if self.url is None:
            return
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError(f"{self.url!r} is not the URL of a node, such as https://node-1:9918.")
        plain = parts.scheme == "http" and parts.hostname not in _LOOPBACK
        if plain and not self.tunnelled:
            raise ValueError(f"{self.url} would send the token readable to all; use https.")

    def __str__(self) -> str:
        return self.url or str(self.socket)

    @property
    def base(self) -> str:
        """What paths are appended to."""
        return (self.url or "http://holdfast").rstrip("/")

    def headers(self, agent: str) -> Mapping[str, str]:
        """Return what every request has."""
        headers = {"User-Agent": agent, "Accept-Encoding": "identity"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def trust(self) -> ssl.SSLContext | bool:
        """Return whom to believe: the authorities of `ca_file`, or those of the system.

        Raises `OSError` for files that cannot be used.
        """
        if self.url is None or not self.url.startswith("https:"):
            return False
        import ssl  # noqa: PLC0415 - takes long to load, and a unix socket needs none

        context = ssl.create_default_context(cafile=self.ca_file)
        if self.certificate is not None:
            context.load_cert_chain(*self.certificate)
        return context
