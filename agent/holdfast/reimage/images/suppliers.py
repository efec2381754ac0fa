"""Which of several sources gives the next bytes of an image: peers, where it is from, mirrors.

Whatever a source gives is believed only once all of it matches the digests of the descriptor.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from holdfast._engine import Progress
from holdfast.reimage.images.retries import Patience, Retries
from holdfast.reimage.images.sources import (
    Reach,
    Source,
    SourceError,
    SourceTroubleError,
    source_of,
)

if TYPE_CHECKING:
    from holdfast.reimage.images.peers import Peers

Kind = Literal["origin", "mirror", "peer"]
WRONG_TRIES = 3
"""How often an image is fetched whole that turns out not to be what was described."""
LYING_PEERS = 2
"""How often peers may cause that before they are not asked any more."""


class Least:
    """The least that a peer has to give: another source may be quicker."""

    SECONDS = 20.0
    BYTES = 1 << 20

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._moved = 0

    def moved(self, count: int) -> None:
        """Count bytes that came."""
        self._moved += count
        if self._moved >= self.BYTES:
            self._since, self._moved = time.monotonic(), 0

    def check(self) -> None:
        """Raise `SourceTroubleError` if too little came."""
        if time.monotonic() - self._since > self.SECONDS:
            raise SourceTroubleError(
                f"It gave less than {self.BYTES} bytes within {self.SECONDS:g} s."
            )


@dataclass(eq=False)
class Supplier:
    """One source of an image."""

    kind: Kind
    url: str
    source: Source
    least: type[Least] | None = None
    """For sources that are left for another one if they are slow."""

    @property
    def shown(self) -> str:
        """The source for people, without what may be secret in its URL."""
        if self.kind == "peer":
            return f"the peer {self.url.partition('/v1/')[0]}"
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


@dataclass
class Received:
    """How many bytes each source gave, in the order in which they were used."""

    by_source: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    def add(self, supplier: Supplier, count: int) -> None:
        """Count bytes."""
        self.by_source[supplier.kind, supplier.shown] += count

    def listed(self) -> list[dict[str, Any]]:
        """Return the sources as the API shows them."""
        return [
            {"source": kind, "address": shown, "bytes": count}
            for (kind, shown), count in self.by_source.items()
        ]


class Suppliers:
    """The sources of one image, for one download."""

    def __init__(
        self,
        urls: Sequence[str],
        reach: Reach,
        patience: Patience,
        peers: Peers | None = None,
    ) -> None:
        """`urls` are where it is from, and mirrors of it. Raises `SourceError`."""
        self._listed = [
            Supplier("mirror" if number else "origin", url, source_of(url, reach))
            for number, url in enumerate(urls)
        ]
        self._peers = peers
        self._patience = patience
        self._retries: Retries | None = None
        self._failed_in_turn = 0
        self._gave: set[Supplier] = set()
        """Who gave the bytes that are to be proven next."""
        self._wrong = self._lies = 0
        self.received = Received()
        """How much each source gave."""

    def begin(self, progress: Progress, length: int) -> None:
        """Start, or start anew, with `length` bytes of the image there."""
        self._retries = Retries(self._patience, progress)
        self._retries.came_on(length)
        self._failed_in_turn = 0

    def choose(self, progress: Progress) -> Supplier:
        """Return the source to ask next; may wait for a peer. Raises `CancelledError`."""
        if self._peers is not None:
            peer = self._peers.choose(progress, anywhere=self._failed_in_turn > 0)
            if peer is not None:
                return peer
        return self._listed[0]

    def gave(self, supplier: Supplier, count: int) -> None:
        """Count bytes that a source gave."""
        self._gave.add(supplier)
        self.received.add(supplier, count)
        if supplier.kind != "peer":
            self._failed_in_turn = 0

    def failed(self, supplier: Supplier, error: SourceError, length: int) -> None:
        """Turn to another source, or wait for this one. Raises `error` if there is no more.

        `length` is how much of the image is there by now.
        """
        if supplier.kind == "peer":
            if self._peers is not None:
                self._peers.failed(supplier, error)
            return
        assert self._retries is not None  # noqa: S101 - `begin` comes first
        self._retries.came_on(length)
        self._failed_in_turn += 1
        if not isinstance(error, SourceTroubleError):
            self._listed.remove(supplier)
            if not self._listed:
                raise error
            return
        self._listed.append(self._listed.pop(0))
        if self._failed_in_turn >= len(self._listed):
            self._retries.wait(error)

    def disproved(self) -> bool:
        """Note that what came is not the image; return whether to fetch it anew."""
        lying = [supplier for supplier in self._gave if supplier.kind == "peer"]
        self._gave.clear()
        if lying and self._peers is not None:
            for supplier in lying:
                self._peers.exclude(supplier)
            self._lies += 1
            if self._lies >= LYING_PEERS:
                self._peers = None
            return True
        self._wrong += 1
        return self._wrong < WRONG_TRIES
