"""Other nodes as sources of an image: who has it, who is about to, and whose turn the origin is.

A herd of nodes that start together costs the origin about one image for each zone: a node that
finds no peer of its zone ahead of it, twice in a row, goes to the origin; the others wait for it.
Peers are strangers: what they say costs a bounded time, and what they give is believed by the
digests of the descriptor alone.
"""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from holdfast._engine import Progress
from holdfast.operations.model import Slug
from holdfast.reimage.images.models import Content
from holdfast.reimage.images.retries import check
from holdfast.reimage.images.sharing import Fetching, Here, SharedImage
from holdfast.reimage.images.sources import (
    AllowedSources,
    Reach,
    SourceBusyError,
    SourceError,
    SourceTroubleError,
    source_of,
)
from holdfast.reimage.images.suppliers import Least, Supplier

log = logging.getLogger(__name__)

_ANSWER_BYTES = 16 << 10
_ANSWER_SECONDS = 5.0
_ASKED_AT_A_TIME = 16
_SILENT_SECONDS = 30.0
"""How long a peer that did not answer is not asked again."""
_UNKNOWN_SECONDS = 15.0
"""How long a peer that does not answer in time may be ahead, as far as this node knows."""
_FAILED_SECONDS = 20.0
_MOST_FAILURES = 3
"""After this number of downloads that broke off, a peer is not asked any more."""


class SlowPeerError(SourceTroubleError):
    """A peer did not answer in time: it may be overloaded, or gone."""


@dataclass(frozen=True)
class PeerAccess:
    """How peers are reached, and how long they are waited for."""

    urls: Sequence[str]
    token_file: Path | None = None
    ca_file: Path | None = None
    certificate: tuple[Path, Path] | None = None
    """Certificate and key to show, where peers ask for one."""
    wait_seconds: float = 900.0
    """For one image, in total."""
    stalled_seconds: float = 60.0
    """A peer that is ahead and does not come on for this long is not waited for."""
    poll_seconds: float = 2.0

    def reach(self) -> Reach:
        """Return how they are connected to. Raises `SourceError` without a usable token."""
        token = None
        if self.token_file is not None:
            try:
                token = self.token_file.read_text(encoding="ascii").strip()
            except (OSError, ValueError) as error:
                raise SourceError(
                    Slug.IO_ERROR,
                    f"The token for peers in {self.token_file} cannot be read: {error}.",
                ) from error
        try:
            trust = ssl.create_default_context(cafile=self.ca_file)
            if self.certificate is not None:
                trust.load_cert_chain(*self.certificate)
        except OSError as error:  # SSLError is one
            raise SourceError(
                Slug.IO_ERROR, f"TLS with peers cannot be set up: {error}."
            ) from error
        # Only where the settings lead, whatever a peer redirects to.
        allowed = AllowedSources(self.urls)
        return Reach(allowed=allowed, guarded=True, token=token, trust=trust)


