"""An image as the fleet's server has it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.vm.reimage.installation import described
from tests.vm.reimage.server import ImageServer, serving


@dataclass(frozen=True)
class Published:
    """An image that a server has."""

    server: ImageServer
    name: str
    """Of the descriptor's file."""
    sha256: str

    def request(self, **more: Any) -> dict[str, Any]:
        """The body that asks a machine to become this image."""
        url = self.server.url(self.name)
        return {"descriptor": url, "descriptor_sha256": self.sha256} | more


@contextmanager
def publishing(image: Path) -> Iterator[Published]:
    """Serve an image and its descriptor where the machine reaches them."""
    descriptor = described(image)
    digest = hashlib.sha256(descriptor.read_bytes()).hexdigest()
    with serving(image.parent) as server:
        yield Published(server, descriptor.name, digest)
