"""The image that this node has, or is fetching, as its peers may see it.

Only an image that was staged and proven is given away: never a part of one, and never the old
system that was kept, which holds this node's own secrets.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field

from holdfast._engine import Progress, RecordError
from holdfast.records.models import Bytes
from holdfast.reimage.images.models import Content, Descriptor, Sha256

if TYPE_CHECKING:
    from holdfast.reimage.images.serving import ServingPace

Here = tuple[str | None, str]
"""The id of this node and its zone; "" where there is none."""
Role = Literal["fetching", "copying", "waiting"]


def nowhere() -> Here:
    """Return the place of a node that knows none."""
    return None, ""


class SharedImage(BaseModel, defer_build=True):
    """An image at a node, by the digest of its file."""

    sha256: Sha256 = Field(description="Of the file, as its descriptor states it.")
    size_bytes: Bytes = Field(description="Of the file.")
    state: Literal["staged", "fetching", "copying", "waiting"] = Field(
        description="`staged`: it can be downloaded here; `fetching`: this node downloads it from "
        "where it comes from, `copying`: from a peer; `waiting`: for a peer that has it."
    )
    present_bytes: Bytes = Field(description="That are here.")
    proven_bytes: Bytes = Field(description="That were compared with the descriptor.")
    node_id: str | None = Field(description="Of this node.")
    zone: str = Field(description='Of this node; "" where there is none.')


class Fetching:
    """A download that is under way, as peers see it."""

    def __init__(self, content: Content, progress: Progress, present: Callable[[], int]) -> None:
        self.content = content
        self.role: Role = "waiting"
        self._progress = progress
        self._present = present

    def bytes_now(self) -> tuple[int, int]:
        """Return the bytes that are present, and those of them that are proven."""
        proving = self._progress.phase == "verifying"
        return self._present(), self._progress.bytes_done if proving else 0


class ImageSharing:
    """What peers may know and have. Methods may be called from any thread."""

    def __init__(
        self,
        *,
        enabled: bool = False,
        here: Callable[[], Here] = nowhere,
        pace: ServingPace | None = None,
    ) -> None:
        self.enabled = enabled
        self.pace = pace
        """How fast it is given away; None for as fast as it can be."""
        self.here = here
        self.offered: Callable[[], tuple[Path, bool] | None] = lambda: None
        """The directory of the image of this node, if it is for others too, and whether the image
        there is known to be proven."""
        self.proven: Path | None = None
        """The directory of the image that this process has proven last."""
        self._lock = threading.Lock()
        self._fetching: Fetching | None = None
        self._known: tuple[Path, Content] | None = None
        self._received: Counter[str] = Counter()
        self._served = 0

    @contextmanager
    def fetching(
        self, content: Content, progress: Progress, present: Callable[[], int]
    ) -> Iterator[Fetching]:
        """Have peers see a download for as long as the block runs."""
        made = Fetching(content, progress, present)
        with self._lock:
            self._fetching = made
        try:
            yield made
        finally:
            with self._lock:
                self._fetching = None

    def describe(self, sha256: str) -> SharedImage | None:
        """Return what this node has of an image; None if nothing. May read a descriptor."""
        node_id, zone = self.here()
        with self._lock:
            fetching = self._fetching
        if fetching is not None and fetching.content.sha256 == sha256:
            present, proven = fetching.bytes_now()
            return SharedImage(
                sha256=sha256,
                size_bytes=fetching.content.size_bytes,
                state=fetching.role,
                present_bytes=present,
                proven_bytes=proven,
                node_id=node_id,
                zone=zone,
            )
        found = self._staged(sha256)
        if found is None:
            return None
        content = found[1]
        return SharedImage(
            sha256=sha256,
            size_bytes=content.size_bytes,
            state="staged",
            present_bytes=content.size_bytes,
            proven_bytes=content.size_bytes,
            node_id=node_id,
            zone=zone,
        )

    def open(self, sha256: str) -> tuple[int, int] | None:
        """Open the file of a staged image, and return it with its size; None if there is none.

        Raises `OSError`.
        """
        found = self._staged(sha256)
        if found is None:
            return None
        directory, content = found
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            file = os.open(directory / "image", flags)
        except FileNotFoundError:
            return None
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size != content.size_bytes:
            os.close(file)
            return None
        # What is read once for others shall not displace what the datastore reads.
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        return file, status.st_size

    def received(self, source: str, count: int) -> None:
        """Count bytes of an image that came from `origin`, a `mirror` or a `peer`."""
        with self._lock:
            self._received[source] += count

    def served(self, count: int) -> None:
        """Count bytes of an image that were read for peers."""
        with self._lock:
            self._served += count

    def figures(self) -> tuple[Mapping[str, int], int]:
        """Return the bytes received, by kind of source, and those served."""
        with self._lock:
            return dict(self._received), self._served

    def _staged(self, sha256: str) -> tuple[Path, Content] | None:
        offer = self.offered()
        if offer is None or not (offer[1] or offer[0] == self.proven):
            return None
        directory = offer[0]
        with self._lock:
            known = self._known
        if known is None or known[0] != directory:
            try:
                data = (directory / "descriptor.json").read_bytes()
                known = directory, Descriptor.parse(data).content
            except (FileNotFoundError, RecordError):
                return None
            with self._lock:
                self._known = known
        found = known[1].sha256 == sha256 and (directory / "image").is_file()
        return known if found else None