class Peers:
    """The peers of one download."""

    def __init__(
        self, access: PeerAccess, content: Content, fetching: Fetching, here: Here
    ) -> None:
        self._access = access
        self._content = content
        self._fetching = fetching
        self._id, self._zone = here
        self._until = time.monotonic() + access.wait_seconds * random.uniform(1.0, 1.25)  # noqa: S311
        self._rest: dict[str, float] = {}
        """Until when a peer is not asked."""
        self._failures: dict[str, int] = {}
        self._moved: dict[str, tuple[SharedImage, float]] = {}
        """What a peer answered, and since when it answers that."""
        self._zones: dict[str, str] = {}
        self._unknown: dict[str, float] = {}
        """Since when a peer has not answered in time."""
        self._asked = 0
        self._lock = threading.Lock()
        self._reach: Reach | None = None
        try:
            self._reach = access.reach()
        except SourceError as error:
            log.warning("peers are not asked: %s", error.detail)

    def choose(self, progress: Progress, *, anywhere: bool) -> Supplier | None:
        """Return a peer that has the image, or None where it is this node's turn at the origin.

        Waits while peers of the zone are ahead, within bounds. With `anywhere`, peers of other
        zones count as well, and nobody is waited for. Raises `CancelledError`.
        """
        alone = 0
        while True:
            check(progress)
            found = self._ask(progress, anywhere=anywhere)
            near = {url: shared for url, shared in found.items() if shared.zone == self._zone}
            ready = self._ready(found if anywhere else near)
            if ready:
                self._fetching.role = "copying"
                return self._supplier(random.choice(ready))  # noqa: S311
            origin = anywhere or self._fetching.role == "fetching"
            ahead = bool(self._unknown) or any(map(self._ahead, near.values()))
            alone = 0 if ahead else alone + 1
            if origin or alone >= 2 or time.monotonic() >= self._until:
                self._fetching.role = "fetching"
                return None
            self._fetching.role = "waiting"
            self._pause(progress)

    def failed(self, supplier: Supplier, error: SourceError) -> None:
        """Note that a download from a peer broke off."""
        url = self._base(supplier)
        if isinstance(error, SourceBusyError):
            self._rest[url] = time.monotonic() + self._access.poll_seconds
            return
        self._rest[url] = time.monotonic() + _FAILED_SECONDS
        self._failures[url] = self._failures.get(url, 0) + 1
        if not isinstance(error, SourceTroubleError) or self._failures[url] >= _MOST_FAILURES:
            self.exclude(supplier)

    def exclude(self, supplier: Supplier) -> None:
        """Ask this peer no more."""
        self._rest[self._base(supplier)] = float("inf")
        log.warning("%s is not asked for this image any more", supplier.shown)

    def _ready(self, found: dict[str, SharedImage]) -> list[str]:
        now = time.monotonic()
        return [
            url
            for url, shared in found.items()
            if shared.state == "staged" and self._rest.get(url, 0.0) <= now
        ]

    def _ahead(self, shared: SharedImage) -> bool:
        """Whether a peer of the zone is to be waited for."""
        if shared.state == "waiting" and (shared.node_id or "") > (self._id or ""):
            return False
        key = shared.node_id or ""
        known, since = self._moved.get(key, (None, 0.0))
        if known != shared:
            self._moved[key] = shared, time.monotonic()
            return True
        return shared.state == "staged" or time.monotonic() - since < self._access.stalled_seconds

    def _ask(self, progress: Progress, *, anywhere: bool) -> dict[str, SharedImage]:
        """Ask peers all at once, and return what those have that answered; never this node.

        Once their zones are known, only those of this zone, unless `anywhere`.
        """
        if self._reach is None:
            return {}
        now = time.monotonic()
        # One that is busy is asked all the same: it has the image, and is waited for.
        urls = [
            url
            for url in self._access.urls
            if self._rest.get(url, 0.0) <= now + self._access.poll_seconds
            and (anywhere or self._zones.get(url, self._zone) == self._zone)
        ]
        self._asked = len(urls)
        found: dict[str, SharedImage] = {}

        def ask(url: str) -> None:
            if progress.cancelled:
                return
            try:
                shared = self._describe(url)
            except (SourceError, ValidationError) as error:
                self._silent(url, error)
                return
            with self._lock:
                self._unknown.pop(url, None)
                self._zones[url] = shared.zone
                if shared.sha256 == self._content.sha256 and shared.node_id != self._id:
                    found[url] = shared

        if urls:
            with ThreadPoolExecutor(min(_ASKED_AT_A_TIME, len(urls)), "peer") as threads:
                list(threads.map(ask, urls))
        return found

    def _silent(self, url: str, error: SourceError | ValidationError) -> None:
        """Note that a peer did not answer, or not what it should."""
        slow = isinstance(error, SlowPeerError)
        with self._lock:
            since = self._unknown.setdefault(url, time.monotonic()) if slow else 0.0
            if slow and time.monotonic() - since < _UNKNOWN_SECONDS:
                return
            self._unknown.pop(url, None)
            if isinstance(error, SourceError) and error.slug is Slug.NOT_FOUND:
                return
            self._rest[url] = time.monotonic() + _SILENT_SECONDS
        why = error.detail if isinstance(error, SourceError) else "it is no holdfast."
        log.info("the peer %s is not asked for %g s: %s", url, _SILENT_SECONDS, why)

    def _describe(self, url: str) -> SharedImage:
        """Return what a peer has of the image. Raises `SourceError`, `ValidationError`."""
        assert self._reach is not None  # noqa: S101 - or nobody is asked
        source = source_of(self._path(url), self._reach)
        late = threading.Event()

        def end() -> None:
            late.set()
            source.abort()

        timer = threading.Timer(_ANSWER_SECONDS, end)
        timer.daemon = True
        timer.start()
        try:
            opened = source.open(0, None)
            try:
                data = b""
                for chunk in opened.chunks():
                    data += chunk
                    if len(data) > _ANSWER_BYTES:
                        raise SourceError(Slug.TOO_LARGE, "Its answer is too long.")
            finally:
                opened.close()
        except SourceTroubleError as error:
            if late.is_set():
                raise SlowPeerError(f"It did not answer within {_ANSWER_SECONDS:g} s.") from error
            raise
        finally:
            timer.cancel()
            source.abort()
        return SharedImage.model_validate_json(data)

    def _supplier(self, url: str) -> Supplier:
        assert self._reach is not None  # noqa: S101 - or nobody is asked
        where = f"{self._path(url)}/content"
        return Supplier("peer", where, source_of(where, self._reach), Least)

    def _path(self, url: str) -> str:
        return f"{url.rstrip('/')}/v1/images/{self._content.sha256}"

    def _base(self, supplier: Supplier) -> str:
        path = supplier.url.removesuffix("/content")
        return next(url for url in self._access.urls if self._path(url) == path)

    def _pause(self, progress: Progress) -> None:
        # A large zone is asked less often: every node of it asks every other.
        every = self._access.poll_seconds * max(1.0, self._asked / _ASKED_AT_A_TIME)
        seconds = every * random.uniform(0.5, 1.5)  # noqa: S311
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            check(progress)
            time.sleep(min(left, 0.1))
