"""All that re-imaging needs of images, in one place."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from holdfast._engine import Progress
from holdfast.durable import replace_file
from holdfast.operations.model import RequestError
from holdfast.places import Places
from holdfast.reimage.images import fetch as fetching
from holdfast.reimage.images.models import Descriptor
from holdfast.reimage.images.partial import present_bytes
from holdfast.reimage.images.sources import Reach, SourceError, beside, source_of
from holdfast.reimage.models import ImageSummary


class ImageLibrary:
    """Fetches descriptors and images, and checks them."""

    def __init__(self, roots: Sequence[Path], state_dir: Path, ca_file: Path | None = None) -> None:
        self._reach = Reach(Places(roots, state_dir), ca_file)

    def check(self, descriptor: str, content: str | None) -> None:
        """Find out whether URLs are of a kind that is understood. Raises `RequestError`."""
        for url, field in ((descriptor, "descriptor"), (content, "content")):
            if url is None:
                continue
            try:
                source_of(url, self._reach)
            except SourceError as error:
                raise RequestError(error.slug, error.detail, field) from error

    def descriptor(self, url: str, sha256: str, progress: Progress | None = None) -> bytes:
        """Fetch a descriptor and check it. Raises `OperationFailed`, `RecordError`."""
        data = fetching.fetch_descriptor(
            url, sha256, reach=self._reach, progress=progress or Progress()
        )
        Descriptor.parse(data)
        return data

    def summary(self, descriptor: bytes, sha256: str) -> ImageSummary:
        """Say what a descriptor tells. Raises `RecordError`."""
        found = Descriptor.parse(descriptor)
        partitions = found.partition_table.partitions if found.partition_table else []
        root = next((one for one in partitions if one.number == found.root_partition), None)
        return ImageSummary(
            name=found.name,
            image_version=found.image_version,
            descriptor_sha256=sha256,
            size_bytes=found.size_bytes,
            mapped_bytes=found.mapped_bytes,
            content_bytes=found.content.size_bytes,
            encoding=found.content.encoding,
            boot_modes=list(found.boot_modes),
            root_partition=found.root_partition,
            root_file_system=root.file_system if root else None,
        )

    def content_url(self, descriptor_url: str, content: str | None, descriptor: bytes) -> str:
        """Say where the image is: where the request says, or beside its descriptor."""
        return content or beside(descriptor_url, Descriptor.parse(descriptor).content.file)

    def fetch(self, url: str, descriptor: bytes, directory: Path, progress: Progress) -> Path:
        """Bring an image and its descriptor to `directory`, prove it, and answer its path.

        Goes on where an earlier call stopped. Raises `OperationFailed`, `CancelledError`,
        `OSError`.
        """
        path = self.keep_descriptor(descriptor, directory)
        return fetching.fetch(
            url,
            directory,
            content=Descriptor.parse(descriptor).content,
            descriptor=path,
            descriptor_sha256=hashlib.sha256(descriptor).hexdigest(),
            reach=self._reach,
            progress=progress,
        )

    def keep_descriptor(self, descriptor: bytes, directory: Path) -> Path:
        """Write a descriptor to `<directory>/descriptor.json`. Raises `OSError`."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = directory / "descriptor.json"
        replace_file(path, descriptor, 0o600)
        return path

    def present_bytes(self, directory: Path) -> int:
        """Say how many bytes of an image are in its directory already. Raises `OSError`."""
        return present_bytes(directory)
