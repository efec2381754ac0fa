"""Machine images of EC2: the root disk of an AMI, from the blocks of its snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from holdfast.operations.model import Slug
from holdfast.reimage.images.sources import aws
from holdfast.reimage.images.sources.base import Reach, SourceError
from holdfast.reimage.images.sources.ebs import Snapshot

_ID = re.compile(r"ami-[0-9a-f]{8,17}")
_ZEROS = bytes(1 << 20)


class AmiSource:
    """The root disk of an image named by `ami://ami-0123456789abcdef0`, as raw bytes."""

    def __init__(self, url: str, _reach: Reach) -> None:
        parts = urlsplit(url)
        self._id = parts.netloc
        if not _ID.fullmatch(self._id) or parts.path or parts.query or parts.fragment:
            raise SourceError(
                Slug.INVALID_REQUEST,
                "A machine image is named as ami://ami-0123456789abcdef0, and no more.",
            )
        self._client = aws.client("ec2")

    def open(self, offset: int, validator: str | None) -> OpenedAmi:
        """Find the image's snapshot. Raises `SourceError`."""
        identifier = self._snapshot()
        snapshot = Snapshot(identifier, f"{identifier} of {self._id}")
        # Snapshots never change.
        same = validator == identifier and offset <= snapshot.size_bytes
        return OpenedAmi(snapshot, identifier, offset if same else 0)

    def _snapshot(self) -> str:
        with aws.troubles(self._id):
            images = self._client.describe_images(ImageIds=[self._id])["Images"]
        if not images:
            raise SourceError(Slug.NOT_FOUND, f"{self._id} is not there, or not for this account.")
        root = images[0].get("RootDeviceName")
        for device in images[0].get("BlockDeviceMappings", ()):
            found = device.get("Ebs", {}).get("SnapshotId")
            if device.get("DeviceName") == root and found:
                return str(found)
        raise SourceError(
            Slug.INVALID_REQUEST, f"{self._id} has no snapshot of a root disk {root} on EBS."
        )

    def abort(self) -> None:
        """Nothing here waits without a limit."""


class OpenedAmi:
    """A disk that is being read; see `Opened`."""

    def __init__(self, snapshot: Snapshot, identifier: str, offset: int) -> None:
        self._snapshot = snapshot
        self.validator: str | None = identifier
        self.size: int | None = snapshot.size_bytes
        self.offset = offset

    def pieces(self) -> Iterator[tuple[int, bytes | int]]:
        """Give offsets, with bytes or with a number of zeros. Raises `SourceError`."""
        return self._snapshot.pieces(self.offset)

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes, zeros included. Raises `SourceError`."""
        for _, content in self.pieces():
            if isinstance(content, bytes):
                yield content
                continue
            for _ in range(content // len(_ZEROS)):
                yield _ZEROS
            yield _ZEROS[: content % len(_ZEROS)]

    def close(self) -> None:
        """Nothing is held open."""
