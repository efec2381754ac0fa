"""Snapshots of EBS, read block by block without a volume.

Amazon's "EBS direct APIs": a snapshot is a list of blocks of one size, each with its SHA-256. What
is not in the list was never written and reads as zeros.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from holdfast.operations.model import Slug
from holdfast.reimage.images.sources import aws
from holdfast.reimage.images.sources.base import SourceError, SourceTroubleError

THREADS = 8
"""Blocks that are fetched at the same time."""
_TRIES = 3
"""How often a block is fetched whose digest is wrong."""
_GIB = 1 << 30
_BLOCK_LIMIT = 4 << 20


@dataclass(frozen=True)
class Block:
    """A block that was written."""

    index: int
    token: str


class Snapshot:
    """The blocks of a snapshot."""

    def __init__(self, identifier: str, name: str) -> None:
        self._id = identifier
        self._name = name
        self._client = aws.client("ebs", THREADS)
        first = self._page(0, None)
        self.block_bytes = int(first["BlockSize"])
        self.size_bytes = int(first["VolumeSize"]) * _GIB
        if not 0 < self.block_bytes <= _BLOCK_LIMIT or self.size_bytes % self.block_bytes:
            raise SourceError(
                Slug.UNAVAILABLE,
                f"{name} has blocks of {self.block_bytes} bytes, which are not understood.",
            )

    def pieces(self, offset: int) -> Iterator[tuple[int, bytes | int]]:
        """Give all of it from an offset on, in order: bytes, or a number of zeros.

        Each piece comes with its offset. Raises `SourceError`.
        """
        at = offset - offset % self.block_bytes
        blocks = self._blocks(at // self.block_bytes)
        ahead: deque[tuple[int, Future[bytes]]] = deque()
        while True:
            for block in itertools.islice(blocks, THREADS - len(ahead)):
                ahead.append((block.index, self._begin(block)))
            if not ahead:
                break
            index, future = ahead.popleft()
            start = index * self.block_bytes
            if start > at:
                yield from _cut(at, start - at, offset)
            yield from _cut(start, future.result(), offset)
            at = start + self.block_bytes
        if self.size_bytes > at:
            yield from _cut(at, self.size_bytes - at, offset)

    def _begin(self, block: Block) -> Future[bytes]:
        """Fetch a block in a thread, one that does not keep the process from ending."""
        future: Future[bytes] = Future()

        def run() -> None:
            try:
                future.set_result(self._block(block))
            except BaseException as error:  # raised again in the thread that waits
                future.set_exception(error)

        threading.Thread(target=run, name="ebs block", daemon=True).start()
        return future

    def _blocks(self, first: int) -> Iterator[Block]:
        """List what was written, in order."""
        least, after = first, None
        while True:
            page = self._page(first, after)
            for listed in page.get("Blocks", ()):
                block = Block(int(listed["BlockIndex"]), str(listed["BlockToken"]))
                if block.index < first:
                    continue  # not every service heeds where to start
                if block.index < least or (block.index + 1) * self.block_bytes > self.size_bytes:
                    raise SourceError(
                        Slug.UNAVAILABLE, f"{self._name} lists block {block.index} out of order."
                    )
                least = block.index + 1
                yield block
            after = page.get("NextToken")
            if not after:
                return

    def _page(self, first: int, after: str | None) -> Any:
        wanted: dict[str, Any] = {"SnapshotId": self._id}
        if after is not None:
            wanted["NextToken"] = after
        elif first:
            wanted["StartingBlockIndex"] = first
        with aws.troubles(self._name):
            return self._client.list_snapshot_blocks(**wanted)

    def _block(self, block: Block) -> bytes:
        for _ in range(_TRIES):
            with aws.troubles(f"Block {block.index} of {self._name}"):
                answer = self._client.get_snapshot_block(
                    SnapshotId=self._id, BlockIndex=block.index, BlockToken=block.token
                )
                data: bytes = answer["BlockData"].read()
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode("ascii")
            algorithm = answer.get("ChecksumAlgorithm")
            if algorithm == "SHA256" and digest == answer.get("Checksum"):
                if len(data) != self.block_bytes:
                    raise SourceError(
                        Slug.UNAVAILABLE,
                        f"Block {block.index} of {self._name} has {len(data)} bytes.",
                    )
                return data
        raise SourceTroubleError(f"Block {block.index} of {self._name} does not match its SHA-256.")


def _cut(start: int, content: bytes | int, offset: int) -> Iterator[tuple[int, bytes | int]]:
    """Leave away what lies before the offset."""
    skip = max(0, offset - start)
    if isinstance(content, int):
        if content > skip:
            yield start + skip, content - skip
    elif len(content) > skip:
        yield start + skip, content[skip:] if skip else content
